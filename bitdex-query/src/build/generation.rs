//! The base of the next generation, out of staged files.
//!
//! First the tables, one after the other, then the segments, each by one thread, which reads all rows of its ids front
//! to back. Each file is named as soon as it is durable, so a build that breaks off goes on behind the last one.

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use bitdex_proto::schema::{SourceId, SourceKind};
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::{
    fill::{Documents, RECENT_BITS, fill},
    go_on,
    staged::{Merged, Staged},
    table::{TableHeader, Tables},
};
use crate::{
    log::{Error, Result, disk::Disk},
    segment::{SEGMENT_BITS, builder::SegmentBuilder, documents::Slots, table::Table},
    state::{
        Recent, State, StateRows,
        compute::Lookups,
        layout::{Layout, Place},
    },
    store::{
        Folder,
        format::Stamp,
        manifest::{Prepared, SegmentRef, TableRef},
        pack::{Pack, PackKind, PackWriter},
        segment_name, table_name,
    },
};

/// Heap of a thread besides what its builder says: buffers, lookups' rows that were found lately.
const OWN: usize = 3 << 20;

/// How much a build may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of heap, of all threads together.
    pub memory: usize,
    pub threads: usize,
}

/// Builds what `prepared` does not name yet, from `state`'s staged files (nothing is staged in memory) and its rows of
/// metrics and external fields. Calls `done` with each file that is durable, so that the manifest can name it.
#[expect(clippy::too_many_arguments, reason = "each is given by another part of the caller")]
pub fn build(
    state: &State,
    disk: &Arc<dyn Disk>,
    folder: &Folder,
    store: impl Into<Stamp>,
    prepared: &Prepared,
    limits: Limits,
    cancel: &AtomicBool,
    done: &mut (dyn FnMut(Prepared) -> Result<()> + Send),
) -> Result<Prepared> {
    let store = store.into();
    let staged =
        state.files().staged().iter().map(|path| Staged::open(path, store.store)).collect::<Result<Vec<_>>>()?;
    let build = Build { state, layout: state.layout(), staged: &staged, disk, folder, store, cancel };
    let mut prepared = prepared.clone();
    build.tables(&mut prepared, limits.memory, done)?;
    let tables = build.open_tables(&prepared)?;
    build.segments(&mut prepared, &tables, limits, done)?;
    Ok(prepared)
}

pub(super) fn no_room(what: &str, memory: usize) -> Error {
    Error::foreign(format!(
        "building the index of a load: {what} does not fit {} MiB of memory: raise --build-mb",
        memory >> 20
    ))
}

struct Build<'a> {
    state: &'a State,
    layout: &'a Layout,
    staged: &'a [Staged],
    disk: &'a Arc<dyn Disk>,
    folder: &'a Folder,
    store: Stamp,
    cancel: &'a AtomicBool,
}

impl Build<'_> {
    fn tables(
        &self,
        prepared: &mut Prepared,
        memory: usize,
        done: &mut (dyn FnMut(Prepared) -> Result<()> + Send),
    ) -> Result<()> {
        for (source, of) in self.layout.schema.sources.iter().enumerate() {
            let Err(at) = prepared.tables.binary_search_by_key(&source, |table| table.source) else { continue };
            if !matches!(of.kind, SourceKind::Lookup { .. }) {
                continue;
            }
            let sequence = prepared.sequence;
            let file = table_name(source, prepared.generation, sequence);
            let path = self.folder.named(&file);
            go_on(self.cancel, &path)?;
            let mut pack = PackWriter::create(self.disk, &path, PackKind::Table, self.store)?;
            let tables = Tables { layout: self.layout, staged: self.staged, memory, cancel: self.cancel };
            let hash = tables.write(&mut pack, &path, source)?;
            TableHeader { sequence, hash }.write(&mut pack)?;
            pack.finish()?;
            prepared.tables.insert(at, TableRef { source, file, sequence });
            done(prepared.clone())?;
        }
        Ok(())
    }

    fn open_tables(&self, prepared: &Prepared) -> Result<NewTables> {
        let mut tables = NewTables(self.layout.schema.sources.iter().map(|_| None).collect());
        for named in &prepared.tables {
            let path = self.folder.named(&named.file);
            let pack = Pack::open(&path, PackKind::Table, self.store.store)?
                .ok_or_else(|| Error::damaged(&path, 0, "the manifest names it, but there is no such file"))?;
            if let Some(place) = tables.0.get_mut(named.source) {
                *place = Some(Table::open(&pack)?);
            }
        }
        Ok(tables)
    }

    /// Numbers of the segments that have rows and are not built yet, ascending.
    fn missing(&self, prepared: &Prepared) -> Result<VecDeque<u32>> {
        let mut numbers = VecDeque::new();
        let mut from = 0;
        while let Some(number) = self.next_segment(from)? {
            if prepared.segments.binary_search_by_key(&number, |segment| segment.number).is_err() {
                numbers.push_back(number);
            }
            from = bounds(number).1 + 1;
        }
        Ok(numbers)
    }

    /// The first segment that has rows of this id, or of one behind it.
    fn next_segment(&self, from: i64) -> Result<Option<u32>> {
        let last = u32::MAX.into();
        let mut least: Option<i64> = None;
        for place in (0..self.layout.spec().slots).map(|slot| self.layout.place(slot)) {
            let next = match self.staged_source(place) {
                Some(source) => {
                    let keys = self.staged.iter().map(|file| file.next_key(source, from, last));
                    keys.collect::<Result<Vec<_>>>()?.into_iter().flatten().min()
                }
                None => self.state.rows(place, from, last)?.next()?.map(|(key, _)| key),
            };
            least = least.into_iter().chain(next).min();
        }
        Ok(least.and_then(|id| u32::try_from(id).ok()).map(|id| id >> SEGMENT_BITS))
    }

    /// The source of a place whose rows are the load's.
    fn staged_source(&self, place: Place) -> Option<SourceId> {
        let source = SourceId::from(place);
        self.layout.schema.sources.get(source).filter(|of| of.is_postgres()).map(|_| source)
    }

    fn documents(&self, number: u32) -> Result<LoadedDocuments<'_>> {
        let (first, last) = bounds(number);
        let slots = (0..self.layout.spec().slots).map(|slot| {
            let place = self.layout.place(slot);
            let mut rows = match self.staged_source(place) {
                Some(source) => SlotRows::Staged(Merged::new(&self.layout.schema, self.staged, source, first, last)?),
                None => SlotRows::Served(self.state.rows(place, first, last)?, None),
            };
            Ok((rows.next()?, rows))
        });
        Ok(LoadedDocuments { slots: slots.collect::<Result<_>>()?, id: None })
    }

    fn segments(
        &self,
        prepared: &mut Prepared,
        tables: &NewTables,
        limits: Limits,
        done: &mut (dyn FnMut(Prepared) -> Result<()> + Send),
    ) -> Result<()> {
        let missing = self.missing(prepared)?;
        let threads = limits.threads.clamp(1, missing.len().max(1));
        let queue = Queue {
            memory: limits.memory,
            cancel: self.cancel,
            ended: AtomicBool::new(false),
            plan: Mutex::new(Plan { missing, at_work: Vec::new(), allowed: threads }),
            changed: Condvar::new(),
        };
        let (generation, sequence) = (prepared.generation, prepared.sequence);
        let (queue, mut failure) = (&queue, None);
        thread::scope(|scope| {
            let (send, built) = std::sync::mpsc::channel();
            for _ in 0..threads {
                let send = send.clone();
                scope.spawn(move || {
                    let _ended = EndOnUnwind(queue);
                    while let Some(number) = queue.take() {
                        let file = segment_name(number, generation, sequence);
                        let built = self.segment(number, &file, sequence, tables, queue);
                        let result = built.map(|built| built.then_some(SegmentRef { number, file, sequence }));
                        if queue.give_back(number, result.is_ok()) {
                            continue;
                        }
                        let ends = result.is_err();
                        // The receiver outlives the threads.
                        let _ = send.send(result);
                        if ends {
                            break;
                        }
                    }
                });
            }
            drop(send);
            for built in built {
                let named = built.and_then(|built| {
                    let Some(built) = built else { return Ok(()) };
                    let at = prepared.segments.partition_point(|segment| segment.number < built.number);
                    prepared.segments.insert(at, built);
                    if failure.is_some() { Ok(()) } else { done(prepared.clone()) }
                });
                if let Err(error) = named {
                    queue.end();
                    // What the others meet then is that they were told to end.
                    failure.get_or_insert(error);
                }
            }
        });
        match failure {
            Some(error) => Err(error),
            None => go_on(self.cancel, self.folder.root()),
        }
    }

    /// Whether anything was there to be built.
    fn segment(&self, number: u32, file: &str, sequence: u64, tables: &NewTables, queue: &Queue<'_>) -> Result<bool> {
        let path: PathBuf = self.folder.named(file);
        let spec = self.layout.spec();
        let mut builder = SegmentBuilder::create(self.disk, &path, self.store, spec, number, sequence)?;
        let mut documents = self.documents(number)?;
        let mut step = |bytes| queue.step(number, bytes, &path);
        let filled = fill(self.layout, &Recent::new(tables, RECENT_BITS), &mut documents, &mut builder, &mut step)?;
        if filled.documents == 0 {
            return Ok(false);
        }
        builder.finish(filled.hash)?;
        Ok(true)
    }
}

/// First and last id of a segment.
pub(super) fn bounds(number: u32) -> (i64, i64) {
    let first = i64::from(number) << SEGMENT_BITS;
    (first, first + (1 << SEGMENT_BITS) - 1)
}

struct NewTables(Vec<Option<Table>>);

impl Lookups for NewTables {
    fn lookup(&self, source: SourceId, key: i64) -> Result<Option<&[u8]>> {
        match self.0.get(source) {
            Some(Some(table)) => Ok(table.get(source as Place, key)?.flatten()),
            _ => Ok(None),
        }
    }
}

/// Rows of one place: the load's, or those that are served.
enum SlotRows<'a> {
    Staged(Merged<'a>),
    Served(StateRows<'a>, Option<&'a [u8]>),
}

impl SlotRows<'_> {
    fn next(&mut self) -> Result<Option<i64>> {
        match self {
            Self::Staged(rows) => rows.next(),
            Self::Served(rows, row) => Ok(rows.next()?.map(|(key, next)| {
                *row = Some(next);
                key
            })),
        }
    }

    fn row(&self) -> Option<&[u8]> {
        match self {
            Self::Staged(rows) => rows.row(),
            Self::Served(_, row) => *row,
        }
    }
}

struct LoadedDocuments<'a> {
    /// With the key of the row that each stands at.
    slots: Vec<(Option<i64>, SlotRows<'a>)>,
    id: Option<i64>,
}

impl Documents for LoadedDocuments<'_> {
    fn next(&mut self) -> Result<Option<u32>> {
        let mut least: Option<i64> = None;
        for (key, rows) in &mut self.slots {
            if key.is_some() && *key == self.id {
                *key = rows.next()?;
            }
            if let Some(key) = *key
                && least.is_none_or(|least| key < least)
            {
                least = Some(key);
            }
        }
        self.id = least;
        Ok(least.and_then(|id| u32::try_from(id).ok()))
    }

    fn slots<'d>(&'d self, slots: &mut Slots<'d>) {
        slots.extend(self.slots.iter().map(|(key, rows)| if *key == self.id { rows.row() } else { None }));
    }
}

/// Who builds which segment, and how much memory each holds.
struct Queue<'a> {
    memory: usize,
    cancel: &'a AtomicBool,
    /// Nothing more is to be built.
    ended: AtomicBool,
    plan: Mutex<Plan>,
    changed: Condvar,
}

struct Plan {
    missing: VecDeque<u32>,
    /// In the order in which they were begun.
    at_work: Vec<AtWork>,
    /// How many may be at work at once: fewer once they did not fit together.
    allowed: usize,
}

struct AtWork {
    number: u32,
    bytes: usize,
    /// It gave way to those begun before it.
    gave_way: bool,
}

impl Queue<'_> {
    /// The next segment to build; waits while no more may be at work.
    fn take(&self) -> Option<u32> {
        let mut plan = self.plan.lock();
        loop {
            if self.ended.load(Ordering::Relaxed) || (plan.missing.is_empty() && plan.at_work.is_empty()) {
                self.changed.notify_all();
                return None;
            }
            if plan.at_work.len() < plan.allowed
                && let Some(number) = plan.missing.pop_front()
            {
                plan.at_work.push(AtWork { number, bytes: OWN, gave_way: false });
                return Some(number);
            }
            self.changed.wait(&mut plan);
        }
    }

    /// Whether it gave way, and is to be built later.
    fn give_back(&self, number: u32, built: bool) -> bool {
        let mut plan = self.plan.lock();
        let at = plan.at_work.iter().position(|work| work.number == number);
        let gave_way = at.is_some_and(|at| plan.at_work.remove(at).gave_way) && !built;
        if gave_way {
            plan.missing.push_front(number);
        }
        self.changed.notify_all();
        gave_way
    }

    /// Ends early with an error where it was cancelled, or where the memory is needed for what began earlier.
    fn step(&self, number: u32, bytes: usize, path: &std::path::Path) -> Result<()> {
        go_on(self.cancel, path)?;
        go_on(&self.ended, path)?;
        let mut plan = self.plan.lock();
        if let Some(work) = plan.at_work.iter_mut().find(|work| work.number == number) {
            work.bytes = bytes.saturating_add(OWN);
        }
        while plan.bytes() > self.memory {
            if plan.at_work.len() < 2 {
                return Err(no_room("one segment of 1 048 576 ids", self.memory));
            }
            if let Some(last) = plan.at_work.last_mut().filter(|last| last.number == number) {
                last.gave_way = true;
                plan.allowed = (plan.at_work.len() - 1).max(1);
                return go_on(&AtomicBool::new(true), path);
            }
            self.wait(&mut plan);
            go_on(self.cancel, path)?;
            go_on(&self.ended, path)?;
        }
        Ok(())
    }

    fn wait(&self, plan: &mut MutexGuard<'_, Plan>) {
        self.changed.wait_for(plan, std::time::Duration::from_millis(10));
    }

    fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
        self.changed.notify_all();
    }
}

impl Plan {
    fn bytes(&self) -> usize {
        self.at_work.iter().map(|work| work.bytes).sum()
    }
}

/// The other threads would wait for ever for what this one was to build.
struct EndOnUnwind<'q, 'a>(&'q Queue<'a>);

impl Drop for EndOnUnwind<'_, '_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.end();
        }
    }
}
