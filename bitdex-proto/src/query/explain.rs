//! A search or a count that is to be explained.

use serde::{Deserialize, Serialize};

use super::{Consistency, CountRequest, Filter, FilterForm, SearchRequest, Sort, SortForm};
use crate::{Error, Result, schema::Schema, wire};

/// In JSON `{"search": …}` or `{"count": …}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExplainRequest<F = Filter, S = Vec<Sort>> {
    #[serde(bound(deserialize = "F: Deserialize<'de>, S: Deserialize<'de> + Default"))]
    Search(SearchRequest<F, S>),
    Count(CountRequest<F>),
}

impl<F, S> ExplainRequest<F, S> {
    pub fn index(&self) -> &str {
        match self {
            Self::Search(request) => &request.index,
            Self::Count(request) => &request.index,
        }
    }

    pub fn consistency(&self) -> Option<&Consistency> {
        match self {
            Self::Search(request) => request.consistency.as_ref(),
            Self::Count(request) => request.consistency.as_ref(),
        }
    }

    pub fn now_us(&self) -> Option<i64> {
        match self {
            Self::Search(request) => request.now_us,
            Self::Count(request) => request.now_us,
        }
    }
}

impl ExplainRequest<FilterForm, SortForm> {
    /// Reads text against the schema, and checks what needs no more than the request.
    pub fn resolve(self, schema: &Schema) -> Result<ExplainRequest> {
        Ok(match self {
            Self::Search(request) => ExplainRequest::Search(request.resolve(schema)?),
            Self::Count(request) => ExplainRequest::Count(request.resolve(schema)?),
        })
    }
}

impl TryFrom<wire::ExplainRequest> for ExplainRequest<FilterForm, SortForm> {
    type Error = Error;

    fn try_from(wire: wire::ExplainRequest) -> Result<Self> {
        use wire::explain_request::Query;
        match wire.query {
            Some(Query::Search(request)) => request.try_into().map(Self::Search),
            Some(Query::Count(request)) => request.try_into().map(Self::Count),
            None => Err(Error::invalid("give `search` or `count` to be explained")),
        }
    }
}

impl From<ExplainRequest> for wire::ExplainRequest {
    fn from(request: ExplainRequest) -> Self {
        use wire::explain_request::Query;
        let query = match request {
            ExplainRequest::Search(request) => Query::Search(request.into()),
            ExplainRequest::Count(request) => Query::Count(request.into()),
        };
        Self { query: Some(query) }
    }
}
