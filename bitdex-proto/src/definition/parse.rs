//! The YAML tree → the definition as it is written: every key known, every value of the right kind; names are not
//! resolved yet. A part with a mistake is left out as `None`, so that the rest can still be checked.

use super::{
    Table,
    error::{Errors, Position},
    lexer::{self, Expression},
    yaml::{At, Node},
};
use crate::{
    query::text::KEYWORDS,
    schema::Function,
    value::{FieldType, Literal, Value},
};

#[derive(Debug, Default)]
pub(super) struct Written {
    pub index: Option<At<String>>,
    pub document: Option<WrittenTable>,
    pub fields: Vec<WrittenField>,
    pub lookups: Vec<WrittenLookup>,
    pub members: Vec<WrittenMember>,
    pub derived: Vec<WrittenDerived>,
    pub metrics: Vec<WrittenMetrics>,
    pub external: Vec<WrittenField>,
    pub visible_at: Option<At<String>>,
    /// Name and text.
    pub filters: Vec<(At<String>, At<String>)>,
}

#[derive(Debug, Default)]
pub(super) struct WrittenTable {
    pub line: usize,
    pub table: Option<Table>,
    pub key: Option<At<String>>,
    pub where_: Option<String>,
}

#[derive(Debug)]
pub(super) struct WrittenField {
    pub name: At<String>,
    pub ty: Option<FieldType>,
    pub filter: Option<At<bool>>,
    pub sort: Option<At<bool>>,
    pub sql: Option<String>,
    pub default: Option<Value>,
    pub many: bool,
}

impl WrittenField {
    pub(super) fn filters(&self) -> bool {
        self.filter.as_ref().is_some_and(|flag| flag.value)
    }

    pub(super) fn sorts(&self) -> bool {
        self.sort.as_ref().is_some_and(|flag| flag.value)
    }
}

#[derive(Debug)]
pub(super) struct WrittenLookup {
    pub name: At<String>,
    pub table: WrittenTable,
    pub by: Option<At<String>>,
    pub fields: Vec<WrittenField>,
}

#[derive(Debug)]
pub(super) struct WrittenMember {
    pub name: At<String>,
    pub filter: bool,
    pub kind: WrittenMemberKind,
}

#[derive(Debug)]
pub(super) enum WrittenMemberKind {
    Table { table: WrittenTable, value: Option<String>, ty: Option<FieldType> },
    Through { from: Option<At<String>>, through: Option<At<String>> },
}

#[derive(Debug)]
pub(super) struct WrittenDerived {
    pub name: At<String>,
    pub function: Option<Function>,
    pub inputs: Vec<At<String>>,
    pub filter: bool,
    pub sort: bool,
}

#[derive(Debug)]
pub(super) struct WrittenMetrics {
    pub name: At<String>,
    pub table: Option<String>,
    pub key: Option<String>,
    pub inserted_at: Option<String>,
    pub where_: Option<String>,
    pub fields: Vec<WrittenField>,
}

/// One mapping of the file, of which each key is asked for by name; what was not asked for is unknown.
struct Section<'n> {
    what: String,
    at: Position,
    entries: &'n [(At<String>, At<Node>)],
    known: Vec<&'static str>,
}

impl<'n> Section<'n> {
    fn open(node: &'n At<Node>, what: impl Into<String>, errors: &mut Errors) -> Option<Self> {
        let what = what.into();
        match &node.value {
            Node::Map(entries) => Some(Self { what, at: node.at, entries, known: Vec::new() }),
            other => {
                errors.add(node.at, format!("{what} must be a mapping, not {}", other.describe()));
                None
            }
        }
    }

    fn get(&mut self, key: &'static str) -> Option<&'n At<Node>> {
        self.known.push(key);
        self.entries.iter().find(|(known, _)| known.value == key).map(|(_, node)| node)
    }

    /// Reports where `key` is missing; what reads the value later makes it known.
    fn must_have(&mut self, key: &str, remedy: &str, errors: &mut Errors) {
        if !self.entries.iter().any(|(known, _)| known.value == key) {
            errors.add(self.at, format!("{} has no `{key}`: {remedy}", self.what));
        }
    }

    fn text(&mut self, key: &'static str, errors: &mut Errors) -> Option<At<String>> {
        let node = self.get(key)?;
        text(node, &format!("`{key}` of {}", self.what), errors)
    }

    fn flag(&mut self, key: &'static str, errors: &mut Errors) -> Option<At<bool>> {
        let node = self.get(key)?;
        if let Node::Bool(value) = node.value {
            return Some(At { value, at: node.at });
        }
        errors.add(node.at, format!("`{key}` of {} must be true or false, not {}", self.what, node.value.describe()));
        None
    }

    fn expression(&mut self, key: &'static str, errors: &mut Errors) -> Option<String> {
        let text = self.text(key, errors)?;
        match Expression::parse(&text.value) {
            Ok(expression) => Some(expression.sql),
            Err(error) => {
                errors.add(text.at, format!("`{key}` of {}: {error}", self.what));
                None
            }
        }
    }

    /// The entries of a mapping of named things under `key`, in the order of the file.
    fn named(&mut self, key: &'static str, errors: &mut Errors) -> &'n [(At<String>, At<Node>)] {
        match self.get(key) {
            None | Some(At { value: Node::Null, .. }) => &[],
            Some(node) => Section::open(node, format!("`{key}`"), errors).map_or(&[], |section| section.entries),
        }
    }

    /// Reports the keys that nobody asked for.
    fn finish(self, errors: &mut Errors) {
        for (key, _) in self.entries {
            if !self.known.contains(&key.value.as_str()) {
                let known = self.known.join(", ");
                errors.add(key.at, format!("{} has no option `{}`: it takes {known}", self.what, key.value));
            }
        }
    }
}

fn text(node: &At<Node>, what: &str, errors: &mut Errors) -> Option<At<String>> {
    if let Node::Text(value) = &node.value {
        return Some(At { value: value.clone(), at: node.at });
    }
    errors.add(node.at, format!("{what} must be text, not {}", node.value.describe()));
    None
}

/// Reads the whole file.
pub(super) fn parse(root: &At<Node>, errors: &mut Errors) -> Written {
    let Some(mut section) = Section::open(root, "the definition", errors) else {
        return Written::default();
    };
    section.must_have("index", "give the index a name", errors);
    let index = section.text("index", errors);
    section.must_have("document", "say which table holds the documents: { table: …, key: … }", errors);
    let document =
        section.get("document").and_then(|node| Section::open(node, "document", errors)).map(|mut section| {
            let table = postgres_table(&mut section, errors);
            section.finish(errors);
            table
        });
    let fields = fields(&mut section, FieldKind::Postgres, errors);
    let lookups = section.named("lookups", errors).iter().filter_map(|entry| lookup(entry, errors)).collect();
    let members = section.named("members", errors).iter().filter_map(|entry| member(entry, errors)).collect();
    let derived = section.named("derived", errors).iter().filter_map(|entry| derived(entry, errors)).collect();
    let metrics = section.named("metrics", errors).iter().filter_map(|entry| metrics(entry, errors)).collect();
    let external =
        section.named("external", errors).iter().filter_map(|e| field(e, FieldKind::External, errors)).collect();
    let visible_at = section.text("visible_at", errors);
    let filters = section.named("filters", errors).iter().filter_map(|entry| named_filter(entry, errors)).collect();
    section.finish(errors);
    Written { index, document, fields, lookups, members, derived, metrics, external, visible_at, filters }
}

fn named_filter((key, node): &(At<String>, At<Node>), errors: &mut Errors) -> Option<(At<String>, At<String>)> {
    name(key, errors);
    if KEYWORDS.contains(&key.value.as_str()) {
        errors.add(key.at, format!("filter {0}: {0} is a word of the filters' grammar: take another name", key.value));
    }
    Some((key.clone(), text(node, &format!("filter {}", key.value), errors)?))
}

/// A name that is unquoted SQL, a column alias and part of requests at once.
fn name(name: &At<String>, errors: &mut Errors) {
    let text = &name.value;
    let valid = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        && text.len() <= 63;
    if !valid {
        errors.add(
            name.at,
            format!("{text:?} is no name: use letters, digits and _, at most 63, not starting with a digit"),
        );
    }
}

fn postgres_table(section: &mut Section<'_>, errors: &mut Errors) -> WrittenTable {
    section.must_have("table", "name the table as in SQL, e.g. image or '\"Image\"'", errors);
    let table = section.text("table", errors).and_then(|text| table(&text, errors));
    section.must_have("key", "name the integer column that is the key", errors);
    let key = column(section, "key", errors);
    WrittenTable { line: section.at.line, table, key, where_: section.expression("where", errors) }
}

fn table(text: &At<String>, errors: &mut Errors) -> Option<Table> {
    match lexer::parse_name(&text.value).as_deref() {
        Ok([name]) => Some(Table { schema: "public".into(), name: name.clone() }),
        Ok([schema, name]) => Some(Table { schema: schema.clone(), name: name.clone() }),
        Ok(_) => {
            errors.add(text.at, format!("table {} has too many parts: at most schema.table", text.value));
            None
        }
        Err(error) => {
            errors.add(text.at, format!("table: {error}"));
            None
        }
    }
}

/// A plain column under `key`.
fn column(section: &mut Section<'_>, key: &'static str, errors: &mut Errors) -> Option<At<String>> {
    let text = section.text(key, errors)?;
    match lexer::parse_name(&text.value).as_deref() {
        Ok([name]) => Some(At { value: name.clone(), at: text.at }),
        _ => {
            errors.add(
                text.at,
                format!(
                    "`{key}` of {} must be a plain column, not {:?}: write it as in SQL, e.g. id or '\"imageId\"'",
                    section.what, text.value
                ),
            );
            None
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FieldKind {
    Postgres,
    Metric,
    External,
}

fn fields(section: &mut Section<'_>, kind: FieldKind, errors: &mut Errors) -> Vec<WrittenField> {
    section.named("fields", errors).iter().filter_map(|entry| field(entry, kind, errors)).collect()
}

fn field((key, node): &(At<String>, At<Node>), kind: FieldKind, errors: &mut Errors) -> Option<WrittenField> {
    name(key, errors);
    let mut section = Section::open(node, format!("field {}", key.value), errors)?;
    let ty = field_type(&mut section, errors);
    let mut written = WrittenField {
        name: key.clone(),
        ty,
        filter: section.flag("filter", errors),
        sort: section.flag("sort", errors),
        sql: None,
        default: None,
        many: false,
    };
    match kind {
        FieldKind::Postgres => written.sql = section.expression("sql", errors),
        FieldKind::Metric => {
            section.must_have("sql", "give the aggregate in ClickHouse SQL, e.g. sum(delta)", errors);
            written.sql = clickhouse_expression(&mut section, "sql", errors);
            if let Some(node) = section.get("default") {
                written.default = default(node, ty, &key.value, errors);
            }
        }
        FieldKind::External => {
            written.many = section.flag("many", errors).is_some_and(|flag| flag.value);
            if let (true, Some(At { value: true, at })) = (written.many, &written.sort) {
                errors.add(*at, format!("field {} holds a set, which has no order: remove `sort`", key.value));
            }
        }
    }
    section.finish(errors);
    Some(written)
}

fn field_type(section: &mut Section<'_>, errors: &mut Errors) -> Option<FieldType> {
    const TYPES: &str = "int, decimal(2), float, bool, timestamp or string";
    section.must_have("type", &format!("give one of {TYPES}"), errors);
    let text = section.text("type", errors)?;
    let scale = text.value.strip_prefix("decimal(").and_then(|rest| rest.strip_suffix(')'));
    let ty = match (text.value.as_str(), scale) {
        ("int", _) => FieldType::Int,
        ("float", _) => FieldType::Float,
        ("bool", _) => FieldType::Bool,
        ("timestamp", _) => FieldType::Timestamp,
        ("string", _) => FieldType::String,
        (_, Some(scale)) => match scale.trim().parse() {
            Ok(scale @ 0..=18) => FieldType::Decimal(scale),
            _ => {
                errors.add(text.at, format!("{}: decimal({scale}) needs a scale of 0 to 18", section.what));
                return None;
            }
        },
        ("decimal", _) => {
            errors.add(text.at, format!("{}: a decimal needs a scale, e.g. decimal(2)", section.what));
            return None;
        }
        (other, _) => {
            errors.add(text.at, format!("{}: unknown type {other:?}: give one of {TYPES}", section.what));
            return None;
        }
    };
    Some(ty)
}

fn default(node: &At<Node>, ty: Option<FieldType>, field: &str, errors: &mut Errors) -> Option<Value> {
    let literal = match &node.value {
        Node::Null => return None,
        Node::Bool(value) => Literal::Bool(*value),
        Node::Int(value) => Literal::Int(*value),
        Node::Float(value) => Literal::Float(*value),
        Node::Text(value) => Literal::Text(value.clone()),
        other => {
            errors.add(node.at, format!("`default` of field {field} must be a value, not {}", other.describe()));
            return None;
        }
    };
    literal
        .to_value(ty?, format_args!("`default` of field {field}"))
        .map_err(|error| errors.add(node.at, error.to_string()))
        .ok()
}

fn lookup((key, node): &(At<String>, At<Node>), errors: &mut Errors) -> Option<WrittenLookup> {
    name(key, errors);
    let mut section = Section::open(node, format!("lookup {}", key.value), errors)?;
    let table = postgres_table(&mut section, errors);
    let by = section.text("by", errors);
    let fields = fields(&mut section, FieldKind::Postgres, errors);
    if fields.is_empty() {
        errors.add(key.at, format!("lookup {} has no fields: list them under `fields`, or remove it", key.value));
    }
    section.finish(errors);
    Some(WrittenLookup { name: key.clone(), table: WrittenTable { line: key.at.line, ..table }, by, fields })
}

fn member((key, node): &(At<String>, At<Node>), errors: &mut Errors) -> Option<WrittenMember> {
    name(key, errors);
    let mut section = Section::open(node, format!("member field {}", key.value), errors)?;
    let filter = section.flag("filter", errors).is_some_and(|flag| flag.value);
    let through = section.entries.iter().any(|(key, _)| matches!(key.value.as_str(), "from" | "through"));
    let kind = if through {
        section.must_have("from", "name the member field whose values are looked up", errors);
        let from = section.text("from", errors);
        section.must_have("through", "name a lookup's field, e.g. version.baseModel", errors);
        WrittenMemberKind::Through { from, through: section.text("through", errors) }
    } else {
        let table = postgres_table(&mut section, errors);
        section.must_have("value", "name the column that holds the value", errors);
        let value = column(&mut section, "value", errors).map(|value| value.value);
        let ty = field_type(&mut section, errors);
        WrittenMemberKind::Table { table: WrittenTable { line: key.at.line, ..table }, value, ty }
    };
    if let Some((sort, _)) = section.entries.iter().find(|(key, _)| key.value == "sort") {
        errors.add(sort.at, format!("field {} holds a set, which has no order: remove `sort`", key.value));
        section.known.push("sort");
    } else {
        section.finish(errors);
    }
    Some(WrittenMember { name: key.clone(), filter, kind })
}

fn derived((key, node): &(At<String>, At<Node>), errors: &mut Errors) -> Option<WrittenDerived> {
    const FUNCTIONS: [(&str, Function); 4] = [
        ("greatest", Function::Greatest),
        ("least", Function::Least),
        ("coalesce", Function::Coalesce),
        ("exists", Function::Exists),
    ];
    name(key, errors);
    let mut section = Section::open(node, format!("derived field {}", key.value), errors)?;
    let given: Vec<_> =
        FUNCTIONS.into_iter().filter_map(|(name, function)| Some((name, function, section.get(name)?))).collect();
    let (function, inputs) = match given.as_slice() {
        [(name, function, node)] => {
            let inputs = inputs(node, name, &key.value, errors);
            if *function == Function::Exists && inputs.len() > 1 {
                errors.add(node.at, format!("`exists` of field {} takes one field", key.value));
            }
            (Some(*function), inputs)
        }
        _ => {
            errors.add(
                key.at,
                format!("derived field {} needs exactly one of greatest, least, coalesce, exists", key.value),
            );
            (None, Vec::new())
        }
    };
    let filter = section.flag("filter", errors).is_some_and(|flag| flag.value);
    let sort = section.flag("sort", errors).is_some_and(|flag| flag.value);
    section.finish(errors);
    Some(WrittenDerived { name: key.clone(), function, inputs, filter, sort })
}

/// One field or a list of them.
fn inputs(node: &At<Node>, function: &str, field: &str, errors: &mut Errors) -> Vec<At<String>> {
    let what = format!("`{function}` of field {field}");
    match &node.value {
        Node::List(nodes) if nodes.is_empty() => {
            errors.add(node.at, format!("{what} needs at least one field"));
            Vec::new()
        }
        Node::List(nodes) => nodes.iter().filter_map(|node| text(node, &what, errors)).collect(),
        _ => text(node, &what, errors).into_iter().collect(),
    }
}

fn metrics((key, node): &(At<String>, At<Node>), errors: &mut Errors) -> Option<WrittenMetrics> {
    name(key, errors);
    let mut section = Section::open(node, format!("metrics {}", key.value), errors)?;
    section.must_have("table", "name the ClickHouse table", errors);
    let table = clickhouse_name(&mut section, "table", 2, errors)
        .map(|parts| parts.iter().map(|part| super::clickhouse::quote(part)).collect::<Vec<_>>().join("."));
    section.must_have("key", "name the column that holds the document's key", errors);
    let column = |key, section: &mut Section<'_>, errors: &mut Errors| {
        clickhouse_name(section, key, 1, errors).map(|parts| parts.concat())
    };
    let written = WrittenMetrics {
        name: key.clone(),
        table,
        key: column("key", &mut section, errors),
        inserted_at: column("inserted_at", &mut section, errors),
        where_: clickhouse_expression(&mut section, "where", errors),
        fields: fields(&mut section, FieldKind::Metric, errors),
    };
    if written.fields.is_empty() {
        errors.add(key.at, format!("metrics {} has no fields: list them under `fields`, or remove it", key.value));
    }
    section.finish(errors);
    Some(written)
}

fn clickhouse_name(
    section: &mut Section<'_>,
    key: &'static str,
    most: usize,
    errors: &mut Errors,
) -> Option<Vec<String>> {
    let text = section.text(key, errors)?;
    let parts = super::clickhouse::parse_name(&text.value).filter(|parts| parts.len() <= most);
    if parts.is_none() {
        errors.add(text.at, format!("`{key}` of {}: {:?} is no ClickHouse name", section.what, text.value));
    }
    parts
}

fn clickhouse_expression(section: &mut Section<'_>, key: &'static str, errors: &mut Errors) -> Option<String> {
    let text = section.text(key, errors)?;
    match super::clickhouse::check_expression(&text.value) {
        Ok(sql) => Some(sql),
        Err(error) => {
            errors.add(text.at, format!("`{key}` of {}: {error}", section.what));
            None
        }
    }
}
