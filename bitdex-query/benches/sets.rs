//! What the representation of sets costs: own blocks, `roaring`, and `croaring` (frozen views), side by side.
//!
//! `cargo bench -p bitdex-query --bench sets` prints, for pairs of sets of 2^20 ids, the time of a call and the bytes
//! that a set takes. Own blocks and croaring's frozen views are read in bytes as a mapped file has them; `roaring` has
//! to deserialise, which is done before the clock starts and shown apart. Medians of several rounds, one process.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{hint::black_box, time::Instant};

use bitdex_query::segment::sets::{self, ARRAY_MAX, Block, BlockBuffer, WORDS};
use croaring::{BitmapView, Frozen};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use roaring::RoaringBitmap;

const IDS: u32 = 1 << 20;
const ROUNDS: usize = 21;
const PAIRS: [(f64, f64); 7] =
    [(0.5, 0.5), (0.9, 0.1), (0.5, 0.01), (0.05, 0.01), (0.01, 0.01), (0.5, 0.0001), (0.001, 0.001)];

/// A set as segments hold it: for each block whether it is bits, where it begins, and its number of ids.
struct Own {
    bits: Vec<[u64; WORDS]>,
    arrays: Vec<u16>,
    blocks: Vec<(bool, usize, usize)>,
}

impl Own {
    fn new(ids: &[u32]) -> Self {
        let mut own = Self { bits: Vec::new(), arrays: Vec::new(), blocks: Vec::new() };
        for number in 0..IDS >> 16 {
            let of_block: Vec<u16> = ids.iter().filter(|id| **id >> 16 == number).map(|id| *id as u16).collect();
            if of_block.len() > ARRAY_MAX {
                own.blocks.push((true, own.bits.len(), of_block.len()));
                let mut words = [0; WORDS];
                of_block.iter().for_each(|id| words[usize::from(id >> 6)] |= 1 << (id & 63));
                own.bits.push(words);
            } else {
                own.blocks.push((false, own.arrays.len(), of_block.len()));
                own.arrays.extend(of_block);
            }
        }
        own
    }

    fn blocks(&self) -> impl Iterator<Item = Block<'_>> {
        self.blocks.iter().map(|(bits, first, count)| match bits {
            true => Block::Bits(&self.bits[*first]),
            false => Block::of(&self.arrays[*first..*first + *count]),
        })
    }

    fn bytes(&self) -> usize {
        self.bits.len() * WORDS * 8 + self.arrays.len() * 2 + self.blocks.len() * 8 + 8
    }
}

#[allow(unsafe_code)]
fn view(bytes: &[u8]) -> BitmapView<'_> {
    // SAFETY: the bytes are what croaring's own serialisation gave, and outlive the view.
    unsafe { BitmapView::deserialize::<Frozen>(bytes) }
}

/// Median of what one call takes, in microseconds.
fn time(mut call: impl FnMut() -> u64) -> f64 {
    let begin = Instant::now();
    black_box(call());
    // Enough calls a round for the clock.
    let calls = (500_000 / (begin.elapsed().as_nanos() as usize + 1)).clamp(1, 10_000);
    let mut rounds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let begin = Instant::now();
            for _ in 0..calls {
                black_box(call());
            }
            begin.elapsed().as_nanos() as f64 / 1e3 / calls as f64
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    rounds[ROUNDS / 2]
}

fn main() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    println!("| shares | op | own µs | roaring µs | croaring frozen µs | roaring / own | croaring / own |");
    println!("|---|---|---:|---:|---:|---:|---:|");
    let mut sizes = Vec::new();
    for (a, b) in PAIRS {
        let ids: [Vec<u32>; 2] = [a, b].map(|share| (0..IDS).filter(|_| rng.random_bool(share)).collect());
        let own = ids.each_ref().map(|ids| Own::new(ids));
        let rust = ids.each_ref().map(|ids| RoaringBitmap::from_sorted_iter(ids.iter().copied()).unwrap());
        let c = ids.each_ref().map(|ids| croaring::Bitmap::of(ids));
        let mut room = [Vec::new(), Vec::new()];
        let [first, second] = &mut room;
        let frozen: [&[u8]; 2] = [c[0].serialize_into_vec::<Frozen>(first), c[1].serialize_into_vec::<Frozen>(second)];
        let views = frozen.map(view);
        for (n, share) in [a, b].into_iter().enumerate() {
            let mut serialised = Vec::new();
            rust[n].serialize_into(&mut serialised).unwrap();
            let open = time(|| RoaringBitmap::deserialize_unchecked_from(&serialised[..]).unwrap().len());
            sizes.push((share, ids[n].len(), own[n].bytes(), serialised.len(), frozen[n].len(), open));
        }
        let pairs = || own[0].blocks().zip(own[1].blocks());
        let mut buffer = BlockBuffer::default();
        let mut combined = |op: fn(&mut BlockBuffer, Block<'_>, Block<'_>)| {
            time(|| {
                let mut empty = 0;
                for (a, b) in pairs() {
                    op(&mut buffer, a, b);
                    empty += u64::from(matches!(black_box(&buffer).block(), Block::Empty));
                }
                empty
            })
        };
        row(
            a,
            b,
            "AND",
            [
                combined(BlockBuffer::set_and),
                time(|| (&rust[0] & &rust[1]).is_empty().into()),
                time(|| views[0].and(&views[1]).is_empty().into()),
            ],
        );
        row(
            a,
            b,
            "OR",
            [
                combined(BlockBuffer::set_or),
                time(|| (&rust[0] | &rust[1]).is_empty().into()),
                time(|| views[0].or(&views[1]).is_empty().into()),
            ],
        );
        row(
            a,
            b,
            "ANDNOT",
            [
                combined(BlockBuffer::set_and_not),
                time(|| (&rust[0] - &rust[1]).is_empty().into()),
                time(|| views[0].andnot(&views[1]).is_empty().into()),
            ],
        );
        row(
            a,
            b,
            "count of AND",
            [
                time(|| pairs().map(|(a, b)| u64::from(sets::and_len(a, b))).sum()),
                time(|| rust[0].intersection_len(&rust[1])),
                time(|| views[0].and_cardinality(&views[1])),
            ],
        );
        row(
            a,
            b,
            "iterate the second",
            [
                time(|| {
                    let mut sum = 0_u64;
                    own[1].blocks().for_each(|block| block.for_each(|id| sum = sum.wrapping_add(id.into())));
                    sum
                }),
                time(|| rust[1].iter().fold(0_u64, |sum, id| sum.wrapping_add(id.into()))),
                time(|| views[1].iter().fold(0_u64, |sum, id| sum.wrapping_add(id.into()))),
            ],
        );
        assert_eq!(
            pairs().map(|(a, b)| u64::from(sets::and_len(a, b))).sum::<u64>(),
            views[0].and_cardinality(&views[1])
        );
    }
    sizes.sort_by(|a, b| a.0.total_cmp(&b.0));
    sizes.dedup_by(|a, b| a.0 == b.0);
    println!("\n| share | ids | own bytes | roaring bytes | croaring frozen bytes | roaring: deserialise µs |");
    println!("|---:|---:|---:|---:|---:|---:|");
    for (share, ids, own, roaring, frozen, open) in sizes {
        println!("| {share} | {ids} | {own} | {roaring} | {frozen} | {open:.1} |");
    }
}

fn row(a: f64, b: f64, op: &str, [own, roaring, croaring]: [f64; 3]) {
    let (first, second) = (roaring / own, croaring / own);
    println!("| {a} × {b} | {op} | {own:.2} | {roaring:.2} | {croaring:.2} | {first:.1} | {second:.1} |");
}
