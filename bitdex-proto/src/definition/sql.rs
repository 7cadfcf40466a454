//! SQL over Postgres: the view that the index equals, and the reads that feed it.
//!
//! All reads and the view share one select for each source: the key column as it is (so that its index serves), and
//! each field's expression cast to its canonical type (`int8`, `numeric`, `float8`, `bool`, `timestamptz`,
//! `text COLLATE "C"`). Expressions stand in a select over their table alone, under its own name, where nothing of ours
//! is in reach. Names of ours, aliases included, start with `$`, which no field's name does, and are quoted.

use std::{collections::BTreeMap, fmt::Write as _};

use super::{
    Definition, MemberSource, RowSource, SourceSpec, Table,
    lexer::{literal, quote},
};
use crate::{
    Error, Result,
    schema::{Function, Origin, Path, SourceId, SourceKind},
    value::FieldType,
};

/// A table and the sources that read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableUse {
    pub table: Table,
    pub sources: Vec<SourceId>,
}

/// The Postgres type that a field's values are read in.
fn canonical_type(ty: FieldType) -> &'static str {
    match ty {
        FieldType::Int => "int8",
        FieldType::Decimal(_) => "numeric",
        FieldType::Float => "float8",
        FieldType::Bool => "bool",
        FieldType::Timestamp => "timestamptz",
        FieldType::String => "text COLLATE \"C\"",
    }
}

fn canonical(sql: &str, ty: FieldType) -> String {
    format!("({sql})::{}", canonical_type(ty))
}

/// ` AND (…) IS TRUE`, or with another word in front.
fn condition(word: &str, where_: Option<&str>) -> String {
    where_.map(|sql| format!(" {word} ({sql}) IS TRUE")).unwrap_or_default()
}

/// The rows of a row source: `"$key"`, and the columns under their names.
fn rows(source: &RowSource) -> String {
    let mut sql = format!("SELECT {} AS \"$key\"", quote(&source.key));
    for column in &source.columns {
        let _ = write!(sql, ", {} AS {}", canonical(&column.sql, column.ty), quote(&column.name));
    }
    let _ = write!(sql, " FROM {}{}", source.table, condition("WHERE", source.where_.as_deref()));
    sql
}

/// The pairs of a member source: `"$key"` and `"$value"`.
fn pairs(source: &MemberSource) -> String {
    format!(
        "SELECT {} AS \"$key\", {} AS \"$value\" FROM {}{}",
        quote(&source.key),
        canonical(&quote(&source.value), source.ty),
        source.table,
        condition("WHERE", source.where_.as_deref())
    )
}

fn not_postgres(name: &str) -> Error {
    Error::invalid(format!("{name} comes from ClickHouse, not from Postgres"))
}

impl Definition {
    /// One query whose rows are the documents: the key, then every other field that comes from Postgres, in the
    /// schema's order and under its name. Members are arrays, ascending and without duplicates, null where empty.
    pub fn view_sql(&self) -> String {
        let schema = self.schema();
        let mut inner = String::from("SELECT \"$d\".\"$key\"::int8 AS ");
        let mut outer = Vec::new();
        let mut laterals = String::new();
        for (id, field) in schema.fields.iter().enumerate() {
            let name = quote(&field.name);
            let expression = match &field.origin {
                Origin::Key => {
                    inner.push_str(&name);
                    outer.push(format!("\"$v\".{name}"));
                    continue;
                }
                Origin::Document { .. } => format!("\"$d\".{name}"),
                Origin::Lookup { path, .. } => format!("{}.{name}", alias(last(path))),
                Origin::Members { source } => self.member_array(*source, None),
                Origin::Through { members, path, column } => self.member_array(*members, Some((path, *column))),
                Origin::Derived { function, inputs } => {
                    let inputs: Vec<_> = inputs.iter().map(|input| self.view_column(*input)).collect();
                    let _ = write!(
                        laterals,
                        "\nCROSS JOIN LATERAL (SELECT {} AS {name}) \"$x{id}\"",
                        derived(*function, &inputs)
                    );
                    outer.push(self.view_column(id));
                    continue;
                }
                Origin::Metric { .. } | Origin::External => continue,
            };
            let _ = write!(inner, ",\n    {expression} AS {name}");
            outer.push(format!("\"$v\".{name}"));
        }
        let _ = write!(inner, "\n  FROM ({}) \"$d\"", rows(self.document()));
        for path in self.attached_lookups() {
            inner.push_str(&path);
        }
        format!("SELECT {}\nFROM (\n  {inner}\n) \"$v\"{laterals}", outer.join(", "))
    }

    /// How the view's outer select names a field.
    fn view_column(&self, id: usize) -> String {
        let field = &self.schema().fields[id];
        let name = quote(&field.name);
        match field.origin {
            Origin::Derived { .. } => format!("\"$x{id}\".{name}"),
            _ => format!("\"$v\".{name}"),
        }
    }

    /// LEFT JOINs of the lookups whose fields are the document's, parents first.
    fn attached_lookups(&self) -> Vec<String> {
        let mut joins: BTreeMap<(usize, SourceId), String> = BTreeMap::new();
        for field in &self.schema().fields {
            let Origin::Lookup { by, path, .. } = &field.origin else { continue };
            let mut from = ("\"$d\"".to_owned(), *by, self.document());
            let hops = std::iter::once((path.first, *by)).chain(path.hops.iter().map(|hop| (hop.source, hop.by)));
            for (depth, (source, by)) in hops.enumerate() {
                let Some(lookup) = self.lookup(source) else { continue };
                from.1 = by;
                let join = format!(
                    "\n  LEFT JOIN ({}) {to} ON {to}.\"$key\" = {}.{}",
                    rows(lookup),
                    from.0,
                    column_name(from.2, from.1),
                    to = alias(source)
                );
                joins.insert((depth, source), join);
                from = (alias(source), 0, lookup);
            }
        }
        joins.into_values().collect()
    }

    fn lookup(&self, source: SourceId) -> Option<&RowSource> {
        match self.source(source) {
            Ok(SourceSpec::Lookup(lookup)) => Some(lookup),
            _ => None,
        }
    }

    /// A scalar subquery: the distinct values of a member source, or what they lead to.
    fn member_array(&self, members: SourceId, through: Option<(&Path, usize)>) -> String {
        let Ok(SourceSpec::Members(source)) = self.source(members) else { return "NULL".into() };
        let mut from = format!("({}) \"$m\"", pairs(source));
        let mut value = "\"$m\".\"$value\"".to_owned();
        if let Some((path, column)) = through {
            let mut key = value;
            let mut at = None;
            let hops =
                std::iter::once((path.first, None)).chain(path.hops.iter().map(|hop| (hop.source, Some(hop.by))));
            for (source, by) in hops {
                let Some(lookup) = self.lookup(source) else { continue };
                if let (Some(by), Some((previous, row))) = (by, at) {
                    key = format!("{}.{}", alias(previous), column_name(row, by));
                }
                let _ = write!(from, " JOIN ({}) {to} ON {to}.\"$key\" = {key}", rows(lookup), to = alias(source));
                at = Some((source, lookup));
            }
            value = at.map_or("NULL".into(), |(source, row)| format!("{}.{}", alias(source), column_name(row, column)));
        }
        format!(
            "(SELECT array_agg(DISTINCT {value} ORDER BY {value}) FROM {from} WHERE \"$m\".\"$key\" = \
             \"$d\".\"$key\" AND {value} IS NOT NULL)"
        )
    }

    /// Reads the current state of keys that ops named. An error for a metrics source.
    ///
    /// Row sources: `$1 int8[]` keys → `key int8, present bool`, then the columns in the schema's order, null where not
    /// present; one row for each element of `$1`.
    ///
    /// Member sources: `$1 int8[]` documents and `$2` their values, `int8[]` where the field is an int, else `text[]`
    /// as the triggers wrote them → `document int8, value` (canonical type), `present bool`; one row for each pair.
    pub fn read_sql(&self, source: SourceId) -> Result<String> {
        Ok(match self.source(source)? {
            SourceSpec::Document(source) | SourceSpec::Lookup(source) => {
                let mut sql = String::from("SELECT \"$k\".\"$key\" AS key, \"$t\".\"$key\" IS NOT NULL AS present");
                for column in &source.columns {
                    let _ = write!(sql, ", \"$t\".{}", quote(&column.name));
                }
                let rows = rows(source);
                let _ = write!(
                    sql,
                    " FROM unnest($1::int8[]) AS \"$k\"(\"$key\") LEFT JOIN ({rows}) \"$t\" ON \"$t\".\"$key\" = \
                     \"$k\".\"$key\""
                );
                sql
            }
            SourceSpec::Members(source) => read_members(source),
            SourceSpec::Metrics(source) => return Err(not_postgres(&source.name)),
        })
    }

    /// `COPY … TO STDOUT (FORMAT binary)` of the rows with lo ≤ key < hi; `hi` = `i64::MAX` has no upper bound, so
    /// that every key can be covered. Row sources: key int8, then the columns. Member sources: document int8, value;
    /// rows without a value are left out. No order. An error for a metrics source.
    pub fn copy_sql(&self, source: SourceId, lo: i64, hi: i64) -> Result<String> {
        let range = |key: &str| {
            // Quoted literals take the sign in, so that the lowest key is no numeric.
            let mut range = format!("{key} >= '{lo}'::int8");
            if hi < i64::MAX {
                let _ = write!(range, " AND {key} < '{hi}'::int8");
            }
            range
        };
        let select = match self.source(source)? {
            SourceSpec::Document(source) | SourceSpec::Lookup(source) => {
                let mut sql = String::from("SELECT \"$t\".\"$key\"::int8");
                for column in &source.columns {
                    let _ = write!(sql, ", \"$t\".{}", quote(&column.name));
                }
                let _ = write!(sql, " FROM ({}) \"$t\" WHERE {}", rows(source), range("\"$t\".\"$key\""));
                sql
            }
            SourceSpec::Members(source) => format!(
                "SELECT \"$t\".\"$key\"::int8, \"$t\".\"$value\" FROM ({}) \"$t\" WHERE {} AND \"$t\".\"$value\" IS NOT \
                 NULL",
                pairs(source),
                range("\"$t\".\"$key\"")
            ),
            SourceSpec::Metrics(source) => return Err(not_postgres(&source.name)),
        };
        Ok(format!("COPY ({select}) TO STDOUT (FORMAT binary)"))
    }

    /// `min int8, max int8, estimated_rows int8`: the lowest and the highest key (null where the table is empty), and
    /// Postgres' estimate of the table's rows (0 where it was never analyzed). `where` is not applied. An error for a
    /// metrics source.
    pub fn range_sql(&self, source: SourceId) -> Result<String> {
        let (table, key) = match self.source(source)? {
            SourceSpec::Document(source) | SourceSpec::Lookup(source) => (&source.table, &source.key),
            SourceSpec::Members(source) => (&source.table, &source.key),
            SourceSpec::Metrics(source) => return Err(not_postgres(&source.name)),
        };
        let key = quote(key);
        let class = literal(&table.to_string());
        Ok(format!(
            "SELECT (SELECT min({key})::int8 FROM {table}) AS min, (SELECT max({key})::int8 FROM {table}) AS max, \
             (SELECT coalesce(sum(greatest(\"$c\".reltuples, 0)), 0)::int8 FROM pg_class \"$c\" WHERE \
             \"$c\".relkind <> 'p' AND (\"$c\".oid = {class}::regclass OR \"$c\".oid IN (SELECT relid FROM pg_partition_tree({class}::regclass)))) AS \
             estimated_rows"
        ))
    }

    /// Every Postgres table, once, with the sources that read it; in the order of the first source.
    pub fn tables(&self) -> Vec<TableUse> {
        let mut tables: Vec<TableUse> = Vec::new();
        for (id, source) in self.sources() {
            let Some(table) = source.table() else { continue };
            match tables.iter_mut().find(|known| known.table == *table) {
                Some(known) => known.sources.push(id),
                None => tables.push(TableUse { table: table.clone(), sources: vec![id] }),
            }
        }
        tables
    }

    /// Locks every table against what is not MVCC-safe (TRUNCATE, rewrites); waits for nothing else.
    pub fn lock_sql(&self) -> String {
        let tables: Vec<_> = self.tables().iter().map(|used| used.table.to_string()).collect();
        format!("LOCK TABLE {} IN ACCESS SHARE MODE", tables.join(", "))
    }

    /// Name and canonical type of each column that [`Self::read_sql`] returns after `present` (row sources) or of the
    /// value (member sources).
    pub fn read_columns(&self, source: SourceId) -> Result<Vec<(String, FieldType)>> {
        let spec = self.source(source)?;
        Ok(match &self.schema().sources[source].kind {
            SourceKind::Members { ty } => vec![(spec.name().to_owned(), *ty)],
            _ => {
                self.schema().sources[source].columns().iter().map(|column| (column.name.clone(), column.ty)).collect()
            }
        })
    }
}

fn read_members(source: &MemberSource) -> String {
    let value = quote(&source.value);
    // The value as it is, unlike in `pairs`, so that an index over key and value serves.
    let held = format!(
        "SELECT {} AS \"$key\", {value} AS \"$value\" FROM {}{}",
        quote(&source.key),
        source.table,
        condition("WHERE", source.where_.as_deref())
    );
    let found = |extra: &str| {
        format!(
            "EXISTS (SELECT FROM ({held}) \"$t\" WHERE \"$t\".\"$key\" = \"$k\".\"$key\" AND \"$t\".\"$value\" = \
             \"$k\".\"$value\"{extra}) AS present"
        )
    };
    if source.value_is_int() {
        return format!(
            "SELECT \"$k\".\"$key\" AS document, \"$k\".\"$value\" AS value, {} FROM unnest($1::int8[], $2::int8[]) AS \
             \"$k\"(\"$key\", \"$value\")",
            found("")
        );
    }
    // The value's text goes back to the column's own type, whatever that is, so that the column's index serves.
    let cast = format!(
        "(jsonb_populate_record(NULL::{}, jsonb_build_object({}, \"$u\".\"$value\"))).{value}",
        source.table,
        literal(&source.value)
    );
    // A type's equality may be wider than bytes (citext): the value itself must be there.
    let extra = match source.ty {
        FieldType::String => " AND (\"$t\".\"$value\")::text COLLATE \"C\" = (\"$k\".\"$value\")::text COLLATE \"C\"",
        _ => "",
    };
    format!(
        "SELECT \"$k\".\"$key\" AS document, {} AS value, {} FROM (SELECT \"$u\".\"$key\", {cast} AS \"$value\" FROM \
         unnest($1::int8[], $2::text[]) AS \"$u\"(\"$key\", \"$value\") OFFSET 0) \"$k\"",
        canonical("\"$k\".\"$value\"", source.ty),
        found(extra)
    )
}

fn last(path: &Path) -> SourceId {
    path.hops.last().map_or(path.first, |hop| hop.source)
}

fn alias(source: SourceId) -> String {
    format!("\"$l{source}\"")
}

fn column_name(source: &RowSource, column: usize) -> String {
    source.columns.get(column).map(|column| quote(&column.name)).unwrap_or_default()
}

fn derived(function: Function, inputs: &[String]) -> String {
    let inputs = inputs.join(", ");
    match function {
        Function::Greatest => format!("greatest({inputs})"),
        Function::Least => format!("least({inputs})"),
        Function::Coalesce => format!("coalesce({inputs})"),
        Function::Exists => format!("({inputs}) IS NOT NULL"),
    }
}
