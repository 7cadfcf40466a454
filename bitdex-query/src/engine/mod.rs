//! Answers to requests: pure functions over one [`State`].
//!
//! A filter is bound to the schema ([`filter`]), evaluated to a set of ids ([`evaluate`]), and the page is taken from
//! that set by one of two plans that give the same rows ([`page`]), in the total order of [`order`].

mod evaluate;
mod filter;
mod order;
mod page;
#[cfg(test)]
mod tests;

use bitdex_proto::{
    Error, Result,
    query::{CountRequest, Fields, Filter, GetRequest, SearchRequest},
    schema::{FieldId, Schema},
    token::{PageCursor, encode_page_cursor},
    value::{FieldValue, Value},
};
use bytes::Bytes;
use roaring::RoaringBitmap;

use self::{
    evaluate::{Evaluator, LOOK_AT},
    order::{After, Order},
    page::{Candidates, Plan},
};
use crate::state::{Document, State};

/// One page of a search.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    pub ids: Vec<u32>,
    pub fields: Vec<FieldId>,
    /// One for each id, in the order of `fields`; empty where no fields were asked for.
    pub rows: Vec<Vec<FieldValue>>,
    /// Where more rows follow.
    pub next_cursor: Option<Bytes>,
    /// All matches, where asked for.
    pub count: Option<u64>,
    /// The clock that the answer used: the first page's where a cursor was given.
    pub now_us: i64,
}

/// Answer of [`get`].
#[derive(Debug, Clone, PartialEq)]
pub struct Documents {
    pub ids: Vec<u32>,
    pub fields: Vec<FieldId>,
    /// One for each id, in the order of `fields`.
    pub rows: Vec<Vec<FieldValue>>,
}

/// One page of the matches. The clock is the cursor's (that of the first page), else the request's own, else `now_us`
/// (microseconds since 1970 UTC).
pub fn search(state: &State, request: &SearchRequest, now_us: i64) -> Result<Page> {
    search_by(state, request, now_us, Tuning::default())
}

/// How to search; decides how long it takes, never what is found.
#[derive(Debug, Clone, Copy)]
struct Tuning {
    /// `None`: the cheaper one.
    plan: Option<Plan>,
    /// Entries of an index that an estimate looks at before it guesses.
    look_at: usize,
}

impl Default for Tuning {
    fn default() -> Self {
        Self { plan: None, look_at: LOOK_AT }
    }
}

fn search_by(state: &State, request: &SearchRequest, now_us: i64, tuning: Tuning) -> Result<Page> {
    let schema = state.schema();
    check_index(schema, &request.index)?;
    request.validate()?;
    let order = Order::resolve(&request.sort, schema)?;
    let fields = request.fields.resolve(schema)?;
    let cursor = order::read_cursor(state, request)?;
    let now_us = cursor.as_ref().map_or(request.now_us.unwrap_or(now_us), |cursor| cursor.now_us);
    let after = cursor.as_ref().map(|cursor| After::read(cursor, &order, schema)).transpose()?;

    let filter = filter::bind(request.filter.as_ref(), schema, Some(now_us))?;
    let evaluator = Evaluator::new(state, tuning.look_at);
    let hidden = (!request.include_pending).then(|| evaluator.pending(now_us)).flatten();
    let limit = request.limit as usize;
    let candidates = Candidates::new(&evaluator, &filter, &order, hidden.as_ref());
    // One more than asked for tells whether another page follows.
    let mut ids = candidates.page(after.as_ref(), limit + 1, tuning.plan)?;
    let more = ids.len() > limit;
    ids.truncate(limit);

    let count = request.count.then(|| evaluator.count(&filter, hidden.as_ref()));
    let next_cursor = match ids.last() {
        Some(last) if more => {
            let first = cursor.as_ref();
            Some(encode_page_cursor(PageCursor {
                version: 0,
                store: state.store().into(),
                generation: state.generation(),
                sequence: first.map_or(state.sequence(), |first| first.sequence),
                now_us,
                query: order::query_hash(request).to_vec().into(),
                after: order.after(document(state, *last)?, schema),
                after_id: *last,
            }))
        }
        _ => None,
    };
    let rows = if fields.is_empty() {
        Vec::new()
    } else {
        ids.iter().map(|id| Ok(pick(document(state, *id)?, &fields))).collect::<Result<_>>()?
    };
    Ok(Page { ids, fields, rows, next_cursor, count, now_us })
}

/// The version that the request's cursor demands: wait for it before calling [`search`]. `None` without a cursor.
pub fn cursor_sequence(state: &State, request: &SearchRequest) -> Result<Option<u64>> {
    check_index(state.schema(), &request.index)?;
    Ok(order::read_cursor(state, request)?.map(|cursor| cursor.sequence))
}

/// Documents by id, in the order asked for and as often; what is absent or pending is left out. No fields named means
/// all.
pub fn get(state: &State, request: &GetRequest, now_us: i64) -> Result<Documents> {
    let schema = state.schema();
    check_index(schema, &request.index)?;
    request.validate()?;
    let fields = match &request.fields {
        Fields::None => Fields::All.resolve(schema)?,
        fields => fields.resolve(schema)?,
    };
    let now_us = request.now_us.unwrap_or(now_us);
    let shows = |document: &Document| request.include_pending || !is_pending(schema, document, now_us);
    let found = request.ids.iter().filter_map(|id| Some((*id, state.document(*id).filter(|it| shows(it))?)));
    let (ids, rows) = found.map(|(id, document)| (id, pick(document, &fields))).unzip();
    Ok(Documents { ids, fields, rows })
}

/// Exact number of matches.
pub fn count(state: &State, request: &CountRequest, now_us: i64) -> Result<u64> {
    check_index(state.schema(), &request.index)?;
    request.validate()?;
    let now_us = request.now_us.unwrap_or(now_us);
    let filter = filter::bind(request.filter.as_ref(), state.schema(), Some(now_us))?;
    let evaluator = Evaluator::new(state, LOOK_AT);
    let hidden = (!request.include_pending).then(|| evaluator.pending(now_us)).flatten();
    Ok(evaluator.count(&filter, hidden.as_ref()))
}

/// Every match of a filter without relative times, pending documents included.
pub(crate) fn matching(state: &State, filter: &Filter) -> Result<RoaringBitmap> {
    let filter = filter::bind(Some(filter), state.schema(), None)?;
    Ok(Evaluator::new(state, LOOK_AT).set(&filter).into_owned())
}

fn check_index(schema: &Schema, index: &str) -> Result<()> {
    if index == schema.index {
        Ok(())
    } else {
        Err(Error::NotFound(format!("index {index:?} is not served here: this process serves {:?}", schema.index)))
    }
}

fn document(state: &State, id: u32) -> Result<&Document> {
    state.document(id).ok_or_else(|| Error::Internal(format!("document {id} is in an index, but not there")))
}

fn pick(document: &Document, fields: &[FieldId]) -> Vec<FieldValue> {
    fields.iter().map(|field| document[*field].clone()).collect()
}

fn is_pending(schema: &Schema, document: &Document, now_us: i64) -> bool {
    let visible_at = schema.visible_at.and_then(|field| document[field].values().first());
    matches!(visible_at, Some(Value::Int(at)) if *at > now_us)
}
