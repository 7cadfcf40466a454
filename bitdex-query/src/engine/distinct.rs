//! Pages of which each value of a field has one row: its first in the order, on whichever page that is.
//!
//! Rows are taken as an ordinary page's, in chunks; a value that fills a chunk is left out of the next ones, so that a
//! few frequent values cost a few chunks. Behind a cursor a row counts only if it is its value's first, which a search
//! for that value's first row tells.

use std::collections::{HashMap, HashSet};

use bitdex_proto::{
    Error, Result,
    schema::{FieldId, KEY_FIELD, Schema},
    token::PageCursor,
    value::{FieldValue, Value},
};

use super::{
    filter::{Node, Test},
    order::{self, After, Order},
    watch,
};
use crate::{segment::value::decode, state::State};

/// Rows of a value in one chunk from which on the value is left out of the next.
const FREQUENT: u32 = 4;
/// Rows of a chunk, at most.
const CHUNK_MOST: usize = 4096;

/// The field of a request's `distinct`.
pub(super) fn resolve(name: &str, schema: &Schema) -> Result<FieldId> {
    let (id, field) = schema.field(name).ok_or_else(|| schema.unknown_field(name))?;
    if field.many {
        return Err(Error::invalid(format!("distinct: field {name} holds many values; it needs a field of one")));
    }
    if !field.filter {
        return Err(Error::invalid(format!(
            "distinct: field {name} cannot be filtered by: the definition does not say `filter: true`"
        )));
    }
    Ok(id)
}

/// The first `want` rows behind `after`, less those that are not the first of their value. Rows without a value stay.
/// `rows`: of a filter, the first behind a row, at most so many.
pub(super) fn distinct(
    state: &State,
    filter: &Node,
    order: &Order,
    after: Option<&After>,
    want: usize,
    field: FieldId,
    rows: impl Fn(&Node, Option<&After>, usize) -> Result<Vec<u32>>,
) -> Result<Vec<u32>> {
    if field == KEY_FIELD {
        return rows(filter, after, want);
    }
    let behind_cursor = after.is_some();
    let mut after = after.cloned();
    let mut found = Vec::new();
    let mut seen: HashSet<Value> = HashSet::new();
    let mut left_out: Vec<Value> = Vec::new();
    let mut chunk = want + want / 2 + 8;
    loop {
        let narrowed = if left_out.is_empty() {
            filter.clone()
        } else {
            left_out.sort_unstable();
            let any = Node::Leaf(field, Test::AnyOf(left_out.clone()));
            and(filter, Node::Not(Box::new(any)))
        };
        let size = chunk.min(CHUNK_MOST);
        let ids = rows(&narrowed, after.as_ref(), size)?;
        let mut times: HashMap<Value, u32> = HashMap::new();
        for id in &ids {
            watch::step()?;
            let Some(value) = value(state, field, *id)? else {
                found.push(*id);
                if found.len() == want {
                    return Ok(found);
                }
                continue;
            };
            *times.entry(value.clone()).or_default() += 1;
            if !seen.insert(value.clone()) {
                continue;
            }
            let own = Node::Leaf(field, Test::AnyOf(vec![value]));
            if !behind_cursor || rows(&and(filter, own), None, 1)?.first() == Some(id) {
                found.push(*id);
                if found.len() == want {
                    return Ok(found);
                }
            }
        }
        match ids.last() {
            Some(last) if ids.len() == size => after = Some(after_row(state, order, *last)?),
            _ => return Ok(found),
        }
        left_out.extend(times.into_iter().filter(|(_, times)| *times >= FREQUENT).map(|(value, _)| value));
        chunk = chunk.saturating_mul(2);
    }
}

fn and(filter: &Node, more: Node) -> Node {
    match filter {
        Node::And(nodes) => Node::And(nodes.iter().cloned().chain([more]).collect()),
        node => Node::And(vec![node.clone(), more]),
    }
}

fn value(state: &State, field: FieldId, id: u32) -> Result<Option<Value>> {
    if let Some(column) = state.column(field).filter(|column| column.is_exact())
        && let Some(ty) = state.schema().fields.get(field).map(|field| field.ty)
    {
        return Ok(column.get(id)?.and_then(|code| decode(code, ty)));
    }
    let Some(document) = state.document(id)? else { return Err(order::gone(id)) };
    Ok(match document.value(field)? {
        FieldValue::One(value) => Some(value),
        _ => None,
    })
}

fn after_row(state: &State, order: &Order, id: u32) -> Result<After> {
    let cursor = PageCursor { after: order.after(state, id)?, after_id: id, ..PageCursor::default() };
    After::read(&cursor, order, state.schema())
}
