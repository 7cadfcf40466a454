//! The total order of an answer, and the cursor that holds a place in it.

use std::cmp::Ordering;

use bitdex_proto::{
    Error, Result,
    query::{SearchRequest, Sort},
    schema::{FieldId, KEY_FIELD, Schema},
    token::{CursorBinding, PageCursor, decode_page_cursor},
    value::{FieldValue, Value},
    wire,
};
use smallvec::SmallVec;

use crate::{
    log,
    segment::value::{ValueRef, decode},
    state::{ColumnView, State},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SortKey {
    pub(super) field: FieldId,
    pub(super) descending: bool,
}

/// (sort values, id): nulls last both ways, ties by id in the direction of the last key.
#[derive(Debug)]
pub(super) struct Order {
    keys: Vec<SortKey>,
}

impl Order {
    pub(super) fn resolve(sorts: &[Sort], schema: &Schema) -> Result<Self> {
        let mut keys = Vec::with_capacity(sorts.len());
        for sort in sorts {
            let (id, field) = schema.field(&sort.field).ok_or_else(|| schema.unknown_field(&sort.field))?;
            if field.many {
                return Err(Error::invalid(format!("field {} holds many values: it cannot be sorted by", field.name)));
            }
            if !field.sort && id != KEY_FIELD {
                return Err(Error::invalid(format!(
                    "field {} cannot be sorted by: the definition does not say `sort: true`",
                    field.name
                )));
            }
            keys.push(SortKey { field: id, descending: sort.descending });
        }
        // No two documents share a key, so nothing behind it decides anything.
        if let Some(at) = keys.iter().position(|key| key.field == KEY_FIELD) {
            keys.truncate(at + 1);
        }
        if keys.is_empty() {
            keys.push(SortKey { field: KEY_FIELD, descending: false });
        }
        Ok(Self { keys })
    }

    pub(super) fn first(&self) -> SortKey {
        self.keys.first().copied().unwrap_or(SortKey { field: KEY_FIELD, descending: false })
    }

    /// Direction of the ids of rows whose sort values are equal.
    pub(super) fn ids_descend(&self) -> bool {
        self.keys.last().is_some_and(|key| key.descending)
    }

    /// The sort values of a document, for a cursor.
    pub(super) fn after(&self, state: &State, id: u32) -> Result<Vec<wire::Value>> {
        let schema = state.schema();
        let mut document = None;
        let mut values = Vec::with_capacity(self.keys.len());
        for SortKey { field, .. } in &self.keys {
            let ty = schema.fields[*field].ty;
            let value = match state.column(*field) {
                _ if *field == KEY_FIELD => Some(Value::Int(id.into())),
                Some(column) if column.is_exact() => column.get(id)?.and_then(|code| decode(code, ty)),
                _ => {
                    if document.is_none() {
                        document = Some(state.document(id)?.ok_or_else(|| gone(id))?);
                    }
                    match document.as_ref().map(|document| document.value(*field)).transpose()? {
                        Some(FieldValue::One(value)) => Some(value),
                        _ => None,
                    }
                }
            };
            values.push(value.map_or_else(wire::Value::default, |value| value.to_wire(ty)));
        }
        Ok(values)
    }
}

pub(super) fn gone(id: u32) -> Error {
    Error::Internal(format!("document {id} is in an index, but not there"))
}

/// The last row of the page before.
#[derive(Debug, Clone)]
pub(super) struct After {
    /// One for each key of the order.
    values: Vec<Option<Value>>,
    id: u32,
}

impl After {
    pub(super) fn read(cursor: &PageCursor, order: &Order, schema: &Schema) -> Result<Self> {
        if cursor.after.len() != order.keys.len() {
            return Err(Error::invalid("the cursor does not fit the sort: start again from the first page"));
        }
        let value = |(key, value): (&SortKey, &wire::Value)| {
            let field = &schema.fields[key.field];
            Value::from_wire(value, field.ty, &format!("cursor: field {}", field.name))
        };
        let values = order.keys.iter().zip(&cursor.after).map(value).collect::<Result<_>>()?;
        Ok(Self { values, id: cursor.after_id })
    }

    pub(super) fn id(&self) -> u32 {
        self.id
    }
}

/// The cursor of a request, refused where it is of another store, generation or query.
pub(super) fn read_cursor(state: &State, request: &SearchRequest) -> Result<Option<PageCursor>> {
    let Some(cursor) = &request.cursor else { return Ok(None) };
    let query = request.identity(state.schema())?;
    let binding = CursorBinding { store: state.store(), generation: state.generation(), query: &query };
    decode_page_cursor(&cursor.0, binding).map(Some)
}

/// A row's place in the order, as far as codes tell: whether it has no value, the code of the first sort key, and the
/// id, each turned so that a smaller rank comes first. Where the order is one exact key, ranks are the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank(u128);

const NULL: u128 = 1 << 96;

impl Rank {
    /// Before all others.
    pub(super) const FIRST: Self = Self(0);

    pub(super) fn new(code: Option<u64>, id: u32, descending: bool) -> Self {
        let id = if descending { !id } else { id };
        Self(u128::from(id) | code.map_or(NULL, |code| u128::from(if descending { !code } else { code }) << 32))
    }

    /// Without the id: the rank before all others of its code.
    pub(super) fn first_of_code(self) -> Self {
        Self(self.0 >> 32 << 32)
    }

    /// `None`: no value.
    pub(super) fn code(self, descending: bool) -> Option<u64> {
        let code = (self.0 >> 32) as u64;
        (self.0 < NULL).then_some(if descending { !code } else { code })
    }

    pub(super) fn id(self, descending: bool) -> u32 {
        let id = self.0 as u32;
        if descending { !id } else { id }
    }
}

/// One sort value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    Code(u64),
    Text(Value),
}

/// All sort values of a row.
pub(super) type Keys = SmallVec<[Option<Key>; 2]>;

/// Reads sort values, and compares them.
#[derive(Debug)]
pub(super) struct Sorter<'s> {
    state: &'s State,
    /// Without the columns of the key field.
    columns: SmallVec<[(SortKey, Option<ColumnView<'s>>); 2]>,
    ids_descend: bool,
}

impl<'s> Sorter<'s> {
    pub(super) fn new(state: &'s State, order: &Order) -> Result<Self> {
        let mut columns = SmallVec::new();
        for key in &order.keys {
            let column = state.column(key.field);
            if column.is_none() && key.field != KEY_FIELD {
                let name = &state.schema().fields[key.field].name;
                return Err(Error::Internal(format!("field {name} has no column to sort by")));
            }
            columns.push((*key, column));
        }
        Ok(Self { state, columns, ids_descend: order.ids_descend() })
    }

    /// The column of the first key; `None`: it is the id.
    pub(super) fn first(&self) -> Option<ColumnView<'s>> {
        self.columns.first().and_then(|(_, column)| *column)
    }

    pub(super) fn first_descends(&self) -> bool {
        self.columns.first().is_some_and(|(key, _)| key.descending)
    }

    pub(super) fn state(&self) -> &'s State {
        self.state
    }

    /// Whether [`Rank`] is the whole order.
    pub(super) fn is_plain(&self) -> bool {
        matches!(self.columns.as_slice(), [(_, column)] if column.is_none_or(|column| column.is_exact()))
    }

    pub(super) fn keys(&self, id: u32) -> log::Result<Keys> {
        let mut document = None;
        let mut keys = Keys::new();
        for (key, column) in &self.columns {
            keys.push(match column {
                None => Some(Key::Code(id.into())),
                Some(column) if column.is_exact() => column.get(id)?.map(Key::Code),
                Some(_) => {
                    if document.is_none() {
                        document = self.state.document(id)?;
                    }
                    match &document {
                        Some(document) => document.value(key.field)?.values().first().cloned().map(Key::Text),
                        None => None,
                    }
                }
            });
        }
        Ok(keys)
    }

    pub(super) fn after_keys(&self, after: &After) -> Keys {
        let key = |((_, column), value): (&(SortKey, Option<ColumnView<'_>>), &Option<Value>)| match column {
            None => Some(Key::Code(after.id.into())),
            Some(column) => value.as_ref().map(|value| {
                if column.is_exact() { Key::Code(ValueRef::of(value).code()) } else { Key::Text(value.clone()) }
            }),
        };
        self.columns.iter().zip(&after.values).map(key).collect()
    }

    /// Code of the first key; that of a missing value is `None`.
    pub(super) fn after_code(&self, after: &After) -> Option<u64> {
        after.values.first().and_then(Option::as_ref).map(|value| ValueRef::of(value).code())
    }

    pub(super) fn compare(&self, a: (&Keys, u32), b: (&Keys, u32)) -> Ordering {
        let direct = |ordering: Ordering, descending: bool| if descending { ordering.reverse() } else { ordering };
        let keys = self.columns.iter().zip(a.0.iter().zip(b.0)).map(|((key, _), pair)| match pair {
            (Some(a), Some(b)) => direct(a.cmp(b), key.descending),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => Ordering::Equal,
        });
        keys.fold(Ordering::Equal, Ordering::then).then_with(|| direct(a.1.cmp(&b.1), self.ids_descend))
    }
}
