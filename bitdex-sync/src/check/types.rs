//! Which Postgres types a field's type can be read from without losing anything.

use bitdex_proto::value::FieldType;

const BOOL: u32 = 16;
const NAME: u32 = 19;
const INT8: u32 = 20;
const INT2: u32 = 21;
const INT4: u32 = 23;
const TEXT: u32 = 25;
const FLOAT4: u32 = 700;
const FLOAT8: u32 = 701;
const BPCHAR: u32 = 1042;
const VARCHAR: u32 = 1043;
const DATE: u32 = 1082;
const TIMESTAMP: u32 = 1114;
const TIMESTAMPTZ: u32 = 1184;
const NUMERIC: u32 = 1700;
const UUID: u32 = 2950;

pub(super) fn is_integer(oid: u32) -> bool {
    matches!(oid, INT2 | INT4 | INT8)
}

/// Whether a field of this type can hold every finite value of that Postgres type (its OID; `is_enum` for enums).
pub(super) fn fits(ty: FieldType, oid: u32, is_enum: bool) -> bool {
    match ty {
        FieldType::Int => is_integer(oid),
        FieldType::Decimal(_) => is_integer(oid) || oid == NUMERIC,
        FieldType::Float => matches!(oid, FLOAT4 | FLOAT8),
        FieldType::Bool => oid == BOOL,
        FieldType::Timestamp => matches!(oid, TIMESTAMP | TIMESTAMPTZ | DATE),
        FieldType::String => is_enum || matches!(oid, TEXT | VARCHAR | BPCHAR | NAME | UUID),
    }
}

/// What to read a field of this type from, for error messages.
pub(super) fn expected(ty: FieldType) -> &'static str {
    match ty {
        FieldType::Int => "smallint, integer or bigint",
        FieldType::Decimal(_) => "numeric or an integer type",
        FieldType::Float => "real or double precision",
        FieldType::Bool => "boolean",
        FieldType::Timestamp => "timestamp, timestamptz or date",
        FieldType::String => "text, varchar, uuid or an enum",
    }
}

/// Digits after the point that numeric with this type modifier may have; `None`: any number.
pub(super) fn numeric_scale(type_modifier: i32) -> Option<i32> {
    (type_modifier >= 4).then(|| {
        // The low 11 bits, signed since Postgres 15.
        let scale = (type_modifier - 4) & 0x7ff;
        if scale > 1023 { scale - 2048 } else { scale }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_of_type_modifiers() {
        let modifier = |precision: i32, scale: i32| ((precision << 16) | (scale & 0x7ff)) + 4;
        assert_eq!(numeric_scale(modifier(10, 2)), Some(2));
        assert_eq!(numeric_scale(modifier(10, -3)), Some(-3));
        assert_eq!(numeric_scale(-1), None);
    }
}
