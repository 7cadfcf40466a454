//! What a manifest names, opened: the base and the checkpoint of a version.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use bitdex_proto::schema::{FieldId, KEY_FIELD, Schema};

use super::{
    checkpoint::Checkpoint,
    filter_sets::FilterSets,
    frequent_terms::FrequentTerms,
    known_terms::{KnownTerm, KnownTerms},
    layout::{Layout, Place},
};
use crate::{
    build::table::TableHeader,
    log::{Error, Result},
    mapping::slices::step_back,
    segment::{
        BLOCK_BITS, SEGMENT_BITS,
        cells::{self, Cells},
        columns::SparseColumn,
        orders::Orders,
        postings::Role,
        segment::Segment,
        sets::{Block, BlockBuffer, OwnedBlock, WORDS},
        table::Table,
        value::Term,
    },
    store::{
        Folder,
        manifest::{Manifest, SegmentRef, TableRef},
        pack::{Pack, PackKind},
    },
};

/// What queries can do without is made for so few documents by the query that needs it.
pub(super) const AT_ONCE: u64 = 1 << 14;
/// How much nicer a thread is that makes what queries can do without.
const NICE: i32 = 10;
/// Numbers of segments lie below this one.
const SEGMENTS: u32 = 1 << (u32::BITS - SEGMENT_BITS);

/// By block, ascending.
type MovedIds = Box<[(u16, OwnedBlock)]>;

static ALL: [u64; WORDS] = [u64::MAX; WORDS];

/// The mapped layers of a version: base and checkpoint.
#[derive(Debug)]
pub struct Files {
    layout: Arc<Layout>,
    folder: PathBuf,
    segments: Vec<Arc<Segment>>,
    /// By number: its position in `segments`, plus one; 0: there is none.
    positions: Vec<u16>,
    /// By source.
    tables: Vec<Option<Arc<TableFile>>>,
    checkpoint: Option<Arc<Checkpoint>>,
    /// By field, whether the checkpoint's column says something that no segment has taken in; once it was asked.
    overrides: Vec<OnceLock<bool>>,
    staged: Vec<PathBuf>,
    filter_sets: FilterSets,
    known_terms: KnownTerms,
    frequent_terms: Arc<FrequentTerms>,
    making_cells: AtomicBool,
    /// Fields, with columns, whose orders are made, or were.
    making_orders: Mutex<Vec<(FieldId, FieldId)>>,
    /// See [`Files::moved`].
    moved: OnceLock<Option<MovedIds>>,
    /// The generation that a load makes of these files, which are a base without a checkpoint.
    prepared_for: Option<u64>,
    /// Whether queries have looked into these files, or those before.
    used: AtomicBool,
}

/// Rows of a lookup and of its hops.
#[derive(Debug)]
struct TableFile {
    pack: Arc<Pack>,
    table: Table,
    sequence: u64,
    hash: u128,
}

impl Files {
    /// No files at all.
    pub fn none(schema: Arc<Schema>) -> Arc<Self> {
        let layout = Arc::new(Layout::new(schema));
        Arc::new(Self::empty(layout, PathBuf::new()))
    }

    fn empty(layout: Arc<Layout>, folder: PathBuf) -> Self {
        let tables = layout.schema.sources.iter().map(|_| None).collect();
        let overrides = layout.fields.iter().map(|_| OnceLock::new()).collect();
        let known_terms = KnownTerms::new(layout.fields.len());
        Self {
            overrides,
            known_terms,
            frequent_terms: Arc::default(),
            layout,
            folder,
            segments: Vec::new(),
            positions: Vec::new(),
            tables,
            checkpoint: None,
            staged: Vec::new(),
            filter_sets: FilterSets::default(),
            making_cells: AtomicBool::new(false),
            making_orders: Mutex::default(),
            moved: OnceLock::new(),
            prepared_for: None,
            used: AtomicBool::new(false),
        }
    }

    /// Maps all files that the manifest names. `None` where one is gone, which means that there is a newer manifest.
    /// Files that `previous` has open are taken over from it.
    pub fn open(
        folder: &Folder,
        manifest: &Manifest,
        schema: &Arc<Schema>,
        previous: Option<&Arc<Self>>,
    ) -> Result<Option<Arc<Self>>> {
        let mut opening = Opening::new(folder, manifest, schema, previous.map(|files| &**files));
        if !opening.base(&manifest.segments, &manifest.tables)? {
            return Ok(None);
        }
        let mut files = opening.files;
        if let Some(named) = &manifest.checkpoint {
            let path = folder.named(&named.file);
            let shared = previous.and_then(|files| files.checkpoint.as_ref()).filter(|shared| shared.path() == path);
            let checkpoint = match shared {
                Some(shared) => shared.clone(),
                None => match Checkpoint::open(&path, manifest.store, &files.layout)? {
                    Some(checkpoint) => Arc::new(checkpoint),
                    None => return Ok(None),
                },
            };
            if checkpoint.sequence() != named.sequence {
                return Err(differs(&path, "a checkpoint of another record"));
            }
            files.checkpoint = Some(checkpoint);
        }
        files.staged = manifest.staged.iter().map(|name| folder.named(name)).collect();
        Ok(Some(Arc::new(files)))
    }

    /// The base that a build prepared, once it is complete: no checkpoint, no header.
    pub fn open_prepared(folder: &Folder, manifest: &Manifest, schema: &Arc<Schema>) -> Result<Option<Arc<Self>>> {
        let Some(prepared) = manifest.prepared.as_ref().filter(|prepared| prepared.complete) else { return Ok(None) };
        let mut opening = Opening::new(folder, manifest, schema, None);
        opening.files.prepared_for = Some(prepared.generation);
        let whole = opening.base(&prepared.segments, &prepared.tables)?;
        Ok(whole.then(|| Arc::new(opening.files)))
    }

    pub(crate) fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// Sequence number of the checkpoint; 0: there is none.
    pub fn sequence(&self) -> u64 {
        self.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.sequence())
    }

    pub(crate) fn checkpoint(&self) -> Option<&Checkpoint> {
        self.checkpoint.as_deref()
    }

    /// By number, ascending.
    pub(crate) fn segments(&self) -> &[Arc<Segment>] {
        &self.segments
    }

    /// Where a segment stands in [`Files::segments`].
    pub(crate) fn position(&self, number: u32) -> Option<usize> {
        match self.positions.get(number as usize) {
            None | Some(0) => None,
            Some(position) => Some(usize::from(*position) - 1),
        }
    }

    /// As [`Files::position`], of the segment of a block.
    pub(crate) fn position_of_block(&self, block: u16) -> Option<usize> {
        self.position(u32::from(block) >> (SEGMENT_BITS - BLOCK_BITS))
    }

    pub(crate) fn segment(&self, number: u32) -> Option<&Arc<Segment>> {
        self.segments.get(self.position(number)?)
    }

    /// Rows of a lookup and of its hops.
    pub(crate) fn table(&self, source: usize) -> Option<&Table> {
        self.tables.get(source)?.as_ref().map(|file| &file.table)
    }

    /// Verifies again what was read of the tables of all lookups.
    pub(crate) fn verify_tables_again(&self) -> Result<()> {
        self.tables.iter().flatten().try_for_each(|file| file.pack.verify_again())
    }

    /// Of the file of a lookup's table.
    pub(crate) fn table_format(&self, source: usize) -> Option<u32> {
        self.tables.get(source)?.as_ref().map(|file| file.pack.stamp().format)
    }

    /// The record up to which a lookup's table has taken in changes.
    pub(crate) fn table_sequence(&self, source: usize) -> Option<u64> {
        self.tables.get(source)?.as_ref().map(|file| file.sequence)
    }

    /// Sum of the hashes of the rows of a lookup's table.
    pub(crate) fn table_hash(&self, source: usize) -> u128 {
        self.tables.get(source).and_then(Option::as_ref).map_or(0, |file| file.hash)
    }

    /// Of the checkpoint; 0: there is none.
    pub(crate) fn generation(&self) -> u64 {
        self.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.header().generation)
    }

    /// The generation that a load made of these files; `None` once a checkpoint lies on them.
    pub(super) fn prepared_for(&self) -> Option<u64> {
        self.prepared_for
    }

    /// Whether these files lack the load that made `base` the state's files.
    pub(super) fn are_before(&self, base: &Self) -> bool {
        base.prepared_for.is_some_and(|generation| self.generation() < generation)
    }

    /// Names of the staged files of an unfinished load, in the order in which their rows came.
    pub(crate) fn staged(&self) -> &[PathBuf] {
        &self.staged
    }

    /// What queries keep beside these files.
    pub(crate) fn filter_sets(&self) -> &FilterSets {
        &self.filter_sets
    }

    /// See [`KnownTerms::all`].
    pub(crate) fn known_terms(&self, field: FieldId) -> Option<&[KnownTerm]> {
        self.known_terms.all(&self.segments, field)
    }

    /// Where a term lies in the base: `None` where that is not known, `Some(None)` where no segment has it.
    pub(crate) fn known_term(&self, field: FieldId, term: Term<'_>) -> Option<Option<&KnownTerm>> {
        match (self.known_terms.get(&self.segments, field, term), term) {
            (None, Term::Value(value)) => self.frequent_terms.get(&self.segments, field, value).map(Some),
            (known, _) => known,
        }
    }

    /// The cells of the documents of a segment, by its position. Where making them would hold up who asks, that is
    /// done meanwhile, and there are none until then.
    pub(crate) fn cells(&self, position: usize) -> Option<&Cells> {
        let segment = self.segments.get(position)?;
        match segment.made_cells() {
            Some(cells) => cells,
            None if segment.documents_present() <= AT_ONCE => segment.cells(self.layout.single()),
            None => {
                self.make_cells();
                None
            }
        }
    }

    /// Makes the cells of all segments in a thread of its own, once.
    fn make_cells(&self) {
        if self.making_cells.swap(true, Ordering::Relaxed) {
            return;
        }
        let (segments, layout) = (self.segments.clone(), Arc::clone(&self.layout));
        aside("bitdex-cells", move || {
            for segment in segments {
                segment.cells(layout.single());
            }
        });
    }

    /// The orders of a field's terms in a segment, by its position; see [`Segment::order`]. Where making them would hold up
    /// who asks, that is done meanwhile, and there are none until then. `None` also where cells are not made.
    pub(crate) fn order(&self, position: usize, field: FieldId, column: FieldId) -> Option<&Orders> {
        let segment = self.segments.get(position)?;
        match segment.made_order(field, column) {
            Some(orders) => orders,
            None if !segment.may_order(column) => None,
            None if segment.documents_present() <= AT_ONCE => {
                segment.cells(self.layout.single());
                segment.order(field, column)
            }
            None => {
                self.make_orders(field, column);
                None
            }
        }
    }

    /// Makes the orders of a field's terms in all segments in a thread of its own, once, the newest segment first.
    fn make_orders(&self, field: FieldId, column: FieldId) {
        // Queries do not wait for each other here.
        let Ok(mut making) = self.making_orders.try_lock() else { return };
        if making.contains(&(field, column)) {
            return;
        }
        making.push((field, column));
        drop(making);
        let (segments, layout) = (self.segments.clone(), Arc::clone(&self.layout));
        aside("bitdex-orders", move || {
            for segment in segments.iter().rev() {
                segment.cells(layout.single());
                segment.order(field, column);
            }
        });
    }

    /// The ids of a block whose cells may not be what the base says, as the checkpoint changes them.
    pub(crate) fn moved(&self, block: u16) -> Block<'_> {
        // Where that cannot be read, all may be.
        let Some(moved) = self.moved.get_or_init(|| self.moved_ids().ok()) else { return Block::Bits(&ALL) };
        let at = moved.binary_search_by_key(&block, |(block, _)| *block).ok();
        at.and_then(|at| moved.get(at)).map_or(Block::Empty, |(_, ids)| ids.as_block())
    }

    /// Whether the checkpoint does so of any block.
    pub(crate) fn moves_cells(&self) -> bool {
        self.moved.get_or_init(|| self.moved_ids().ok()).as_ref().is_none_or(|moved| !moved.is_empty())
    }

    fn moved_ids(&self) -> Result<MovedIds> {
        let Some(checkpoint) = self.checkpoint() else { return Ok(Box::default()) };
        let is_few = |field: &FieldId| {
            // A segment without any has cells of documents that all have none.
            let mut of_segments = self.segments.iter().map(|segment| segment.postings(*field));
            of_segments.any(|postings| postings.is_none_or(|it| it.len() <= cells::TERMS_MOST))
        };
        let fields = self.layout.single().iter().copied().filter(is_few).chain([KEY_FIELD]);
        let mut moved = BTreeMap::<u16, BlockBuffer>::new();
        for (field, role) in fields.flat_map(|field| [(field, Role::Added), (field, Role::Removed)]) {
            let Some(postings) = checkpoint.sets(role, field) else { continue };
            for position in 0..postings.len() {
                let posting = postings.set_at(position)?;
                for n in 0..posting.blocks() {
                    let (number, ids) = posting.nth(n)?;
                    if !self.has_taken_in_block(number) {
                        moved.entry(number).or_default().or(ids);
                    }
                }
            }
        }
        Ok(moved.into_iter().map(|(number, ids)| (number, ids.block().into())).collect())
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The lookup in whose table the rows of a place are; `None`: in segments.
    pub(crate) fn table_of(&self, place: Place) -> Option<usize> {
        if self.layout.slot(place).is_some() {
            return None;
        }
        let (place, sources) = (usize::from(place), self.layout.schema.sources.len());
        if place < sources {
            return Some(place);
        }
        let hop = place.checked_sub(sources + self.layout.schema.fields.len())?;
        self.layout.hops.get(hop).map(|(source, _)| *source)
    }

    /// Whether a segment has taken in all that the checkpoint says of its documents, which is then said twice.
    pub(crate) fn has_taken_in(&self, segment: u32) -> bool {
        self.segment(segment).is_some_and(|segment| segment.sequence() >= self.sequence())
    }

    /// As [`Files::has_taken_in`], of the segment of a block.
    pub(crate) fn has_taken_in_block(&self, block: u16) -> bool {
        self.has_taken_in(u32::from(block) >> (SEGMENT_BITS - BLOCK_BITS))
    }

    /// As [`Files::has_taken_in`], of the table of a lookup.
    pub(crate) fn has_taken_in_table(&self, source: usize) -> bool {
        self.table_sequence(source) >= Some(self.sequence())
    }

    /// As [`Files::has_taken_in`], of the segment or the table of a row.
    pub(crate) fn has_taken_in_row(&self, place: Place, key: i64) -> bool {
        match self.table_of(place) {
            Some(source) => self.has_taken_in_table(source),
            None => u32::try_from(key).is_ok_and(|id| self.has_taken_in(id >> SEGMENT_BITS)),
        }
    }

    /// The checkpoint, where the base has not taken in yet what it says of a row.
    pub(crate) fn checkpoint_of(&self, place: Place, key: i64) -> Option<&Checkpoint> {
        self.checkpoint().filter(|_| !self.has_taken_in_row(place, key))
    }

    /// What the files say of a row. `None`: nothing. `Some(None)`: that it is gone.
    pub(crate) fn row(&self, place: Place, key: i64) -> Result<Option<Option<&[u8]>>> {
        if let Some(checkpoint) = self.checkpoint_of(place, key)
            && let Some(row) = checkpoint.rows().get(place, key)?
        {
            return Ok(Some(row));
        }
        self.base_row(place, key)
    }

    /// As [`Files::row`], without the checkpoint.
    pub(crate) fn base_row(&self, place: Place, key: i64) -> Result<Option<Option<&[u8]>>> {
        match self.layout.slot(place) {
            Some(slot) => {
                let Ok(id) = u32::try_from(key) else { return Ok(None) };
                let Some(segment) = self.segment(id >> SEGMENT_BITS) else { return Ok(None) };
                Ok(segment.documents().slot(id, slot)?.map(Some))
            }
            None => match self.table_of(place).and_then(|source| self.table(source)) {
                Some(table) => table.get(place, key),
                None => Ok(None),
            },
        }
    }

    /// The rows of a place with keys from `first` to `last`, ascending.
    pub(crate) fn rows(&self, place: Place, first: i64, last: i64) -> Result<Rows<'_>> {
        let base = match self.layout.slot(place) {
            Some(slot) => Base::Documents {
                slot,
                next: u32::try_from(first.max(0)).ok(),
                last: u32::try_from(last.min(u32::MAX.into())).ok(),
            },
            None => match self.table_of(place).and_then(|source| self.table(source)) {
                Some(table) => Base::Table { table, range: table.range(place, first, last)? },
                None => Base::Documents { slot: 0, next: None, last: None },
            },
        };
        let checkpoint = match self.checkpoint() {
            Some(checkpoint) => Some((checkpoint.rows(), checkpoint.rows().range(place, first, last)?)),
            None => None,
        };
        Ok(Rows { files: self, base, checkpoint, base_head: None, checkpoint_head: None })
    }

    /// Overrides of a column; `None` where there are none that segments have not taken in.
    pub(crate) fn overrides(&self, field: FieldId) -> Option<&SparseColumn> {
        let column = self.all_overrides(field)?;
        // Whoever reads it meets the damage.
        let says_more = self.overrides.get(field)?.get_or_init(|| self.says_more(column).unwrap_or(true));
        says_more.then_some(column)
    }

    /// As [`Files::overrides`], also those that segments have taken in.
    pub(crate) fn all_overrides(&self, field: FieldId) -> Option<&SparseColumn> {
        self.checkpoint()?.column(field)
    }

    /// Whether a column of the checkpoint speaks of an id whose segment has not taken it in.
    fn says_more(&self, column: &SparseColumn) -> Result<bool> {
        let mut taken_in = 0;
        for number in self.segments.iter().map(|segment| segment.number()).filter(|number| self.has_taken_in(*number)) {
            let behind = match number.checked_add(1).filter(|next| *next < SEGMENTS) {
                Some(next) => column.position(next << SEGMENT_BITS)?,
                None => column.len(),
            };
            taken_in += behind.saturating_sub(column.position(number << SEGMENT_BITS)?);
        }
        Ok(taken_in < column.len())
    }
}

impl Files {
    /// Whether queries that have looked into `before` would have to make something anew to look into these files.
    pub(crate) fn is_cold(&self, before: &Self) -> bool {
        before.is_used()
            && (!same(self.checkpoint.as_ref(), before.checkpoint.as_ref())
                || self.segments.iter().any(|segment| !same(Some(segment), before.segment(segment.number()))))
    }

    /// Makes what queries made of files before these, and reads what they read, so that none of them has to wait for it.
    /// Damage is left to be met by whoever looks. Ends early where `go_on` says so.
    pub(crate) fn warm(&self, before: &Self, go_on: &dyn Fn() -> bool) {
        if before.is_used() {
            self.warm_what(|segment| !same(Some(segment), before.segment(segment.number())), go_on);
            // Of the segments before, which may all be gone.
            let made: BTreeSet<_> = before.segments.iter().flat_map(|segment| segment.made_orders()).collect();
            for segment in self.segments.iter().filter(|_| go_on()) {
                for (field, column) in &made {
                    segment.order(*field, *column);
                }
            }
        }
    }

    /// As [`Files::warm`], of all files.
    pub(crate) fn warm_all(&self, go_on: &dyn Fn() -> bool) {
        self.warm_what(|_| true, go_on);
    }

    fn warm_what(&self, is_new: impl Fn(&Arc<Segment>) -> bool, go_on: &dyn Fn() -> bool) {
        let (visible, fields) = (self.layout.schema.visible_at, self.layout.fields.len());
        for field in (0..fields).filter(|_| go_on()) {
            let follows = visible.filter(|_| self.layout.follows_visible_at(field));
            if let Some(column) = self.overrides(field) {
                let _ = column.warm(follows.map(|visible| self.all_overrides(visible)));
            }
        }
        let new = || self.segments.iter().filter(|segment| is_new(segment));
        for column in new().flat_map(|segment| (0..fields).filter_map(|field| segment.column(field))) {
            if !go_on() {
                return;
            }
            let _ = column.warm();
        }
        let of_segments = new().flat_map(|segment| (0..fields).filter_map(|field| segment.postings(field)));
        let changed = |role| (0..fields).filter_map(move |field| self.checkpoint()?.sets(role, field));
        for postings in of_segments.chain([Role::Added, Role::Removed].into_iter().flat_map(changed)) {
            if !go_on() {
                return;
            }
            let _ = postings.warm();
        }
        let _ = self.moved(0);
        for segment in new().take_while(|_| go_on()) {
            segment.cells(self.layout.single());
        }
        if go_on() {
            self.frequent_terms.seek(&self.segments);
        }
    }

    /// A query looks into these files.
    pub(crate) fn use_them(&self) {
        if !self.is_used() {
            self.used.store(true, Ordering::Relaxed);
        }
    }

    fn is_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }
}

fn same<T>(one: Option<&Arc<T>>, other: Option<&Arc<T>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (one, other) => one.is_none() && other.is_none(),
    }
}

/// See [`Files::rows`].
#[derive(Debug)]
pub(crate) struct Rows<'f> {
    files: &'f Files,
    base: Base<'f>,
    checkpoint: Option<(&'f Table, std::ops::Range<usize>)>,
    base_head: Option<(i64, &'f [u8])>,
    checkpoint_head: Option<(i64, Option<&'f [u8]>)>,
}

#[derive(Debug)]
enum Base<'f> {
    Documents { slot: usize, next: Option<u32>, last: Option<u32> },
    Table { table: &'f Table, range: std::ops::Range<usize> },
}

impl<'f> Base<'f> {
    fn next(&mut self, files: &'f Files) -> Result<Option<(i64, &'f [u8])>> {
        match self {
            Self::Table { table, range } => {
                for position in range {
                    if let (key, Some(row)) = table.at(position)? {
                        return Ok(Some((key, row)));
                    }
                }
                Ok(None)
            }
            Self::Documents { slot, next, last } => {
                while let (Some(from), Some(last)) = (*next, *last)
                    && from <= last
                {
                    let number = from >> SEGMENT_BITS;
                    let at = files.segments.partition_point(|segment| segment.number() < number);
                    let Some(segment) = files.segments.get(at) else { break };
                    let start = from.max(segment.number() << SEGMENT_BITS);
                    let Some(id) = segment.documents().next(start)? else {
                        *next = segment
                            .number()
                            .checked_add(1)
                            .filter(|next| *next < SEGMENTS)
                            .map(|next| next << SEGMENT_BITS);
                        continue;
                    };
                    *next = id.checked_add(1);
                    if id > last {
                        break;
                    }
                    if let Some(row) = segment.documents().slot(id, *slot)? {
                        return Ok(Some((id.into(), row)));
                    }
                }
                *next = None;
                Ok(None)
            }
        }
    }
}

impl<'f> Rows<'f> {
    pub(crate) fn next(&mut self) -> Result<Option<(i64, &'f [u8])>> {
        loop {
            if self.base_head.is_none() {
                self.base_head = self.base.next(self.files)?;
            }
            if self.checkpoint_head.is_none()
                && let Some((table, range)) = &mut self.checkpoint
                && let Some(position) = range.next()
            {
                self.checkpoint_head = Some(table.at(position)?);
            }
            let Some((key, newer)) = self.checkpoint_head else { return Ok(self.base_head.take()) };
            match self.base_head {
                Some((below, row)) if below < key => {
                    self.base_head = None;
                    return Ok(Some((below, row)));
                }
                Some((below, _)) if below == key => self.base_head = None,
                _ => {}
            }
            self.checkpoint_head = None;
            if let Some(row) = newer {
                return Ok(Some((key, row)));
            }
        }
    }
}

struct Opening<'a> {
    files: Files,
    folder: &'a Folder,
    store: u128,
    previous: Option<&'a Files>,
}

impl<'a> Opening<'a> {
    fn new(folder: &'a Folder, manifest: &Manifest, schema: &Arc<Schema>, previous: Option<&'a Files>) -> Self {
        let layout = match previous {
            Some(files) if Arc::ptr_eq(&files.layout.schema, schema) => files.layout.clone(),
            _ => Arc::new(Layout::new(schema.clone())),
        };
        let files = Files::empty(layout, folder.root().into());
        files.used.store(previous.is_some_and(Files::is_used), Ordering::Relaxed);
        Self { files, folder, store: manifest.store, previous }
    }

    /// Whether all files are there.
    fn base(&mut self, segments: &[SegmentRef], tables: &[TableRef]) -> Result<bool> {
        for named in segments {
            let Some(segment) = self.segment(named)? else { return Ok(false) };
            let number = named.number as usize;
            let files = &mut self.files;
            if segment.number() != named.number
                || segment.sequence() != named.sequence
                || number < files.positions.len()
            {
                return Err(differs(segment.pack().path(), "another segment"));
            }
            if named.number >= SEGMENTS {
                return Err(differs(segment.pack().path(), "a segment of a possible number"));
            }
            files.segments.push(segment);
            files.positions.resize(number, 0);
            files.positions.push(files.segments.len() as u16);
        }
        let segments = &self.files.segments;
        let has_same = |previous: &&Files| {
            let mut both = previous.segments.iter().zip(segments);
            previous.segments.len() == segments.len() && both.all(|(one, other)| Arc::ptr_eq(one, other))
        };
        if let Some(previous) = self.previous.filter(has_same) {
            self.files.frequent_terms = Arc::clone(&previous.frequent_terms);
        }
        let documents: Vec<u64> = self.files.segments.iter().map(|segment| segment.documents_present()).collect();
        self.files.filter_sets = FilterSets::new(self.files.layout.named().len(), &documents);
        for named in tables {
            let path = self.folder.named(&named.file);
            let Some(place) = self.files.tables.get_mut(named.source) else {
                return Err(differs(&path, "a table of a lookup of the definition"));
            };
            let shared = self.previous.and_then(|files| files.tables.get(named.source)?.as_ref());
            *place = Some(match shared.filter(|shared| shared.pack.path() == path) {
                Some(shared) => shared.clone(),
                None => {
                    let Some(pack) = Pack::open(&path, PackKind::Table, self.store)? else { return Ok(false) };
                    let table = Table::open(&pack)?;
                    let header = TableHeader::read(&pack)?;
                    if header.sequence != named.sequence {
                        return Err(differs(&path, "a table of another record"));
                    }
                    Arc::new(TableFile { pack, table, sequence: named.sequence, hash: header.hash })
                }
            });
        }
        Ok(true)
    }

    fn segment(&self, named: &SegmentRef) -> Result<Option<Arc<Segment>>> {
        let path = self.folder.named(&named.file);
        let shared = self.previous.and_then(|files| files.segment(named.number));
        match shared.filter(|shared| shared.pack().path() == path) {
            Some(shared) => Ok(Some(shared.clone())),
            None => Ok(Segment::open(&path, self.store, self.files.layout.spec())?.map(Arc::new)),
        }
    }
}

/// Makes what queries can do without, in a thread of its own.
pub(super) fn aside(thread: &str, make: impl FnOnce() + Send + 'static) {
    let started = thread::Builder::new().name(thread.into()).spawn(move || {
        step_back(NICE);
        make();
    });
    if let Err(error) = started {
        tracing::warn!(%error, thread, "cannot start a thread: queries go on without what it makes");
    }
}

fn differs(path: &Path, expected: &str) -> Error {
    Error::damaged(path, 0, format!("the manifest names it as {expected}"))
}
