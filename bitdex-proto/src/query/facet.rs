//! Facets: the most frequent values of some fields among the matches of a filter.

use serde::{Deserialize, Deserializer, Serialize};

use super::{Consistency, Filter, MAX_LIMIT, none};
use crate::{Error, Result, wire};

/// Facets of one request.
pub const MAX_FACETS: usize = 32;
/// Values of a facet that names no limit.
const DEFAULT_LIMIT: u32 = 10;

/// In JSON an object, or the field's name alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Facet {
    pub field: String,
    /// Values to answer with.
    pub limit: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FacetRequest<F = Filter> {
    pub index: String,
    #[serde(default = "none")]
    pub filter: Option<F>,
    pub facets: Vec<Facet>,
    #[serde(default)]
    pub include_pending: bool,
    /// Microseconds since 1970 UTC; `None`: the server's clock.
    #[serde(default)]
    pub now_us: Option<i64>,
    #[serde(default)]
    pub consistency: Option<Consistency>,
}

impl FacetRequest {
    /// The values of one field of all documents.
    pub fn new(index: impl Into<String>, field: impl Into<String>) -> Self {
        Self {
            index: index.into(),
            filter: None,
            facets: vec![Facet { field: field.into(), limit: DEFAULT_LIMIT }],
            include_pending: false,
            now_us: None,
            consistency: None,
        }
    }

    pub fn validate(&self) -> Result<()> {
        if !(1..=MAX_FACETS).contains(&self.facets.len()) {
            return Err(Error::invalid(format!("{} facets; give 1 to {MAX_FACETS}", self.facets.len())));
        }
        for facet in &self.facets {
            if !(1..=MAX_LIMIT).contains(&facet.limit) {
                let message = format!("facet {}: limit is {}; it must be 1 to {MAX_LIMIT}", facet.field, facet.limit);
                return Err(Error::invalid(message));
            }
        }
        self.filter.as_ref().map_or(Ok(()), Filter::validate)
    }
}

impl<'de> Deserialize<'de> for Facet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Object {
            field: String,
            limit: Option<u32>,
        }
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a facet is a field's name, or {\"field\": \"tagIds\", \"limit\": 20}")]
        enum Either {
            Name(String),
            Object(Object),
        }
        let (field, limit) = match Either::deserialize(deserializer)? {
            Either::Name(field) => (field, None),
            Either::Object(Object { field, limit }) => (field, limit),
        };
        Ok(Self { field, limit: limit.unwrap_or(DEFAULT_LIMIT) })
    }
}

impl From<wire::Facet> for Facet {
    fn from(wire: wire::Facet) -> Self {
        Self { field: wire.field, limit: if wire.limit == 0 { DEFAULT_LIMIT } else { wire.limit } }
    }
}

impl From<FacetRequest> for wire::FacetRequest {
    fn from(request: FacetRequest) -> Self {
        Self {
            index: request.index,
            filter: request.filter.as_ref().map(Into::into),
            filter_text: String::new(),
            facets: request
                .facets
                .into_iter()
                .map(|facet| wire::Facet { field: facet.field, limit: facet.limit })
                .collect(),
            include_pending: request.include_pending,
            now_us: request.now_us,
            consistency: request.consistency.map(Into::into),
        }
    }
}
