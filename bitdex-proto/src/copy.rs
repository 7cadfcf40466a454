//! Rows of Postgres' `COPY … (FORMAT binary)` → values and ops. Nothing here trusts its bytes: whatever they are, the
//! answer is the values that they mean or an error that names what is wrong.

use std::fmt;

use crate::{
    Error, Result,
    ops::{Op, Row, document_key},
    schema::{Column, Schema, Source, SourceId, SourceKind},
    value::{FieldType, Float, Value},
};

const SIGNATURE: &[u8; 11] = b"PGCOPY\n\xff\r\n\0";
/// Microseconds from 1970-01-01 to 2000-01-01, where Postgres counts from.
const EPOCH_US: i64 = 946_684_800_000_000;

/// Length of the header at the start of a stream; `None`: more bytes are needed to tell.
pub fn header_len(bytes: &[u8]) -> Result<Option<usize>> {
    let shared = bytes.len().min(SIGNATURE.len());
    if bytes[..shared] != SIGNATURE[..shared] {
        return Err(Error::invalid("the stream does not start as COPY in binary format does"));
    }
    let Some((flags, rest)) = bytes.get(SIGNATURE.len()..).and_then(<[u8]>::split_first_chunk) else { return Ok(None) };
    let flags = u32::from_be_bytes(*flags);
    if flags & 0xffff_0000 != 0 {
        return Err(Error::invalid(format!("COPY's header has flags {flags:#x}, which are unknown here")));
    }
    let Some(extension) = rest.first_chunk() else { return Ok(None) };
    let length = SIGNATURE.len() + 8 + u32::from_be_bytes(*extension) as usize;
    Ok((bytes.len() >= length).then_some(length))
}

/// What stands at the start of a piece of a stream, its header taken off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WholeRows {
    /// Bytes of whole rows.
    pub len: usize,
    pub rows: u64,
    /// The trailer follows them.
    pub end: bool,
}

/// Finds the whole rows at the start of `bytes`.
pub fn whole_rows(bytes: &[u8]) -> Result<WholeRows> {
    let mut found = WholeRows { len: 0, rows: 0, end: false };
    loop {
        let rest = &bytes[found.len..];
        match row_len(rest)? {
            RowLen::Row(length) => {
                found.len += length;
                found.rows += 1;
            }
            RowLen::Partial => return Ok(found),
            RowLen::Trailer if rest.len() == 2 => return Ok(WholeRows { end: true, ..found }),
            RowLen::Trailer => return Err(Error::invalid("COPY's stream goes on behind its trailer")),
        }
    }
}

enum RowLen {
    Row(usize),
    Trailer,
    Partial,
}

fn row_len(bytes: &[u8]) -> Result<RowLen> {
    let Some(count) = bytes.first_chunk() else { return Ok(RowLen::Partial) };
    let count = i16::from_be_bytes(*count);
    if count == -1 {
        return Ok(RowLen::Trailer);
    }
    let count = u16::try_from(count).map_err(|_| Error::invalid(format!("a row of COPY with {count} fields")))?;
    let mut at = 2;
    for _ in 0..count {
        let Some(length) = bytes.get(at..).and_then(<[u8]>::first_chunk) else { return Ok(RowLen::Partial) };
        at += 4 + field_len(i32::from_be_bytes(*length))?.unwrap_or(0);
    }
    Ok(if bytes.len() >= at { RowLen::Row(at) } else { RowLen::Partial })
}

/// `None` is null.
fn field_len(length: i32) -> Result<Option<usize>> {
    match length {
        -1 => Ok(None),
        length => usize::try_from(length)
            .map(Some)
            .map_err(|_| Error::invalid(format!("a field of COPY with a length of {length}"))),
    }
}

/// Cuts a stream that comes in pieces of any size into whole rows, without its header and trailer.
#[derive(Debug, Default)]
pub struct Splitter {
    pending: Vec<u8>,
    started: bool,
    ended: bool,
    rows: u64,
}

impl Splitter {
    /// Takes the next piece.
    pub fn push(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// Bytes that wait to be taken.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Rows taken so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The whole rows that are there by now; may be empty.
    pub fn take(&mut self) -> Result<bytes::Bytes> {
        if !self.started {
            let Some(header) = header_len(&self.pending)? else { return Ok(bytes::Bytes::new()) };
            self.pending.drain(..header);
            self.started = true;
        }
        if self.ended {
            return if self.pending.is_empty() {
                Ok(bytes::Bytes::new())
            } else {
                Err(Error::invalid("COPY's stream goes on behind its trailer"))
            };
        }
        let found = whole_rows(&self.pending)?;
        self.rows += found.rows;
        self.ended = found.end;
        let rest = self.pending.split_off(found.len);
        let rows = std::mem::replace(&mut self.pending, rest);
        if self.ended {
            self.pending.clear();
        }
        Ok(rows.into())
    }

    /// The number of rows, where the stream came to its end.
    pub fn finish(self) -> Result<u64> {
        if self.ended && self.pending.is_empty() {
            Ok(self.rows)
        } else {
            Err(Error::invalid(format!("COPY's stream ended after {} rows without its trailer", self.rows)))
        }
    }
}

/// A value as the bytes of a row hold it; see [`Value`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Borrowed<'a> {
    Bool(bool),
    Int(i64),
    Float(Float),
    Text(&'a str),
}

impl From<Borrowed<'_>> for Value {
    fn from(value: Borrowed<'_>) -> Self {
        match value {
            Borrowed::Bool(bool) => Self::Bool(bool),
            Borrowed::Int(int) => Self::Int(int),
            Borrowed::Float(float) => Self::Float(float),
            Borrowed::Text(text) => Self::Text(text.into()),
        }
    }
}

/// Reads the binary form of a canonical type (`int8`, `numeric`, `float8`, `bool`, `timestamptz`, `text`) as a value of
/// type `ty`; no bytes are null. `what` names the field in errors.
pub fn decode_value(bytes: Option<&[u8]>, ty: FieldType, what: &str) -> Result<Option<Value>> {
    decode_borrowed(bytes, ty, &what).map(|value| value.map(Value::from))
}

/// As [`decode_value`], without a copy of anything.
pub fn decode_borrowed<'a>(
    bytes: Option<&'a [u8]>,
    ty: FieldType,
    what: &dyn fmt::Display,
) -> Result<Option<Borrowed<'a>>> {
    let Some(bytes) = bytes else { return Ok(None) };
    let eight = |name: &str| {
        <[u8; 8]>::try_from(bytes)
            .map_err(|_| Error::invalid(format!("{what}: {} bytes are no {name}, which has 8", bytes.len())))
    };
    Ok(Some(match ty {
        FieldType::Int => Borrowed::Int(i64::from_be_bytes(eight("int8")?)),
        FieldType::Float => Borrowed::Float(Float::new(f64::from_be_bytes(eight("float8")?))),
        FieldType::Timestamp => Borrowed::Int(timestamp(i64::from_be_bytes(eight("timestamptz")?), what)?),
        FieldType::Bool => match bytes {
            [0] => Borrowed::Bool(false),
            [1] => Borrowed::Bool(true),
            _ => return Err(Error::invalid(format!("{what}: {bytes:?} is no bool"))),
        },
        FieldType::Decimal(scale) => Borrowed::Int(numeric(bytes, scale, what)?),
        FieldType::String => Borrowed::Text(
            std::str::from_utf8(bytes).map_err(|_| Error::invalid(format!("{what}: the text is not UTF-8")))?,
        ),
    }))
}

fn timestamp(us: i64, what: &dyn fmt::Display) -> Result<i64> {
    match us {
        i64::MAX | i64::MIN => {
            let sign = if us > 0 { "" } else { "-" };
            Err(Error::invalid(format!("{what}: the timestamp {sign}infinity has no place in the index: use null")))
        }
        us => us
            .checked_add(EPOCH_US)
            .ok_or_else(|| Error::invalid(format!("{what}: the timestamp is past the year 294246"))),
    }
}

/// Postgres' numeric: count of base-10000 digits, weight of the first, sign, display scale, digits.
fn numeric(bytes: &[u8], scale: u8, what: &dyn fmt::Display) -> Result<i64> {
    const NAN: u16 = 0xc000;
    const INFINITY: u16 = 0xd000;
    const NEGATIVE_INFINITY: u16 = 0xf000;
    let damaged = || Error::invalid(format!("{what}: {} bytes are no numeric", bytes.len()));
    let mut words = bytes.chunks_exact(2).map(|word| u16::from_be_bytes([word[0], word[1]]));
    let mut header = || words.next().ok_or_else(damaged);
    let (count, weight, sign, _display) = (header()?, header()? as i16, header()?, header()?);
    if bytes.len() != 8 + 2 * usize::from(count) {
        return Err(damaged());
    }
    let negative = match sign {
        0 => false,
        0x4000 => true,
        NAN => return Err(Error::invalid(format!("{what}: NaN has no place in a decimal: use null"))),
        INFINITY | NEGATIVE_INFINITY => {
            return Err(Error::invalid(format!("{what}: infinity has no place in a decimal: use null")));
        }
        _ => return Err(damaged()),
    };
    let overflow = || Error::invalid(format!("{what}: the number does not fit decimal({scale})"));
    let inexact =
        || Error::invalid(format!("{what}: the number has more than {scale} digits after the point, its scale"));
    // Built up negative, so that i64::MIN fits too.
    let mut unscaled: i128 = 0;
    for (i, digit) in words.enumerate() {
        if digit > 9999 {
            return Err(damaged());
        }
        if digit == 0 {
            continue;
        }
        // digit × 10^exponent, in units of the scale.
        let exponent = (i32::from(weight) - i as i32) * 4 + i32::from(scale);
        let part = if exponent >= 0 {
            10_i128.checked_pow(exponent as u32).and_then(|power| power.checked_mul(i128::from(digit)))
        } else {
            let power = 10_i128.checked_pow(exponent.unsigned_abs()).ok_or_else(inexact)?;
            if i128::from(digit) % power != 0 {
                return Err(inexact());
            }
            Some(i128::from(digit) / power)
        };
        unscaled = part.and_then(|part| unscaled.checked_sub(part)).ok_or_else(overflow)?;
    }
    let unscaled = if negative { unscaled } else { -unscaled };
    i64::try_from(unscaled).map_err(|_| overflow())
}

/// The fields of each row of a COPY stream without its header and trailer; stops after an error.
#[derive(Debug)]
pub struct Rows<'a> {
    bytes: &'a [u8],
}

/// Reads whole rows.
pub fn rows(bytes: &[u8]) -> Rows<'_> {
    Rows { bytes }
}

impl<'a> Iterator for Rows<'a> {
    type Item = Result<Vec<Option<&'a [u8]>>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.bytes.is_empty() {
            return None;
        }
        let row = split_row(self.bytes);
        self.bytes = row.as_ref().map_or(&[], |row| row.rest);
        Some(row.map(|row| Fields(row.fields).collect()))
    }
}

/// The fields of one whole row.
#[derive(Debug, Clone)]
pub struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Option<&'a [u8]>;

    fn next(&mut self) -> Option<Self::Item> {
        // Whoever made this has checked the lengths.
        let (length, rest) = self.0.split_first_chunk()?;
        let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else {
            self.0 = rest;
            return Some(None);
        };
        let (field, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some(Some(field))
    }
}

struct SplitRow<'a> {
    count: u16,
    fields: &'a [u8],
    rest: &'a [u8],
}

fn split_row(bytes: &[u8]) -> Result<SplitRow<'_>> {
    let cut = || Error::invalid("the rows of COPY are cut off within a row");
    let (count, all) = bytes.split_first_chunk().ok_or_else(cut)?;
    let count = i16::from_be_bytes(*count);
    let count = u16::try_from(count).map_err(|_| Error::invalid(format!("a row of COPY with {count} fields")))?;
    let mut rest = all;
    for _ in 0..count {
        let (length, after) = rest.split_first_chunk().ok_or_else(cut)?;
        let length = field_len(i32::from_be_bytes(*length))?.unwrap_or(0);
        rest = after.get(length..).ok_or_else(cut)?;
    }
    Ok(SplitRow { count, fields: &all[..all.len() - rest.len()], rest })
}

/// A row of a source, as the definition's COPY gives it: its key, and the fields behind it, as many as the definition
/// says and not decoded yet.
#[derive(Debug, Clone, Copy)]
pub struct KeyedRow<'a> {
    pub key: i64,
    values: &'a [u8],
}

impl<'a> KeyedRow<'a> {
    pub fn values(&self) -> Fields<'a> {
        Fields(self.values)
    }
}

/// See [`keyed_rows`].
#[derive(Debug)]
pub struct KeyedRows<'a> {
    source: &'a Source,
    width: usize,
    of_documents: bool,
    bytes: &'a [u8],
}

/// Reads whole rows of a source; stops after an error.
pub fn keyed_rows<'a>(schema: &'a Schema, source: SourceId, bytes: &'a [u8]) -> Result<KeyedRows<'a>> {
    let source = schema.sources.get(source).ok_or_else(|| {
        Error::invalid(format!("source {source} does not exist: the definition has {}", schema.sources.len()))
    })?;
    let width = match source.kind {
        SourceKind::Members { .. } => 2,
        _ => 1 + source.columns().len(),
    };
    Ok(KeyedRows { source, width, of_documents: !matches!(source.kind, SourceKind::Lookup { .. }), bytes })
}

impl<'a> KeyedRows<'a> {
    fn split(&self) -> Result<(KeyedRow<'a>, &'a [u8])> {
        let name = &self.source.name;
        let row = split_row(self.bytes).map_err(|error| Error::invalid(format!("{name}: {error}")))?;
        let mut fields = Fields(row.fields);
        let key = fields.next().ok_or_else(|| Error::invalid(format!("{name}: a row of COPY without fields")))?;
        if usize::from(row.count) != self.width {
            let message = format!("{name}: a row of COPY has {} fields, the definition {}", row.count, self.width);
            return Err(Error::invalid(message));
        }
        let Some(Borrowed::Int(key)) = decode_borrowed(key, FieldType::Int, name)? else {
            return Err(Error::invalid(format!("{name}: a row without a key")));
        };
        if self.of_documents {
            document_key(key, name)?;
        }
        Ok((KeyedRow { key, values: fields.0 }, row.rest))
    }
}

impl<'a> Iterator for KeyedRows<'a> {
    type Item = Result<KeyedRow<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.bytes.is_empty() {
            return None;
        }
        let row = self.split();
        self.bytes = row.as_ref().map_or(&[], |(_, rest)| rest);
        Some(row.map(|(row, _)| row))
    }
}

/// The value of a member source's row.
pub fn member<'a>(source: &Source, ty: FieldType, row: &KeyedRow<'a>) -> Result<Borrowed<'a>> {
    let (name, key) = (&source.name, row.key);
    let value = row.values().next().flatten();
    decode_borrowed(value, ty, &format_args!("{name} of document {key}"))?
        .ok_or_else(|| Error::invalid(format!("{name}: a member of document {key} is null")))
}

/// A value of a row source's row, in one of its columns.
pub fn column<'a>(
    source: &Source,
    column: &Column,
    row: &KeyedRow<'_>,
    value: Option<&'a [u8]>,
) -> Result<Option<Borrowed<'a>>> {
    decode_borrowed(value, column.ty, &format_args!("{}, key {}: {}", source.name, row.key, column.name))
}

/// Whether whole rows are rows of a source, as the definition's COPY gives them: all of them decode.
pub fn check_rows(schema: &Schema, id: SourceId, bytes: &[u8]) -> Result<()> {
    let rows = keyed_rows(schema, id, bytes)?;
    let source = rows.source;
    for row in rows {
        let row = row?;
        if let SourceKind::Members { ty } = source.kind {
            member(source, ty, &row)?;
            continue;
        }
        for (of, value) in source.columns().iter().zip(row.values()) {
            column(source, of, &row, value)?;
        }
    }
    Ok(())
}

/// Reads whole rows of a source, as the definition's COPY gives them, into upserts or present members.
pub fn load_ops(schema: &Schema, id: SourceId, bytes: &[u8]) -> Result<Vec<Op>> {
    let rows = keyed_rows(schema, id, bytes)?;
    let source = rows.source;
    rows.map(|row| {
        let row = row?;
        let key = row.key;
        if let SourceKind::Members { ty } = source.kind {
            let value = member(source, ty, &row)?.into();
            return Ok(Op::Member { source: id, document: document_key(key, &source.name)?, value, present: true });
        }
        let columns = source.columns().iter().zip(row.values());
        let row = columns
            .map(|(of, value)| column(source, of, &row, value).map(|value| value.map(Value::from)))
            .collect::<Result<Row>>()?;
        Ok(Op::Upsert { source: id, key, row: Some(row) })
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::definition::Definition;

    fn shop() -> Definition {
        Definition::parse(include_str!("../../docs/examples/shop.yaml")).unwrap()
    }

    fn row(fields: &[Option<&[u8]>]) -> Vec<u8> {
        let mut bytes = (fields.len() as i16).to_be_bytes().to_vec();
        for field in fields {
            bytes.extend(field.map_or(-1, |field| field.len() as i32).to_be_bytes());
            bytes.extend(field.unwrap_or_default());
        }
        bytes
    }

    fn stream(rows: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([0; 8]);
        bytes.extend(rows.concat());
        bytes.extend((-1_i16).to_be_bytes());
        bytes
    }

    /// The binary numeric of `unscaled` / 10^scale, as Postgres sends it: no zero digits at either end.
    fn numeric_bytes(unscaled: i128, scale: u8) -> Vec<u8> {
        let padding = (4 - scale % 4) % 4;
        let mut rest = unscaled.unsigned_abs() * 10_u128.pow(u32::from(padding));
        let mut digits = Vec::new();
        while rest > 0 {
            digits.push((rest % 10_000) as u16);
            rest /= 10_000;
        }
        let mut weight = digits.len() as i32 - 1 - i32::from((scale + padding) / 4);
        digits.reverse();
        while digits.last() == Some(&0) {
            digits.pop();
        }
        if digits.is_empty() {
            weight = 0;
        }
        let sign: u16 = if unscaled < 0 { 0x4000 } else { 0 };
        let header = [digits.len() as u16, weight as i16 as u16, sign, u16::from(scale)];
        header.into_iter().chain(digits).flat_map(u16::to_be_bytes).collect()
    }

    fn decode(bytes: &[u8], ty: FieldType) -> Result<Value, String> {
        decode_value(Some(bytes), ty, "field f").map(Option::unwrap).map_err(|error| error.to_string())
    }

    #[test]
    fn canonical_types_decode() {
        assert_eq!(decode(&(-5_i64).to_be_bytes(), FieldType::Int), Ok(Value::Int(-5)));
        assert_eq!(decode(&1.5_f64.to_be_bytes(), FieldType::Float), Ok(Value::Float(Float::new(1.5))));
        assert_eq!(decode(&[1], FieldType::Bool), Ok(Value::Bool(true)));
        assert_eq!(decode("é".as_bytes(), FieldType::String), Ok(Value::Text("é".into())));
        assert_eq!(decode(&1_i64.to_be_bytes(), FieldType::Timestamp), Ok(Value::Int(EPOCH_US + 1)));
        assert_eq!(decode_value(None, FieldType::Int, "f"), Ok(None));
    }

    #[test]
    fn what_has_no_value_is_refused_by_name() {
        let nan = [0, 0, 0, 0, 0xc0, 0, 0, 0];
        let infinity = [0, 0, 0, 0, 0xd0, 0, 0, 32];
        for (bytes, ty, expected) in [
            (&i64::MAX.to_be_bytes()[..], FieldType::Timestamp, "the timestamp infinity"),
            (&i64::MIN.to_be_bytes(), FieldType::Timestamp, "the timestamp -infinity"),
            (&(i64::MAX - 1).to_be_bytes(), FieldType::Timestamp, "past the year"),
            (&nan, FieldType::Decimal(2), "NaN"),
            (&infinity, FieldType::Decimal(2), "infinity"),
            (&numeric_bytes(12_345, 3), FieldType::Decimal(2), "more than 2 digits"),
            (&numeric_bytes(1, 30), FieldType::Decimal(18), "more than 18 digits"),
            (&numeric_bytes(i128::from(i64::MAX) + 1, 0), FieldType::Decimal(0), "does not fit decimal(0)"),
            (&numeric_bytes(i128::MAX / 100_000_000, 0), FieldType::Decimal(18), "does not fit decimal(18)"),
            (&[0, 1, 0, 0, 0, 0, 0, 0, 0x27, 0x10], FieldType::Decimal(2), "no numeric"),
            (&[0, 1], FieldType::Decimal(2), "no numeric"),
            (&[2], FieldType::Bool, "no bool"),
            (&[1, 2, 3], FieldType::Int, "3 bytes are no int8"),
            (&[0xff], FieldType::String, "not UTF-8"),
        ] {
            let error = decode(bytes, ty).unwrap_err();
            assert!(error.starts_with("field f: ") && error.contains(expected), "{expected}: {error}");
        }
    }

    #[test]
    fn rows_become_ops() {
        let definition = shop();
        let schema = definition.schema();
        let (category, tiers) = (schema.source("category").unwrap().0, schema.source("tiers").unwrap().0);
        let bytes = [
            row(&[Some(&(-7_i64).to_be_bytes()), Some(b"saws"), None]),
            row(&[Some(&8_i64.to_be_bytes()), Some(b""), Some(&1_i64.to_be_bytes())]),
        ]
        .concat();
        assert_eq!(
            load_ops(schema, category, &bytes).unwrap(),
            [
                Op::Upsert { source: category, key: -7, row: Some([Some(Value::Text("saws".into())), None].into()) },
                Op::Upsert {
                    source: category,
                    key: 8,
                    row: Some([Some(Value::Text("".into())), Some(Value::Int(1))].into())
                },
            ]
        );
        let pair = row(&[Some(&4_i64.to_be_bytes()), Some(&numeric_bytes(150, 2))]);
        assert_eq!(
            load_ops(schema, tiers, &pair).unwrap(),
            [Op::Member { source: tiers, document: 4, value: Value::Int(150), present: true }]
        );
        for (source, bytes, expected) in [
            (category, row(&[None, None, None]), "category: a row without a key"),
            (category, row(&[Some(&1_i64.to_be_bytes())]), "category: a row of COPY has 1 fields, the definition 3"),
            (category, row(&[]), "category: a row of COPY without fields"),
            (category, pair[..5].to_vec(), "cut off"),
            (category, row(&[Some(&1_i64.to_be_bytes()), None, Some(b"x")]), "category, key 1: parentCategoryId: "),
            (tiers, row(&[Some(&1_i64.to_be_bytes()), None]), "tiers: a member of document 1 is null"),
            (tiers, row(&[Some(&(1_i64 << 32).to_be_bytes()), None]), "tiers: document key 4294967296 is not in"),
            (99, vec![], "source 99 does not exist"),
        ] {
            let error = load_ops(schema, source, &bytes).unwrap_err().to_string();
            assert!(error.contains(expected), "{expected}: {error}");
        }
    }

    #[test]
    fn a_stream_must_start_and_end_as_copy_does() {
        let rows = [row(&[Some(b"a")]), row(&[None])];
        let whole = stream(&rows);
        let mut splitter = Splitter::default();
        splitter.push(&whole);
        assert_eq!(splitter.take().unwrap(), rows.concat());
        assert_eq!(splitter.finish(), Ok(2));

        let mut splitter = Splitter::default();
        splitter.push(&whole[..whole.len() - 1]);
        splitter.take().unwrap();
        assert!(splitter.finish().unwrap_err().to_string().contains("without its trailer"));

        let mut splitter = Splitter::default();
        splitter.push(b"SELECT 1");
        assert!(splitter.take().unwrap_err().to_string().contains("does not start"));

        let mut splitter = Splitter::default();
        splitter.push(&whole);
        splitter.push(&[0]);
        assert!(splitter.take().unwrap_err().to_string().contains("behind its trailer"));
        assert!(whole_rows(&[0, 1, 0xff, 0xff, 0xff, 0xfe]).unwrap_err().to_string().contains("length of -2"));
        assert!(whole_rows(&[0x80, 0]).unwrap_err().to_string().contains("fields"));
    }

    proptest! {
        #[test]
        fn numerics_are_exact(unscaled: i64, scale in 0_u8..=18, extra in 0_u8..=4) {
            // A value written with more digits than the scale is the same value while those digits are zero.
            let bytes = numeric_bytes(i128::from(unscaled) * 10_i128.pow(u32::from(extra)), scale + extra);
            prop_assert_eq!(decode(&bytes, FieldType::Decimal(scale)), Ok(Value::Int(unscaled)));
        }

        #[test]
        fn pieces_of_any_size_give_the_same_rows(
            fields in prop::collection::vec(prop::collection::vec(prop::option::of(prop::collection::vec(any::<u8>(), 0..9)), 0..4), 0..8),
            sizes in prop::collection::vec(1_usize..20, 1..40),
        ) {
            let encoded: Vec<_> = fields
                .iter()
                .map(|fields| row(&fields.iter().map(Option::as_deref).collect::<Vec<_>>()))
                .collect();
            let whole = stream(&encoded);
            let mut splitter = Splitter::default();
            let mut taken = Vec::new();
            let mut rest = whole.as_slice();
            for size in sizes.iter().cycle() {
                let (piece, after) = rest.split_at((*size).min(rest.len()));
                splitter.push(piece);
                taken.extend(splitter.take().unwrap());
                rest = after;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(splitter.finish(), Ok(fields.len() as u64));
            let decoded: Vec<_> = rows(&taken).map(Result::unwrap).collect();
            let expected: Vec<Vec<_>> = fields.iter().map(|row| row.iter().map(Option::as_deref).collect()).collect();
            prop_assert_eq!(decoded, expected);
        }

        #[test]
        fn garbage_is_an_error_never_a_panic(bytes in prop::collection::vec(prop_oneof![Just(0_u8), Just(1), Just(255), any::<u8>()], 0..200)) {
            let definition = shop();
            for source in 0..definition.schema().sources.len() {
                let _ = load_ops(definition.schema(), source, &bytes);
            }
            for ty in [FieldType::Int, FieldType::Decimal(18), FieldType::Float, FieldType::Bool, FieldType::Timestamp, FieldType::String] {
                let _ = decode_value(Some(&bytes), ty, "f");
            }
            let mut splitter = Splitter::default();
            splitter.push(&stream(&[])[..19]);
            splitter.push(&bytes);
            let _ = splitter.take();
            let _ = header_len(&bytes);
        }
    }
}
