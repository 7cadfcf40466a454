//! A section made of parts, each at a multiple of 64 bytes.
//!
//! ```text
//! 0          u64          number of parts, n
//! 8 + 16 i   u64, u64     where part i begins (from the section's start), and its length, both in bytes
//! ```
//!
//! Numbers are little-endian, here and in all parts.

use bytemuck::AnyBitPattern;

use crate::{
    log::Result,
    store::pack::{PackWriter, Section, SectionId},
};

pub(super) const ALIGN: usize = 64;

/// Writes a whole section.
pub(super) fn write<const N: usize>(pack: &mut PackWriter, id: SectionId, parts: [&[u8]; N]) -> Result<()> {
    let mut header = vec![N as u64];
    let mut at = (8 + 16 * N).next_multiple_of(ALIGN);
    for part in &parts {
        header.extend([at as u64, part.len() as u64]);
        at += part.len().next_multiple_of(ALIGN);
    }
    pack.section(id)?;
    pack.write(bytemuck::cast_slice(&header))?;
    for part in parts {
        pack.align(ALIGN)?;
        pack.write(part)?;
    }
    Ok(())
}

/// Where the parts of a section lie; all within it.
pub(super) fn open<const N: usize>(section: &Section) -> Result<[Part; N]> {
    let mut parts = [Part { at: 0, length: 0 }; N];
    if section.slice::<u64>(0, 1)? != [N as u64] {
        return Err(section.damaged(0, "it has another number of parts"));
    }
    let header = section.slice::<u64>(8, 2 * N)?;
    for (n, (part, numbers)) in parts.iter_mut().zip(header.chunks_exact(2)).enumerate() {
        let &[at, length] = numbers else { continue };
        let end = at.checked_add(length).and_then(|end| usize::try_from(end).ok());
        if at % ALIGN as u64 != 0 || end.is_none_or(|end| end > section.len()) {
            return Err(section.damaged(8 + 16 * n, "a part does not lie within its section"));
        }
        *part = Part { at: at as usize, length: length as usize };
    }
    Ok(parts)
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    at: usize,
    length: usize,
}

impl Part {
    /// Length in bytes.
    pub(super) fn len(self) -> usize {
        self.length
    }

    /// Where the part's n-th `T` lies in the section.
    pub(super) fn position<T>(self, n: usize) -> usize {
        self.at.saturating_add(n.saturating_mul(size_of::<T>()))
    }

    pub(super) fn slice<T: AnyBitPattern>(self, section: &Section, first: usize, count: usize) -> Result<&[T]> {
        let end = first.checked_add(count).and_then(|end| end.checked_mul(size_of::<T>()));
        if end.is_none_or(|end| end > self.length) {
            return Err(section.damaged(self.position::<T>(0), "a part of it is too short"));
        }
        section.slice(self.position::<T>(first), count)
    }

    pub(super) fn get<T: AnyBitPattern>(self, section: &Section, n: usize) -> Result<T> {
        match self.slice(section, n, 1)? {
            [one] => Ok(*one),
            _ => Err(section.damaged(self.position::<T>(n), "a part of it is too short")),
        }
    }

    pub(super) fn all<T: AnyBitPattern>(self, section: &Section) -> Result<&[T]> {
        self.slice(section, 0, self.length / size_of::<T>())
    }
}

/// From where to where the n-th of some things reaches that lie one behind the other; `ends` has their ends from
/// `first` on (in units of 2 bytes), each in 2 or 4 bytes.
pub(super) fn span(ends: Part, section: &Section, first: u32, width: u32, n: usize) -> Result<(u32, u32)> {
    let join = |low: u16, high: u16| u32::from(low) | u32::from(high) << 16;
    // The end of the one before, where there is one, and its own.
    let (skip, count) = if n == 0 { (0, 1) } else { (n - 1, 2) };
    let units = if width == 2 { 1 } else { 2 };
    Ok(match (units, ends.slice::<u16>(section, first as usize + skip * units, count * units)?) {
        (1, [start, end]) => ((*start).into(), (*end).into()),
        (1, [end]) => (0, (*end).into()),
        (_, [a, b, c, d]) => (join(*a, *b), join(*c, *d)),
        (_, [a, b]) => (0, join(*a, *b)),
        _ => (0, 0),
    })
}
