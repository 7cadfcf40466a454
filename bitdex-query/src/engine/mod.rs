//! Answers to requests: pure functions over one [`State`].

use bitdex_proto::{
    Error, Result,
    query::{CountRequest, GetRequest, SearchRequest},
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

/// One page of the matches. `now_us` is the clock, microseconds since 1970 UTC; a cursor's own clock wins over it.
pub fn search(_state: &State, _request: &SearchRequest, _now_us: i64) -> Result<Page> {
    Err(Error::Internal("not built yet".into()))
}

/// The version that the request's cursor demands: wait for it before calling [`search`].
pub fn cursor_sequence(_state: &State, _request: &SearchRequest) -> Result<Option<u64>> {
    Err(Error::Internal("not built yet".into()))
}

/// Documents by id, in the order asked for; what is absent or pending is left out.
pub fn get(_state: &State, _request: &GetRequest, _now_us: i64) -> Result<Documents> {
    Err(Error::Internal("not built yet".into()))
}

/// Exact number of matches.
pub fn count(_state: &State, _request: &CountRequest, _now_us: i64) -> Result<u64> {
    Err(Error::Internal("not built yet".into()))
}
