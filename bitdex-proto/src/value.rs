//! The values an index holds, their types, and their total order.
//!
//! `int`, `decimal(s)` (scaled by 10^s) and `timestamp` (microseconds since 1970-01-01 UTC) are all held as
//! [`Value::Int`]; the [`FieldType`] says which is meant. Null is the absence of a value (`Option<Value>`, or
//! [`FieldValue::Null`]), never a value.

use std::{cmp::Ordering, fmt, sync::Arc};

use crate::{Error, Result, wire};

/// The type of a field, as the definition names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FieldType {
    Int,
    /// Scaled i64 with this many digits after the point.
    Decimal(u8),
    Float,
    Bool,
    Timestamp,
    /// Compared bytewise.
    String,
}

impl fmt::Display for FieldType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int => f.write_str("int"),
            Self::Decimal(scale) => write!(f, "decimal({scale})"),
            Self::Float => f.write_str("float"),
            Self::Bool => f.write_str("bool"),
            Self::Timestamp => f.write_str("timestamp"),
            Self::String => f.write_str("string"),
        }
    }
}

/// A float in Postgres' order: -0 equals 0, NaN equals itself and is above everything.
#[derive(Debug, Clone, Copy)]
pub struct Float(f64);

impl Float {
    pub fn new(value: f64) -> Self {
        // One representation for each value of Postgres' order, so that equality and hashing follow it.
        Self(if value.is_nan() {
            f64::NAN
        } else if value == 0.0 {
            0.0
        } else {
            value
        })
    }

    pub fn get(self) -> f64 {
        self.0
    }
}

impl PartialEq for Float {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Float {}

impl PartialOrd for Float {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Float {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl std::hash::Hash for Float {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.to_bits().hash(state);
    }
}

/// One value that is not null. Values of one field are all of one variant, so the derived order is the field's order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Value {
    Bool(bool),
    /// int, decimal (scaled) or timestamp (microseconds).
    Int(i64),
    Float(Float),
    Text(Arc<str>),
}

/// What one document holds in one field.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum FieldValue {
    Null,
    One(Value),
    /// Sorted, without duplicates, never empty (an empty member set is null).
    Many(Arc<[Value]>),
}

impl FieldValue {
    pub fn one(value: Option<Value>) -> Self {
        value.map_or(Self::Null, Self::One)
    }

    /// Sorts and removes duplicates.
    pub fn many(mut values: Vec<Value>) -> Self {
        values.sort_unstable();
        values.dedup();
        if values.is_empty() { Self::Null } else { Self::Many(values.into()) }
    }

    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    pub fn values(&self) -> &[Value] {
        match self {
            Self::Null => &[],
            Self::One(value) => std::slice::from_ref(value),
            Self::Many(values) => values,
        }
    }
}

impl Value {
    /// Whether this variant is the one that holds values of `ty`.
    pub fn fits(&self, ty: FieldType) -> bool {
        matches!(
            (self, ty),
            (Self::Bool(_), FieldType::Bool)
                | (Self::Int(_), FieldType::Int | FieldType::Decimal(_) | FieldType::Timestamp)
                | (Self::Float(_), FieldType::Float)
                | (Self::Text(_), FieldType::String)
        )
    }

    /// The wire form of a value of a field of type `ty`.
    pub fn to_wire(&self, ty: FieldType) -> wire::Value {
        use wire::value::Kind;
        let kind = match (self, ty) {
            (Self::Int(unscaled), FieldType::Decimal(scale)) => {
                Kind::Decimal(wire::Decimal { unscaled: *unscaled, scale: u32::from(scale) })
            }
            (Self::Int(us), FieldType::Timestamp) => Kind::TimestampUs(*us),
            (Self::Int(int), _) => Kind::Int(*int),
            (Self::Bool(bool), _) => Kind::Bool(*bool),
            (Self::Float(float), _) => Kind::Float(float.get()),
            (Self::Text(text), _) => Kind::Text(text.to_string()),
        };
        wire::Value { kind: Some(kind) }
    }

    /// Reads a wire value as one of type `ty`; an unset kind is null. `what` names the field in errors.
    pub fn from_wire(value: &wire::Value, ty: FieldType, what: &str) -> Result<Option<Self>> {
        let Some(kind) = &value.kind else { return Ok(None) };
        Literal::from_kind(kind).to_value(ty, what).map(Some)
    }
}

impl FieldValue {
    pub fn to_wire(&self, ty: FieldType) -> wire::FieldValue {
        wire::FieldValue {
            values: self.values().iter().map(|value| value.to_wire(ty)).collect(),
            many: matches!(self, Self::Many(_)),
        }
    }
}

/// A value as a request gives it, before the field's type is known.
#[derive(Debug, Clone, PartialEq)]
pub enum Literal {
    Int(i64),
    Float(f64),
    Bool(bool),
    /// Text, or an RFC 3339 time for a timestamp field, or digits for a decimal field.
    Text(String),
    TimestampUs(i64),
    Decimal {
        unscaled: i64,
        scale: u32,
    },
    /// The request's clock plus this many microseconds; timestamp fields only.
    Now {
        offset_us: i64,
    },
}

impl Literal {
    fn from_kind(kind: &wire::value::Kind) -> Self {
        use wire::value::Kind;
        match kind {
            Kind::Int(int) => Self::Int(*int),
            Kind::Float(float) => Self::Float(*float),
            Kind::Bool(bool) => Self::Bool(*bool),
            Kind::Text(text) => Self::Text(text.clone()),
            Kind::TimestampUs(us) => Self::TimestampUs(*us),
            Kind::Decimal(decimal) => Self::Decimal { unscaled: decimal.unscaled, scale: decimal.scale },
        }
    }

    /// The value of type `ty` that this means, or an error that names `what` (the field), the type and the literal.
    /// [`Literal::Now`] is refused: resolve it against the clock first.
    pub fn to_value(&self, ty: FieldType, what: impl fmt::Display) -> Result<Value> {
        let wrong = || Error::invalid(format!("{what} is of type {ty}, which {self} is not"));
        let overflow = || Error::invalid(format!("{what}: {self} does not fit {ty}"));
        Ok(match (self, ty) {
            (Self::Int(int), FieldType::Int | FieldType::Timestamp) => Value::Int(*int),
            (Self::Int(int), FieldType::Float) => Value::Float(Float::new(*int as f64)),
            (Self::Int(int), FieldType::Decimal(scale)) => {
                Value::Int(rescale(*int, 0, u32::from(scale)).ok_or_else(overflow)?)
            }
            (Self::Float(float), FieldType::Float) => Value::Float(Float::new(*float)),
            (Self::Float(float), FieldType::Decimal(scale)) => {
                // The shortest text that reads back as this float is the number that the caller wrote.
                Value::Int(parse_decimal(&float.to_string(), scale).ok_or_else(overflow)?)
            }
            // JSON has no such numbers; answers give them by these names.
            (Self::Text(text), FieldType::Float) => Value::Float(Float::new(match text.as_str() {
                "NaN" => f64::NAN,
                "Infinity" => f64::INFINITY,
                "-Infinity" => f64::NEG_INFINITY,
                _ => return Err(wrong()),
            })),
            (Self::Bool(bool), FieldType::Bool) => Value::Bool(*bool),
            (Self::Text(text), FieldType::String) => Value::Text(text.as_str().into()),
            (Self::Text(text), FieldType::Timestamp) => {
                Value::Int(chrono::DateTime::parse_from_rfc3339(text).map_err(|_| wrong())?.timestamp_micros())
            }
            (Self::Text(text), FieldType::Decimal(scale)) => Value::Int(parse_decimal(text, scale).ok_or_else(wrong)?),
            (Self::TimestampUs(us), FieldType::Timestamp) => Value::Int(*us),
            (Self::Decimal { unscaled, scale }, FieldType::Decimal(to)) => {
                Value::Int(rescale(*unscaled, *scale, u32::from(to)).ok_or_else(overflow)?)
            }
            _ => return Err(wrong()),
        })
    }
}

impl fmt::Display for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(int) => write!(f, "{int}"),
            Self::Float(float) => write!(f, "{float}"),
            Self::Bool(bool) => write!(f, "{bool}"),
            Self::Text(text) => write!(f, "{text:?}"),
            Self::TimestampUs(us) => f.write_str(&format_timestamp(*us)),
            Self::Decimal { unscaled, scale } => f.write_str(&format_decimal(*unscaled, *scale)),
            Self::Now { offset_us } => write!(f, "now{offset_us:+}us"),
        }
    }
}

impl TryFrom<&wire::Literal> for Literal {
    type Error = Error;

    fn try_from(literal: &wire::Literal) -> Result<Self> {
        use wire::literal::Kind;
        match &literal.kind {
            Some(Kind::NowOffsetUs(offset_us)) => Ok(Self::Now { offset_us: *offset_us }),
            Some(Kind::Value(wire::Value { kind: Some(kind) })) => Ok(Self::from_kind(kind)),
            _ => Err(Error::invalid("a filter compares with null; use is_null instead")),
        }
    }
}

impl From<&Literal> for wire::Literal {
    fn from(literal: &Literal) -> Self {
        use wire::{literal::Kind, value::Kind as Value};
        let value = match literal {
            Literal::Now { offset_us } => return Self { kind: Some(Kind::NowOffsetUs(*offset_us)) },
            Literal::Int(int) => Value::Int(*int),
            Literal::Float(float) => Value::Float(*float),
            Literal::Bool(bool) => Value::Bool(*bool),
            Literal::Text(text) => Value::Text(text.clone()),
            Literal::TimestampUs(us) => Value::TimestampUs(*us),
            Literal::Decimal { unscaled, scale } => {
                Value::Decimal(wire::Decimal { unscaled: *unscaled, scale: *scale })
            }
        };
        Self { kind: Some(Kind::Value(wire::Value { kind: Some(value) })) }
    }
}

/// RFC 3339 with microseconds; the plain number of microseconds where the year has more than four digits.
pub fn format_timestamp(us: i64) -> String {
    match chrono::DateTime::from_timestamp_micros(us) {
        Some(time) => time.to_rfc3339_opts(chrono::SecondsFormat::Micros, true),
        None => us.to_string(),
    }
}

pub fn format_decimal(unscaled: i64, scale: u32) -> String {
    let digits = unscaled.unsigned_abs().to_string();
    let scale = scale as usize;
    let padded = format!("{digits:0>width$}", width = scale + 1);
    let (whole, fraction) = padded.split_at(padded.len() - scale);
    let sign = if unscaled < 0 { "-" } else { "" };
    if scale == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") }
}

/// Reads plain decimal digits ("-12.340") as an i64 scaled by 10^scale; `None` where it is no number, has more
/// significant digits after the point than `scale`, or does not fit.
pub fn parse_decimal(text: &str, scale: u8) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() || !whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let fraction = fraction.trim_end_matches('0');
    let scale = usize::from(scale);
    if fraction.len() > scale {
        return None;
    }
    let mut unscaled: i64 = 0;
    for digit in whole.bytes().chain(fraction.bytes()).chain(std::iter::repeat_n(b'0', scale - fraction.len())) {
        let digit = i64::from(digit - b'0');
        // Built up negative, so that i64::MIN fits too.
        unscaled = unscaled.checked_mul(10)?.checked_sub(digit)?;
    }
    if negative { Some(unscaled) } else { unscaled.checked_neg() }
}

/// Microseconds of "-24h", "+90s", "0s".
pub fn parse_offset(text: &str) -> Option<i64> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let end = digits.find(|c: char| !c.is_ascii_digit())?;
    let unit = match &digits[end..] {
        "us" => 1,
        "ms" => 1_000,
        "s" => 1_000_000,
        "m" => 60_000_000,
        "h" => 3_600_000_000,
        "d" => 86_400_000_000,
        _ => return None,
    };
    let us = digits[..end].parse::<i128>().ok()?.checked_mul(unit)?;
    i64::try_from(if text.starts_with('-') { -us } else { us }).ok()
}

fn rescale(unscaled: i64, from: u32, to: u32) -> Option<i64> {
    if to >= from {
        unscaled.checked_mul(10_i64.checked_pow(to - from)?)
    } else {
        let divisor = 10_i64.checked_pow(from - to)?;
        (unscaled % divisor == 0).then_some(unscaled / divisor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_read_and_print_exactly() {
        for (text, scale, unscaled) in [
            ("12.34", 2, 1234),
            ("-0.05", 2, -5),
            ("7", 3, 7000),
            ("1.500", 1, 15),
            ("-92233720368547758.08", 2, i64::MIN),
        ] {
            assert_eq!(parse_decimal(text, scale), Some(unscaled), "{text}");
            assert_eq!(parse_decimal(&format_decimal(unscaled, u32::from(scale)), scale), Some(unscaled));
        }
        assert_eq!(format_decimal(-5, 2), "-0.05");
        for (text, scale) in [("", 2), (".5", 2), ("1.005", 2), ("1e3", 2), ("92233720368547758.08", 2), ("--1", 0)] {
            assert_eq!(parse_decimal(text, scale), None, "{text}");
        }
    }

    #[test]
    fn floats_follow_postgres_order() {
        assert_eq!(Float::new(-0.0), Float::new(0.0));
        assert_eq!(Float::new(f64::NAN), Float::new(-f64::NAN));
        assert!(Float::new(f64::NAN) > Float::new(f64::INFINITY));
        assert!(Float::new(-1.0) < Float::new(0.0));
    }

    #[test]
    fn literals_must_fit_the_type() {
        let error = Literal::Text("x".into()).to_value(FieldType::Int, "field nsfwLevel").unwrap_err();
        assert_eq!(error.to_string(), "field nsfwLevel is of type int, which \"x\" is not");
        assert_eq!(
            Literal::Text("2026-01-01T00:00:00.000001Z".into()).to_value(FieldType::Timestamp, "t"),
            Ok(Value::Int(1_767_225_600_000_001))
        );
        assert_eq!(Literal::Float(0.1).to_value(FieldType::Decimal(2), "d"), Ok(Value::Int(10)));
        assert!(Literal::Int(i64::MAX).to_value(FieldType::Decimal(2), "d").is_err());
    }
}
