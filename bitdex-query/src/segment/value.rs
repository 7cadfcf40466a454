//! Values without allocations, as rows hold them, and their codes.

use bitdex_proto::value::{FieldType, Float, Value};

/// As [`Value`], borrowed; the same order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ValueRef<'a> {
    Bool(bool),
    Int(i64),
    Float(Float),
    Text(&'a str),
}

impl<'a> ValueRef<'a> {
    pub fn of(value: &'a Value) -> Self {
        match value {
            Value::Bool(bool) => Self::Bool(*bool),
            Value::Int(int) => Self::Int(*int),
            Value::Float(float) => Self::Float(*float),
            Value::Text(text) => Self::Text(text),
        }
    }

    pub fn to_value(self) -> Value {
        match self {
            Self::Bool(bool) => Value::Bool(bool),
            Self::Int(int) => Value::Int(int),
            Self::Float(float) => Value::Float(float),
            Self::Text(text) => Value::Text(text.into()),
        }
    }

    pub fn as_int(self) -> Option<i64> {
        match self {
            Self::Int(int) => Some(int),
            _ => None,
        }
    }

    /// A number that orders as the values of one type do. Equal for texts that share their first eight bytes (a
    /// shorter one is filled up with zeros); of all other types, different values have different codes.
    pub fn code(self) -> u64 {
        match self {
            Self::Bool(bool) => bool.into(),
            Self::Int(int) => int as u64 ^ 1 << 63,
            Self::Float(float) => {
                let bits = float.get().to_bits();
                if bits >> 63 == 0 { bits | 1 << 63 } else { !bits }
            }
            Self::Text(text) => {
                let mut first = [0; 8];
                let length = text.len().min(8);
                first[..length].copy_from_slice(&text.as_bytes()[..length]);
                u64::from_be_bytes(first)
            }
        }
    }
}

/// The value of a code; `None` for text, whose codes hold only its beginning.
pub fn decode(code: u64, ty: FieldType) -> Option<Value> {
    Some(match ty {
        FieldType::Bool => Value::Bool(code != 0),
        FieldType::Int | FieldType::Decimal(_) | FieldType::Timestamp => Value::Int((code ^ 1 << 63) as i64),
        FieldType::Float => {
            Value::Float(Float::new(f64::from_bits(if code >> 63 == 1 { code ^ 1 << 63 } else { !code })))
        }
        FieldType::String => return None,
    })
}

/// What a set of ids is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Term<'a> {
    /// The documents that have any value; of the key field: that are present.
    Exists,
    Value(ValueRef<'a>),
}
