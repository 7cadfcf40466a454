//! Rewrites a segment or a table with what the checkpoint says of it.
//!
//! The new file says the same as the old one beneath the checkpoint, so versions may look through either.

use std::{
    ops::Range,
    path::Path,
    sync::{Arc, atomic::AtomicBool},
};

use bitdex_proto::schema::SourceId;

use super::{
    fill::{Documents, RECENT_BITS, fill},
    generation::bounds,
    go_on,
    table::{STRIDE, TableHeader, hops},
};
use crate::{
    log::{Error, Result, disk::Disk},
    segment::{
        BLOCK_BITS, SEGMENT_BITS,
        builder::SegmentBuilder,
        documents::Slots,
        postings::Role,
        segment::Segment,
        table::{Table, TableWriter},
    },
    state::{
        Files, Recent,
        compute::{self, Lookups},
        layout::Place,
    },
    store::{
        Folder,
        format::Stamp,
        manifest::{Manifest, SegmentRef, TableRef},
        pack::{Pack, PackKind, PackWriter},
        segment_name, table_name,
    },
};

/// A segment or table with fewer documents or rows counts as one with so many, so that a small one is not rewritten
/// for each change.
const SMALL: u64 = 4096;
const SEGMENTS: usize = 1 << (u32::BITS - SEGMENT_BITS);

/// What to rewrite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    Segment(u32),
    Table(usize),
}

/// A rewritten file; the manifest does not name it yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compacted {
    Segment(SegmentRef),
    Table(TableRef),
}

impl Compacted {
    /// Names it in a manifest, instead of the file that it replaces.
    pub fn name_in(self, manifest: &mut Manifest) {
        match self {
            Self::Segment(new) => match manifest.segments.binary_search_by_key(&new.number, |old| old.number) {
                Ok(at) => manifest.segments[at] = new,
                Err(at) => manifest.segments.insert(at, new),
            },
            Self::Table(new) => match manifest.tables.binary_search_by_key(&new.source, |old| old.source) {
                Ok(at) => manifest.tables[at] = new,
                Err(at) => manifest.tables.insert(at, new),
            },
        }
    }
}

/// What is most worth rewriting: the checkpoint's changes of it are at least `fraction` of its documents, or rows. Where
/// nothing is, what is of an older format than `format`: the next release could not read it. `None`: nothing.
pub fn pick(files: &Files, fraction: f64, format: u32) -> Result<Option<Work>> {
    let Some(checkpoint) = files.checkpoint() else { return Ok(None) };
    let mut most: Option<(f64, Work)> = None;
    let mut old = None;
    let mut offer = |work, changes: u64, size: u64| {
        let share = changes as f64 / size.max(SMALL) as f64;
        if changes > 0 && share >= fraction && most.is_none_or(|(most, _)| share > most) {
            most = Some((share, work));
        }
    };
    for (number, changes) in segment_changes(files)?.into_iter().enumerate() {
        let number = number as u32;
        if !files.has_taken_in(number) {
            let segment = files.segment(number);
            offer(Work::Segment(number), changes, segment.map_or(0, |segment| segment.documents_present()));
            if segment.is_some_and(|segment| segment.pack().stamp().format < format) {
                old = old.or(Some(Work::Segment(number)));
            }
        }
    }
    for source in 0..files.layout().schema.sources.len() {
        if files.layout().is_of_document(source) || files.has_taken_in_table(source) {
            continue;
        }
        let mut changes = 0;
        for place in places(files, source) {
            changes += checkpoint.rows().range(place, i64::MIN, i64::MAX)?.len() as u64;
        }
        offer(Work::Table(source), changes, files.table(source).map_or(0, |table| table.len() as u64));
        if files.table_format(source).is_some_and(|found| found < format) {
            old = old.or(Some(Work::Table(source)));
        }
    }
    Ok(most.map(|(_, work)| work).or(old))
}

/// What the checkpoint says of each segment: rows, ids of sets, codes.
fn segment_changes(files: &Files) -> Result<Vec<u64>> {
    let mut changes = vec![0_u64; SEGMENTS];
    let Some(checkpoint) = files.checkpoint() else { return Ok(changes) };
    let layout = files.layout();
    for place in (0..layout.spec().slots).map(|slot| layout.place(slot)) {
        if checkpoint.rows().range(place, i64::MIN, i64::MAX)?.is_empty() {
            continue;
        }
        for (number, changes) in changes.iter_mut().enumerate() {
            let (first, last) = bounds(number as u32);
            *changes += checkpoint.rows().range(place, first, last)?.len() as u64;
        }
    }
    for field in 0..layout.spec().fields.len() {
        for postings in [Role::Added, Role::Removed].into_iter().filter_map(|role| checkpoint.sets(role, field)) {
            for term in 0..postings.len() {
                let (_, posting) = postings.at(term)?;
                for n in 0..posting.blocks() {
                    let (number, block) = posting.nth(n)?;
                    if let Some(changes) = changes.get_mut(usize::from(number >> (SEGMENT_BITS - BLOCK_BITS))) {
                        *changes += u64::from(block.len());
                    }
                }
            }
        }
        let Some(column) = checkpoint.column(field).filter(|column| !column.is_empty()) else { continue };
        let mut before = 0;
        for (number, changes) in changes.iter_mut().enumerate() {
            let next = u32::try_from(bounds(number as u32).1).unwrap_or(u32::MAX);
            let end = match next.checked_add(1) {
                Some(next) => column.position(next)?,
                None => column.len(),
            };
            *changes += end.saturating_sub(before) as u64;
            before = end;
        }
    }
    Ok(changes)
}

/// Of a lookup's rows, and of its hops; ascending.
fn places(files: &Files, source: SourceId) -> Vec<Place> {
    let hops = hops(files.layout(), source).into_iter().map(|(place, _)| place);
    [source as Place].into_iter().chain(hops).collect()
}

/// Writes the new file, and answers its length too. Ends early, with an error, once `cancel` is set.
pub fn compact(
    files: &Files,
    work: Work,
    disk: &Arc<dyn Disk>,
    folder: &Folder,
    store: impl Into<Stamp>,
    cancel: &AtomicBool,
) -> Result<(Compacted, u64)> {
    let store = store.into();
    let sequence = files.sequence();
    match work {
        Work::Segment(number) => {
            let file = segment_name(number, files.generation(), sequence);
            let path = folder.named(&file);
            let mut builder = SegmentBuilder::create(disk, &path, store, files.layout().spec(), number, sequence)?;
            let mut documents = ChangedDocuments::new(files, number)?;
            let mut step = |_| go_on(cancel, &path);
            let rows = Rows(files);
            let filled =
                fill(files.layout(), &Recent::new(&rows, RECENT_BITS), &mut documents, &mut builder, &mut step)?;
            documents.check(filled.hash)?;
            verify_inputs(files, documents.base.map(|base| base.pack()))?;
            let built = builder.finish(filled.hash)?;
            Ok((Compacted::Segment(SegmentRef { number, file, sequence }), built.bytes))
        }
        Work::Table(source) => {
            let file = table_name(source, files.generation(), sequence);
            let path = folder.named(&file);
            let mut pack = PackWriter::create(disk, &path, PackKind::Table, store)?;
            let hash = write_table(files, source, &mut pack, &path, cancel)?;
            verify_inputs(files, None)?;
            TableHeader { sequence, hash }.write(&mut pack)?;
            go_on(cancel, &path)?;
            Ok((Compacted::Table(TableRef { source, file, sequence }), pack.finish()?))
        }
    }
}

/// What was read for the new file must still be what was once written: its checksums will vouch for whatever stands in it.
fn verify_inputs(files: &Files, base: Option<&Arc<Pack>>) -> Result<()> {
    base.map_or(Ok(()), |base| base.verify_again())?;
    files.verify_tables_again()?;
    files.checkpoint().map_or(Ok(()), |checkpoint| checkpoint.verify_again())
}

/// Answers the hash.
fn write_table(
    files: &Files,
    source: SourceId,
    pack: &mut PackWriter,
    path: &Path,
    cancel: &AtomicBool,
) -> Result<u128> {
    let mut table = TableWriter::new(pack)?;
    let (mut hash, mut read) = (0_u128, 0_u64);
    for place in places(files, source) {
        let mut rows = files.rows(place, i64::MIN, i64::MAX)?;
        while let Some((key, row)) = rows.next()? {
            if read.is_multiple_of(STRIDE) {
                go_on(cancel, path)?;
            }
            read += 1;
            if place == source as Place {
                hash = hash.wrapping_add(compute::row_hash(place, key, row));
            }
            table.push(pack, place, key, Some(row))?;
        }
    }
    table.finish(pack)?;
    Ok(hash)
}

/// The rows of lookups, the checkpoint's before the base's.
struct Rows<'f>(&'f Files);

impl Lookups for Rows<'_> {
    fn lookup(&self, source: SourceId, key: i64) -> Result<Option<&[u8]>> {
        Ok(self.0.row(source as Place, key)?.flatten())
    }
}

/// A segment's documents, with what the checkpoint says of them.
struct ChangedDocuments<'f> {
    base: Option<&'f Segment>,
    /// The next id of the base.
    below: Option<u32>,
    changes: Vec<Changes<'f>>,
    slots: Slots<'f>,
    /// Of all rows as the base states it, with what the checkpoint changes up to here.
    hash: u128,
}

/// The checkpoint's rows of one slot.
struct Changes<'f> {
    place: Place,
    rows: Option<(&'f Table, Range<usize>)>,
    head: Option<(i64, Option<&'f [u8]>)>,
}

impl Changes<'_> {
    fn advance(&mut self) -> Result<()> {
        let next = self.rows.as_mut().and_then(|(table, range)| Some((*table, range.next()?)));
        self.head = next.map(|(table, position)| table.at(position)).transpose()?;
        Ok(())
    }
}

impl<'f> ChangedDocuments<'f> {
    fn new(files: &'f Files, number: u32) -> Result<Self> {
        let (first, last) = bounds(number);
        let layout = files.layout();
        let base = files.segment(number).map(|segment| &**segment);
        let changes = (0..layout.spec().slots).map(|slot| {
            let checkpoint = files.checkpoint().map(|checkpoint| {
                let rows = checkpoint.rows();
                Ok((rows, rows.range(layout.place(slot), first, last)?))
            });
            let mut changes = Changes { place: layout.place(slot), rows: checkpoint.transpose()?, head: None };
            changes.advance()?;
            Ok(changes)
        });
        let changes = changes.collect::<Result<_>>()?;
        let below = match base {
            Some(base) => base.documents().next(number << SEGMENT_BITS)?,
            None => None,
        };
        let hash = base.map_or(0, Segment::hash);
        Ok(Self { base, below, changes, slots: Slots::new(), hash })
    }

    /// Whether all rows together, once all were read, are those that the base states, as the checkpoint changes them.
    fn check(&self, hash: u128) -> Result<()> {
        match self.base {
            Some(base) if hash != self.hash => Err(Error::damaged(
                base.pack().path(),
                0,
                "its rows, as they were read, do not have the hash that it states: the disk or the memory changed them \
                 after their checksums were looked at",
            )),
            _ => Ok(()),
        }
    }
}

impl Documents for ChangedDocuments<'_> {
    fn next(&mut self) -> Result<Option<u32>> {
        loop {
            let changed = self.changes.iter().filter_map(|changes| changes.head).map(|(key, _)| key).min();
            let Some(id) = [changed, self.below.map(i64::from)].into_iter().flatten().min() else { return Ok(None) };
            self.slots.clear();
            if let Some(base) = self.base
                && let Some(below) = self.below.filter(|below| i64::from(*below) == id)
            {
                self.slots = base.documents().get(below)?.unwrap_or_default();
                self.below = match below.checked_add(1).filter(|next| next >> SEGMENT_BITS == below >> SEGMENT_BITS) {
                    Some(next) => base.documents().next(next)?,
                    None => None,
                };
            }
            self.slots.resize(self.changes.len(), None);
            for (slot, changes) in self.slots.iter_mut().zip(&mut self.changes) {
                if let Some((_, row)) = changes.head.filter(|(key, _)| *key == id) {
                    let hash = |row: Option<&[u8]>| row.map_or(0, |row| compute::row_hash(changes.place, id, row));
                    self.hash = self.hash.wrapping_sub(hash(*slot)).wrapping_add(hash(row));
                    *slot = row;
                    changes.advance()?;
                }
            }
            if self.slots.iter().any(Option::is_some) {
                return Ok(u32::try_from(id).ok());
            }
        }
    }

    fn slots<'d>(&'d self, slots: &mut Slots<'d>) {
        slots.extend(self.slots.iter().copied());
    }
}
