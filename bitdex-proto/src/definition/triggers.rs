//! Triggers that record which keys changed.
//!
//! They record keys only, of the old and the new row, and run none of the definition's SQL, so that they cannot fail on
//! it. Functions are SECURITY DEFINER with a fixed `search_path`, so that whoever writes the table needs no rights on
//! the ops table. Triggers are ENABLE ALWAYS, so that replication and restores fire them too.

use std::fmt::Write as _;

use super::{
    Definition, SourceSpec, Table,
    lexer::{Expression, quote},
};
use crate::{Error, Result, schema::SourceId, value::FieldType};

/// What captures one source. Create the functions first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TriggerSet {
    pub table: Table,
    pub functions: Vec<TriggerFunction>,
    pub triggers: Vec<Trigger>,
    /// Of all names and texts: differs where anything does.
    pub hash: String,
}

/// A function in [`Definition::pg_schema`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TriggerFunction {
    /// Unquoted, without the schema; it needs no quotes.
    pub name: String,
    /// CREATE OR REPLACE FUNCTION.
    pub sql: String,
    pub hash: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trigger {
    /// Unquoted; it needs no quotes.
    pub name: String,
    /// CREATE OR REPLACE TRIGGER.
    pub sql: String,
    /// ALTER TABLE … ENABLE ALWAYS TRIGGER; run it after `sql`.
    pub enable_sql: String,
    /// DROP TRIGGER IF EXISTS.
    pub drop_sql: String,
    pub hash: String,
}

impl Definition {
    /// The columns of the source's table that decide what the index holds of a row: the key, the value, and every
    /// column that an expression mentions; all of them where an expression uses the whole row. In the order of
    /// `table_columns`, the table's columns as Postgres names them. An error where the key or the value is not among
    /// them, and for a metrics source.
    pub fn referred_columns(&self, source: SourceId, table_columns: &[String]) -> Result<Vec<String>> {
        let (table, plain, expressions) = self.referred(source)?;
        for column in &plain {
            if !table_columns.contains(column) {
                let name = self.source(source)?.name().to_owned();
                return Err(Error::invalid(format!("{name}: table {table} has no column {}", quote(column))));
            }
        }
        let mut identifiers = Vec::new();
        for sql in expressions {
            // Checked when the definition was read.
            identifiers.extend(Expression::parse(sql).map_err(Error::invalid)?.identifiers);
        }
        let whole_row = identifiers.contains(&table.name);
        Ok(table_columns
            .iter()
            .filter(|column| whole_row || plain.contains(column) || identifiers.contains(column))
            .cloned()
            .collect())
    }

    /// The table of a source, its plain columns, and its expressions.
    fn referred(&self, source: SourceId) -> Result<(&Table, Vec<String>, Vec<&str>)> {
        Ok(match self.source(source)? {
            SourceSpec::Document(source) | SourceSpec::Lookup(source) => {
                let expressions = source.columns.iter().map(|column| column.sql.as_str());
                (&source.table, vec![source.key.clone()], expressions.chain(source.where_.as_deref()).collect())
            }
            SourceSpec::Members(source) => (
                &source.table,
                vec![source.key.clone(), source.value.clone()],
                source.where_.as_deref().into_iter().collect(),
            ),
            SourceSpec::Metrics(source) => {
                return Err(Error::invalid(format!("{} comes from ClickHouse: it has no triggers", source.name)));
            }
        })
    }

    /// The functions and triggers of one Postgres source. `source_number` is what the ops carry, `table_columns` are
    /// all columns of its table. Errors as [`Self::referred_columns`].
    pub fn trigger_sql(&self, source: SourceId, source_number: i16, table_columns: &[String]) -> Result<TriggerSet> {
        let referred = self.referred_columns(source, table_columns)?;
        let table = self.referred(source)?.0.clone();
        let (key, value) = match self.source(source)? {
            SourceSpec::Members(member) => (&member.key, Some((&member.value, member.ty))),
            SourceSpec::Document(row) | SourceSpec::Lookup(row) => (&row.key, None),
            SourceSpec::Metrics(_) => return Err(Error::Internal("metrics have no triggers".into())),
        };
        let schema = self.pg_schema();
        let functions = vec![
            function(&schema, format!("capture_{source_number}"), value, &row_body(&schema, source_number, key, value)),
            function(&schema, format!("truncate_{source_number}"), None, &truncate_body(&schema, source_number)),
        ];
        let columns: Vec<_> = referred.iter().map(String::as_str).collect();
        let when = format!(" WHEN ({} OPERATOR(pg_catalog.*<>) {})", record("OLD", &columns), record("NEW", &columns));
        let trigger = |kind: &str, event: &str, each: &str, when: &str, function: &str| {
            let name = format!("{schema}_{source_number}_{kind}");
            let sql = format!(
                "CREATE OR REPLACE TRIGGER {name} AFTER {event} ON {table} FOR EACH {each}{when} EXECUTE FUNCTION \
                 {schema}.{function}()"
            );
            Trigger {
                enable_sql: format!("ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name}"),
                drop_sql: format!("DROP TRIGGER IF EXISTS {name} ON {table}"),
                hash: hash(&[&name, &sql]),
                name,
                sql,
            }
        };
        let [capture, truncate] = [&functions[0].name, &functions[1].name];
        let triggers = vec![
            trigger("row", "INSERT OR DELETE", "ROW", "", capture),
            trigger("update", "UPDATE", "ROW", &when, capture),
            trigger("truncate", "TRUNCATE", "STATEMENT", "", truncate),
        ];
        let hashes: Vec<_> =
            functions.iter().map(|f| f.hash.as_str()).chain(triggers.iter().map(|t| t.hash.as_str())).collect();
        Ok(TriggerSet { table, hash: hash(&hashes), functions, triggers })
    }
}

fn hash(parts: &[&str]) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

type MemberValue<'a> = Option<(&'a String, FieldType)>;

fn function(schema: &str, name: String, value: MemberValue<'_>, body: &str) -> TriggerFunction {
    // The text of a value must not depend on the settings of whoever writes the table.
    let settings = match value {
        Some((_, FieldType::Int)) | None => "",
        Some(_) => {
            " SET datestyle = 'ISO, YMD' SET extra_float_digits = 1 SET timezone = 'UTC' SET intervalstyle = \
                    'postgres' SET bytea_output = 'hex'"
        }
    };
    let sql = format!(
        "CREATE OR REPLACE FUNCTION {schema}.{name}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = \
         pg_catalog, pg_temp{settings} AS $bitdex$\n{body}$bitdex$"
    );
    TriggerFunction { hash: hash(&[&name, &sql]), name, sql }
}

/// Columns of a row as one record, which `*=` and `*<>` compare byte by byte, whatever their types. Two plain ROW()s
/// would be compared column by column, with operators that some types do not have.
fn record(row: &str, columns: &[&str]) -> String {
    let columns: Vec<_> = columns.iter().map(|column| format!("{row}.{}", quote(column))).collect();
    format!("ROW({})::pg_catalog.record", columns.join(", "))
}

fn row_body(schema: &str, number: i16, name: &str, value: MemberValue<'_>) -> String {
    let key = quote(name);
    let insert = |row: &str| {
        let (column, field) = match value {
            None => (String::new(), String::new()),
            Some((value, FieldType::Int)) => (", value".into(), format!(", {row}.{}", quote(value))),
            Some((value, _)) => (", value_text".into(), format!(", {row}.{}::pg_catalog.text", quote(value))),
        };
        format!(
            "INSERT INTO {schema}.ops (xid, source, key{column}) VALUES (pg_catalog.pg_current_xact_id(), {number}, \
             {row}.{key}{field});"
        )
    };
    let known = |row: &str| {
        let mut known = format!("{row}.{key} IS NOT NULL");
        if let Some((value, _)) = value {
            let _ = write!(known, " AND {row}.{} IS NOT NULL", quote(value));
        }
        known
    };
    let identity: Vec<_> = std::iter::once(name).chain(value.map(|(value, _)| value.as_str())).collect();
    format!(
        "BEGIN\n  IF TG_OP <> 'INSERT' THEN\n    IF {} THEN\n      {}\n    END IF;\n    IF TG_OP = 'DELETE' THEN\n      \
         RETURN NULL;\n    END IF;\n    IF {} OPERATOR(pg_catalog.*=) {} THEN\n      RETURN NULL;\n    END IF;\n  END \
         IF;\n  IF {} THEN\n    {}\n  END IF;\n  RETURN NULL;\nEND\n",
        known("OLD"),
        insert("OLD"),
        record("OLD", &identity),
        record("NEW", &identity),
        known("NEW"),
        insert("NEW"),
    )
}

fn truncate_body(schema: &str, number: i16) -> String {
    format!(
        "BEGIN\n  INSERT INTO {schema}.ops (xid, source, truncate) VALUES (pg_catalog.pg_current_xact_id(), {number}, \
         true);\n  RETURN NULL;\nEND\n"
    )
}
