//! The real program, on one folder for long: killed at random instants, rolled under load, queried under churn; every
//! answer compared with a naive model of the version that it names.
//!
//! `BITDEX_TEST_LONG` runs all of it at full counts; `BITDEX_TEST_SEED` repeats what is random.

// Clippy allows these in test functions; this whole program is a test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bulk;
mod cgroup;
mod churn;
mod crash;
mod fan_out;
mod feed;
mod model;
#[path = "../serve/process.rs"]
#[allow(dead_code, reason = "shared with the tests of serve, which use all of it")]
mod process;
mod roll;

use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

/// Full counts rather than reduced ones.
fn long() -> bool {
    std::env::var_os("BITDEX_TEST_LONG").is_some()
}

/// A generator from the run's seed, which is printed.
fn random(test: &str) -> ChaCha8Rng {
    let seed = match std::env::var("BITDEX_TEST_SEED") {
        Ok(seed) => seed.parse().expect("BITDEX_TEST_SEED is a number"),
        Err(_) => rand::random::<u32>().into(),
    };
    report(&format!("{test}: BITDEX_TEST_SEED={seed}"));
    ChaCha8Rng::seed_from_u64(seed)
}

/// These tests load the machine, and one waits for the other.
async fn alone() -> tokio::sync::MutexGuard<'static, ()> {
    static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    ALONE.lock().await
}

fn report(line: &str) {
    use std::io::Write as _;
    // Standard error may be closed.
    let _ = writeln!(std::io::stderr(), "{line}");
}
