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
use prost::Message as _;

use crate::state::{Document, State};

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

/// A row to compare: its sort values and its id.
#[derive(Debug, Clone, Copy)]
pub(super) enum Row<'a> {
    Document(&'a Document, u32),
    After(&'a After),
}

impl<'a> Row<'a> {
    fn value(self, position: usize, field: FieldId) -> Option<&'a Value> {
        match self {
            Self::Document(document, _) => document[field].values().first(),
            Self::After(after) => after.values[position].as_ref(),
        }
    }

    fn id(self) -> u32 {
        match self {
            Self::Document(_, id) => id,
            Self::After(after) => after.id,
        }
    }
}

impl Order {
    pub(super) fn resolve(sorts: &[Sort], schema: &Schema) -> Result<Self> {
        let mut keys = Vec::with_capacity(sorts.len());
        for sort in sorts {
            let (id, field) =
                schema.field(&sort.field).ok_or_else(|| Error::invalid(format!("unknown field {}", sort.field)))?;
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
        self.keys[0]
    }

    pub(super) fn is_single(&self) -> bool {
        self.keys.len() == 1
    }

    /// Direction of the ids of rows whose sort values are equal.
    pub(super) fn ids_descend(&self) -> bool {
        self.keys.last().is_some_and(|key| key.descending)
    }

    pub(super) fn compare(&self, a: Row<'_>, b: Row<'_>) -> Ordering {
        let direct = |ordering: Ordering, descending: bool| if descending { ordering.reverse() } else { ordering };
        let values = self.keys.iter().enumerate().map(|(position, key)| {
            match (a.value(position, key.field), b.value(position, key.field)) {
                (Some(a), Some(b)) => direct(a.cmp(b), key.descending),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => Ordering::Equal,
            }
        });
        values.fold(Ordering::Equal, Ordering::then).then_with(|| direct(a.id().cmp(&b.id()), self.ids_descend()))
    }

    /// The sort values of a document, for a cursor.
    pub(super) fn after(&self, document: &Document, schema: &Schema) -> Vec<wire::Value> {
        let value = |key: &SortKey| match &document[key.field] {
            FieldValue::One(value) => value.to_wire(schema.fields[key.field].ty),
            _ => wire::Value::default(),
        };
        self.keys.iter().map(value).collect()
    }
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

    /// Its value of the order's first key.
    pub(super) fn first(&self) -> Option<&Value> {
        self.values[0].as_ref()
    }

    pub(super) fn id(&self) -> u32 {
        self.id
    }
}

/// The cursor of a request, refused where it is of another store, generation or query.
pub(super) fn read_cursor(state: &State, request: &SearchRequest) -> Result<Option<PageCursor>> {
    let Some(cursor) = &request.cursor else { return Ok(None) };
    let query = query_hash(request);
    let binding = CursorBinding { store: state.store(), generation: state.generation(), query: &query };
    decode_page_cursor(&cursor.0, binding).map(Some)
}

/// Of all that must stay the same from page to page.
pub(super) fn query_hash(request: &SearchRequest) -> [u8; 32] {
    let query = wire::SearchRequest {
        index: request.index.clone(),
        filter: request.filter.as_ref().map(Into::into),
        sort: request
            .sort
            .iter()
            .map(|sort| wire::Sort { field: sort.field.clone(), descending: sort.descending })
            .collect(),
        include_pending: request.include_pending,
        ..wire::SearchRequest::default()
    };
    *blake3::hash(&query.encode_to_vec()).as_bytes()
}
