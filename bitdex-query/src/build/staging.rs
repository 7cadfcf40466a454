//! Rows of a load on their way into files.
//!
//! A **staged** file holds what came between two `Freeze`s, and says it in this order: its header, what is taken away of
//! that which files before it hold; its rows, what is there instead. Of rows of one (source, key) in several files the
//! last counts; changes of one member set add up.

use std::{
    path::Path,
    sync::{Arc, atomic::AtomicBool},
};

use bitdex_proto::{
    copy::{self, Borrowed, KeyedRow},
    ops::{Op, Row},
    schema::{Schema, Source, SourceId, SourceKind},
    value::FieldType,
};
use bytes::Bytes;
use imbl::Vector;

use super::{go_on, staged::Removals};
use crate::{
    log::{Error, Result, disk::Disk},
    segment::{table::TableWriter, value::ValueRef},
    state::encode,
    store::{
        Folder,
        format::Stamp,
        pack::{PackKind, PackWriter},
        staged_name,
    },
};

/// Heap of an op, about.
const OP_BYTES: u64 = 128;
/// Rows between two looks at whether to go on.
const STRIDE: usize = 4096;

/// What came since the last `Freeze`, in order. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Staging {
    pieces: Vector<Piece>,
    bytes: u64,
}

#[derive(Debug, Clone)]
enum Piece {
    Rows { source: SourceId, rows: Bytes },
    Op(Arc<Op>),
}

impl Staging {
    /// Rows as they came (COPY's binary format), checked already.
    pub(crate) fn push_rows(&mut self, source: SourceId, copy_rows: Bytes) {
        self.bytes = self.bytes.saturating_add(copy_rows.len() as u64);
        self.pieces.push_back(Piece::Rows { source, rows: copy_rows });
    }

    /// An op on a source that is being loaded, from another session.
    pub(crate) fn push_op(&mut self, op: Op) {
        self.bytes = self.bytes.saturating_add(OP_BYTES);
        self.pieces.push_back(Piece::Op(Arc::new(op)));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// All of it as ops, in order.
    pub(crate) fn ops(&self, schema: &Schema) -> bitdex_proto::Result<Vec<Op>> {
        let mut ops = Vec::new();
        for piece in &self.pieces {
            match piece {
                Piece::Rows { source, rows } => ops.extend(copy::load_ops(schema, *source, rows)?),
                Piece::Op(op) => ops.push(Op::clone(op)),
            }
        }
        Ok(ops)
    }

    /// Writes it as a staged file, and answers its name; `None` where nothing is staged. Ends early, with an error,
    /// once `cancel` is set.
    pub(crate) fn write(
        &self,
        schema: &Schema,
        disk: &Arc<dyn Disk>,
        folder: &Folder,
        store: impl Into<Stamp>,
        sequence: u64,
        cancel: &AtomicBool,
    ) -> Result<Option<String>> {
        if self.is_empty() {
            return Ok(None);
        }
        let name = staged_name(sequence);
        let path = folder.named(&name);
        let mut pack = PackWriter::create(disk, &path, PackKind::Staged, store)?;
        Removals::of(self.ops_alone()).write(&mut pack)?;
        let table = TableWriter::new(&mut pack)?;
        let mut out = Out { pack: &mut pack, table, path: &path, cancel, written: 0, row: Vec::new() };
        for (id, source) in schema.sources.iter().enumerate() {
            out.go_on()?;
            let unreadable =
                |error: bitdex_proto::Error| Error::damaged(&path, 0, format!("what it would hold: {error}"));
            match source.kind {
                SourceKind::Members { ty: FieldType::Int | FieldType::Decimal(_) | FieldType::Timestamp } => {
                    let int = |value: ValueRef<'_>| if let ValueRef::Int(int) = value { int } else { 0 };
                    let changes = self.members(schema, id, int).map_err(unreadable)?;
                    out.members(id, changes, |int| ValueRef::Int(*int))?;
                }
                SourceKind::Members { .. } => {
                    let changes = self.members(schema, id, |value| value).map_err(unreadable)?;
                    out.members(id, changes, |value| *value)?;
                }
                _ => {
                    let changes = self.rows(schema, id).map_err(unreadable)?;
                    out.rows(id, source, changes)?;
                }
            }
        }
        out.table.finish(out.pack)?;
        go_on(cancel, &path)?;
        pack.finish()?;
        Ok(Some(name))
    }

    fn ops_alone(&self) -> impl Iterator<Item = &Op> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Op(op) => Some(&**op),
            Piece::Rows { .. } => None,
        })
    }

    /// The changes of a member source, sorted by (document, value); of equal ones the last counts.
    fn members<'a, V: Ord + Copy>(
        &'a self,
        schema: &'a Schema,
        id: SourceId,
        of: impl Fn(ValueRef<'a>) -> V,
    ) -> bitdex_proto::Result<Vec<MemberChange<V>>> {
        let Some(Source { kind: SourceKind::Members { ty }, .. }) = schema.sources.get(id) else {
            return Ok(Vec::new());
        };
        let mut changes = Vec::new();
        for piece in &self.pieces {
            match piece {
                Piece::Rows { source, rows } if *source == id => {
                    let of_source = &schema.sources[id];
                    changes.reserve(rows.len() / MEMBER_BYTES);
                    for row in copy::keyed_rows(schema, id, rows)? {
                        let row = row?;
                        let value = of(borrowed(copy::member(of_source, *ty, &row)?));
                        // The key was checked to be a document's.
                        changes.push(MemberChange { document: row.key as u32, present: true, value });
                    }
                }
                Piece::Op(op) => match &**op {
                    Op::Member { source, document, value, present } if *source == id => {
                        let value = of(ValueRef::of(value));
                        changes.push(MemberChange { document: *document, present: *present, value });
                    }
                    Op::Truncate { source } if *source == id => changes.clear(),
                    _ => {}
                },
                Piece::Rows { .. } => {}
            }
        }
        if !changes.is_sorted_by_key(|change| (change.document, change.value)) {
            changes.sort_by_key(|change| (change.document, change.value));
        }
        Ok(changes)
    }

    /// The changes of a row source, sorted by key; of equal ones the last counts.
    fn rows<'a>(&'a self, schema: &'a Schema, id: SourceId) -> bitdex_proto::Result<Vec<(i64, NewRow<'a>)>> {
        let mut changes = Vec::new();
        for piece in &self.pieces {
            match piece {
                Piece::Rows { source, rows } if *source == id => {
                    for row in copy::keyed_rows(schema, id, rows)? {
                        let row = row?;
                        changes.push((row.key, NewRow::Copied(row)));
                    }
                }
                Piece::Op(op) => match &**op {
                    Op::Upsert { source, key, row } if *source == id => {
                        changes.push((*key, NewRow::Given(row.as_ref())));
                    }
                    Op::Truncate { source } if *source == id => changes.clear(),
                    Op::Retain { source, first, last, keys } if *source == id => {
                        let range = i64::from(*first)..=i64::from(*last);
                        let is_kept = |key: i64| u32::try_from(key).is_ok_and(|key| keys.binary_search(&key).is_ok());
                        changes.retain(|(key, _)| !range.contains(key) || is_kept(*key));
                    }
                    _ => {}
                },
                Piece::Rows { .. } => {}
            }
        }
        if !changes.is_sorted_by_key(|(key, _)| *key) {
            changes.sort_by_key(|(key, _)| *key);
        }
        Ok(changes)
    }
}

/// Bytes of a member's row of two ints.
const MEMBER_BYTES: usize = 26;

#[derive(Debug, Clone, Copy)]
struct MemberChange<V> {
    document: u32,
    present: bool,
    value: V,
}

#[derive(Debug, Clone, Copy)]
enum NewRow<'a> {
    Copied(KeyedRow<'a>),
    Given(Option<&'a Row>),
}

fn borrowed(value: Borrowed<'_>) -> ValueRef<'_> {
    match value {
        Borrowed::Bool(bool) => ValueRef::Bool(bool),
        Borrowed::Int(int) => ValueRef::Int(int),
        Borrowed::Float(float) => ValueRef::Float(float),
        Borrowed::Text(text) => ValueRef::Text(text),
    }
}

struct Out<'a> {
    pack: &'a mut PackWriter,
    table: TableWriter,
    path: &'a Path,
    cancel: &'a AtomicBool,
    written: usize,
    row: Vec<u8>,
}

impl Out<'_> {
    fn go_on(&self) -> Result<()> {
        go_on(self.cancel, self.path)
    }

    fn push(&mut self, source: SourceId, key: i64, is_row: bool) -> Result<()> {
        self.written = self.written.wrapping_add(1);
        if self.written.is_multiple_of(STRIDE) {
            self.go_on()?;
        }
        self.table.push(self.pack, source as u16, key, is_row.then_some(&self.row))
    }

    /// Each row: the values that went, and those that came.
    fn members<V: Ord + Copy>(
        &mut self,
        source: SourceId,
        changes: Vec<MemberChange<V>>,
        value: impl for<'v> Fn(&'v V) -> ValueRef<'v>,
    ) -> Result<()> {
        for changes in changes.chunk_by(|one, next| one.document == next.document) {
            let Some(first) = changes.first() else { continue };
            let last = |at: &usize| changes.get(at + 1).is_none_or(|next| next.value != changes[*at].value);
            let is = |present: bool| {
                (0..changes.len())
                    .filter(last)
                    .filter_map(|at| changes.get(at))
                    .filter(move |change| change.present == present)
            };
            self.row.clear();
            for present in [false, true] {
                encode::put_number(&mut self.row, is(present).count() as u64);
                is(present).for_each(|change| encode::put_ref(&mut self.row, value(&change.value)));
            }
            self.push(source, first.document.into(), true)?;
        }
        Ok(())
    }

    fn rows(&mut self, id: SourceId, source: &Source, changes: Vec<(i64, NewRow<'_>)>) -> Result<()> {
        for (at, (key, row)) in changes.iter().enumerate() {
            if changes.get(at + 1).is_some_and(|(next, _)| next == key) {
                continue;
            }
            self.row.clear();
            let is_row = match row {
                NewRow::Copied(row) => {
                    for (column, value) in source.columns().iter().zip(row.values()) {
                        let value = copy::column(source, column, row, value)
                            .map_err(|error| Error::damaged(self.path, 0, format!("what it would hold: {error}")))?;
                        encode::put_optional_ref(&mut self.row, value.map(borrowed));
                    }
                    true
                }
                NewRow::Given(Some(row)) => {
                    row.iter().for_each(|value| encode::put_optional(&mut self.row, value.as_ref()));
                    true
                }
                NewRow::Given(None) => false,
            };
            self.push(id, *key, is_row)?;
        }
        Ok(())
    }
}
