//! What all tests of this crate share: one seed for everything random in a run, and how many rounds to make.

use std::ops::Mul;

use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|number| number.parse().unwrap_or_else(|_| panic!("{name} is not a number: {number}")))
}

/// `BITDEX_TEST_SEED`, or a random one; printed, so that the run can be made again.
pub(crate) fn seed() -> u64 {
    let seed = number("BITDEX_TEST_SEED").unwrap_or_else(rand::random);
    println!("BITDEX_TEST_SEED={seed}");
    seed
}

/// Whether random tests run at full counts.
pub(crate) fn long() -> bool {
    std::env::var_os("BITDEX_TEST_LONG").is_some()
}

/// `full` rounds with `BITDEX_TEST_LONG`, else a fraction of them.
pub(crate) fn rounds(full: u64, fraction: u64) -> u64 {
    if long() { full } else { scaled(full / fraction) }
}

/// A generator from the run's seed.
pub(crate) fn seeded() -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed())
}

/// So many rounds, times `BITDEX_TEST_SCALE`.
pub(crate) fn scaled<N: Mul<Output = N> + TryFrom<u64>>(rounds: N) -> N {
    let scale = number("BITDEX_TEST_SCALE").unwrap_or(1);
    rounds * N::try_from(scale).unwrap_or_else(|_| panic!("BITDEX_TEST_SCALE is too large: {scale}"))
}
