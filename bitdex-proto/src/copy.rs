//! Rows of Postgres' `COPY … (FORMAT binary)` → values and ops. Nothing here trusts its bytes: whatever they are, the
//! answer is the values that they mean or an error that names what is wrong.

use std::sync::Arc;

use crate::{
    Error, Result,
    ops::{Op, Row, document_key},
    schema::{Schema, SourceId, SourceKind},
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

/// Reads the binary form of a canonical type (`int8`, `numeric`, `float8`, `bool`, `timestamptz`, `text`) as a value of
/// type `ty`; no bytes are null. `what` names the field in errors.
pub fn decode_value(bytes: Option<&[u8]>, ty: FieldType, what: &str) -> Result<Option<Value>> {
    let Some(bytes) = bytes else { return Ok(None) };
    let eight = |name: &str| {
        <[u8; 8]>::try_from(bytes)
            .map_err(|_| Error::invalid(format!("{what}: {} bytes are no {name}, which has 8", bytes.len())))
    };
    Ok(Some(match ty {
        FieldType::Int => Value::Int(i64::from_be_bytes(eight("int8")?)),
        FieldType::Float => Value::Float(Float::new(f64::from_be_bytes(eight("float8")?))),
        FieldType::Timestamp => Value::Int(timestamp(i64::from_be_bytes(eight("timestamptz")?), what)?),
        FieldType::Bool => match bytes {
            [0] => Value::Bool(false),
            [1] => Value::Bool(true),
            _ => return Err(Error::invalid(format!("{what}: {bytes:?} is no bool"))),
        },
        FieldType::Decimal(scale) => Value::Int(numeric(bytes, scale, what)?),
        FieldType::String => Value::Text(Arc::from(
            std::str::from_utf8(bytes).map_err(|_| Error::invalid(format!("{what}: the text is not UTF-8")))?,
        )),
    }))
}

fn timestamp(us: i64, what: &str) -> Result<i64> {
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
fn numeric(bytes: &[u8], scale: u8, what: &str) -> Result<i64> {
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
        self.bytes = row.as_ref().map_or(&[], |(_, rest)| rest);
        Some(row.map(|(fields, _)| fields))
    }
}

type Fields<'a> = Vec<Option<&'a [u8]>>;

fn split_row(bytes: &[u8]) -> Result<(Fields<'_>, &[u8])> {
    let cut = || Error::invalid("the rows of COPY are cut off within a row");
    let (count, mut rest) = bytes.split_first_chunk().ok_or_else(cut)?;
    let count = i16::from_be_bytes(*count);
    let count = u16::try_from(count).map_err(|_| Error::invalid(format!("a row of COPY with {count} fields")))?;
    // Each field takes at least 4 bytes: a count beyond that is a lie, and must not reserve memory.
    let mut fields = Vec::with_capacity(usize::from(count).min(rest.len() / 4));
    for _ in 0..count {
        let (length, after) = rest.split_first_chunk().ok_or_else(cut)?;
        match field_len(i32::from_be_bytes(*length))? {
            None => {
                fields.push(None);
                rest = after;
            }
            Some(length) => {
                let (field, after) = after.split_at_checked(length).ok_or_else(cut)?;
                fields.push(Some(field));
                rest = after;
            }
        }
    }
    Ok((fields, rest))
}

/// Reads whole rows of a source, as the definition's COPY gives them, into upserts or present members.
pub fn load_ops(schema: &Schema, source: SourceId, bytes: &[u8]) -> Result<Vec<Op>> {
    let id = source;
    let source = schema
        .sources
        .get(id)
        .ok_or_else(|| Error::invalid(format!("source {id} does not exist: the definition has {}", schema.sources.len())))?;
    let name = &source.name;
    rows(bytes)
        .map(|fields| {
            let fields = fields.map_err(|error| Error::invalid(format!("{name}: {error}")))?;
            let width = match source.kind {
                SourceKind::Members { .. } => 2,
                _ => 1 + source.columns().len(),
            };
            let [key, values @ ..] = fields.as_slice() else {
                return Err(Error::invalid(format!("{name}: a row of COPY without fields")));
            };
            if fields.len() != width {
                let message = format!("{name}: a row of COPY has {} fields, the definition {width}", fields.len());
                return Err(Error::invalid(message));
            }
            let Some(Value::Int(key)) = decode_value(*key, FieldType::Int, name)? else {
                return Err(Error::invalid(format!("{name}: a row without a key")));
            };
            let document = match source.kind {
                SourceKind::Lookup { .. } => 0,
                _ => document_key(key, name)?,
            };
            if let SourceKind::Members { ty } = source.kind {
                let value = decode_value(values[0], ty, &format!("{name} of document {key}"))?
                    .ok_or_else(|| Error::invalid(format!("{name}: a member of document {key} is null")))?;
                return Ok(Op::Member { source: id, document, value, present: true });
            }
            let row = source
                .columns()
                .iter()
                .zip(values)
                .map(|(column, value)| {
                    decode_value(*value, column.ty, &column.name)
                        .map_err(|error| Error::invalid(format!("{name}, key {key}: {error}")))
                })
                .collect::<Result<Row>>()?;
            Ok(Op::Upsert { source: id, key, row: Some(row) })
        })
        .collect()
}
