//! Answers to requests: pure functions over one [`State`].

use bitdex_proto::{
    Result,
    query::{CountRequest, Filter, GetRequest, SearchRequest},
    schema::FieldId,
    value::FieldValue,
};
use bytes::Bytes;

use crate::state::State;

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
pub fn search(_state: &State, _request: &SearchRequest, _now_us: i64) -> Result<Page> {
    todo!("engine")
}

/// The version that the request's cursor demands: wait for it before calling [`search`]. `None` without a cursor.
pub fn cursor_sequence(_state: &State, _request: &SearchRequest) -> Result<Option<u64>> {
    todo!("engine")
}

/// Documents by id, in the order asked for and as often; what is absent or pending is left out. No fields named means
/// all.
pub fn get(_state: &State, _request: &GetRequest, _now_us: i64) -> Result<Documents> {
    todo!("engine")
}

/// Exact number of matches.
pub fn count(_state: &State, _request: &CountRequest, _now_us: i64) -> Result<u64> {
    todo!("engine")
}

/// Calls `each` with every match of a filter without relative times, pending documents included, ascending.
pub(crate) fn matching(_state: &State, _filter: &Filter, _each: &mut dyn FnMut(u32) -> Result<()>) -> Result<()> {
    todo!("engine")
}
