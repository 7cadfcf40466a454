//! The definition: one YAML file says what the index holds, and everything else is derived from it.
//!
//! [`Definition::parse`] reports every mistake with its line. What it returns is consistent: each name resolves, each
//! type fits, nothing refers to itself. Whether the tables and columns exist is for the database to say. From it come
//! the compiled [`Schema`], the SQL over Postgres (the view, reads by key, COPY by range, triggers) and the queries
//! over ClickHouse. All SQL qualifies its tables, so that it runs under an empty `search_path`, and expects the session
//! to be pinned: `TimeZone` UTC, `row_security` off, `standard_conforming_strings` on.

mod canonical;
mod clickhouse;
mod error;
mod lexer;
mod parse;
mod resolve;
mod sql;
#[cfg(test)]
mod tests;
mod triggers;
mod yaml;

use std::{fmt, path::Path, sync::Arc};

pub use clickhouse::MetricsFilter;
pub use error::{DefinitionError, DefinitionErrors, Position};
pub use sql::TableUse;
pub use triggers::{Trigger, TriggerFunction, TriggerSet};

use crate::{
    schema::{Schema, SourceId},
    value::FieldType,
};

/// A parsed and checked definition.
#[derive(Debug, Clone, PartialEq)]
pub struct Definition {
    schema: Arc<Schema>,
    document: RowSource,
    lookups: Vec<RowSource>,
    members: Vec<MemberSource>,
    metrics: Vec<MetricsSource>,
}

/// A Postgres table that is read row by row: the document's, or a lookup's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowSource {
    /// "document", or the lookup's name.
    pub name: String,
    pub table: Table,
    /// The integer column that is the key, unquoted.
    pub key: String,
    /// A condition over one row; rows for which it is not true do not exist for the index.
    pub where_: Option<String>,
    pub columns: Vec<SourceColumn>,
    /// Line of the YAML text.
    pub line: usize,
}

/// What one column of a source is read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceColumn {
    pub name: String,
    pub ty: FieldType,
    /// An expression over one row, without the cast to the type.
    pub sql: String,
    pub line: usize,
}

/// A Postgres table whose rows are (document, value) pairs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberSource {
    pub name: String,
    pub table: Table,
    /// The integer column that holds the document's key, unquoted.
    pub key: String,
    /// The column that holds the value, unquoted.
    pub value: String,
    pub ty: FieldType,
    pub where_: Option<String>,
    pub line: usize,
}

/// A ClickHouse table whose rows, grouped by key, give metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricsSource {
    pub name: String,
    /// Quoted for ClickHouse.
    pub table: String,
    /// The column that holds the document's key, unquoted.
    pub key: String,
    /// The column that tells when a row was inserted, unquoted; `None`: only whole sweeps find changes.
    pub inserted_at: Option<String>,
    /// A ClickHouse condition over single rows, before they are grouped.
    pub where_: Option<String>,
    /// Aggregate expressions in ClickHouse SQL.
    pub columns: Vec<SourceColumn>,
    pub line: usize,
}

/// A Postgres table, always with its schema. Displays quoted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Table {
    pub schema: String,
    pub name: String,
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", lexer::quote(&self.schema), lexer::quote(&self.name))
    }
}

impl MemberSource {
    /// How ops carry the value: true: in `value int8`; false: as text, in `value_text`.
    pub fn value_is_int(&self) -> bool {
        self.ty == FieldType::Int
    }
}

/// What stands behind a [`SourceId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceSpec<'d> {
    Document(&'d RowSource),
    Lookup(&'d RowSource),
    Members(&'d MemberSource),
    Metrics(&'d MetricsSource),
}

impl<'d> SourceSpec<'d> {
    pub fn name(self) -> &'d str {
        match self {
            Self::Document(source) | Self::Lookup(source) => &source.name,
            Self::Members(source) => &source.name,
            Self::Metrics(source) => &source.name,
        }
    }

    /// Line of the YAML text.
    pub fn line(self) -> usize {
        match self {
            Self::Document(source) | Self::Lookup(source) => source.line,
            Self::Members(source) => source.line,
            Self::Metrics(source) => source.line,
        }
    }

    /// The Postgres table; `None` for metrics.
    pub fn table(self) -> Option<&'d Table> {
        match self {
            Self::Document(source) | Self::Lookup(source) => Some(&source.table),
            Self::Members(source) => Some(&source.table),
            Self::Metrics(_) => None,
        }
    }
}

impl Definition {
    /// Reads a definition, or tells everything that is wrong with it.
    pub fn parse(yaml: &str) -> Result<Self, DefinitionErrors> {
        resolve::resolve(yaml)
    }

    /// Reads a definition file; an error names the file.
    pub fn load(path: impl AsRef<Path>) -> crate::Result<Self> {
        let path = path.as_ref();
        let yaml = std::fs::read_to_string(path).map_err(|error| {
            crate::Error::NotFound(format!("the definition {} cannot be read: {error}", path.display()))
        })?;
        Self::parse(&yaml)
            .map_err(|errors| crate::Error::Invalid(format!("the definition {} is wrong:\n{errors}", path.display())))
    }

    pub fn schema(&self) -> &Arc<Schema> {
        &self.schema
    }

    pub fn index(&self) -> &str {
        &self.schema.index
    }

    /// The schema in Postgres that holds the ops table and the trigger functions, unquoted; it needs no quotes.
    pub fn pg_schema(&self) -> String {
        format!("bitdex_{}", self.schema.index)
    }

    pub fn document(&self) -> &RowSource {
        &self.document
    }

    pub fn lookups(&self) -> &[RowSource] {
        &self.lookups
    }

    /// The members with a table of their own, not those through a lookup.
    pub fn members(&self) -> &[MemberSource] {
        &self.members
    }

    pub fn metrics(&self) -> &[MetricsSource] {
        &self.metrics
    }

    /// What a number of [`Schema::sources`] stands for; an error where there is no such source.
    pub fn source(&self, id: SourceId) -> crate::Result<SourceSpec<'_>> {
        let lookups = 1;
        let members = lookups + self.lookups.len();
        let metrics = members + self.members.len();
        let spec = match id {
            0 => Some(SourceSpec::Document(&self.document)),
            id if id < members => self.lookups.get(id - lookups).map(SourceSpec::Lookup),
            id if id < metrics => self.members.get(id - members).map(SourceSpec::Members),
            id => self.metrics.get(id - metrics).map(SourceSpec::Metrics),
        };
        spec.ok_or_else(|| {
            crate::Error::invalid(format!(
                "source {id} does not exist: the definition has {}",
                self.schema.sources.len()
            ))
        })
    }

    /// All sources in the order of their numbers.
    pub fn sources(&self) -> impl Iterator<Item = (SourceId, SourceSpec<'_>)> {
        std::iter::once(SourceSpec::Document(&self.document))
            .chain(self.lookups.iter().map(SourceSpec::Lookup))
            .chain(self.members.iter().map(SourceSpec::Members))
            .chain(self.metrics.iter().map(SourceSpec::Metrics))
            .enumerate()
    }
}
