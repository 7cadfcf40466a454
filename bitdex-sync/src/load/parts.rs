//! Cuts a source into ranges of its key, each about as long to read.

use bitdex_proto::wire::LoadPart;

/// What the catalog and the table say of one source's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) source: u32,
    /// Smallest and largest key; `None`: no rows.
    pub(super) keys: Option<(i64, i64)>,
    /// An estimate is enough.
    pub(super) rows: u64,
}

/// Ranges that together hold every key from the smallest to the largest, source by source. The last range's end of
/// `i64::MAX` stands for no end.
pub(super) fn plan(extents: &[Extent], rows_per_part: u64) -> Vec<LoadPart> {
    let mut parts = Vec::new();
    for extent in extents {
        let Some((min, max)) = extent.keys else { continue };
        let span = (i128::from(max.saturating_add(1)) - i128::from(min)).max(1);
        let count = i128::from(extent.rows.div_ceil(rows_per_part.max(1)).clamp(1, 100_000)).min(span);
        let bound = |i: i128| (i128::from(min) + span * i / count) as i64;
        parts.extend((0..count).map(|i| LoadPart { source: extent.source, lo: bound(i), hi: bound(i + 1) }));
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_meet_and_cover_everything() {
        for (min, max, rows) in
            [(1, 1, 1), (0, 10, 1000), (-5, 1_000_000, 12_345), (i64::MIN, i64::MAX, 100), (7, 9, 0)]
        {
            let parts = plan(&[Extent { source: 2, keys: Some((min, max)), rows }], 10);
            assert_eq!(parts[0].lo, min);
            assert_eq!(parts[parts.len() - 1].hi, max.saturating_add(1));
            assert!(parts.windows(2).all(|pair| pair[0].hi == pair[1].lo));
            assert!(parts.iter().all(|part| part.lo < part.hi && part.source == 2));
        }
    }

    #[test]
    fn an_empty_table_has_no_parts() {
        assert_eq!(plan(&[Extent { source: 0, keys: None, rows: 0 }], 10), []);
    }
}
