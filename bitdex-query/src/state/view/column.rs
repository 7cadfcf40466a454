//! A column, through all layers.

use bitdex_proto::{schema::FieldId, value::FieldType};
use smallvec::SmallVec;

use super::{
    super::{
        Files, State,
        layer::{CodeBlock, LayerColumn},
    },
    Walk,
};
use crate::{
    log::Result,
    segment::{
        BLOCK_BITS, Index, SEGMENT_BITS,
        columns::{BlockBounds, BlockReader, Column, SegmentBounds, SparseColumn},
        lanes::{LANE, LANES, LaneBounds, LaneCodes, LaneWords, lane_of},
        overridden::Overridden,
        sets::{Block, BlockBuffer, WORDS, put},
        tops::{BlockTops, Outlier},
    },
};

/// Codes of one block.
const CODES: usize = 1 << BLOCK_BITS;
/// Overrides that are looked at one by one, before a rougher answer does.
const EACH: usize = 256;
/// Segments that tell what the codes of all are like.
const SEGMENTS_LOOKED_AT: usize = 8;

/// A column over the whole index. Every id that has a code is a present document.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ColumnView<'s> {
    pub(super) files: &'s Files,
    field: FieldId,
    exact: bool,
    /// `None` where the layer overrides nothing. What segments have taken in of the checkpoint is said in both.
    pub(super) checkpoint: Option<&'s SparseColumn>,
    pub(super) frozen: Option<&'s LayerColumn>,
    pub(super) active: Option<&'s LayerColumn>,
}

impl<'s> ColumnView<'s> {
    pub(super) fn new(state: &'s State, field: FieldId) -> Option<Self> {
        let (index, ty) = state.layout.spec().fields.get(field)?;
        if *index != Index::Column {
            return None;
        }
        state.files.use_them();
        let overrides = |columns: &'s [LayerColumn]| columns.get(field).filter(|column| !column.is_empty());
        Some(Self {
            files: &state.files,
            field,
            exact: *ty != FieldType::String,
            checkpoint: state.files.overrides(field),
            frozen: state.frozen.as_ref().and_then(|frozen| overrides(&frozen.layer.columns)),
            active: overrides(&state.active.columns),
        })
    }

    /// False for text: equal codes may stand for different values.
    pub(crate) fn is_exact(&self) -> bool {
        self.exact
    }

    pub(crate) fn get(&self, id: u32) -> Result<Option<u64>> {
        for layer in [self.active, self.frozen].into_iter().flatten() {
            if let Some(code) = layer.get(id) {
                return Ok(code);
            }
        }
        if let Some(checkpoint) = self.checkpoint
            && !self.files.has_taken_in(id >> SEGMENT_BITS)
            && let Some(code) = checkpoint.get(id)?
        {
            return Ok(code);
        }
        match self.base(id >> SEGMENT_BITS) {
            Some(column) => column.get(id),
            None => Ok(None),
        }
    }

    /// Bounds of the codes of a block: no code in it lies outside, whatever the layer.
    pub(crate) fn bounds(&self, block: u16) -> Result<BlockBounds> {
        let bounds = match self.base_of(block) {
            Some(column) => column.bounds(block)?,
            None => BlockBounds::NONE,
        };
        self.widened(block, bounds)
    }

    /// As [`ColumnView::bounds`], without the outliers among the codes of the base.
    pub(crate) fn inner_bounds(&self, block: u16) -> Result<BlockBounds> {
        let bounds = self.base_of(block).map_or(BlockBounds::NONE, |column| column.inner_bounds(block));
        self.widened(block, bounds)
    }

    /// Bounds of the codes of some blocks, all of one segment.
    pub(crate) fn segment_bounds(&self, blocks: &[u16]) -> Result<SegmentBounds> {
        let Some(first) = blocks.first() else { return Ok(SegmentBounds::NONE) };
        let mut whole = self.base_of(*first).map_or(SegmentBounds::NONE, Column::whole_bounds);
        let number = u32::from(*first) >> (SEGMENT_BITS - BLOCK_BITS);
        for layer in [self.active, self.frozen].into_iter().flatten() {
            whole.inner = widened(whole.inner, layer.segment_span(number));
        }
        if let Some(checkpoint) = self.checkpoint.filter(|_| !self.files.has_taken_in(number)) {
            for block in blocks {
                let said = checkpoint.overridden(*block)?.and_then(|(ids, _)| ids.bounds().all());
                whole.inner = widened(whole.inner, said);
            }
        }
        Ok(whole)
    }

    /// In which of some blocks, all of one segment, the base has outliers with codes from `first` to `last`: a bit for each
    /// block of the segment. `None`: its codes do not follow the ids, or there are many such outliers.
    pub(crate) fn outlying(&self, blocks: &[u16], first: u64, last: u64) -> Result<Option<u16>> {
        let column = blocks.first().and_then(|block| self.base_of(*block));
        match column.and_then(Column::tops) {
            Some(tops) => tops.outlying(first, last),
            None => Ok(None),
        }
    }

    pub(crate) fn field(&self) -> FieldId {
        self.field
    }

    /// Where the segment of a block stands among all.
    pub(crate) fn segment_of(&self, block: u16) -> Option<usize> {
        self.files.position_of_block(block)
    }

    /// Whether no layer lies above the base.
    pub(crate) fn is_of_base(&self) -> bool {
        self.active.is_none() && self.frozen.is_none() && self.checkpoint.is_none()
    }

    /// Whether codes follow the ids in any segment.
    pub(crate) fn follows_ids(&self) -> bool {
        self.segments().any(|column| column.tops().is_some())
    }

    #[inline]
    fn widened(&self, block: u16, mut bounds: BlockBounds) -> Result<BlockBounds> {
        for layer in [self.active, self.frozen].into_iter().flatten() {
            bounds = widened(bounds, layer.block_span(block));
        }
        if let Some((ids, _)) = self.checkpoint_of(block)? {
            bounds = widened(bounds, ids.bounds().all());
        }
        Ok(bounds)
    }

    /// What layers above the base say of a block, the newest first.
    fn above(&self, block: u16) -> Result<Above<'s>> {
        let mut above = Above::new();
        let layers = [self.active, self.frozen].into_iter().flatten();
        above.extend(layers.filter_map(|layer| Some(Said::Layer(layer.block(block)?, layer, block))));
        above.extend(self.checkpoint_of(block)?.map(|(ids, codes)| Said::Checkpoint(ids, codes)));
        Ok(above)
    }

    /// What the checkpoint says of a block.
    #[inline]
    pub(super) fn checkpoint_of(&self, block: u16) -> Result<Option<(&'s Overridden, &'s [u64])>> {
        match self.checkpoint.filter(|_| !self.files.has_taken_in_block(block)) {
            Some(checkpoint) => checkpoint.overridden(block),
            None => Ok(None),
        }
    }

    /// The codes of a whole block, decoded (65 536 of them; of ids without a value: anything), layers applied.
    pub(crate) fn block(&self, block: u16, codes: &mut Vec<u64>) -> Result<()> {
        match self.base_of(block) {
            Some(column) => column.block(block, codes)?,
            None => codes.resize(CODES, 0),
        }
        for layer in self.above(block)?.iter().rev() {
            for (first, lane) in (0..LANES).filter_map(|n| Some((n * LANE, layer.lane(n)?))) {
                lane.each(|id, code| {
                    if let (Some(place), Some(code)) = (codes.get_mut(first | usize::from(id)), code) {
                        *place = code;
                    }
                });
            }
        }
        Ok(())
    }

    /// Whether the base has codes of a block.
    pub(crate) fn is_in_base(&self, block: u16) -> Result<bool> {
        self.base_of(block).map_or(Ok(false), |column| Ok(column.bounds(block)?.count > 0))
    }

    /// What the base knows of a block whose codes follow the ids. Layers above may say something else of some ids.
    pub(crate) fn tops(&self, block: u16) -> Result<Option<BlockTops<'s>>> {
        self.base_of(block).map_or(Ok(None), |column| column.block_tops(block))
    }

    /// A set of ids of a block in which are all whose code in the base reaches `floor`; `None`: there is none but all of
    /// them. `few`: see [`Peaks::block`]. Layers above may say something else of some ids.
    ///
    /// [`Peaks::block`]: crate::segment::peaks::Peaks::block
    pub(crate) fn peaks(&self, block: u16, floor: u64, few: bool) -> Result<Option<Block<'s>>> {
        match self.base_of(block) {
            Some(column) => column.block_peaks(block, floor, few),
            None => Ok(Some(Block::Empty)),
        }
    }

    /// The code that about this part of the ids with a code reach, judged by some segments; `None`: there are none.
    pub(crate) fn reached_by(&self, share: f64) -> Result<Option<u64>> {
        let all = self.files.segments().len();
        let mut codes = SmallVec::<[u64; SEGMENTS_LOOKED_AT]>::new();
        for column in self.segments().step_by(all.div_ceil(SEGMENTS_LOOKED_AT).max(1)) {
            codes.extend(column.reached_by(share)?);
        }
        codes.sort_unstable();
        // Rather too many ids than too few.
        Ok(codes.get(codes.len() / 4).copied())
    }

    /// A floor as high as this one, at least, that no layer above the base has more than about `most` ids from on.
    pub(crate) fn raised(&self, mut floor: u64, most: usize) -> Result<u64> {
        if let Some(checkpoint) = self.checkpoint
            && let Some(rank) = checkpoint.values().checked_sub(most.max(1)).filter(|rank| *rank > 0)
        {
            floor = floor.max(checkpoint.ranked(rank)?.0);
        }
        let layers = [self.frozen, self.active].into_iter().flatten();
        Ok(layers.fold(floor, |floor, layer| floor.max(layer.reached_by(most).unwrap_or(0))))
    }

    /// The outliers of those of the base's segments in which any has a code of `least` or greater: all of such a segment,
    /// descending. Layers above may say something else of them.
    pub(crate) fn outliers(&self, least: u64) -> Result<SmallVec<[&'s [Outlier]; 4]>> {
        let mut all = SmallVec::new();
        for column in self.segments().filter(|column| column.whole_bounds().outlier.is_some_and(|most| most >= least)) {
            if let Some(tops) = column.tops() {
                all.push(tops.descending()?);
            }
        }
        Ok(all)
    }

    /// The ids with a greater code than `most` whose code in `other` is none such, in any order, some perhaps twice;
    /// `None`: there may be too many to tell. No code of `other` is greater than this column's of the same id, and a
    /// layer that says something of an id's code in `other` says something of it here too. `other`: always the same one.
    pub(crate) fn ahead(&self, other: &Self, most: u64) -> Result<Option<SmallVec<[u32; 4]>>> {
        let mut found = SmallVec::new();
        let mut look_at = |id: u32| -> Result<()> {
            if self.get(id)?.is_some_and(|code| code > most) && other.get(id)?.is_none_or(|code| code <= most) {
                found.push(id);
            }
            Ok(())
        };
        for segment in self.files.segments() {
            let Some(column) = segment.column(self.field) else { continue };
            let Some(beside) = segment.column(other.field) else { return Ok(None) };
            let Some(ids) = column.ahead_of(beside)?.above(most) else { return Ok(None) };
            ids.iter().try_for_each(|(_, id)| look_at(*id))?;
        }
        let Some(from) = most.checked_add(1) else { return Ok(Some(found)) };
        if let Some(checkpoint) = self.checkpoint {
            let beside = self.files.all_overrides(other.field);
            let Some(ids) = checkpoint.ahead_of(beside)?.above(most) else { return Ok(None) };
            ids.iter().try_for_each(|(_, id)| look_at(*id))?;
        }
        for layer in [self.frozen, self.active].into_iter().flatten() {
            let mut ahead = layer.ahead(from);
            ahead.by_ref().take(EACH).try_for_each(|(_, id)| look_at(id))?;
            if ahead.next().is_some() {
                return Ok(None);
            }
        }
        Ok(Some(found))
    }

    /// The codes of one block, for many looks into it.
    pub(crate) fn reader(&self, block: u16) -> Result<CodeReader<'s>> {
        let base = match self.base_of(block) {
            Some(column) => Some(column.reader(block)?),
            None => None,
        };
        Ok(CodeReader { base, above: self.above(block)? })
    }

    /// Number of ids with codes from `first` to `last`, about.
    pub(crate) fn estimate(&self, first: u64, last: u64) -> Result<u64> {
        if first > last {
            return Ok(0);
        }
        let mut in_base = 0.0;
        for column in self.segments() {
            let behind = last.checked_add(1).map_or(Ok(column.len() as f64), |behind| column.rank_about(behind))?;
            in_base += behind - column.rank_about(first)?;
        }
        let mut count = in_base.round() as usize;
        if let Some(checkpoint) = self.checkpoint {
            count += checkpoint.rank(last, u32::MAX)?.saturating_sub(checkpoint.rank(first, 0)?);
        }
        for layer in [self.frozen, self.active].into_iter().flatten() {
            count += layer.order((first, 0)..=(last, u32::MAX)).about();
        }
        Ok(count as u64)
    }

    /// How many layers lie above the base, and of how many ids those in memory say something.
    pub(crate) fn layers(&self) -> (usize, usize) {
        let in_memory = [self.frozen, self.active].into_iter().flatten();
        in_memory
            .fold((usize::from(self.checkpoint.is_some()), 0), |(layers, ids), layer| (layers + 1, ids + layer.len()))
    }

    /// Ids with a code, in the order of (code, id), or all of it reversed. `from`: where to begin, included; `None`: at
    /// the end from which the walk comes.
    pub(crate) fn walk(&self, descending: bool, from: Option<(u64, u32)>) -> Result<Walk<'s>> {
        Walk::new(*self, descending, from)
    }

    /// The columns of all segments.
    pub(super) fn segments(&self) -> impl Iterator<Item = &'s Column> {
        self.files.segments().iter().filter_map(|segment| segment.column(self.field))
    }

    fn base(&self, segment: u32) -> Option<&'s Column> {
        self.files.segment(segment)?.column(self.field)
    }

    fn base_of(&self, block: u16) -> Option<&'s Column> {
        self.base(u32::from(block) >> (SEGMENT_BITS - BLOCK_BITS))
    }
}

/// Bounds that hold the codes of a layer too.
fn widened(bounds: BlockBounds, said: Option<(u64, u64)>) -> BlockBounds {
    let Some((min, max)) = said else { return bounds };
    // At most all of a block have a code.
    let count = CODES as u32;
    match bounds.count {
        0 => BlockBounds { count, min, max },
        _ => BlockBounds { count, min: bounds.min.min(min), max: bounds.max.max(max) },
    }
}

/// What one layer above the base says of a block.
#[derive(Debug, Clone, Copy)]
enum Said<'s> {
    /// With the layer's column, and the number of the block.
    Layer(&'s CodeBlock, &'s LayerColumn, u16),
    Checkpoint(&'s Overridden, &'s [u64]),
}

type Above<'s> = SmallVec<[Said<'s>; 3]>;

impl<'s> Said<'s> {
    #[inline]
    fn lane(self, n: usize) -> Option<LaneCodes<'s>> {
        match self {
            Self::Layer(block, ..) => block.lane(n),
            Self::Checkpoint(block, codes) => block.lane(n, codes),
        }
    }

    /// Ids, among them all whose codes reach `least`; `None`: these are not known apart.
    fn reaching(self, least: u64) -> Option<Block<'s>> {
        match self {
            Self::Layer(_, column, number) => column.reaching(number, least),
            Self::Checkpoint(block, _) => block.reaching(least).map(Block::of),
        }
    }

    /// Calls `each` with the ids whose codes reach `least`.
    fn each_from(self, least: u64, mut each: impl FnMut(u16)) {
        for n in self.bounds().reaching(least) {
            let Some(lane) = self.lane(n) else { continue };
            let first = (n * LANE) as u16;
            lane.each(|id, code| {
                if code >= Some(least) {
                    each(first | id);
                }
            });
        }
    }

    fn bounds(self) -> &'s LaneBounds {
        match self {
            Self::Layer(block, ..) => block.bounds(),
            Self::Checkpoint(block, _) => block.bounds(),
        }
    }

    #[inline]
    fn says(self, id: u16) -> bool {
        self.lane(lane_of(id)).is_some_and(|lane| lane.lane.says(id))
    }
}

/// See [`ColumnView::reader`].
#[derive(Debug)]
pub(crate) struct CodeReader<'s> {
    base: Option<BlockReader<'s>>,
    /// The newest first.
    above: Above<'s>,
}

impl<'s> CodeReader<'s> {
    /// `id`: within the block.
    #[inline]
    pub(crate) fn get(&self, id: u16) -> Option<u64> {
        for layer in &self.above {
            if let Some(code) = layer.lane(lane_of(id)).and_then(|lane| lane.get(id)) {
                return code;
            }
        }
        self.base_code(id)
    }

    /// Asks for the codes of some ids before they are read.
    pub(crate) fn fetch(&self, ids: Block<'_>) {
        if let Some(base) = &self.base {
            ids.for_each(|id| base.fetch(id));
        }
        self.fetch_said(ids);
    }

    /// Asks for what tells of which of some ids layers above the base speak.
    fn fetch_said(&self, ids: Block<'_>) {
        for layer in &self.above {
            ids.for_each(|id| {
                if let Some(lane) = layer.lane(lane_of(id)) {
                    lane.lane.fetch(id);
                }
            });
        }
    }

    /// The same of ids most of which layers above the base speak of.
    pub(crate) fn fetch_overridden(&self, ids: &[u16]) {
        self.fetch_places(ids);
        self.fetch_said_codes(ids);
    }

    /// Asks for where layers above the base have the codes of some ids.
    pub(crate) fn fetch_places(&self, ids: &[u16]) {
        self.lanes_of(ids).for_each(|(lane, id)| lane.lane.fetch_place(id));
    }

    /// And then for these.
    pub(crate) fn fetch_said_codes(&self, ids: &[u16]) {
        self.lanes_of(ids).for_each(|(lane, id)| lane.fetch(id));
    }

    fn lanes_of(&self, ids: &[u16]) -> impl Iterator<Item = (LaneCodes<'s>, u16)> {
        let lane = |layer: &Said<'s>, id: &u16| Some((layer.lane(lane_of(*id))?, *id));
        self.above.iter().flat_map(move |layer| ids.iter().filter_map(move |id| lane(layer, id)))
    }

    /// Without what layers above the base say.
    #[inline]
    pub(crate) fn base_code(&self, id: u16) -> Option<u64> {
        self.base.as_ref().and_then(|base| base.get(id))
    }

    /// Whether a layer above the base says something of an id.
    #[inline]
    pub(crate) fn is_overridden(&self, id: u16) -> bool {
        self.above.iter().any(|layer| layer.says(id))
    }

    /// Calls `each` with the ids of a set of the block that layers above the base say something of, in any order, some
    /// perhaps twice.
    pub(crate) fn overridden_of(&self, set: Block<'_>, mut each: impl FnMut(u16)) {
        if self.is_plain() {
            return;
        }
        match set {
            Block::Empty => {}
            Block::Array(array) if array.len() > LANES => {
                let ids_before = |n: usize| array.partition_point(|id| lane_of(*id) < n);
                for n in 0..LANES {
                    for lane in self.above.iter().filter_map(|layer| layer.lane(n)) {
                        let of_lane = array.get(ids_before(n)..ids_before(n + 1)).unwrap_or_default();
                        of_lane.iter().copied().filter(|id| lane.lane.says(*id)).for_each(&mut each);
                    }
                }
            }
            Block::Array(array) => {
                self.fetch_said(set);
                for of_lane in array.chunk_by(|a, b| lane_of(*a) == lane_of(*b)) {
                    let n = of_lane.first().map_or(0, |id| lane_of(*id));
                    for lane in self.above.iter().filter_map(|layer| layer.lane(n)) {
                        of_lane.iter().copied().filter(|id| lane.lane.says(*id)).for_each(&mut each);
                    }
                }
            }
            Block::Bits(words) => {
                for (n, of_lane) in words.chunks_exact(WORDS / LANES).enumerate() {
                    for lane in self.above.iter().filter_map(|layer| layer.lane(n)) {
                        let (said, _) = lane.words();
                        for ((word, said), first) in of_lane.iter().zip(said).zip((n * LANE..).step_by(64)) {
                            let mut rest = word & said;
                            while rest != 0 {
                                each(first as u16 | rest.trailing_zeros() as u16);
                                rest &= rest - 1;
                            }
                        }
                    }
                }
            }
        }
    }

    /// Whether no layer above the base says anything.
    pub(crate) fn is_plain(&self) -> bool {
        self.above.is_empty()
    }

    /// What layers above the base say of the n-th lane, the oldest first: of an id that several speak of, the last is
    /// right.
    pub(crate) fn lanes(&self, n: usize) -> impl Iterator<Item = OverrideLane<'_, 's>> {
        let layers = self.above.iter().enumerate().rev();
        layers.filter_map(move |(at, layer)| {
            let newer = self.above.get(..at).unwrap_or_default();
            Some(OverrideLane { codes: layer.lane(n)?, bounds: layer.bounds().of(n), first: (n * LANE) as u16, newer })
        })
    }

    /// Calls `each` with every id of a set of the block and its code, lane by lane, in no order within one: of many ids,
    /// what layers above the base say is quicker read in their order than looked up. `of`: the set's ids of a lane.
    pub(crate) fn each_of(
        &self,
        of: impl Fn(usize) -> LaneWords,
        mut each: impl FnMut(u16, Option<u64>) -> Result<()>,
    ) -> Result<()> {
        for n in (0..LANES).rev() {
            let mut left = of(n);
            let first = (n * LANE) as u16;
            for lane in self.above.iter().filter_map(|layer| layer.lane(n)) {
                lane.each_of(&left, |id, code| each(first | id, code))?;
                left.iter_mut().zip(lane.words().0).for_each(|(left, said)| *left &= !said);
            }
            for (at, mut word) in left.into_iter().enumerate() {
                while word != 0 {
                    let id = first | (at * 64) as u16 | word.trailing_zeros() as u16;
                    word &= word - 1;
                    each(id, self.base_code(id))?;
                }
            }
        }
        Ok(())
    }

    /// Appends ids, among them all that reach `least` for what layers above the base say.
    pub(crate) fn each_reaching(&self, least: u64, ids: &mut Vec<u16>) {
        for layer in &self.above {
            match layer.reaching(least) {
                Some(reaching) => reaching.for_each(|id| ids.push(id)),
                None => layer.each_from(least, |id| ids.push(id)),
            }
        }
    }

    /// The same of a set's ids. `room`: any set.
    pub(crate) fn each_reaching_of(&self, set: Block<'_>, least: u64, room: &mut BlockBuffer, ids: &mut Vec<u16>) {
        for layer in &self.above {
            match layer.reaching(least) {
                Some(reaching) => {
                    room.set_and(set, reaching);
                    room.block().for_each(|id| ids.push(id));
                }
                None => layer.each_from(least, |id| ids.extend(set.contains(id).then_some(id))),
            }
        }
    }

    /// Puts ids into the words of the block, among them all that reach `least` for what layers above the base say.
    pub(crate) fn add_reaching(&self, least: u64, words: &mut [u64; WORDS]) {
        for layer in &self.above {
            match layer.reaching(least) {
                Some(Block::Bits(reaching)) => words.iter_mut().zip(reaching).for_each(|(to, word)| *to |= word),
                Some(reaching) => reaching.for_each(|id| put(words, &[id])),
                None => {
                    for n in layer.bounds().reaching(least) {
                        if let (Some(lane), Some(words)) = (layer.lane(n), words.chunks_exact_mut(WORDS / LANES).nth(n))
                        {
                            lane.add_from(least, words);
                        }
                    }
                }
            }
        }
    }
}

/// What a layer above the base says of a lane.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OverrideLane<'r, 's> {
    codes: LaneCodes<'s>,
    bounds: Option<(u64, u64)>,
    first: u16,
    newer: &'r [Said<'s>],
}

impl OverrideLane<'_, '_> {
    /// The least code and the greatest; `None`: it has none.
    pub(crate) fn bounds(&self) -> Option<(u64, u64)> {
        self.bounds
    }

    /// The ids that it speaks of, and those of them that have a code.
    pub(crate) fn words(&self) -> (&LaneWords, LaneWords) {
        self.codes.words()
    }

    /// What it says of the ids in `of`, ascending by id, without those of which a newer layer says something else.
    pub(crate) fn each_of(&self, of: &LaneWords, mut each: impl FnMut(u16, Option<u64>) -> Result<()>) -> Result<()> {
        self.codes.each_of(of, |id, code| {
            let id = self.first | id;
            if self.newer.iter().any(|layer| layer.says(id)) { Ok(()) } else { each(id, code) }
        })
    }
}
