//! [`Filter`] → text.

use std::fmt::{self, Write as _};

use super::{lexer::is_word, parser::KEYWORDS};
use crate::{
    query::{Comparator, Filter},
    value::{FieldType, Literal, Value, format_decimal, format_timestamp},
};

/// Displays a filter as the text that is read as the same filter.
#[derive(Debug, Clone, Copy)]
pub struct Printed<'f>(pub &'f Filter);

impl fmt::Display for Printed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        filter(self.0, f)
    }
}

fn filter(it: &Filter, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match it {
        Filter::And(filters) => list(filters, " AND ", "TRUE", f),
        Filter::Or(filters) => list(filters, " OR ", "FALSE", f),
        Filter::Not(inner) => {
            f.write_str("NOT ")?;
            part(inner, f)
        }
        Filter::Compare { field, comparator, value } => {
            let sign = match comparator {
                Comparator::Eq => "=",
                Comparator::Ne => "!=",
                Comparator::Lt => "<",
                Comparator::Le => "<=",
                Comparator::Gt => ">",
                Comparator::Ge => ">=",
            };
            name(field, f)?;
            write!(f, " {sign} ")?;
            literal(value, f)
        }
        Filter::In { field, values, negated, all } => {
            name(field, f)?;
            write!(f, "{} {} [", if *negated { " NOT" } else { "" }, if *all { "ALL" } else { "IN" })?;
            for (i, value) in values.iter().enumerate() {
                f.write_str(if i > 0 { ", " } else { "" })?;
                literal(value, f)?;
            }
            f.write_char(']')
        }
        Filter::IsNull { field } => {
            name(field, f)?;
            f.write_str(" IS NULL")
        }
        Filter::Named { name: named } => name(named, f),
    }
}

fn list(filters: &[Filter], between: &str, none: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if filters.is_empty() {
        return f.write_str(none);
    }
    for (i, filter) in filters.iter().enumerate() {
        f.write_str(if i > 0 { between } else { "" })?;
        part(filter, f)?;
    }
    Ok(())
}

/// A part of a larger filter.
fn part(it: &Filter, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match it {
        Filter::And(filters) | Filter::Or(filters) if !filters.is_empty() => {
            f.write_char('(')?;
            filter(it, f)?;
            f.write_char(')')
        }
        _ => filter(it, f),
    }
}

fn name(name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if !name.is_empty() && name.chars().all(is_word) && !KEYWORDS.contains(&name) && !name.starts_with("_geo") {
        f.write_str(name)
    } else {
        quoted(name, f)
    }
}

fn quoted(text: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_char('"')?;
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            f.write_char('\\')?;
        }
        f.write_char(c)?;
    }
    f.write_char('"')
}

fn literal(literal: &Literal, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match literal {
        Literal::Int(int) => write!(f, "{int}"),
        Literal::Float(float) if float.is_nan() => f.write_str("NaN"),
        Literal::Float(float) if float.is_infinite() => {
            f.write_str(if *float > 0.0 { "Infinity" } else { "-Infinity" })
        }
        Literal::Float(float) => write!(f, "{float}"),
        Literal::Bool(bool) => write!(f, "{bool}"),
        Literal::Text(text) => quoted(text, f),
        Literal::TimestampUs(us) => {
            let text = format_timestamp(*us);
            // Only years of four digits are read back.
            let read = Literal::Text(text.clone()).to_value(FieldType::Timestamp, "");
            if read == Ok(Value::Int(*us)) { f.write_str(&text) } else { write!(f, "{us}") }
        }
        Literal::Decimal { unscaled, scale } => f.write_str(&format_decimal(*unscaled, *scale)),
        Literal::Now { offset_us: 0 } => f.write_str("now"),
        Literal::Now { offset_us } => {
            let sign = if *offset_us < 0 { '-' } else { '+' };
            const UNITS: [(u64, &str); 6] = [
                (86_400_000_000, "d"),
                (3_600_000_000, "h"),
                (60_000_000, "m"),
                (1_000_000, "s"),
                (1_000, "ms"),
                (1, "us"),
            ];
            let us = offset_us.unsigned_abs();
            let (unit, name) = UNITS.into_iter().find(|(unit, _)| us % unit == 0).unwrap_or((1, "us"));
            write!(f, "now {sign} {}{name}", us / unit)
        }
    }
}
