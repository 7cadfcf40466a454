//! The values of one document, from its rows and those of lookups.

use bitdex_proto::schema::{DOCUMENT_SOURCE, FieldId, Function, Origin, Path, SourceId};
use smallvec::SmallVec;
use xxhash_rust::xxh3::xxh3_128;

use super::{
    encode::{Broken, Input},
    layout::{Layout, Place},
};
use crate::{
    log::{Error, Result},
    segment::value::ValueRef,
};

/// Where rows of lookups are found.
pub(crate) trait Lookups {
    fn lookup(&self, source: SourceId, key: i64) -> Result<Option<&[u8]>>;
}

/// Calls `emit` with each value of each of `fields` (of the layout, ascending), of a document with the given rows (by
/// slot; that of the document source is there). Values of a field of many come ascending, without duplicates.
pub(crate) fn values<'a>(
    layout: &'a Layout,
    slots: &'a [Option<&'a [u8]>],
    lookups: &'a impl Lookups,
    id: u32,
    fields: &[FieldId],
    emit: &mut impl FnMut(FieldId, ValueRef<'a>),
) -> Result<()> {
    let mut document = Document::new(layout, slots, lookups, id);
    fields.iter().try_for_each(|field| document.each(*field, &mut |value| emit(*field, value)))
}

/// The column of the row that a path reaches from `key`, which is that of the row at `position` on the path.
fn follow<'a>(
    layout: &Layout,
    lookups: &'a impl Lookups,
    path: &Path,
    position: usize,
    column: usize,
    key: ValueRef<'_>,
) -> Result<Option<ValueRef<'a>>> {
    let ValueRef::Int(mut key) = key else { return Ok(None) };
    let mut source = match position.checked_sub(1) {
        None => path.first,
        Some(hop) => path.hops[hop].source,
    };
    for hop in &path.hops[position..] {
        let Some(row) = lookups.lookup(source, key)? else { return Ok(None) };
        let Some(ValueRef::Int(next)) = column_of(layout, source, key, row, hop.by)? else { return Ok(None) };
        (source, key) = (hop.source, next);
    }
    match lookups.lookup(source, key)? {
        Some(row) => column_of(layout, source, key, row, column),
        None => Ok(None),
    }
}

/// One column of a source's row.
pub(crate) fn column_of<'a>(
    layout: &Layout,
    source: SourceId,
    key: i64,
    row: &'a [u8],
    column: usize,
) -> Result<Option<ValueRef<'a>>> {
    let mut input = Input(row);
    let skipped = (0..column).try_for_each(|_| input.skip());
    skipped.and_then(|()| input.optional_ref()).map_err(|Broken| broken(layout, source as Place, key, row))
}

/// A row that does not decode. Rows in files have passed their checksums, so this names what it was.
#[cold]
pub(crate) fn broken(layout: &Layout, place: Place, key: i64, row: &[u8]) -> Error {
    let sources = layout.schema.sources.len();
    let name = match usize::from(place).checked_sub(sources) {
        None => layout.schema.sources[usize::from(place)].name.as_str(),
        Some(field) => layout.schema.fields.get(field).map_or("keys of a lookup", |field| field.name.as_str()),
    };
    Error::damaged(format!("{name}, key {key}"), row.len() as u64, "the row does not decode")
}

/// The columns of the document's row, as far as they were read.
type Columns<'a> = SmallVec<[Option<ValueRef<'a>>; 16]>;

/// The rows of a document, by slot (that of the document source is there), to compute its values from.
pub(crate) struct Document<'d, L> {
    layout: &'d Layout,
    slots: &'d [Option<&'d [u8]>],
    lookups: &'d L,
    id: u32,
    columns: Columns<'d>,
}

impl<'d, L: Lookups> Document<'d, L> {
    pub(crate) fn new(layout: &'d Layout, slots: &'d [Option<&'d [u8]>], lookups: &'d L, id: u32) -> Self {
        Self { layout, slots, lookups, id, columns: Columns::new() }
    }

    fn broken(&self, place: Place, row: &[u8]) -> Error {
        broken(self.layout, place, self.id.into(), row)
    }

    fn row(&self, place: Place) -> Option<&'d [u8]> {
        self.layout.slot(place).and_then(|slot| self.slots.get(slot).copied().flatten())
    }

    /// Calls `emit` with each value of a field: of many, ascending and without duplicates.
    pub(crate) fn each(&mut self, field: FieldId, emit: &mut impl FnMut(ValueRef<'d>)) -> Result<()> {
        match &self.layout.fields[field].origin {
            Origin::Members { source } => {
                let place = *source as Place;
                let Some(row) = self.row(place) else { return Ok(()) };
                Input(row).each_value(emit).map_err(|Broken| self.broken(place, row))
            }
            Origin::Through { members, path, column } => {
                let place = *members as Place;
                let Some(row) = self.row(place) else { return Ok(()) };
                let mut reached = SmallVec::<[ValueRef<'_>; 32]>::new();
                let mut failed = None;
                let mut each = |key: ValueRef<'_>| match follow(self.layout, self.lookups, path, 0, *column, key) {
                    Ok(value) => reached.extend(value),
                    Err(error) => failed = Some(error),
                };
                Input(row).each_value(&mut each).map_err(|Broken| self.broken(place, row))?;
                if let Some(error) = failed {
                    return Err(error);
                }
                reached.sort_unstable();
                reached.dedup();
                reached.into_iter().for_each(emit);
                Ok(())
            }
            Origin::External => {
                let place = self.layout.external(field);
                let Some(row) = self.row(place) else { return Ok(()) };
                Input(row).each_of_field(emit).map_err(|Broken| self.broken(place, row))
            }
            _ => {
                self.scalar(field)?.into_iter().for_each(emit);
                Ok(())
            }
        }
    }

    /// The value of a field of one.
    pub(crate) fn scalar(&mut self, field: FieldId) -> Result<Option<ValueRef<'d>>> {
        let layout = self.layout;
        match &layout.fields[field].origin {
            Origin::Key => Ok(Some(ValueRef::Int(self.id.into()))),
            Origin::Document { column } => self.column(*column),
            Origin::Lookup { by, path, column } => match self.column(*by)? {
                Some(key) => follow(self.layout, self.lookups, path, 0, *column, key),
                None => Ok(None),
            },
            Origin::Metric { source, column, default } => match self.row(*source as Place) {
                Some(row) => column_of(self.layout, *source, self.id.into(), row, *column),
                None => Ok(default.as_ref().map(ValueRef::of)),
            },
            Origin::External => {
                let place = self.layout.external(field);
                let Some(row) = self.row(place) else { return Ok(None) };
                Input(row).optional_ref().map_err(|Broken| self.broken(place, row))
            }
            Origin::Derived { function, inputs } => derive(*function, inputs, &mut |input| self.scalar(input)),
            // Fields of many have no place among the inputs of others.
            Origin::Members { .. } | Origin::Through { .. } => Ok(None),
        }
    }

    /// A column of the document's row, all of which is decoded once.
    fn column(&mut self, column: usize) -> Result<Option<ValueRef<'d>>> {
        if self.columns.is_empty()
            && let Some(row) = self.row(DOCUMENT_SOURCE as Place)
        {
            let mut input = Input(row);
            while !input.is_empty() {
                self.columns.push(input.optional_ref().map_err(|Broken| self.broken(DOCUMENT_SOURCE as Place, row))?);
            }
        }
        Ok(self.columns.get(column).copied().flatten())
    }
}

/// `value` gives the inputs' values.
fn derive<'a>(
    function: Function,
    inputs: &[FieldId],
    value: &mut impl FnMut(FieldId) -> Result<Option<ValueRef<'a>>>,
) -> Result<Option<ValueRef<'a>>> {
    let mut result: Option<ValueRef<'a>> = None;
    for input in inputs {
        let Some(value) = value(*input)? else { continue };
        result = Some(match (function, result) {
            (Function::Greatest, Some(so_far)) => so_far.max(value),
            (Function::Least, Some(so_far)) => so_far.min(value),
            _ => value,
        });
        if matches!(function, Function::Coalesce | Function::Exists) {
            break;
        }
    }
    Ok(if function == Function::Exists { Some(ValueRef::Bool(result.is_some())) } else { result })
}

/// The value of a field that is uniform ([`Layout::is_uniform`]) over the documents that are reached, through `back`
/// hops, from the row of this key.
pub(crate) fn uniform<'a>(
    layout: &'a Layout,
    lookups: &'a impl Lookups,
    field: FieldId,
    back: usize,
    key: i64,
) -> Result<Option<ValueRef<'a>>> {
    match &layout.fields[field].origin {
        Origin::Lookup { path, column, .. } => follow(layout, lookups, path, back, *column, ValueRef::Int(key)),
        Origin::Derived { function, inputs } => {
            derive(*function, inputs, &mut |input| uniform(layout, lookups, input, back, key))
        }
        _ => Ok(None),
    }
}

/// Hash of one row, a term of the state's hash.
pub(crate) fn row_hash(place: Place, key: i64, row: &[u8]) -> u128 {
    let mut bytes = SmallVec::<[u8; 256]>::new();
    bytes.extend_from_slice(&place.to_le_bytes());
    bytes.extend_from_slice(&key.to_le_bytes());
    bytes.extend_from_slice(row);
    xxh3_128(&bytes)
}
