//! Sorted numbers without duplicates, in groups of 64: three parts of a section.
//!
//! ```text
//! bases    u64 a group   its first number
//! groups   u32 a group   where its differences begin in `deltas`, in units of 8 bytes, times 4; plus the logarithm of
//!                        their width: 0 u8, 1 u16, 2 u32, 3 u64
//! deltas   u8…u64 each   number minus base; each group filled up with zeros to a multiple of 8 bytes
//! ```

use std::sync::OnceLock;

use bytemuck::AnyBitPattern;

use super::parts::Part;
use crate::{
    log::{Error, Result},
    mapping::ahead::{fetch, fetch_all},
    store::pack::Section,
};

pub(super) const GROUP: usize = 64;

#[derive(Debug, Default)]
pub(super) struct KeysWriter {
    bases: Vec<u64>,
    groups: Vec<u32>,
    deltas: Vec<u8>,
    /// Of the group that is not closed yet.
    open: Vec<u64>,
    count: usize,
}

impl KeysWriter {
    /// Ascending.
    pub(super) fn push(&mut self, key: u64) {
        debug_assert!(self.open.last().is_none_or(|last| *last < key), "keys ascend");
        if self.open.len() == GROUP {
            self.close();
        }
        self.open.push(key);
        self.count += 1;
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    pub(super) fn bytes(&self) -> usize {
        self.bases.capacity() * 8 + self.groups.capacity() * 4 + self.deltas.capacity()
    }

    fn close(&mut self) {
        let (Some(&base), Some(&last)) = (self.open.first(), self.open.last()) else { return };
        let width = match last - base {
            0..=0xff => 0,
            0x100..=0xffff => 1,
            0x1_0000..=0xffff_ffff => 2,
            _ => 3,
        };
        self.bases.push(base);
        // What does not fit is refused by `finish`.
        self.groups.push(((self.deltas.len() / 8) as u32).wrapping_mul(4) | width);
        for key in self.open.drain(..) {
            self.deltas.extend_from_slice(&(key - base).to_le_bytes()[..1 << width]);
        }
        self.deltas.resize(self.deltas.len().next_multiple_of(8), 0);
    }

    /// Bases, groups, deltas.
    pub(super) fn finish(mut self) -> Result<(Vec<u64>, Vec<u32>, Vec<u8>)> {
        self.close();
        if self.deltas.len() / 8 > u32::MAX as usize / 4 {
            return Err(Error::foreign("a file would have more keys than its format can tell apart"));
        }
        Ok((self.bases, self.groups, self.deltas))
    }
}

#[derive(Debug)]
pub(super) struct Keys {
    bases: Part,
    groups: Part,
    deltas: Part,
    count: usize,
    ends: OnceLock<Option<Ends>>,
}

/// The first base and the last, and how many there are for each number between these.
#[derive(Debug, Clone, Copy)]
struct Ends {
    first: u64,
    last: u64,
    density: f64,
}

impl Ends {
    fn of(bases: &[u64]) -> Option<Self> {
        let (first, last) = (*bases.first()?, *bases.last()?);
        Some(Self { first, last, density: (bases.len() - 1) as f64 / last.saturating_sub(first).max(1) as f64 })
    }

    /// Which base is the last that is not above a key, if they are evenly spread; `None` where the key is not between
    /// their ends.
    fn guess(&self, key: u64) -> Option<usize> {
        (self.first <= key && key < self.last).then(|| ((key - self.first) as f64 * self.density) as usize)
    }
}

impl Keys {
    pub(super) fn open(section: &Section, parts: [Part; 3], count: u64) -> Result<Self> {
        let [bases, groups, deltas] = parts;
        let damaged = || section.damaged(bases.position::<u8>(0), "it has fewer keys than it says");
        let count = usize::try_from(count).map_err(|_| damaged())?;
        let full = count.div_ceil(GROUP);
        if bases.len() != full * 8 || groups.len() != full * 4 || deltas.len() < count {
            return Err(damaged());
        }
        Ok(Self { bases, groups, deltas, count, ends: OnceLock::new() })
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    fn in_group(&self, group: usize) -> usize {
        self.count.saturating_sub(group.saturating_mul(GROUP)).min(GROUP)
    }

    /// As `binary_search` of slices: the position of a key, or where it would stand.
    pub(super) fn find(&self, section: &Section, key: u64) -> Result<Result<usize, usize>> {
        match self.group_of(section, key)? {
            Some(group) => self.find_in(section, group, key),
            None => Ok(Err(0)),
        }
    }

    /// Asks for what tells which group a key is in.
    pub(super) fn fetch_bases(&self, section: &Section, key: u64) -> Result<()> {
        let bases = self.bases.all::<u64>(section)?;
        let guess = self.ends(bases).and_then(|ends| ends.guess(key));
        guess.and_then(|guess| bases.get(guess)).into_iter().for_each(fetch);
        Ok(())
    }

    /// The group of a key; `None`: all keys are above it.
    pub(super) fn group_of(&self, section: &Section, key: u64) -> Result<Option<usize>> {
        let bases = self.bases.all::<u64>(section)?;
        let Some(ends) = self.ends(bases).filter(|ends| ends.first <= key) else { return Ok(None) };
        Ok(match ends.guess(key) {
            Some(guess) => not_above(bases, key, guess).checked_sub(1),
            None => Some(bases.len() - 1),
        })
    }

    /// Of these bases, which are always the same ones.
    fn ends(&self, bases: &[u64]) -> Option<Ends> {
        *self.ends.get_or_init(|| Ends::of(bases))
    }

    /// Asks for what tells where a group lies.
    pub(super) fn fetch_group(&self, section: &Section, group: usize) -> Result<()> {
        self.groups.slice::<u32>(section, group, 1)?.iter().for_each(fetch);
        Ok(())
    }

    /// Asks for the keys of a group.
    pub(super) fn fetch_keys(&self, section: &Section, group: usize) -> Result<()> {
        let (at, width) = self.group(section, group)?;
        let bytes = self.deltas.slice::<u8>(section, at * 8, self.in_group(group) << width)?;
        fetch_all(bytes);
        Ok(())
    }

    /// As [`Keys::find`], in its group.
    pub(super) fn find_in(&self, section: &Section, group: usize, key: u64) -> Result<Result<usize, usize>> {
        let delta = key.wrapping_sub(self.bases.get::<u64>(section, group)?);
        let (at, width) = self.group(section, group)?;
        let first = group * GROUP;
        let found = match width {
            0 => search(self.deltas.slice::<u8>(section, at * 8, self.in_group(group))?, delta),
            1 => search(self.deltas.slice::<u16>(section, at * 4, self.in_group(group))?, delta),
            2 => search(self.deltas.slice::<u32>(section, at * 2, self.in_group(group))?, delta),
            _ => search(self.deltas.slice::<u64>(section, at, self.in_group(group))?, delta),
        };
        Ok(match found {
            Ok(within) => Ok(first + within),
            Err(within) => Err(first + within),
        })
    }

    pub(super) fn at(&self, section: &Section, position: usize) -> Result<u64> {
        let (group, within) = (position / GROUP, position % GROUP);
        let base = self.bases.get::<u64>(section, group)?;
        let (at, width) = self.group(section, group)?;
        let delta = match width {
            0 => self.deltas.get::<u8>(section, at * 8 + within)?.into(),
            1 => self.deltas.get::<u16>(section, at * 4 + within)?.into(),
            2 => self.deltas.get::<u32>(section, at * 2 + within)?.into(),
            _ => self.deltas.get::<u64>(section, at + within)?,
        };
        Ok(base.wrapping_add(delta))
    }

    fn group(&self, section: &Section, group: usize) -> Result<(usize, u32)> {
        let packed = self.groups.get::<u32>(section, group)?;
        Ok(((packed / 4) as usize, packed % 4))
    }
}

fn search<T: Copy + Into<u64> + AnyBitPattern>(deltas: &[T], delta: u64) -> Result<usize, usize> {
    // Where there are no gaps.
    if deltas.get(delta as usize).is_some_and(|one| (*one).into() == delta) {
        return Ok(delta as usize);
    }
    let at = deltas.partition_point(|one| (*one).into() < delta);
    match deltas.get(at) {
        Some(&one) if one.into() == delta => Ok(at),
        _ => Err(at),
    }
}

/// How many of these ascending numbers are not above `key`: about `guess`, from which it begins.
fn not_above(bases: &[u64], key: u64, guess: usize) -> usize {
    let is = |at: usize| bases.get(at).is_some_and(|base| *base <= key);
    let mut step = 1;
    let (low, high) = if is(guess) {
        let mut low = guess;
        while is(low + step) {
            low += step;
            step *= 2;
        }
        (low, (low + step).min(bases.len()))
    } else {
        let mut high = guess;
        while high > step && !is(high - step) {
            high -= step;
            step *= 2;
        }
        (high.saturating_sub(step), high)
    };
    low + bases.get(low..high).unwrap_or_default().partition_point(|base| *base <= key)
}
