//! The bytes of values: what checkpoints hold and what the state's hash is taken of. One value has one encoding.

use bitdex_proto::value::{FieldValue, Float, Value};

use crate::segment::value::ValueRef;

/// Bytes that are not what they should be; where, is for the caller to say.
#[derive(Debug)]
pub(crate) struct Broken;

const NULL: u8 = 0;
const FALSE: u8 = 1;
const TRUE: u8 = 2;
const INT: u8 = 3;
const FLOAT: u8 = 4;
const TEXT: u8 = 5;
const MANY: u8 = 6;

pub(crate) fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

pub(crate) fn put_key(out: &mut Vec<u8>, key: i64) {
    // Zigzag, so that small negative numbers are short too.
    put_number(out, ((key << 1) ^ (key >> 63)) as u64);
}

pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

pub(crate) fn put_value(out: &mut Vec<u8>, value: &Value) {
    put_ref(out, ValueRef::of(value));
}

pub(crate) fn put_ref(out: &mut Vec<u8>, value: ValueRef<'_>) {
    match value {
        ValueRef::Bool(bool) => out.push(if bool { TRUE } else { FALSE }),
        ValueRef::Int(int) => {
            out.push(INT);
            put_key(out, int);
        }
        ValueRef::Float(float) => {
            out.push(FLOAT);
            out.extend_from_slice(&float.get().to_bits().to_le_bytes());
        }
        ValueRef::Text(text) => {
            out.push(TEXT);
            put_bytes(out, text.as_bytes());
        }
    }
}

pub(crate) fn put_optional_ref(out: &mut Vec<u8>, value: Option<ValueRef<'_>>) {
    match value {
        Some(value) => put_ref(out, value),
        None => out.push(NULL),
    }
}

pub(crate) fn put_optional(out: &mut Vec<u8>, value: Option<&Value>) {
    match value {
        Some(value) => put_value(out, value),
        None => out.push(NULL),
    }
}

pub(crate) fn put_values(out: &mut Vec<u8>, values: &[Value]) {
    put_number(out, values.len() as u64);
    values.iter().for_each(|value| put_value(out, value));
}

pub(crate) fn put_field(out: &mut Vec<u8>, value: &FieldValue) {
    match value {
        FieldValue::Null => out.push(NULL),
        FieldValue::One(value) => put_value(out, value),
        FieldValue::Many(values) => {
            out.push(MANY);
            put_values(out, values);
        }
    }
}

/// Of eight bytes the lower seven bits each, side by side.
fn joined(bytes: u64) -> u64 {
    let pairs = bytes & 0x007f_007f_007f_007f | (bytes & 0x7f00_7f00_7f00_7f00) >> 1;
    let fours = pairs & 0x0000_3fff_0000_3fff | (pairs & 0x3fff_0000_3fff_0000) >> 2;
    fours & 0x0fff_ffff | (fours & 0x0fff_ffff_0000_0000) >> 4
}

/// Reads what the functions above wrote. Never trusts a length beyond the bytes that are there.
#[derive(Debug)]
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn byte(&mut self) -> Result<u8, Broken> {
        let (first, rest) = self.0.split_first().ok_or(Broken)?;
        self.0 = rest;
        Ok(*first)
    }

    #[inline]
    pub(crate) fn number(&mut self) -> Result<u64, Broken> {
        if let Some((byte, rest)) = self.0.split_first()
            && *byte < 0x80
        {
            self.0 = rest;
            return Ok((*byte).into());
        }
        if let Some(bytes) = self.0.first_chunk::<8>() {
            let word = u64::from_le_bytes(*bytes);
            let ends = !word & 0x8080_8080_8080_8080;
            if ends != 0 {
                let length = ends.trailing_zeros() / 8 + 1;
                self.0 = self.0.get(length as usize..).ok_or(Broken)?;
                return Ok(joined(word & u64::MAX >> (64 - 8 * length)));
            }
        }
        self.long_number()
    }

    fn long_number(&mut self) -> Result<u64, Broken> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                return Err(Broken);
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Broken)
    }

    pub(crate) fn key(&mut self) -> Result<i64, Broken> {
        let number = self.number()?;
        Ok((number >> 1) as i64 ^ -((number & 1) as i64))
    }

    pub(crate) fn id(&mut self) -> Result<u32, Broken> {
        u32::try_from(self.number()?).map_err(|_| Broken)
    }

    /// A count of things that take at least a byte each.
    pub(crate) fn length(&mut self) -> Result<usize, Broken> {
        let length = usize::try_from(self.number()?).map_err(|_| Broken)?;
        if length > self.0.len() { Err(Broken) } else { Ok(length) }
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], Broken> {
        let length = self.length()?;
        let (bytes, rest) = self.0.split_at(length);
        self.0 = rest;
        Ok(bytes)
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, Broken> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Broken)
    }

    pub(crate) fn optional(&mut self) -> Result<Option<Value>, Broken> {
        let tag = self.byte()?;
        self.tagged(tag)
    }

    fn tagged(&mut self, tag: u8) -> Result<Option<Value>, Broken> {
        Ok(Some(match tag {
            NULL => return Ok(None),
            FALSE => Value::Bool(false),
            TRUE => Value::Bool(true),
            INT => Value::Int(self.key()?),
            FLOAT => {
                let (bits, rest) = self.0.split_first_chunk::<8>().ok_or(Broken)?;
                self.0 = rest;
                Value::Float(Float::new(f64::from_bits(u64::from_le_bytes(*bits))))
            }
            TEXT => Value::Text(self.text()?.into()),
            _ => return Err(Broken),
        }))
    }

    /// As [`Input::optional`], without a copy.
    pub(crate) fn optional_ref(&mut self) -> Result<Option<ValueRef<'a>>, Broken> {
        Ok(Some(match self.byte()? {
            NULL => return Ok(None),
            FALSE => ValueRef::Bool(false),
            TRUE => ValueRef::Bool(true),
            INT => ValueRef::Int(self.key()?),
            FLOAT => {
                let (bits, rest) = self.0.split_first_chunk::<8>().ok_or(Broken)?;
                self.0 = rest;
                ValueRef::Float(Float::new(f64::from_bits(u64::from_le_bytes(*bits))))
            }
            TEXT => ValueRef::Text(self.text()?),
            _ => return Err(Broken),
        }))
    }

    /// Passes over one value or null.
    pub(crate) fn skip(&mut self) -> Result<(), Broken> {
        match self.byte()? {
            NULL | FALSE | TRUE => {}
            INT => {
                self.number()?;
            }
            FLOAT => self.0 = self.0.get(8..).ok_or(Broken)?,
            TEXT => {
                self.bytes()?;
            }
            _ => return Err(Broken),
        }
        Ok(())
    }

    /// Calls `each` with the values that [`put_values`] wrote.
    pub(crate) fn each_value(&mut self, each: &mut impl FnMut(ValueRef<'a>)) -> Result<(), Broken> {
        for _ in 0..self.length()? {
            each(self.optional_ref()?.ok_or(Broken)?);
        }
        Ok(())
    }

    /// Calls `each` with the values that [`put_field`] wrote.
    pub(crate) fn each_of_field(&mut self, each: &mut impl FnMut(ValueRef<'a>)) -> Result<(), Broken> {
        if self.0.first() == Some(&MANY) {
            self.byte()?;
            return self.each_value(each);
        }
        if let Some(value) = self.optional_ref()? {
            each(value);
        }
        Ok(())
    }

    pub(crate) fn values(&mut self) -> Result<Vec<Value>, Broken> {
        (0..self.length()?).map(|_| self.optional()?.ok_or(Broken)).collect()
    }

    pub(crate) fn field(&mut self) -> Result<FieldValue, Broken> {
        match self.byte()? {
            MANY => Ok(FieldValue::many(self.values()?)),
            tag => self.tagged(tag).map(FieldValue::one),
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::RngExt as _;

    use super::*;
    use crate::testing::seeded;

    #[test]
    fn numbers_of_every_length_come_back_whatever_follows_them() {
        let mut rng = seeded();
        for bits in 0..=64 {
            for _ in 0..50 {
                let number = rng.random::<u64>().checked_shr(64 - bits).unwrap_or(0);
                let mut bytes = Vec::new();
                put_number(&mut bytes, number);
                let length = bytes.len();
                bytes.extend((0..rng.random_range(0..12)).map(|_| rng.random::<u8>()));
                let mut input = Input(&bytes);
                assert_eq!(input.number().unwrap(), number);
                assert_eq!(input.0, &bytes[length..]);
                assert!(Input(&bytes[..length - 1]).number().is_err() || length == 1, "{number} without its end");
            }
        }
        assert!(Input(&[]).number().is_err());
        assert!(Input(&[0xff; 10]).number().is_err(), "more than 64 bits");
    }
}
