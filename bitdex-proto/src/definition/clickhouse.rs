//! Queries over ClickHouse: the values of metrics, grouped by document key, and what they answer in RowBinary.
//!
//! Every column of the answer has a fixed width: the key as Int64, then for each metric a UInt8 that is 1 where the
//! value is null, and 8 bytes (Int64, or Float64 for a float), 0 where it is null; all little-endian.

use super::{Definition, MetricsSource, SourceSpec};
use crate::{
    Error, Result,
    ops::{Op, Row, document_key},
    schema::SourceId,
    value::{FieldType, Float, Value},
};

/// Which keys of a metrics source are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricsFilter<'a> {
    /// From the first to the last key, both included; 0 and `u32::MAX` are all.
    Range(u32, u32),
    Keys(&'a [u32]),
    /// Keys of which a row was inserted at this time (seconds since 1970) or later. Their values still cover all rows.
    ChangedSince(i64),
}

/// An identifier for ClickHouse.
pub(super) fn quote(name: &str) -> String {
    format!("`{}`", name.replace('\\', "\\\\").replace('`', "\\`"))
}

/// The parts of a name such as `db.table`; quotes are `"` or a backtick, and nothing is folded.
pub(super) fn parse_name(text: &str) -> Option<Vec<String>> {
    let mut parts = Vec::new();
    let mut rest = text.trim();
    loop {
        let quote = rest.chars().next().filter(|c| matches!(c, '"' | '`'));
        let (part, after) = match quote {
            Some(quote) => rest[1..].split_once(quote)?,
            None => rest.split_at(rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len())),
        };
        if part.is_empty() || part.contains('\\') || (quote.is_none() && part.starts_with(|c: char| c.is_ascii_digit()))
        {
            return None;
        }
        parts.push(part.to_owned());
        match after.strip_prefix('.') {
            Some(next) => rest = next,
            None if after.is_empty() => return Some(parts),
            None => return None,
        }
    }
}

/// Whether an expression can stand inside parentheses; answers it trimmed.
pub(super) fn check_expression(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() {
        return Err("the expression is empty".into());
    }
    let mut open = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\'' | '"' | '`' => loop {
                match chars.next() {
                    Some('\\') => {
                        chars.next();
                    }
                    Some(end) if end == c => break,
                    Some(_) => {}
                    None => return Err(format!("a {c} is never closed")),
                }
            },
            '(' | '[' => open.push(c),
            ')' if open.pop() != Some('(') => return Err("`)` closes nothing".into()),
            ']' if open.pop() != Some('[') => return Err("`]` closes nothing".into()),
            ';' => return Err("`;` cannot stand in an expression".into()),
            '-' if chars.peek() == Some(&'-') => return Err("use YAML's comments, not those of SQL".into()),
            '/' if chars.peek() == Some(&'*') => return Err("use YAML's comments, not those of SQL".into()),
            '#' => return Err("use YAML's comments, not those of SQL".into()),
            _ => {}
        }
    }
    open.pop().map_or_else(|| Ok(text.to_owned()), |c| Err(format!("`{c}` is never closed")))
}

impl Definition {
    /// The current values of a metrics source, ascending by key, in the layout that the module's documentation gives;
    /// append a FORMAT RowBinary where the client does not. Keys without rows give no row. An error for another source,
    /// and for [`MetricsFilter::ChangedSince`] where the definition names no `inserted_at`.
    pub fn metrics_sql(&self, source: SourceId, filter: MetricsFilter<'_>) -> Result<String> {
        let source = self.metrics_source(source)?;
        let key = quote(&source.key);
        let rows = source.where_.as_deref().map(|sql| format!("({sql})"));
        let keys = match filter {
            MetricsFilter::Range(0, u32::MAX) => None,
            MetricsFilter::Range(first, last) => Some(format!("{key} >= {first} AND {key} <= {last}")),
            MetricsFilter::Keys(keys) => {
                let keys: Vec<_> = keys.iter().map(u32::to_string).collect();
                // An empty list is an error to ClickHouse.
                Some(if keys.is_empty() { "0".into() } else { format!("{key} IN ({})", keys.join(", ")) })
            }
            MetricsFilter::ChangedSince(since) => {
                Some(format!("{key} IN (SELECT {key} FROM {} WHERE {})", source.table, inserted_since(source, since)?))
            }
        };
        let conditions: Vec<_> = keys.into_iter().chain(rows).collect();
        let conditions =
            if conditions.is_empty() { String::new() } else { format!(" WHERE {}", conditions.join(" AND ")) };
        let mut columns = String::new();
        let mut values = String::new();
        for (i, column) in source.columns.iter().enumerate() {
            columns.push_str(&format!(", isNull(bitdex_{i}), ifNull(bitdex_{i}, 0)"));
            values.push_str(&format!(", {} AS bitdex_{i}", value(&column.sql, column.ty)));
        }
        Ok(format!(
            "SELECT bitdex_key{columns} FROM (SELECT accurateCast({key}, 'Int64') AS bitdex_key{values} FROM {}{conditions} \
             GROUP BY {key}) ORDER BY bitdex_key",
            source.table
        ))
    }

    /// The distinct keys (Int64) of which a row was inserted at this time (seconds since 1970) or later, ascending.
    /// Errors as [`Self::metrics_sql`].
    pub fn changed_keys_sql(&self, source: SourceId, since: i64) -> Result<String> {
        let source = self.metrics_source(source)?;
        Ok(format!(
            "SELECT DISTINCT accurateCast({key}, 'Int64') AS bitdex_key FROM {} WHERE {} ORDER BY bitdex_key",
            source.table,
            inserted_since(source, since)?,
            key = quote(&source.key)
        ))
    }

    /// Reads what [`Self::metrics_sql`] answers into one upsert a key. An error names the source, and the key where it
    /// is no document key.
    pub fn metrics_ops(&self, source: SourceId, bytes: &[u8]) -> Result<Vec<Op>> {
        let spec = self.metrics_source(source)?;
        let width = 8 + 9 * spec.columns.len();
        if !bytes.len().is_multiple_of(width) {
            return Err(Error::invalid(format!(
                "{}: {} bytes are no whole rows of {width} bytes: the answer was cut off",
                spec.name,
                bytes.len()
            )));
        }
        bytes
            .chunks_exact(width)
            .map(|row| {
                let (key, values) = row.split_at(8);
                let key = i64::from_le_bytes(eight(key));
                document_key(key, &spec.name)?;
                let row: Row = spec
                    .columns
                    .iter()
                    .zip(values.chunks_exact(9))
                    .map(|(column, value)| metric(value, column.ty))
                    .collect();
                Ok(Op::Upsert { source, key, row: Some(row) })
            })
            .collect()
    }

    fn metrics_source(&self, source: SourceId) -> Result<&MetricsSource> {
        match self.source(source)? {
            SourceSpec::Metrics(source) => Ok(source),
            other => Err(Error::invalid(format!("{} comes from Postgres, not from ClickHouse", other.name()))),
        }
    }
}

fn inserted_since(source: &MetricsSource, since: i64) -> Result<String> {
    let column = source.inserted_at.as_deref().ok_or_else(|| {
        Error::invalid(format!("metrics {}: name a column as `inserted_at`, or read the whole table", source.name))
    })?;
    Ok(format!("{} >= fromUnixTimestamp64Second(toInt64({since}))", quote(column)))
}

/// A nullable Int64, or Float64 for a float. A value that does not fit makes ClickHouse refuse the query.
fn value(sql: &str, ty: FieldType) -> String {
    match ty {
        FieldType::Float => format!("CAST(({sql}) AS Nullable(Float64))"),
        FieldType::Decimal(scale) => {
            format!("accurateCast(round(({sql}) * {}), 'Nullable(Int64)')", 10_i64.pow(u32::from(scale)))
        }
        FieldType::Timestamp => {
            format!("toUnixTimestamp64Micro(CAST(({sql}) AS Nullable(DateTime64(6, 'UTC'))))")
        }
        FieldType::Int | FieldType::Bool | FieldType::String => format!("accurateCast(({sql}), 'Nullable(Int64)')"),
    }
}

fn eight(bytes: &[u8]) -> [u8; 8] {
    std::array::from_fn(|i| bytes.get(i).copied().unwrap_or_default())
}

fn metric(value: &[u8], ty: FieldType) -> Option<Value> {
    let (null, value) = value.split_first()?;
    let bits = i64::from_le_bytes(eight(value));
    (*null == 0).then(|| match ty {
        FieldType::Float => Value::Float(Float::new(f64::from_bits(bits as u64))),
        FieldType::Bool => Value::Bool(bits != 0),
        FieldType::Int | FieldType::Decimal(_) | FieldType::Timestamp | FieldType::String => Value::Int(bits),
    })
}
