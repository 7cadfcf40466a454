//! Sets of the greatest codes against the codes themselves.

use rand::RngExt as _;

use super::{BTreeMap, File, dense_column};
use crate::testing::seeded;

const SEGMENT: u32 = 3;

#[test]
fn all_that_reach_a_floor_are_in_and_few_others() {
    let mut rng = seeded();
    for _ in 0..4 {
        let heavy = rng.random_range(1..5);
        let some: Vec<u32> = (0..200_000).filter(|_| rng.random_ratio(9, 10)).collect();
        let codes: BTreeMap<u32, u64> = some
            .into_iter()
            // Most codes are small, and shared by many; block 1 has no great one.
            .map(|n| {
                (SEGMENT << 20 | n, if n >> 16 == 1 { 0 } else { rng.random_range(0.001..1.0_f64).powi(-heavy) as u64 })
            })
            .collect();
        let file = File::new();
        let column = dense_column(&file, SEGMENT, &codes);
        assert!(column.agrees().unwrap());
        for share in [2000, 1000, 500, 100, 40, 20] {
            let floor = column.reached_by(1.0 / f64::from(share)).unwrap().unwrap();
            let reach = codes.values().filter(|code| **code >= floor).count();
            assert!(reach >= 150_000 / share as usize, "1 in {share} reach {floor}: {reach}");
            for few in [false, true] {
                let mut listed = 0;
                for block in 0..4_u16 {
                    let number = (SEGMENT << 4) as u16 | block;
                    let Some(found) = column.block_peaks(number, floor, few).unwrap() else {
                        listed += 1 << 16;
                        continue;
                    };
                    listed += found.len() as usize;
                    let reaching = codes.iter().filter(|(id, code)| (*id >> 16) as u16 == number && **code >= floor);
                    for (id, _) in reaching {
                        assert!(found.contains(*id as u16), "{id} is missing of those that reach {floor}");
                    }
                }
                // Now and then the zeros of block 1 make codes that follow the ids: then bounds tell of them instead.
                assert!(column.tops().is_some() || listed <= reach * 20 + 20_000, "{listed} for {reach}");
            }
        }
    }
}

#[test]
fn one_code_for_all_has_no_peaks() {
    let codes = (0..100_000).map(|n| (SEGMENT << 20 | n, 7)).collect();
    let file = File::new();
    assert!(dense_column(&file, SEGMENT, &codes).block_peaks((SEGMENT << 4) as u16, 7, false).unwrap().is_none());
    let empty = File::new();
    let column = dense_column(&empty, SEGMENT, &BTreeMap::new());
    assert!(column.block_peaks((SEGMENT << 4) as u16, 7, true).unwrap().is_none());
    assert_eq!(column.reached_by(0.01).unwrap(), None);
}
