use rand::RngExt as _;

use super::{BTreeMap, Column, ColumnWriter, File, SectionId, SectionKind, dense_column};
use crate::{
    segment::{lanes::LANE, tops::OUTLYING_MOST},
    testing::{scaled, seeded},
};

const SEGMENT: u32 = 3;

#[test]
fn narrow_bounds_hold_for_every_code_that_is_not_listed() {
    let mut rng = seeded();
    for _ in 0..scaled(6) {
        let (thin, late) = (rng.random_range(1..20), rng.random_range(120..400));
        let mut codes = BTreeMap::new();
        for n in 0..200_000_u32 {
            if n % thin == 0 {
                let about = 1_000_000 + u64::from(n) * 1_000 + rng.random_range(0..500_000);
                let code = if rng.random_range(0..late) == 0 { rng.random_range(about..400_000_000) } else { about };
                codes.insert(SEGMENT << 20 | n, code);
            }
        }
        let file = File::new();
        let column = dense_column(&file, SEGMENT, &codes);
        assert!(column.agrees().unwrap());
        let mut listed = Vec::new();
        for block in 0..4_u16 {
            let number = (SEGMENT << 4) as u16 | block;
            let tops = column.block_tops(number).unwrap().unwrap();
            let of_block = || codes.iter().filter(|(id, _)| (*id >> 16) as u16 == number);
            assert_eq!(of_block().map(|(_, code)| *code).min(), Some(tops.min));
            assert_eq!(of_block().map(|(_, code)| *code).max(), Some(tops.most));
            assert!(tops.outliers.is_sorted_by_key(|outlier| (outlier.code, outlier.id)));
            for (id, code) in of_block() {
                let lane = tops.lanes[(id & 0xffff) as usize / LANE];
                let outlier = tops.outliers.iter().any(|outlier| (outlier.id, outlier.code) == (*id, *code));
                assert_eq!(outlier, *code > tops.limit);
                assert!(outlier || lane.min <= *code && *code <= lane.limit);
            }
            listed.extend(tops.outliers.iter().map(|outlier| (outlier.code, outlier.id)));
            // What lies far above is told apart: 65 536 ids make up 65 536 000. The last block may have too few for that.
            let width = tops.limit - tops.min;
            assert!(
                block == 3 || width < 90_000_000,
                "block {block} reaches over {width}, {} outliers",
                tops.outliers.len()
            );
        }
        listed.sort_unstable_by(|a, b| b.cmp(a));
        let all: Vec<_> =
            column.tops().unwrap().descending().unwrap().iter().map(|outlier| (outlier.code, outlier.id)).collect();
        assert_eq!(all, listed);

        let whole = column.whole_bounds();
        assert_eq!(whole.outlier, listed.first().map(|(code, _)| *code));
        for _ in 0..200 {
            let mut end = || match listed.get(rng.random_range(0..2 * listed.len())) {
                Some((code, _)) => *code,
                None => rng.random_range(0..400_000_000),
            };
            let ends = [end(), end()];
            let (first, last) = (ends[0].min(ends[1]), ends[0].max(ends[1]));
            let mut within = codes.values().map(|code| (first..=last).contains(code));
            assert!(!within.clone().any(|within| within) || whole.reach_into(first, last), "{first}..={last}");
            assert!(!whole.lie_within(first, last) || within.all(|within| within), "{first}..={last}");
            let outliers = || listed.iter().filter(|(code, _)| (first..=last).contains(code));
            let blocks = outliers().fold(0_u16, |blocks, (_, id)| blocks | 1 << (id >> 16 & 15));
            let told = column.tops().unwrap().outlying(first, last).unwrap();
            assert_eq!(told, (outliers().count() <= OUTLYING_MOST).then_some(blocks), "{first}..={last}");
        }
        let most = codes.values().max().copied().unwrap_or_default();
        assert!(whole.reach_into(most, most) && !whole.reach_into(most + 1, u64::MAX));
    }
}

#[test]
fn there_are_none_where_codes_do_not_follow_ids() {
    let mut rng = seeded();
    let codes = (0..100_000).map(|n| (SEGMENT << 20 | n, rng.random_range(0..1_000))).collect();
    assert!(dense_column(&File::new(), SEGMENT, &codes).tops().is_none());
    assert!(dense_column(&File::new(), SEGMENT, &BTreeMap::new()).tops().is_none());
}

#[test]
fn bounds_that_are_not_those_of_the_codes_are_told() {
    let codes = |other: u64| (0..70_000_u32).map(move |n| (n, u64::from(n) * 9 + if n == 41_000 { other } else { 0 }));
    let (file, copy) = (File::new(), File::new());
    let pack = file.write(|pack| {
        for (field, codes) in [(2, codes(0)), (4, codes(1 << 20))] {
            let mut writer = ColumnWriter::dense(field, 0);
            codes.for_each(|(id, code)| writer.push(id, Some(code)));
            writer.finish(pack).unwrap();
        }
    });
    let agrees = |tops_of: Option<u16>| {
        let pack = copy.write(|copy| {
            let column = (SectionKind::Column, 2);
            for (kind, place) in [column].into_iter().chain(tops_of.map(|field| (SectionKind::Tops, field))) {
                let section = pack.require(SectionId { kind, place }).unwrap();
                copy.section(SectionId { kind, place: 2 }).unwrap();
                copy.write(section.bytes(0, section.len()).unwrap()).unwrap();
            }
        });
        Column::open(&pack, 2).unwrap().unwrap().agrees().unwrap()
    };
    assert!(agrees(Some(2)));
    assert!(!agrees(Some(4)));
    assert!(!agrees(None));
}
