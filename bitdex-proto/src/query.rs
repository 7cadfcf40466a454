//! Requests, validated. Each has a wire form (gRPC) and a JSON form (HTTP), both read into the same type.
//!
//! JSON of a filter: `{"and": […]}`, `{"or": […]}`, `{"not": …}`, or one test of one field:
//! `{"field": "type", "eq": "image"}` with `eq ne lt le gt ge`, `in`, `not_in` or `all` with a list, or
//! `"is_null": true`. A value is a number, a string, a bool, or `{"now": "-24h"}` for a time relative to the clock
//! (units `us ms s m h d`). Or the filter is text, and so may be each sort: see [`text`].
//!
//! Text is read against the schema, so what comes from outside is first a request of [`FilterForm`]s and
//! [`SortForm`]s, which `resolve` turns into one of [`Filter`]s and [`Sort`]s.

mod explain;
mod facet;
mod filter;
mod form;
mod identity;
pub mod text;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use explain::ExplainRequest;
pub use facet::{Facet, FacetRequest, MAX_FACETS};
pub use filter::{Comparator, Filter, check_all, no_timestamp};
pub use form::{FilterForm, SortForm};

use crate::{
    Error, Result,
    schema::{FieldId, Schema},
    wire,
};

pub const MAX_LIMIT: u32 = 10_000;
/// Sort keys of one request.
pub const MAX_SORTS: usize = 8;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sort {
    pub field: String,
    #[serde(default)]
    pub descending: bool,
}

/// Which fields an answer carries.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Fields {
    #[default]
    None,
    All,
    Named(Vec<String>),
}

impl Fields {
    /// The ids of the named fields, in their order.
    pub fn resolve(&self, schema: &Schema) -> Result<Vec<FieldId>> {
        match self {
            Self::None => Ok(Vec::new()),
            Self::All => Ok((0..schema.fields.len()).collect()),
            Self::Named(names) => names
                .iter()
                .map(|name| schema.field(name).map(|(id, _)| id).ok_or_else(|| schema.unknown_field(name)))
                .collect(),
        }
    }

    fn from_names(names: Vec<String>) -> Self {
        if names.is_empty() {
            Self::None
        } else if names.iter().any(|name| name == "*") {
            Self::All
        } else {
            Self::Named(names)
        }
    }

    fn names(&self) -> Vec<String> {
        match self {
            Self::None => Vec::new(),
            Self::All => vec!["*".into()],
            Self::Named(names) => names.clone(),
        }
    }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::deserialize(deserializer).map(Self::from_names)
    }
}

impl Serialize for Fields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.names().serialize(serializer)
    }
}

/// What an answer must have seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Consistency {
    Token(OpaqueBytes),
    PostgresXid(u64),
}

/// Bytes that JSON carries as unpadded URL-safe base64.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OpaqueBytes(pub Bytes);

impl<'de> Deserialize<'de> for OpaqueBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        URL_SAFE_NO_PAD.decode(text).map(|bytes| Self(bytes.into())).map_err(serde::de::Error::custom)
    }
}

impl Serialize for OpaqueBytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        URL_SAFE_NO_PAD.encode(&self.0).serialize(serializer)
    }
}

fn default_limit() -> u32 {
    50
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SearchRequest<F = Filter, S = Vec<Sort>> {
    pub index: String,
    #[serde(default = "none")]
    pub filter: Option<F>,
    /// Empty: by id, ascending.
    #[serde(default)]
    pub sort: S,
    #[serde(default = "default_limit")]
    pub limit: u32,
    #[serde(default)]
    pub cursor: Option<OpaqueBytes>,
    #[serde(default)]
    pub fields: Fields,
    #[serde(default)]
    pub include_pending: bool,
    /// Microseconds since 1970 UTC; `None`: the server's clock.
    #[serde(default)]
    pub now_us: Option<i64>,
    #[serde(default)]
    pub consistency: Option<Consistency>,
    /// Also count all matches.
    #[serde(default)]
    pub count: bool,
    /// Also count matches, until at least so many are found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count_up_to: Option<u64>,
    /// A field of one value, of which each value's first row alone is a hit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distinct: Option<String>,
}

fn none<T>() -> Option<T> {
    None
}

impl SearchRequest {
    /// The first 50 ids of an index.
    pub fn new(index: impl Into<String>) -> Self {
        Self {
            index: index.into(),
            filter: None,
            sort: Vec::new(),
            limit: default_limit(),
            cursor: None,
            fields: Fields::None,
            include_pending: false,
            now_us: None,
            consistency: None,
            count: false,
            count_up_to: None,
            distinct: None,
        }
    }

    /// What needs no schema to be seen wrong. Both front ends call it.
    pub fn validate(&self) -> Result<()> {
        if !(1..=MAX_LIMIT).contains(&self.limit) {
            return Err(Error::invalid(format!("limit is {}; it must be 1 to {MAX_LIMIT}", self.limit)));
        }
        if self.sort.len() > MAX_SORTS {
            return Err(Error::invalid(format!("{} sort keys; at most {MAX_SORTS} are allowed", self.sort.len())));
        }
        if self.count && self.count_up_to.is_some() {
            return Err(Error::invalid("give `count` or `count_up_to`, not both"));
        }
        self.filter.as_ref().map_or(Ok(()), Filter::validate)
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GetRequest {
    pub index: String,
    pub ids: Vec<u32>,
    #[serde(default)]
    pub fields: Fields,
    #[serde(default)]
    pub include_pending: bool,
    #[serde(default)]
    pub now_us: Option<i64>,
    #[serde(default)]
    pub consistency: Option<Consistency>,
}

impl GetRequest {
    pub fn validate(&self) -> Result<()> {
        if self.ids.len() > MAX_LIMIT as usize {
            return Err(Error::invalid(format!("{} ids; at most {MAX_LIMIT} are allowed", self.ids.len())));
        }
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CountRequest<F = Filter> {
    pub index: String,
    #[serde(default = "none")]
    pub filter: Option<F>,
    #[serde(default)]
    pub include_pending: bool,
    #[serde(default)]
    pub now_us: Option<i64>,
    #[serde(default)]
    pub consistency: Option<Consistency>,
    /// Count until at least so many matches are found; `None`: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub up_to: Option<u64>,
}

impl CountRequest {
    /// All documents of an index.
    pub fn new(index: impl Into<String>) -> Self {
        Self { index: index.into(), filter: None, include_pending: false, now_us: None, consistency: None, up_to: None }
    }

    /// All matches of a search, at its clock, in whatever version answers.
    pub fn of_search(search: &SearchRequest) -> Self {
        Self {
            filter: search.filter.clone(),
            include_pending: search.include_pending,
            now_us: search.now_us,
            ..Self::new(&search.index)
        }
    }

    pub fn validate(&self) -> Result<()> {
        self.filter.as_ref().map_or(Ok(()), Filter::validate)
    }
}

impl TryFrom<wire::Consistency> for Option<Consistency> {
    type Error = Error;

    fn try_from(consistency: wire::Consistency) -> Result<Self> {
        use wire::consistency::Kind;
        Ok(consistency.kind.map(|kind| match kind {
            Kind::Token(token) => Consistency::Token(OpaqueBytes(token)),
            Kind::PostgresXid(xid) => Consistency::PostgresXid(xid),
        }))
    }
}

impl From<Consistency> for wire::Consistency {
    fn from(consistency: Consistency) -> Self {
        use wire::consistency::Kind;
        let kind = match consistency {
            Consistency::Token(OpaqueBytes(token)) => Kind::Token(token),
            Consistency::PostgresXid(xid) => Kind::PostgresXid(xid),
        };
        Self { kind: Some(kind) }
    }
}

fn consistency(wire: Option<wire::Consistency>) -> Result<Option<Consistency>> {
    wire.map_or(Ok(None), TryInto::try_into)
}

impl From<SearchRequest> for wire::SearchRequest {
    fn from(request: SearchRequest) -> Self {
        Self {
            index: request.index,
            filter: request.filter.as_ref().map(Into::into),
            sort: request
                .sort
                .into_iter()
                .map(|sort| wire::Sort { field: sort.field, descending: sort.descending })
                .collect(),
            limit: request.limit,
            cursor: request.cursor.map(|cursor| cursor.0).unwrap_or_default(),
            fields: request.fields.names(),
            include_pending: request.include_pending,
            now_us: request.now_us,
            consistency: request.consistency.map(Into::into),
            count: request.count,
            filter_text: String::new(),
            sort_text: String::new(),
            count_up_to: request.count_up_to,
            distinct: request.distinct.unwrap_or_default(),
        }
    }
}

impl TryFrom<wire::GetRequest> for GetRequest {
    type Error = Error;

    fn try_from(wire: wire::GetRequest) -> Result<Self> {
        let request = Self {
            index: wire.index,
            ids: wire.ids,
            fields: if wire.fields.is_empty() { Fields::All } else { Fields::from_names(wire.fields) },
            include_pending: wire.include_pending,
            now_us: wire.now_us,
            consistency: consistency(wire.consistency)?,
        };
        request.validate()?;
        Ok(request)
    }
}

impl From<GetRequest> for wire::GetRequest {
    fn from(request: GetRequest) -> Self {
        Self {
            index: request.index,
            ids: request.ids,
            fields: request.fields.names(),
            include_pending: request.include_pending,
            now_us: request.now_us,
            consistency: request.consistency.map(Into::into),
        }
    }
}

impl From<CountRequest> for wire::CountRequest {
    fn from(request: CountRequest) -> Self {
        Self {
            index: request.index,
            filter: request.filter.as_ref().map(Into::into),
            include_pending: request.include_pending,
            now_us: request.now_us,
            consistency: request.consistency.map(Into::into),
            filter_text: String::new(),
            up_to: request.up_to,
        }
    }
}
