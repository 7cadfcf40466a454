//! The codes of a column of a layer, by id: asked in a few steps, cloned at the cost of a pointer, changed at that of the
//! lanes that are touched.

use std::sync::Arc;

use crate::{
    mapping::slices::give_way,
    segment::{
        BLOCK_BITS, BLOCKS_PER_SEGMENT, SEGMENT_BITS,
        lanes::{LANES, Lane, LaneBounds, LaneCodes, lane_of},
    },
};

/// Blocks.
const IN_SEGMENT: usize = BLOCKS_PER_SEGMENT as usize;

#[derive(Debug)]
struct HeapLane {
    lane: Lane,
    codes: Vec<u64>,
}

/// What the layer says of the ids of a block.
#[derive(Debug, Clone)]
pub(crate) struct CodeBlock {
    lanes: [Option<Arc<HeapLane>>; LANES],
    bounds: LaneBounds,
}

/// The least code and the greatest; `None`: there are none.
type Span = Option<(u64, u64)>;

/// What the layer says of the ids of a segment.
#[derive(Debug, Clone, Default)]
struct CodeSegment {
    span: Span,
    /// Of each block, beside each other: whoever orders blocks reads those of all.
    spans: [Span; IN_SEGMENT],
    blocks: [Option<Arc<CodeBlock>>; IN_SEGMENT],
}

#[derive(Debug, Clone, Default)]
pub(super) struct Codes {
    /// By number of the segment.
    segments: Arc<Vec<Option<Arc<CodeSegment>>>>,
    /// Ids.
    length: usize,
    bytes: usize,
}

impl Codes {
    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// Of heap, about.
    pub(super) fn bytes(&self) -> u64 {
        (self.bytes + self.segments.len() * size_of::<Option<Arc<CodeSegment>>>()) as u64
    }

    #[inline]
    pub(super) fn block(&self, number: u16) -> Option<&CodeBlock> {
        self.segment_of(number)?.blocks.get(usize::from(number) % IN_SEGMENT)?.as_deref()
    }

    /// Those that it says something of, ascending.
    pub(super) fn blocks(&self) -> impl Iterator<Item = u16> {
        let segments = self.segments.iter().enumerate().filter_map(|(n, of)| Some((n * IN_SEGMENT, of.as_deref()?)));
        let blocks = segments.flat_map(|(first, of)| (first..).zip(&of.blocks));
        blocks.filter(|(_, block)| block.is_some()).map(|(number, _)| number as u16)
    }

    /// Of a block's ids.
    #[inline]
    pub(super) fn block_span(&self, number: u16) -> Span {
        self.segment_of(number)?.spans.get(usize::from(number) % IN_SEGMENT).copied().flatten()
    }

    /// Of a segment's ids.
    pub(super) fn segment_span(&self, number: u32) -> Span {
        self.segments.get(number as usize)?.as_deref()?.span
    }

    #[inline]
    fn segment_of(&self, block: u16) -> Option<&CodeSegment> {
        self.segments.get(usize::from(block) / IN_SEGMENT)?.as_deref()
    }

    /// `None`: nothing is said of the id.
    #[inline]
    pub(super) fn get(&self, id: u32) -> Option<Option<u64>> {
        let lane = self.block((id >> BLOCK_BITS) as u16)?.lane(lane_of(id as u16))?;
        lane.get(id as u16)
    }

    #[inline]
    pub(super) fn says(&self, id: u32) -> bool {
        let lane = self.block((id >> BLOCK_BITS) as u16).and_then(|block| block.lane(lane_of(id as u16)));
        lane.is_some_and(|lane| lane.lane.says(id as u16))
    }

    /// Ids ascend, none twice.
    pub(super) fn change(&mut self, mut changes: &[(u32, Option<u64>)]) {
        let segments = Arc::make_mut(&mut self.segments);
        let mut entries = Vec::new();
        while let Some((first, _)) = changes.first() {
            let number = first >> SEGMENT_BITS;
            let (mut mine, rest) = changes.split_at(changes.partition_point(|(id, _)| id >> SEGMENT_BITS == number));
            changes = rest;
            let number = number as usize;
            segments.resize(segments.len().max(number + 1), None);
            let Some(place) = segments.get_mut(number) else { continue };
            let segment = Arc::make_mut(place.get_or_insert_with(|| {
                self.bytes += size_of::<CodeSegment>();
                Arc::default()
            }));
            while let Some((first, _)) = mine.first() {
                let number = first >> BLOCK_BITS;
                let (of_block, rest) = mine.split_at(mine.partition_point(|(id, _)| id >> BLOCK_BITS == number));
                mine = rest;
                let n = number as usize % IN_SEGMENT;
                let (Some(place), Some(span)) = (segment.blocks.get_mut(n), segment.spans.get_mut(n)) else { continue };
                let block = Arc::make_mut(place.get_or_insert_with(|| {
                    self.bytes += size_of::<CodeBlock>();
                    Arc::new(CodeBlock { lanes: [const { None }; LANES], bounds: LaneBounds::NOTHING })
                }));
                entries.clear();
                entries.extend(of_block.iter().map(|(id, code)| (*id as u16, *code)));
                block.change(&entries, &mut self.length, &mut self.bytes);
                *span = block.bounds.all();
            }
            let spans = segment.spans.iter().flatten().copied();
            segment.span = spans.reduce(|(min, max), (low, high)| (min.min(low), max.max(high)));
        }
    }

    /// Everything, ascending by id.
    pub(super) fn all(&self) -> impl Iterator<Item = (u32, Option<u64>)> {
        let blocks = self.segments.iter().flat_map(|segment| {
            let blocks = segment.as_deref().map_or(&[const { None }; IN_SEGMENT], |segment| &segment.blocks);
            blocks.iter().map(Option::as_deref)
        });
        let blocks = (0_u32..).zip(blocks).filter_map(|(number, block)| Some((number, block?)));
        let lanes = blocks.flat_map(|(number, block)| {
            let lanes = (0_u32..).zip(&block.lanes).filter_map(|(n, lane)| Some((n, lane.as_deref()?)));
            lanes.map(move |(n, lane)| (number << BLOCK_BITS | n << (BLOCK_BITS - LANES.ilog2()), lane))
        });
        lanes.flat_map(|(first, lane)| {
            let mut all = Vec::with_capacity(lane.lane.ids());
            lane.codes().each(|id, code| all.push((first | u32::from(id), code)));
            all
        })
    }
}

impl CodeBlock {
    /// The n-th lane.
    #[inline]
    pub(crate) fn lane(&self, n: usize) -> Option<LaneCodes<'_>> {
        self.lanes.get(n)?.as_deref().map(HeapLane::codes)
    }

    /// Of the codes of each lane.
    #[inline]
    pub(crate) fn bounds(&self) -> &LaneBounds {
        &self.bounds
    }

    fn change(&mut self, mut entries: &[(u16, Option<u64>)], length: &mut usize, bytes: &mut usize) {
        while let Some((first, _)) = entries.first() {
            give_way();
            let n = lane_of(*first);
            let (mine, rest) = entries.split_at(entries.partition_point(|(id, _)| lane_of(*id) == n));
            entries = rest;
            let Some(place) = self.lanes.get_mut(n) else { continue };
            let new = match place.as_deref() {
                None => {
                    let mut codes = Vec::with_capacity(mine.len());
                    HeapLane { lane: Lane::of(mine, &mut codes), codes }
                }
                Some(old) => {
                    *length -= old.lane.ids();
                    *bytes = bytes.saturating_sub(old.bytes());
                    let (lane, codes) = old.lane.with(&old.codes, mine);
                    HeapLane { lane, codes }
                }
            };
            *length += new.lane.ids();
            *bytes += new.bytes();
            self.bounds.set(n, new.codes().bounds());
            *place = Some(Arc::new(new));
        }
    }
}

impl HeapLane {
    #[inline]
    fn codes(&self) -> LaneCodes<'_> {
        LaneCodes { lane: &self.lane, codes: &self.codes }
    }

    fn bytes(&self) -> usize {
        size_of::<Self>() + 2 * size_of::<usize>() + 8 * self.codes.capacity()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::{Rng, RngExt as _};

    use super::*;
    use crate::testing::seeded;

    type Model = BTreeMap<u32, Option<u64>>;

    fn check(codes: &Codes, model: &Model, ask: impl Iterator<Item = u32>, rng: &mut impl Rng) {
        assert_eq!(codes.all().collect::<Model>(), *model);
        assert_eq!(codes.len(), model.len());
        for id in ask {
            assert_eq!(codes.get(id), model.get(&id).copied(), "{id}");
            assert_eq!(codes.says(id), model.contains_key(&id), "{id}");
        }
        for number in 0..4 {
            let of_segment = model.range(number << 20..(number + 1) << 20).filter_map(|(_, code)| *code);
            let bounds = of_segment.clone().min().zip(of_segment.max());
            assert_eq!(codes.segment_span(number), bounds);
        }
        for number in (0..codes.segments.len() * IN_SEGMENT).map(|number| number as u16) {
            let Some(block) = codes.block(number) else { continue };
            let first = u32::from(number) << BLOCK_BITS;
            let within = |first: u32, ids: u32| model.range(first..first + ids).filter_map(|(_, code)| *code);
            let bounds = |first, ids| Some((within(first, ids).min()?, within(first, ids).max()?));
            assert_eq!(block.bounds().all(), bounds(first, 1 << BLOCK_BITS));
            assert_eq!(codes.block_span(number), bounds(first, 1 << BLOCK_BITS));
            for n in 0..LANES {
                let of_lane = first + (n as u32) * 1024;
                assert_eq!(block.bounds().of(n), bounds(of_lane, 1024));
                assert_eq!(block.lane(n).is_some(), model.range(of_lane..of_lane + 1024).next().is_some());
            }
            for least in [0, rng.random_range(0..1_100), u64::MAX] {
                let reaching = (0..LANES).filter(|n| block.bounds().of(*n).is_some_and(|(_, most)| most >= least));
                assert!(block.bounds().reaching(least).eq(reaching), "{least}");
            }
        }
    }

    #[test]
    fn changes_equal_a_plain_map_and_leave_clones_as_they_were() {
        let mut rng = seeded();
        for _ in 0..10 {
            let (mut codes, mut model) = (Codes::default(), Model::new());
            let mut clones: Vec<(Codes, Model)> = Vec::new();
            for _ in 0..12 {
                let span = [50, 2_000, 300_000][rng.random_range(0..3)];
                let first = rng.random_range(0..200_000) << rng.random_range(0..5);
                let none = [0.0, 0.2, 1.0][rng.random_range(0..3)];
                let changes: Model = (0..rng.random_range(0..1_500))
                    .map(|_| {
                        let code = (!rng.random_bool(none)).then(|| rng.random_range(0..1_000));
                        (first + rng.random_range(0..span), code)
                    })
                    .collect();
                model.extend(&changes);
                codes.change(&changes.into_iter().collect::<Vec<_>>());
                clones.push((codes.clone(), model.clone()));
            }
            for (codes, model) in clones {
                let ask: Vec<u32> =
                    model.keys().copied().chain((0..500).map(|_| rng.random_range(0..600_000))).collect();
                check(&codes, &model, ask.into_iter(), &mut rng);
            }
        }
    }
}
