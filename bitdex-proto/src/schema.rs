//! What an index holds, compiled from a definition: its sources, in the order by which the wire numbers them, and its
//! fields, with how each is computed from source rows.

use crate::{
    Error, Result,
    names::suggestion,
    query::Filter,
    value::{FieldType, Value},
};

/// Position of a source in [`Schema::sources`]; the number that ops carry.
pub type SourceId = usize;
/// Position of a field in [`Schema::fields`].
pub type FieldId = usize;

/// The compiled definition. Plain data: whoever holds it may rely on every index in it being in range.
#[derive(Debug, Clone, PartialEq)]
pub struct Schema {
    pub index: String,
    /// Hash of everything that decides what the index holds; equal exactly where two definitions mean the same index.
    pub hash: String,
    /// The document source is always the first.
    pub sources: Vec<Source>,
    /// The first is the document key. Derived fields stand after their inputs.
    pub fields: Vec<Field>,
    /// A timestamp field; a document is pending while it lies in the future.
    pub visible_at: Option<FieldId>,
    /// Filters that queries may use by name. They decide nothing of what the index holds, so the hash is without them.
    pub filters: Vec<NamedFilter>,
}

/// A filter of the definition.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedFilter {
    /// None of the fields' names.
    pub name: String,
    /// As it is written.
    pub text: String,
    /// Checked against the schema, without names.
    pub filter: Filter,
    /// Its tests and values.
    pub(crate) size: usize,
}

impl NamedFilter {
    /// Reads a filter, which may use those that the schema has already.
    pub fn parse(name: &str, text: &str, schema: &Schema) -> Result<Self> {
        let filter = Filter::parse(text, schema)?;
        filter.check(schema)?;
        let filter = filter.expanded(schema)?;
        filter.validate()?;
        Ok(Self { name: name.into(), text: text.into(), size: filter.size(), filter })
    }
}

pub const DOCUMENT_SOURCE: SourceId = 0;
pub const KEY_FIELD: FieldId = 0;

/// A table or query that feeds the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// "document", or the name of the lookup, member field or metrics group.
    pub name: String,
    pub kind: SourceKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceKind {
    /// Rows by document key.
    Document { columns: Vec<Column> },
    /// Rows by their own key, any i64.
    Lookup { columns: Vec<Column> },
    /// (document, value) pairs.
    Members { ty: FieldType },
    /// Rows by document key, from ClickHouse.
    Metrics { columns: Vec<Column> },
}

impl Source {
    /// Columns of a row source; a member source has none.
    pub fn columns(&self) -> &[Column] {
        match &self.kind {
            SourceKind::Document { columns } | SourceKind::Lookup { columns } | SourceKind::Metrics { columns } => {
                columns
            }
            SourceKind::Members { .. } => &[],
        }
    }

    /// Whether bitdex-sync reads it from Postgres (and not from ClickHouse).
    pub fn is_postgres(&self) -> bool {
        !matches!(self.kind, SourceKind::Metrics { .. })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    pub ty: FieldType,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    pub name: String,
    pub ty: FieldType,
    /// A set of values rather than one.
    pub many: bool,
    pub filter: bool,
    pub sort: bool,
    pub origin: Origin,
}

/// How a field's value comes about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The document key.
    Key,
    /// A column of the document's row.
    Document { column: usize },
    /// A column of a row reached from the document's row: its column `by` (an int) is the key of the first hop's row,
    /// and so on; `column` is of the last hop's row. Null where a key is null or a row is missing.
    Lookup { by: usize, path: Path, column: usize },
    /// All values of a member source.
    Members { source: SourceId },
    /// For each value of a member source (an int): the row of the first hop with that key, and on to `column`. The
    /// distinct values that are not null.
    Through { members: SourceId, path: Path, column: usize },
    /// From other scalar fields of the same document.
    Derived { function: Function, inputs: Vec<FieldId> },
    /// A column of a metrics row; `default` where the document has no row.
    Metric { source: SourceId, column: usize, default: Option<Value> },
    /// Written by services.
    External,
}

/// A walk over lookups: `first` is reached by a given key, each further hop by a column (an int) of the row before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    pub first: SourceId,
    pub hops: Vec<Hop>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hop {
    /// Column of the row before that holds the key.
    pub by: usize,
    pub source: SourceId,
}

/// Nulls are ignored by all but [`Function::Exists`], which is true where its one input is not null.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Function {
    Greatest,
    Least,
    Coalesce,
    Exists,
}

impl Schema {
    pub fn field(&self, name: &str) -> Option<(FieldId, &Field)> {
        self.fields.iter().enumerate().find(|(_, field)| field.name == name)
    }

    /// A field that can be filtered by.
    pub fn filterable(&self, name: &str) -> Result<(FieldId, &Field)> {
        let (id, field) = self.field(name).ok_or_else(|| self.unknown_field(name))?;
        if field.filter {
            Ok((id, field))
        } else {
            Err(Error::invalid(format!(
                "field {name} cannot be filtered by: the definition does not say `filter: true`"
            )))
        }
    }

    pub fn named_filter(&self, name: &str) -> Option<&NamedFilter> {
        self.filters.iter().find(|filter| filter.name == name)
    }

    /// The error for a field that is not there; names what may have been meant.
    pub fn unknown_field(&self, name: &str) -> Error {
        let close = suggestion(name, self.fields.iter().map(|field| field.name.as_str()));
        Error::invalid(format!("unknown field {name}{close}"))
    }

    pub fn source(&self, name: &str) -> Option<(SourceId, &Source)> {
        self.sources.iter().enumerate().find(|(_, source)| source.name == name)
    }

    /// Whether any source comes from ClickHouse.
    pub fn has_metrics(&self) -> bool {
        self.sources.iter().any(|source| !source.is_postgres())
    }
}
