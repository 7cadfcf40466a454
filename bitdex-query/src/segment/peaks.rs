//! The ids of a segment whose codes are among its greatest, as sets: all from one code on, from a lower one on, and so
//! forth. Who looks for the first rows, downwards, needs no codes of other ids.
//!
//! Three parts; there is such a section where the codes do not follow the ids.
//!
//! ```text
//! 0   levels    u64: the least code of a set, descending
//! 1   blocks    8 bytes a level and block of the column, level by level: u32 ids, u32 where they begin in part 2, in
//!               units of 8 bytes
//! 2   sets      up to 511 ids: u16 an id (within the block), zeros up to a multiple of 8 bytes; else 1 024 words of
//!               bits, u64
//! ```

use std::sync::Arc;

use bitdex_proto::schema::FieldId;
use bytemuck::{Pod, Zeroable};

use super::{
    columns::Codes,
    parts::{self, Part},
    sets::{Block, WORDS},
};
use crate::{
    log::Result,
    store::pack::{Pack, PackWriter, Section, SectionId, SectionKind},
};

/// One id in so many is in a set, about.
pub const SHARES: [usize; 4] = [1024, 256, 64, 16];
/// No set holds a greater part of the ids.
pub const SHARE_MOST: f64 = 1.0 / SHARES[SHARES.len() - 1] as f64;
/// Sets of up to so many ids of a block are arrays: to look a few ids up in words is quicker.
pub const ARRAY_MOST: usize = 511;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
struct Place {
    ids: u32,
    at: u32,
}

/// What is written.
#[derive(Debug, Default)]
struct Made {
    floors: Vec<u64>,
    places: Vec<Place>,
    sets: Vec<u64>,
}

/// As they lie in a file.
#[derive(Debug)]
pub struct Peaks {
    section: Section,
    /// Every id that has this code or a greater one is in the set, and no other.
    floors: Vec<u64>,
    /// Of the column.
    blocks: usize,
    places: Part,
    sets: Part,
}

/// Writes the section, where there is anything to say.
pub(super) fn write(pack: &mut PackWriter, field: FieldId, codes: Codes<'_>) -> Result<()> {
    let made = Made::of(codes);
    if made.floors.is_empty() {
        return Ok(());
    }
    parts::write(
        pack,
        SectionId::of(SectionKind::Peaks, field),
        [bytemuck::cast_slice(&made.floors), bytemuck::cast_slice(&made.places), bytemuck::cast_slice(&made.sets)],
    )
}

impl Peaks {
    /// `blocks`: of the column.
    pub(super) fn open(pack: &Arc<Pack>, field: FieldId, blocks: usize) -> Result<Option<Self>> {
        let Some(section) = pack.section(SectionId::of(SectionKind::Peaks, field)) else { return Ok(None) };
        let [floors, places, sets] = parts::open(&section)?;
        let floors = floors.all::<u64>(&section)?.to_vec();
        if places.len() != floors.len() * blocks * size_of::<Place>() || !floors.is_sorted_by(|a, b| a > b) {
            return Err(section.damaged(0, "its parts have other lengths than its numbers say"));
        }
        Ok(Some(Self { section, floors, blocks, places, sets }))
    }

    /// A set of a block's ids in which are all whose codes reach `floor`; `None`: there is none but all of them. `n`: of
    /// the block in its segment. `few`: to be looked up in, rather than to be gone through.
    pub fn block(&self, n: usize, floor: u64, few: bool) -> Result<Option<Block<'_>>> {
        let mut found = None;
        for (level, _) in self.floors.iter().enumerate().filter(|(_, least)| **least <= floor) {
            let block = self.set(level, n)?;
            found = Some(block);
            if !few || !matches!(block, Block::Array(_)) {
                break;
            }
        }
        Ok(found)
    }

    fn set(&self, level: usize, n: usize) -> Result<Block<'_>> {
        if n >= self.blocks {
            return Ok(Block::Empty);
        }
        let Place { ids, at } = self.places.get(&self.section, level * self.blocks + n)?;
        let (ids, at) = (ids as usize, at as usize);
        if ids <= ARRAY_MOST {
            return Ok(Block::of(self.sets.slice::<u16>(&self.section, at * 4, ids)?));
        }
        match self.sets.slice::<u64>(&self.section, at, WORDS)?.first_chunk() {
            Some(words) => Ok(Block::Bits(words)),
            None => Err(self.section.damaged(self.sets.position::<u64>(at), "a part of it is too short")),
        }
    }

    /// Reads it.
    pub(super) fn warm(&self) -> Result<()> {
        self.section.verify()
    }

    /// Whether these sets (`None`: that there are none) are what follows from the codes.
    pub(super) fn is_of(peaks: Option<&Self>, codes: Codes<'_>) -> Result<bool> {
        let made = Made::of(codes);
        let Some(peaks) = peaks else { return Ok(made.floors.is_empty()) };
        Ok(made.floors == peaks.floors
            && made.places == peaks.places.all::<Place>(&peaks.section)?
            && made.sets == peaks.sets.all::<u64>(&peaks.section)?)
    }
}

impl Made {
    fn of(codes: Codes<'_>) -> Self {
        let mut made = Self::default();
        let len = codes.len();
        for share in SHARES.into_iter().filter(|share| *share <= len) {
            let first = len - len / share;
            let mut floor = codes.code_at(first);
            let mut from = codes.rank_of(floor);
            if len - from > 2 * (len - first) {
                // Too many have this code.
                let Some(next) = floor.checked_add(1) else { continue };
                floor = next;
                from = codes.rank_of(floor);
            }
            let is_new = made.floors.last().is_none_or(|last| *last > floor);
            if is_new && 0 < from && from < len {
                made.add(codes, floor, from);
            }
        }
        made
    }

    /// `from`: the rank at which the floor is reached.
    fn add(&mut self, codes: Codes<'_>, floor: u64, from: usize) {
        self.floors.push(floor);
        let mut ids: Vec<u32> = (from..codes.len()).map(|rank| codes.id_at(rank)).collect();
        ids.sort_unstable();
        let mut ids = &*ids;
        for block in 0..codes.blocks() {
            let (mine, rest) = ids.split_at(ids.partition_point(|id| (id >> 16) as usize <= block));
            ids = rest;
            self.places.push(Place { ids: mine.len() as u32, at: self.sets.len() as u32 });
            let first = self.sets.len();
            if mine.len() > ARRAY_MOST {
                self.sets.resize(first + WORDS, 0);
                let words = &mut self.sets[first..];
                mine.iter().for_each(|id| words[usize::from(*id as u16 >> 6)] |= 1 << (id & 63));
            } else {
                let word = |ids: &[u32]| ids.iter().rev().fold(0, |word, id| word << 16 | u64::from(*id as u16));
                self.sets.extend(mine.chunks(4).map(word));
            }
        }
    }
}
