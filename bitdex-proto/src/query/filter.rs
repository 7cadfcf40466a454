//! Filters: a tree of tests of single fields, two-valued (a comparison with null is false, a negation is the
//! complement).

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use serde_json::{Map, Number, Value as Json, json};

use crate::{
    Error, Result,
    names::suggestion,
    schema::{Field, NamedFilter, Schema},
    value::{FieldType, Literal, parse_offset},
    wire,
};

/// Levels of a filter. The wire's decoder and JSON's stop soon above it, so a filter never overflows a stack.
pub(super) const MAX_DEPTH: usize = 40;
/// Values of all lists of a filter together; those of named filters count as often as they are named.
const MAX_VALUES: usize = 100_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparator {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Filter {
    /// All of them; true where empty.
    And(Vec<Filter>),
    /// Any of them; false where empty.
    Or(Vec<Filter>),
    Not(Box<Filter>),
    /// On a member field: any of its values compares so (`Ne`: the complement of `Eq`).
    Compare {
        field: String,
        comparator: Comparator,
        value: Literal,
    },
    /// Any of the values (`all`: each of them, member fields only); `negated`: the complement.
    In {
        field: String,
        values: Vec<Literal>,
        negated: bool,
        all: bool,
    },
    IsNull {
        field: String,
    },
    /// A filter of the definition.
    Named {
        name: String,
    },
}

impl Filter {
    pub fn eq(field: &str, value: Literal) -> Self {
        Self::Compare { field: field.into(), comparator: Comparator::Eq, value }
    }

    pub fn any_of(field: &str, values: Vec<Literal>) -> Self {
        Self::In { field: field.into(), values, negated: false, all: false }
    }

    /// Whether the answer depends on the clock.
    pub fn is_relative(&self) -> bool {
        let now = |literal: &Literal| matches!(literal, Literal::Now { .. });
        match self {
            Self::And(filters) | Self::Or(filters) => filters.iter().any(Self::is_relative),
            Self::Not(filter) => filter.is_relative(),
            Self::Compare { value, .. } => now(value),
            Self::In { values, .. } => values.iter().any(now),
            Self::IsNull { .. } | Self::Named { .. } => false,
        }
    }

    /// Whether it refers to filters of the definition.
    pub fn has_names(&self) -> bool {
        match self {
            Self::And(filters) | Self::Or(filters) => filters.iter().any(Self::has_names),
            Self::Not(filter) => filter.has_names(),
            Self::Named { .. } => true,
            Self::Compare { .. } | Self::In { .. } | Self::IsNull { .. } => false,
        }
    }

    /// With what the definition says in place of each name.
    pub fn expanded(&self, schema: &Schema) -> Result<Self> {
        let list = |filters: &[Self]| filters.iter().map(|filter| filter.expanded(schema)).collect::<Result<_>>();
        Ok(match self {
            Self::And(filters) => Self::And(list(filters)?),
            Self::Or(filters) => Self::Or(list(filters)?),
            Self::Not(filter) => Self::Not(Box::new(filter.expanded(schema)?)),
            Self::Named { name } => named(name, schema)?.filter.clone(),
            Self::Compare { .. } | Self::In { .. } | Self::IsNull { .. } => self.clone(),
        })
    }

    /// What all has to be true for it to be true.
    pub fn conjuncts(&self) -> Vec<&Self> {
        match self {
            Self::And(filters) => filters.iter().flat_map(Self::conjuncts).collect(),
            filter => vec![filter],
        }
    }

    /// Tests and values: what it costs to look at all of it.
    pub(crate) fn size(&self) -> usize {
        match self {
            Self::And(filters) | Self::Or(filters) => filters.iter().map(Self::size).sum::<usize>() + 1,
            Self::Not(filter) => filter.size() + 1,
            Self::In { values, .. } => values.len() + 1,
            Self::Compare { .. } | Self::IsNull { .. } | Self::Named { .. } => 1,
        }
    }

    /// Checks the limits that need no schema.
    pub fn validate(&self) -> Result<()> {
        fn walk(filter: &Filter, depth: usize, values: &mut usize) -> Result<()> {
            if depth > MAX_DEPTH {
                return Err(too_deep());
            }
            match filter {
                Filter::And(filters) | Filter::Or(filters) => {
                    filters.iter().try_for_each(|filter| walk(filter, depth + 1, values))
                }
                Filter::Not(filter) => walk(filter, depth + 1, values),
                Filter::In { values: list, .. } => {
                    *values += list.len();
                    if *values > MAX_VALUES {
                        return Err(Error::invalid(format!("a filter lists more than {MAX_VALUES} values")));
                    }
                    Ok(())
                }
                Filter::Compare { .. } | Filter::IsNull { .. } | Filter::Named { .. } => Ok(()),
            }
        }
        walk(self, 1, &mut 0)
    }

    /// Checks fields, names and the types of values against the schema.
    pub fn check(&self, schema: &Schema) -> Result<()> {
        self.check_within(schema, &mut 0)
    }

    /// `size` is that of all named filters so far.
    fn check_within(&self, schema: &Schema, size: &mut usize) -> Result<()> {
        match self {
            Self::And(filters) | Self::Or(filters) => {
                filters.iter().try_for_each(|filter| filter.check_within(schema, size))
            }
            Self::Not(filter) => filter.check_within(schema, size),
            Self::Compare { field, value, .. } => check_literal(schema.filterable(field)?.1, value),
            Self::In { field, values, all, .. } => {
                let (_, field) = schema.filterable(field)?;
                if *all {
                    check_all(field)?;
                }
                values.iter().try_for_each(|value| check_literal(field, value))
            }
            Self::IsNull { field } => schema.filterable(field).map(|_| ()),
            Self::Named { name } => {
                *size = size.saturating_add(named(name, schema)?.size);
                if *size > MAX_VALUES {
                    return Err(Error::invalid(format!(
                        "the named filters of a filter have more than {MAX_VALUES} tests and values"
                    )));
                }
                Ok(())
            }
        }
    }
}

fn too_deep() -> Error {
    Error::invalid(format!("a filter is nested deeper than {MAX_DEPTH} levels"))
}

fn named<'s>(name: &str, schema: &'s Schema) -> Result<&'s NamedFilter> {
    schema.named_filter(name).ok_or_else(|| {
        let known = schema.filters.iter().map(|filter| filter.name.as_str());
        Error::invalid(format!("the definition has no filter {name:?}{}", suggestion(name, known)))
    })
}

/// Whether a document may have all of several values of a field.
pub fn check_all(field: &Field) -> Result<()> {
    match field.many {
        true => Ok(()),
        false => Err(Error::invalid(format!("field {} holds one value: `all` needs members", field.name))),
    }
}

/// The error for a relative time where none can be.
pub fn no_timestamp(field: &Field) -> Error {
    Error::invalid(format!("field {} is no timestamp: it cannot be compared with now", field.name))
}

fn check_literal(field: &Field, literal: &Literal) -> Result<()> {
    if matches!(literal, Literal::Now { .. }) {
        if field.ty == FieldType::Timestamp {
            return Ok(());
        }
        return Err(no_timestamp(field));
    }
    literal.to_value(field.ty, format_args!("field {}", field.name)).map(|_| ())
}

impl TryFrom<&wire::Filter> for Filter {
    type Error = Error;

    fn try_from(wire: &wire::Filter) -> Result<Self> {
        fn list(filters: &wire::Filters, depth: usize) -> Result<Vec<Filter>> {
            filters.filters.iter().map(|filter| read(filter, depth + 1)).collect()
        }
        fn read(filter: &wire::Filter, depth: usize) -> Result<Filter> {
            use wire::filter::Kind;
            if depth > MAX_DEPTH {
                return Err(too_deep());
            }
            Ok(match filter.kind.as_ref().ok_or_else(|| Error::invalid("a filter without a kind"))? {
                Kind::And(filters) => Filter::And(list(filters, depth)?),
                Kind::Or(filters) => Filter::Or(list(filters, depth)?),
                Kind::Not(filter) => Filter::Not(Box::new(read(filter, depth + 1)?)),
                Kind::Compare(compare) => Filter::Compare {
                    field: compare.field.clone(),
                    comparator: Comparator::try_from(compare.operator())?,
                    value: compare
                        .value
                        .as_ref()
                        .ok_or_else(|| Error::invalid(format!("{}: a comparison without a value", compare.field)))?
                        .try_into()?,
                },
                Kind::In(list) => Filter::In {
                    field: list.field.clone(),
                    values: list.values.iter().map(Literal::try_from).collect::<Result<_>>()?,
                    negated: list.negated,
                    all: list.all,
                },
                Kind::IsNull(field) => Filter::IsNull { field: field.clone() },
                Kind::Named(name) => Filter::Named { name: name.clone() },
            })
        }
        let filter = read(wire, 1)?;
        filter.validate()?;
        Ok(filter)
    }
}

impl From<&Filter> for wire::Filter {
    fn from(filter: &Filter) -> Self {
        use wire::filter::Kind;
        let list = |filters: &[Filter]| wire::Filters { filters: filters.iter().map(Into::into).collect() };
        let kind = match filter {
            Filter::And(filters) => Kind::And(list(filters)),
            Filter::Or(filters) => Kind::Or(list(filters)),
            Filter::Not(filter) => Kind::Not(Box::new(filter.as_ref().into())),
            Filter::Compare { field, comparator, value } => Kind::Compare(wire::Comparison {
                field: field.clone(),
                operator: wire::Operator::from(*comparator).into(),
                value: Some(value.into()),
            }),
            Filter::In { field, values, negated, all } => Kind::In(wire::Membership {
                field: field.clone(),
                values: values.iter().map(Into::into).collect(),
                negated: *negated,
                all: *all,
            }),
            Filter::IsNull { field } => Kind::IsNull(field.clone()),
            Filter::Named { name } => Kind::Named(name.clone()),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<wire::Operator> for Comparator {
    type Error = Error;

    fn try_from(operator: wire::Operator) -> Result<Self> {
        Ok(match operator {
            wire::Operator::Eq => Self::Eq,
            wire::Operator::Ne => Self::Ne,
            wire::Operator::Lt => Self::Lt,
            wire::Operator::Le => Self::Le,
            wire::Operator::Gt => Self::Gt,
            wire::Operator::Ge => Self::Ge,
            wire::Operator::Unspecified => return Err(Error::invalid("a comparison without an operator")),
        })
    }
}

impl From<Comparator> for wire::Operator {
    fn from(comparator: Comparator) -> Self {
        match comparator {
            Comparator::Eq => Self::Eq,
            Comparator::Ne => Self::Ne,
            Comparator::Lt => Self::Lt,
            Comparator::Le => Self::Le,
            Comparator::Gt => Self::Gt,
            Comparator::Ge => Self::Ge,
        }
    }
}

const COMPARATORS: [(&str, Comparator); 6] = [
    ("eq", Comparator::Eq),
    ("ne", Comparator::Ne),
    ("lt", Comparator::Lt),
    ("le", Comparator::Le),
    ("gt", Comparator::Gt),
    ("ge", Comparator::Ge),
];

impl Filter {
    pub(super) fn from_json(json: &Json) -> Result<Self> {
        // serde_json itself stops at 128 levels of nesting.
        from_json(json, 1)
    }
}

impl<'de> Deserialize<'de> for Filter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_json(&Json::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl Serialize for Filter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        to_json(self).serialize(serializer)
    }
}

fn from_json(json: &Json, depth: usize) -> Result<Filter> {
    if depth > MAX_DEPTH {
        return Err(too_deep());
    }
    let object = json.as_object().ok_or_else(|| Error::invalid(format!("a filter is an object, not {json}")))?;
    let nested = |name: &str, value: &Json| {
        value
            .as_array()
            .ok_or_else(|| Error::invalid(format!("`{name}` takes a list of filters")))?
            .iter()
            .map(|filter| from_json(filter, depth + 1))
            .collect::<Result<Vec<_>>>()
    };
    if let Some(Json::String(field)) = object.get("field") {
        return test_from_json(field, object);
    }
    match object.iter().collect::<Vec<_>>().as_slice() {
        [(name, value)] if *name == "and" => nested(name, value).map(Filter::And),
        [(name, value)] if *name == "or" => nested(name, value).map(Filter::Or),
        [(name, value)] if *name == "not" => Ok(Filter::Not(Box::new(from_json(value, depth + 1)?))),
        [(name, Json::String(value))] if *name == "named" => Ok(Filter::Named { name: value.clone() }),
        _ => Err(Error::invalid(
            "a filter has one of `and`, `or`, `not`, `named`, or a `field` with one of `eq ne lt le gt ge in not_in all \
             is_null`",
        )),
    }
}

fn test_from_json(field: &str, object: &Map<String, Json>) -> Result<Filter> {
    let mut tests = object.iter().filter(|(name, _)| *name != "field");
    let (Some((name, value)), None) = (tests.next(), tests.next()) else {
        return Err(Error::invalid(format!("field {field}: give one test; combine several with `and`")));
    };
    if let Some((_, comparator)) = COMPARATORS.iter().find(|(known, _)| known == name) {
        let value = literal_from_json(field, value)?;
        return Ok(Filter::Compare { field: field.into(), comparator: *comparator, value });
    }
    match (name.as_str(), value) {
        ("in" | "not_in" | "all", Json::Array(values)) => Ok(Filter::In {
            field: field.into(),
            values: values.iter().map(|value| literal_from_json(field, value)).collect::<Result<_>>()?,
            negated: name == "not_in",
            all: name == "all",
        }),
        ("in" | "not_in" | "all", _) => Err(Error::invalid(format!("field {field}: `{name}` takes a list"))),
        ("is_null", Json::Bool(true)) => Ok(Filter::IsNull { field: field.into() }),
        ("is_null", Json::Bool(false)) => Ok(Filter::Not(Box::new(Filter::IsNull { field: field.into() }))),
        _ => Err(Error::invalid(format!("field {field}: unknown test `{name}`"))),
    }
}

fn literal_from_json(field: &str, json: &Json) -> Result<Literal> {
    let number = |number: &Number| match number.as_i64() {
        Some(int) => Ok(Literal::Int(int)),
        None if number.is_f64() => Ok(Literal::Float(number.as_f64().unwrap_or(f64::NAN))),
        None => Err(Error::invalid(format!("field {field}: {number} does not fit a 64-bit integer"))),
    };
    match json {
        Json::Number(value) => number(value),
        Json::String(text) => Ok(Literal::Text(text.clone())),
        Json::Bool(bool) => Ok(Literal::Bool(*bool)),
        Json::Null => Err(Error::invalid(format!("field {field}: compare with null by `is_null`"))),
        Json::Object(object) => match object.get("now").and_then(Json::as_str).and_then(parse_offset) {
            Some(offset_us) if object.len() == 1 => Ok(Literal::Now { offset_us }),
            _ => Err(Error::invalid(format!("field {field}: {json} is no value; a time is {{\"now\": \"-24h\"}}"))),
        },
        Json::Array(_) => Err(Error::invalid(format!("field {field}: a list needs `in`, `not_in` or `all`"))),
    }
}

fn to_json(filter: &Filter) -> Json {
    match filter {
        Filter::And(filters) => json!({ "and": filters.iter().map(to_json).collect::<Vec<_>>() }),
        Filter::Or(filters) => json!({ "or": filters.iter().map(to_json).collect::<Vec<_>>() }),
        Filter::Not(filter) => json!({ "not": to_json(filter) }),
        Filter::Compare { field, comparator, value } => {
            let name = COMPARATORS.iter().find(|(_, known)| known == comparator).map_or("eq", |(name, _)| name);
            json!({ "field": field, name: literal_to_json(value) })
        }
        Filter::In { field, values, negated, all } => {
            let values: Vec<_> = values.iter().map(literal_to_json).collect();
            match (negated, all) {
                (false, false) => json!({ "field": field, "in": values }),
                (true, false) => json!({ "field": field, "not_in": values }),
                (false, true) => json!({ "field": field, "all": values }),
                (true, true) => json!({ "not": { "field": field, "all": values } }),
            }
        }
        Filter::IsNull { field } => json!({ "field": field, "is_null": true }),
        Filter::Named { name } => json!({ "named": name }),
    }
}

fn literal_to_json(literal: &Literal) -> Json {
    match literal {
        Literal::Int(int) | Literal::TimestampUs(int) => json!(int),
        Literal::Float(float) if float.is_nan() => json!("NaN"),
        Literal::Float(float) if float.is_infinite() => json!(if *float > 0.0 { "Infinity" } else { "-Infinity" }),
        Literal::Float(float) => json!(float),
        Literal::Bool(bool) => json!(bool),
        Literal::Text(text) => json!(text),
        Literal::Decimal { unscaled, scale } => json!(crate::value::format_decimal(*unscaled, *scale)),
        Literal::Now { offset_us } => json!({ "now": format!("{offset_us}us") }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Filter, String> {
        serde_json::from_str(text).map_err(|error: serde_json::Error| error.to_string())
    }

    #[test]
    fn json_and_wire_round_trip() {
        let filter = parse(
            r#"{"and": [{"field": "nsfwLevel", "in": [1, 2]}, {"not": {"field": "type", "eq": "video"}},
                {"or": [{"field": "sortAt", "ge": {"now": "-24h"}}, {"field": "userId", "is_null": true}]},
                {"field": "tagIds", "all": [3]}, {"field": "tagIds", "not_in": [4]}, {"field": "minor", "eq": false},
                {"named": "public"}]}"#,
        )
        .unwrap();
        assert!(filter.is_relative());
        assert_eq!(Filter::try_from(&wire::Filter::from(&filter)).unwrap(), filter);
        assert_eq!(parse(&serde_json::to_string(&filter).unwrap()).unwrap(), filter);
    }

    #[test]
    fn errors_name_the_field() {
        for (text, expected) in [
            (r#"{"field": "a", "eq": null}"#, "field a: compare with null by `is_null`"),
            (r#"{"field": "a", "like": 1}"#, "field a: unknown test `like`"),
            (r#"{"field": "a", "in": 1}"#, "field a: `in` takes a list"),
            (r#"{"field": "a", "eq": 1, "ne": 2}"#, "field a: give one test"),
            (r#"{"field": "a", "eq": 9999999999999999999}"#, "field a"),
            (r#"{"field": "a", "ge": {"now": "yesterday"}}"#, "field a"),
            (r#"[1]"#, "a filter is an object"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn deep_filters_are_refused_not_overflowed() {
        let text = format!("{}{}{}", r#"{"not":"#.repeat(10_000), r#"{"field":"a","eq":1}"#, "}".repeat(10_000));
        assert!(parse(&text).is_err());
        let mut wire = wire::Filter::from(&Filter::eq("a", Literal::Int(1)));
        for _ in 0..60 {
            wire = wire::Filter { kind: Some(wire::filter::Kind::Not(Box::new(wire))) };
        }
        assert!(Filter::try_from(&wire).unwrap_err().to_string().contains("nested deeper"));
    }
}
