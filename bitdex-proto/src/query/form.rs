//! Filters and sorts as they come: structured, or as text.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use serde_json::Value as Json;

use super::{CountRequest, FacetRequest, Fields, Filter, MAX_SORTS, OpaqueBytes, SearchRequest, Sort, consistency};
use crate::{Error, Result, schema::Schema, wire};

/// A filter as it comes. In JSON an object is structured, a string is text, and a list is Meilisearch's: texts of which
/// all must hold, and among them lists of texts of which any must.
#[derive(Debug, Clone, PartialEq)]
pub enum FilterForm {
    Structured(Filter),
    Text(String),
    All(Vec<Vec<String>>),
}

/// A sort as it comes. In JSON: a list of objects and texts, or one text.
#[derive(Debug, Clone, PartialEq)]
pub enum SortForm {
    Structured(Vec<Sort>),
    /// Each may have several keys.
    Texts(Vec<String>),
}

impl Default for SortForm {
    fn default() -> Self {
        Self::Structured(Vec::new())
    }
}

impl FilterForm {
    pub fn resolve(self, schema: &Schema) -> Result<Filter> {
        let filter = match self {
            Self::Structured(filter) => filter,
            Self::Text(text) => return Filter::parse(&text, schema),
            Self::All(all) => {
                let any = |texts: &Vec<String>| {
                    let mut filters =
                        texts.iter().map(|text| Filter::parse(text, schema)).collect::<Result<Vec<_>>>()?;
                    Ok(if filters.len() == 1 { filters.remove(0) } else { Filter::Or(filters) })
                };
                Filter::And(all.iter().map(any).collect::<Result<_>>()?)
            }
        };
        filter.validate()?;
        Ok(filter)
    }

    fn from_wire(filter: Option<&wire::Filter>, text: String) -> Result<Option<Self>> {
        match (filter, text.is_empty()) {
            (Some(_), false) => Err(Error::invalid("give `filter` or `filter_text`, not both")),
            (Some(filter), true) => Filter::try_from(filter).map(Self::Structured).map(Some),
            (None, false) => Ok(Some(Self::Text(text))),
            (None, true) => Ok(None),
        }
    }
}

impl SortForm {
    pub fn resolve(self, schema: &Schema) -> Result<Vec<Sort>> {
        match self {
            Self::Structured(sorts) => Ok(sorts),
            Self::Texts(texts) => {
                let mut sorts = Vec::new();
                for text in texts {
                    sorts.extend(Sort::parse(&text, schema)?);
                    if sorts.len() > MAX_SORTS {
                        return Err(Error::invalid(format!("more than {MAX_SORTS} sort keys")));
                    }
                }
                Ok(sorts)
            }
        }
    }
}

impl From<Filter> for FilterForm {
    fn from(filter: Filter) -> Self {
        Self::Structured(filter)
    }
}

impl<'de> Deserialize<'de> for FilterForm {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Json::deserialize(deserializer)? {
            Json::String(text) => Ok(Self::Text(text)),
            Json::Array(list) => {
                let text = |json: Json| match json {
                    Json::String(text) => Ok(text),
                    other => Err(D::Error::custom(format!("a list of filters has texts, not {other}"))),
                };
                let any = |json: Json| match json {
                    Json::Array(texts) => texts.into_iter().map(text).collect::<Result<Vec<_>, _>>(),
                    one => text(one).map(|text| vec![text]),
                };
                list.into_iter().map(any).collect::<Result<_, _>>().map(Self::All)
            }
            json => Filter::from_json(&json).map(Self::Structured).map_err(D::Error::custom),
        }
    }
}

impl Serialize for FilterForm {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Structured(filter) => filter.serialize(serializer),
            Self::Text(text) => text.serialize(serializer),
            Self::All(all) => all.serialize(serializer),
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum SortJson {
    Text(String),
    List(Vec<SortKeyJson>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum SortKeyJson {
    Text(String),
    Structured(Sort),
}

impl<'de> Deserialize<'de> for SortForm {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = SortJson::deserialize(deserializer).map_err(|_| {
            D::Error::custom(
                "`sort` takes a list of {\"field\": \"sortAt\", \"descending\": true}, or of texts as in \"sortAt:desc\"",
            )
        })?;
        let list = match json {
            SortJson::Text(text) => return Ok(Self::Texts(vec![text])),
            SortJson::List(list) => list,
        };
        let texts = list.iter().filter(|key| matches!(key, SortKeyJson::Text(_))).count();
        if texts == 0 {
            let sort = |key| match key {
                SortKeyJson::Structured(sort) => Some(sort),
                SortKeyJson::Text(_) => None,
            };
            return Ok(Self::Structured(list.into_iter().filter_map(sort).collect()));
        }
        let text = |key| match key {
            SortKeyJson::Text(text) => text,
            SortKeyJson::Structured(sort) => format!("{}:{}", sort.field, if sort.descending { "desc" } else { "asc" }),
        };
        Ok(Self::Texts(list.into_iter().map(text).collect()))
    }
}

impl SearchRequest<FilterForm, SortForm> {
    /// Reads text against the schema, and checks what needs no more than the request.
    pub fn resolve(self, schema: &Schema) -> Result<SearchRequest> {
        let request = SearchRequest {
            index: self.index,
            filter: self.filter.map(|filter| filter.resolve(schema)).transpose()?,
            sort: self.sort.resolve(schema)?,
            limit: self.limit,
            cursor: self.cursor,
            fields: self.fields,
            include_pending: self.include_pending,
            now_us: self.now_us,
            consistency: self.consistency,
            count: self.count,
            count_up_to: self.count_up_to,
            distinct: self.distinct,
        };
        request.validate()?;
        Ok(request)
    }
}

impl CountRequest<FilterForm> {
    /// Reads text against the schema, and checks what needs no more than the request.
    pub fn resolve(self, schema: &Schema) -> Result<CountRequest> {
        let request = CountRequest {
            index: self.index,
            filter: self.filter.map(|filter| filter.resolve(schema)).transpose()?,
            include_pending: self.include_pending,
            now_us: self.now_us,
            consistency: self.consistency,
            up_to: self.up_to,
        };
        request.validate()?;
        Ok(request)
    }
}

impl FacetRequest<FilterForm> {
    /// Reads text against the schema, and checks what needs no more than the request.
    pub fn resolve(self, schema: &Schema) -> Result<FacetRequest> {
        let request = FacetRequest {
            index: self.index,
            filter: self.filter.map(|filter| filter.resolve(schema)).transpose()?,
            facets: self.facets,
            include_pending: self.include_pending,
            now_us: self.now_us,
            consistency: self.consistency,
        };
        request.validate()?;
        Ok(request)
    }
}

impl TryFrom<wire::SearchRequest> for SearchRequest<FilterForm, SortForm> {
    type Error = Error;

    fn try_from(wire: wire::SearchRequest) -> Result<Self> {
        let sort = match (wire.sort.is_empty(), wire.sort_text.is_empty()) {
            (false, false) => return Err(Error::invalid("give `sort` or `sort_text`, not both")),
            (true, false) => SortForm::Texts(vec![wire.sort_text]),
            (_, true) => SortForm::Structured(
                wire.sort.into_iter().map(|sort| Sort { field: sort.field, descending: sort.descending }).collect(),
            ),
        };
        Ok(Self {
            index: wire.index,
            filter: FilterForm::from_wire(wire.filter.as_ref(), wire.filter_text)?,
            sort,
            limit: wire.limit,
            cursor: (!wire.cursor.is_empty()).then_some(OpaqueBytes(wire.cursor)),
            fields: Fields::from_names(wire.fields),
            include_pending: wire.include_pending,
            now_us: wire.now_us,
            consistency: consistency(wire.consistency)?,
            count: wire.count,
            count_up_to: wire.count_up_to,
            distinct: (!wire.distinct.is_empty()).then_some(wire.distinct),
        })
    }
}

impl TryFrom<wire::CountRequest> for CountRequest<FilterForm> {
    type Error = Error;

    fn try_from(wire: wire::CountRequest) -> Result<Self> {
        Ok(Self {
            index: wire.index,
            filter: FilterForm::from_wire(wire.filter.as_ref(), wire.filter_text)?,
            include_pending: wire.include_pending,
            now_us: wire.now_us,
            consistency: consistency(wire.consistency)?,
            up_to: wire.up_to,
        })
    }
}

impl TryFrom<wire::FacetRequest> for FacetRequest<FilterForm> {
    type Error = Error;

    fn try_from(wire: wire::FacetRequest) -> Result<Self> {
        Ok(Self {
            index: wire.index,
            filter: FilterForm::from_wire(wire.filter.as_ref(), wire.filter_text)?,
            facets: wire.facets.into_iter().map(Into::into).collect(),
            include_pending: wire.include_pending,
            now_us: wire.now_us,
            consistency: consistency(wire.consistency)?,
        })
    }
}
