//! Tests of a column's codes: which ids of a block pass.
//!
//! Where the codes follow the ids, the bounds of the block and of its lanes tell most of it; outliers, and ids of which a
//! layer above the base says something else, are looked at one by one.

use bitdex_proto::schema::FieldId;

use super::{
    evaluate::{Pool, by_segment, id_of, within_block},
    filter::Test,
    set::Set,
};
use crate::{
    log::Result,
    segment::{
        BLOCKS_PER_SEGMENT,
        lanes::{LANE, LANES, LaneWords},
        sets::Block,
        tops::BlockTops,
    },
    state::{CodeReader, ColumnView, Operand, State},
};

/// Ranges of one test whose ids are estimated one by one.
const RANGES_LOOKED_AT: usize = 16;
/// The codes of so few ids are sooner read than those of all outliers of a block.
const FEW: u32 = 96;
/// Sets of up to so many ids are tested id by id.
const EACH: u32 = 4096;

/// All ids of a lane.
const EVERY: LaneWords = [u64::MAX; LANE / 64];

/// A test of the codes of a column.
#[derive(Debug)]
pub(super) struct ColumnTest<'s> {
    pub(super) field: FieldId,
    pub(super) column: ColumnView<'s>,
    /// The ids that have a code.
    pub(super) exists: Operand<'s>,
    /// Codes from first to last that pass; ascending and apart.
    pub(super) ranges: Vec<(u64, u64)>,
    /// Codes whose documents decide, by `test`; ascending. Empty where codes are exact.
    pub(super) unsure: Vec<u64>,
    pub(super) test: Test,
    pub(super) state: &'s State,
}

/// What the bounds of a block say of a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Share {
    None,
    Some,
    /// All that have a code.
    All,
}

impl ColumnTest<'_> {
    pub(super) fn share(&self, block: u16) -> Result<Share> {
        let bounds = self.column.bounds(block)?;
        if bounds.count == 0 {
            return Ok(Share::None);
        }
        if let Some((first, last)) = self.range()
            && bounds.max >= first
            && self.column.inner_bounds(block)?.max < first
            && let Some(tops) = self.column.tops(block)?
            && !tops.has_outlier(first, last)
        {
            return Ok(Share::None);
        }
        let at = self.ranges.partition_point(|(_, last)| *last < bounds.min);
        let range = self.ranges.get(at).filter(|(first, _)| *first <= bounds.max);
        if range.is_some_and(|(first, last)| *first <= bounds.min && bounds.max <= *last) {
            return Ok(Share::All);
        }
        let unsure = self.unsure.get(self.unsure.partition_point(|code| *code < bounds.min));
        let none = range.is_none() && unsure.is_none_or(|code| *code > bounds.max);
        Ok(if none { Share::None } else { Share::Some })
    }

    /// Those of some blocks, ascending, where an id may pass.
    pub(super) fn reached(&self, blocks: &[u16]) -> Result<Vec<u16>> {
        let mut reached = Vec::with_capacity(blocks.len());
        for of_segment in by_segment(blocks) {
            if let Some((first, last)) = self.range() {
                let bounds = self.column.segment_bounds(of_segment)?;
                if !bounds.reach_into(first, last) {
                    continue;
                }
                if bounds.lie_within(first, last) {
                    reached.extend_from_slice(of_segment);
                    continue;
                }
            }
            let by_outliers = match self.range() {
                Some((first, last)) => self.column.outlying(of_segment, first, last)?.map(|blocks| (first, blocks)),
                None => None,
            };
            for number in of_segment {
                let is_reached = match by_outliers {
                    Some((first, blocks)) if self.column.inner_bounds(*number)?.max < first => {
                        blocks >> (number % BLOCKS_PER_SEGMENT) & 1 == 1
                    }
                    _ => self.share(*number)? != Share::None,
                };
                if is_reached {
                    reached.push(*number);
                }
            }
        }
        Ok(reached)
    }

    /// The one range of codes that it is.
    pub(super) fn range(&self) -> Option<(u64, u64)> {
        match self.ranges.as_slice() {
            [range] if self.unsure.is_empty() => Some(*range),
            _ => None,
        }
    }

    /// Lets only codes up to `most` pass.
    pub(super) fn cap(&mut self, most: u64) {
        self.ranges.retain_mut(|(first, last)| {
            *last = (*last).min(most);
            *first <= *last
        });
    }

    pub(super) fn passes(&self, code: u64, id: u32) -> Result<bool> {
        let within = match self.ranges.as_slice() {
            [(first, last)] => *first <= code && code <= *last,
            ranges => {
                let at = ranges.partition_point(|(_, last)| *last < code);
                ranges.get(at).is_some_and(|(first, _)| *first <= code)
            }
        };
        if within || self.unsure.is_empty() || self.unsure.binary_search(&code).is_err() {
            return Ok(within);
        }
        let Some(document) = self.state.document(id)? else { return Ok(false) };
        Ok(self.test.passes(document.value(self.field)?.values()))
    }

    pub(super) fn estimate(&self) -> Result<u64> {
        let unsure = self.unsure.iter().map(|code| (*code, *code));
        let ranges = self.ranges.iter().copied().chain(unsure);
        let all = self.ranges.len() + self.unsure.len();
        let mut sum = 0_u64;
        for (first, last) in ranges.step_by(all.div_ceil(RANGES_LOOKED_AT).max(1)) {
            sum = sum.saturating_add(self.column.estimate(first, last)?);
        }
        Ok(sum.saturating_mul(all.div_ceil(RANGES_LOOKED_AT).max(1) as u64))
    }

    pub(super) fn contains(&self, id: u32) -> Result<bool> {
        self.column.get(id)?.map_or(Ok(false), |code| self.passes(code, id))
    }

    /// Adds the ids that pass.
    pub(super) fn unite(&self, number: u16, set: &mut Set, pool: &mut Pool) -> Result<()> {
        match self.share(number)? {
            Share::None => Ok(()),
            Share::All => self.with_exists(number, pool, |block| set.or(block)),
            Share::Some => self.with_passing(number, pool, |block| set.or(block)),
        }
    }

    /// Keeps the ids that pass.
    pub(super) fn restrict(&self, number: u16, set: &mut Set, pool: &mut Pool) -> Result<()> {
        match self.share(number)? {
            Share::None => {
                set.clear();
                Ok(())
            }
            Share::All => self.with_exists(number, pool, |block| set.and(block)),
            Share::Some if set.is_sparse() && set.len() <= EACH => self.retain(number, true, set),
            Share::Some => self.with_passing(number, pool, |block| set.and(block)),
        }
    }

    /// Takes the ids out that pass.
    pub(super) fn exclude(&self, number: u16, set: &mut Set, pool: &mut Pool) -> Result<()> {
        if let (Some(tops), Some(range)) = (self.column.tops(number)?, self.range())
            && tops.limit < range.0
        {
            if set.is_sparse() && set.len() <= FEW {
                return self.retain(number, false, set);
            }
            if self.column.reader(number)?.is_plain() {
                let outliers = tops.outliers_within(range.0, range.1);
                if outliers.is_empty() {
                    return Ok(());
                }
                let words = set.words();
                for id in outliers.iter().map(|outlier| within_block(outlier.id)) {
                    words[usize::from(id >> 6)] &= !(1 << (id & 63));
                }
                return Ok(());
            }
            let mut buffer = pool.buffer();
            self.listed(number, &tops, range, &mut buffer.ids)?;
            set.and_not(Block::of(&buffer.ids));
            pool.put_buffer(buffer);
            return Ok(());
        }
        match self.share(number)? {
            Share::None => Ok(()),
            Share::All => self.with_exists(number, pool, |block| set.and_not(block)),
            Share::Some if set.is_sparse() && set.len() <= EACH => self.retain(number, false, set),
            Share::Some => self.with_passing(number, pool, |block| set.and_not(block)),
        }
    }

    /// The ids that pass where of the base's codes only outliers do; ascending.
    fn listed(&self, number: u16, tops: &BlockTops<'_>, (first, last): (u64, u64), ids: &mut Vec<u16>) -> Result<()> {
        let passes = |code: u64| first <= code && code <= last;
        ids.clear();
        ids.extend(tops.outliers_within(first, last).iter().map(|outlier| within_block(outlier.id)));
        let codes = self.column.reader(number)?;
        if codes.is_plain() {
            ids.sort_unstable();
            return Ok(());
        }
        ids.retain(|id| !codes.is_overridden(*id));
        for lane in (0..LANES).flat_map(|n| codes.lanes(n)) {
            if lane.bounds().is_some_and(|(least, most)| least <= last && first <= most) {
                lane.each_of(&EVERY, |id, code| {
                    if code.is_some_and(passes) {
                        ids.push(id);
                    }
                    Ok(())
                })?;
            }
        }
        ids.sort_unstable();
        Ok(())
    }

    fn with_passing(&self, number: u16, pool: &mut Pool, then: impl FnOnce(Block<'_>)) -> Result<()> {
        let mut own = pool.set();
        self.make(number, &mut own, pool)?;
        then(own.as_block());
        pool.put_set(own);
        Ok(())
    }

    fn with_exists(&self, number: u16, pool: &mut Pool, then: impl FnOnce(Block<'_>)) -> Result<()> {
        let mut buffer = pool.buffer();
        then(self.exists.block(number, &mut buffer)?);
        pool.put_buffer(buffer);
        Ok(())
    }

    fn retain(&self, number: u16, passing: bool, set: &mut Set) -> Result<()> {
        let codes = self.column.reader(number)?;
        if set.is_sparse() {
            codes.fetch(set.as_block());
        }
        set.retain(|id| {
            let passes = codes.get(id).map_or(Ok(false), |code| self.passes(code, id_of(number, id)))?;
            Ok(passes == passing)
        })
    }

    /// `set`, which is empty, becomes the ids that pass.
    fn make(&self, number: u16, set: &mut Set, pool: &mut Pool) -> Result<()> {
        match (self.column.tops(number)?, self.range()) {
            (Some(tops), Some(range)) => self.make_by_lanes(number, &tops, range, set, pool),
            _ => {
                self.with_exists(number, pool, |block| set.or(block))?;
                self.retain(number, true, set)
            }
        }
    }

    fn make_by_lanes(
        &self,
        number: u16,
        tops: &BlockTops<'_>,
        (first, last): (u64, u64),
        set: &mut Set,
        pool: &mut Pool,
    ) -> Result<()> {
        let codes = self.column.reader(number)?;
        let passes = |code: u64| first <= code && code <= last;
        let mut whole = false;
        for (lane, start) in tops.lanes.iter().zip((0_u32..).step_by(LANE)) {
            if lane.min > lane.limit || lane.limit < first || lane.min > last {
                continue;
            }
            let end = start + (LANE as u32 - 1);
            if first <= lane.min && lane.limit <= last {
                set.or_range(start as u16, end as u16);
                whole = true;
            } else {
                for id in start as u16..=end as u16 {
                    if codes.base_code(id).is_some_and(passes) {
                        set.insert(id);
                    }
                }
            }
        }
        for outlier in tops.outliers {
            set.put(within_block(outlier.id), passes(outlier.code));
        }
        if !codes.is_plain() {
            put_overrides(&codes, (first, last), set)?;
        }
        if whole { self.with_exists(number, pool, |block| set.and(block)) } else { Ok(()) }
    }
}

/// Puts into a set what layers above the base say: ids whose codes lie from `first` to `last` are in, others that they
/// speak of are not.
fn put_overrides(codes: &CodeReader<'_>, (first, last): (u64, u64), set: &mut Set) -> Result<()> {
    for n in 0..LANES {
        for lane in codes.lanes(n) {
            let (said, coded) = lane.words();
            let words = set.lane_mut(n);
            words.iter_mut().zip(said).for_each(|(to, said)| *to &= !said);
            match lane.bounds() {
                Some((least, most)) if first <= least && most <= last => {
                    words.iter_mut().zip(&coded).for_each(|(to, coded)| *to |= coded);
                }
                Some((least, most)) if least <= last && first <= most => {
                    lane.each_of(&coded, |id, code| {
                        if code.is_some_and(|code| first <= code && code <= last) {
                            set.insert(id);
                        }
                        Ok(())
                    })?;
                }
                _ => {}
            }
        }
    }
    Ok(())
}
