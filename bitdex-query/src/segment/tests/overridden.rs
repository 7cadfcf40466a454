//! Looks into a block of overrides, compared with a list.

use rand::seq::index::sample;

use crate::{segment::overridden::Overridden, testing::seeded};

#[test]
fn every_id_is_found_where_it_stands_and_no_other_is() {
    let mut rng = seeded();
    for count in [0, 1, 5, 256, 257, 3_000, 40_000, 65_536] {
        let mut ids: Vec<u16> = sample(&mut rng, 65_536, count).into_iter().map(|id| id as u16).collect();
        ids.sort_unstable();
        let first = 1_000;
        let block = Overridden::new(first, ids.clone());
        assert_eq!(block.positions(), first..first + count);
        for id in 0..=u16::MAX {
            let stands = ids.binary_search(&id).ok().map(|at| first + at);
            assert_eq!(block.find(id), stands, "{id} of {count}");
        }
        let mut each = Vec::new();
        block.each(|id| each.push(id));
        assert_eq!(each, ids);
    }
}
