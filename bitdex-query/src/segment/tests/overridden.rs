//! Looks into a block of overrides, compared with a list.

use std::collections::BTreeMap;

use rand::{RngExt as _, seq::index::sample};

use crate::{
    segment::{
        lanes::{LANE, LANES, LaneWords},
        overridden::Overridden,
    },
    testing::seeded,
};

#[test]
fn every_id_is_found_where_it_stands_and_no_other_is() {
    let mut rng = seeded();
    for (count, codeless) in
        [(0, 0.5), (1, 0.0), (1, 1.0), (5, 0.5), (3_000, 0.0), (3_000, 0.3), (40_000, 0.9), (65_536, 0.1)]
    {
        let ids: BTreeMap<u16, Option<u64>> = sample(&mut rng, 65_536, count)
            .into_iter()
            .map(|id| (id as u16, (!rng.random_bool(codeless)).then(|| rng.random_range(0..1 << 40))))
            .collect();
        let list: Vec<(u16, Option<u64>)> = ids.iter().map(|(id, code)| (*id, *code)).collect();
        let codes: Vec<u64> = list.iter().map(|(_, code)| code.unwrap_or(7)).collect();
        let first = 1_000;
        let mut floors: Vec<u64> = (0..3).map(|_| rng.random_range(0..1 << 40)).collect();
        floors.sort_unstable_by(|a, b| b.cmp(a));
        let block = Overridden::new(first, &list, &floors);
        for least in floors.iter().copied().chain([0, 1 << 39, u64::MAX]) {
            let floor = floors.iter().find(|floor| **floor <= least);
            let reach = |floor: &u64| {
                let ids = list.iter().filter(|(_, code)| code.is_some_and(|code| code >= *floor));
                ids.map(|(id, _)| *id).collect::<Vec<_>>()
            };
            assert_eq!(block.reaching(least).map(<[u16]>::to_vec), floor.map(reach), "{least} of {floors:?}");
        }
        assert_eq!(block.positions(), first..first + count);
        let ends = |of: &[(u16, Option<u64>)]| {
            let codes = || of.iter().filter_map(|(_, code)| *code);
            Some((codes().min()?, codes().max()?))
        };
        assert_eq!(block.bounds().all(), ends(&list));
        for id in 0..=u16::MAX {
            let stands = list.binary_search_by_key(&id, |(id, _)| *id).ok().map(|at| first + at);
            assert_eq!(block.find(id), stands, "{id} of {count}");
            let lane = block.lane(usize::from(id) / LANE, &codes);
            assert_eq!(lane.and_then(|lane| lane.get(id)), ids.get(&id).copied(), "{id} of {count}");
            assert_eq!(lane.is_some_and(|lane| lane.lane.says(id)), stands.is_some());
        }
        for n in 0..LANES {
            let first = (n * LANE) as u16;
            let of_lane: Vec<_> = ids.range(first..=first | 1_023).map(|(id, code)| (*id, *code)).collect();
            let Some(lane) = block.lane(n, &codes) else {
                assert!(of_lane.is_empty());
                continue;
            };
            assert_eq!((lane.lane.ids(), block.bounds().of(n)), (of_lane.len(), ends(&of_lane)));
            let mut each = Vec::new();
            lane.each(|id, code| each.push((first | id, code)));
            assert_eq!(each, of_lane);
            let some: LaneWords = std::array::from_fn(|_| rng.random());
            let within = |words: &LaneWords, id: u16| words[usize::from(id) / 64 % words.len()] >> (id % 64) & 1 == 1;
            let mut each = Vec::new();
            lane.each_of(&some, |id, code| {
                each.push((first | id, code));
                Ok::<_, ()>(())
            })
            .unwrap();
            assert_eq!(each, of_lane.iter().copied().filter(|(id, _)| within(&some, *id)).collect::<Vec<_>>());
            let (said, coded) = lane.words();
            for id in first..=first | 1_023 {
                assert_eq!(within(said, id), ids.contains_key(&id));
                assert_eq!(within(&coded, id), ids.get(&id).is_some_and(Option::is_some));
            }
        }
    }
}
