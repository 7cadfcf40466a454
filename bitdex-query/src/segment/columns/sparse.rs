//! Reading the columns of a checkpoint.

use std::{
    ops::Range,
    sync::{Arc, OnceLock},
};

use bitdex_proto::schema::FieldId;

use super::SparseMeta;
use crate::{
    log::Result,
    segment::{
        BLOCK_BITS,
        ahead::Ahead,
        keys::Keys,
        overridden::Overridden,
        parts::{self, Part},
    },
    store::pack::{Pack, Section, SectionId, SectionKind},
};

/// One code in so many reaches a floor.
const SHARES: [usize; 4] = [128, 32, 8, 2];

/// Blocks that are side by side in a [`Shelf`].
const SHELF: usize = 64;

/// Blocks that were looked into; `None`: nothing is said of any of their ids.
type Shelf = Box<[OnceLock<Option<Box<Overridden>>>; SHELF]>;

/// A column of a checkpoint.
#[derive(Debug)]
pub struct SparseColumn {
    section: Section,
    keys: Keys,
    values: usize,
    codes: Part,
    codeless: Part,
    order: Part,
    /// By number of the block. Ids may be few and far between, so that most of these are never made.
    blocks: Box<[OnceLock<Shelf>]>,
    /// Codes that one in so many of the ids reach, descending.
    floors: OnceLock<Vec<u64>>,
    ahead: OnceLock<Ahead>,
}

fn number_of(id: u64) -> u16 {
    (id >> BLOCK_BITS) as u16
}

/// The number of a block's shelf, and its place there.
fn shelf_of(number: u16) -> (usize, usize) {
    (usize::from(number) / SHELF, usize::from(number) % SHELF)
}

impl SparseColumn {
    pub fn open(pack: &Arc<Pack>, field: FieldId) -> Result<Option<Self>> {
        let Some(section) = pack.section(SectionId::of(SectionKind::SparseColumn, field)) else { return Ok(None) };
        let [meta, bases, groups, deltas, codes, codeless, order] = parts::open(&section)?;
        let meta = meta.get::<SparseMeta>(&section, 0)?;
        let keys = Keys::open(&section, [bases, groups, deltas], meta.ids)?;
        let (ids, values) = (keys.len(), order.len() / 4);
        if codes.len() != ids * 8 || codeless.len() != ids.div_ceil(64) * 8 || values as u64 != meta.values {
            return Err(section.damaged(0, "its parts have other lengths than its numbers say"));
        }
        let shelves = match ids.checked_sub(1) {
            Some(last) => shelf_of(number_of(keys.at(&section, last)?)).0 + 1,
            None => 0,
        };
        let blocks = (0..shelves).map(|_| OnceLock::new()).collect();
        let ahead = OnceLock::new();
        Ok(Some(Self { section, keys, values, codes, codeless, order, blocks, floors: OnceLock::new(), ahead }))
    }

    /// `None`: says nothing of this id. `Some(None)`: null.
    #[inline]
    pub fn get(&self, id: u32) -> Result<Option<Option<u64>>> {
        match self.find(id)? {
            Some(n) => self.code(n).map(Some),
            None => Ok(None),
        }
    }

    /// Whether it says something of this id.
    #[inline]
    pub fn overrides(&self, id: u32) -> Result<bool> {
        Ok(self.find(id)?.is_some())
    }

    #[inline]
    fn find(&self, id: u32) -> Result<Option<usize>> {
        Ok(self.block((id >> BLOCK_BITS) as u16)?.and_then(|block| block.find(id as u16)))
    }

    /// What it says of the ids of a block, and their codes; `None`: nothing.
    pub fn overridden(&self, number: u16) -> Result<Option<(&Overridden, &[u64])>> {
        let Some(block) = self.block(number)? else { return Ok(None) };
        let positions = block.positions();
        Ok(Some((block, self.codes.slice(&self.section, positions.start, positions.len())?)))
    }

    fn block(&self, number: u16) -> Result<Option<&Overridden>> {
        let (shelf, at) = shelf_of(number);
        let Some(shelf) = self.blocks.get(shelf) else { return Ok(None) };
        let shelf = shelf.get_or_init(|| Box::new([const { OnceLock::new() }; SHELF]));
        if let Some(block) = shelf[at].get() {
            return Ok(block.as_deref());
        }
        let first = self.position(u32::from(number) << BLOCK_BITS)?;
        let behind = match number.checked_add(1) {
            Some(next) => self.position(u32::from(next) << BLOCK_BITS)?,
            None => self.len(),
        };
        let ids = (first..behind).map(|n| Ok((self.id(n)? as u16, self.code(n)?))).collect::<Result<Vec<_>>>()?;
        let floors = self.floors()?;
        let made = || (!ids.is_empty()).then(|| Box::new(Overridden::new(first, &ids, floors)));
        Ok(shelf[at].get_or_init(made).as_deref())
    }

    fn floors(&self) -> Result<&[u64]> {
        if let Some(floors) = self.floors.get() {
            return Ok(floors);
        }
        let mut floors = Vec::with_capacity(SHARES.len());
        for share in SHARES.iter().filter(|share| self.values >= **share) {
            floors.push(self.ranked(self.values - self.values / share)?.0);
        }
        floors.dedup();
        Ok(self.floors.get_or_init(|| floors))
    }

    /// Where it is not known to be behind another column of its checkpoint, always the same one; `None`: there is none.
    pub fn ahead_of(&self, other: Option<&Self>) -> Result<&Ahead> {
        if let Some(ahead) = self.ahead.get() {
            return Ok(ahead);
        }
        let ranked = |mut ranks: Range<usize>, pairs: &mut Vec<(u64, u32)>| {
            ranks.try_for_each(|rank| self.ranked(rank).map(|pair| pairs.push(pair)))
        };
        let beside = |id| other.map_or(Ok(None), |other| other.get(id).map(Option::flatten));
        let ahead = Ahead::of(self.values, ranked, beside)?;
        Ok(self.ahead.get_or_init(|| ahead))
    }

    /// Reads it, and makes what queries would make at their first look. `beside`: as for [`SparseColumn::ahead_of`],
    /// where there may be such a column.
    pub fn warm(&self, beside: Option<Option<&Self>>) -> Result<()> {
        let mut n = 0;
        while n < self.len() {
            let number = number_of(self.id(n)?.into());
            n = self.block(number)?.map_or(self.len(), |block| block.positions().end);
        }
        beside.map_or(Ok(()), |beside| self.ahead_of(beside).map(|_| ()))
    }

    fn code(&self, n: usize) -> Result<Option<u64>> {
        if self.codeless.get::<u64>(&self.section, n / 64)? >> (n % 64) & 1 == 1 {
            return Ok(None);
        }
        self.codes.get(&self.section, n).map(Some)
    }

    fn id(&self, n: usize) -> Result<u32> {
        let id = self.keys.at(&self.section, n)?;
        u32::try_from(id).map_err(|_| self.section.damaged(0, "an id exceeds 2^32"))
    }

    /// Ids it says something of.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The n-th id, ascending, and what it says of it.
    pub fn nth(&self, n: usize) -> Result<(u32, Option<u64>)> {
        Ok((self.id(n)?, self.code(n)?))
    }

    /// Number of ids below this one.
    pub fn position(&self, id: u32) -> Result<usize> {
        Ok(self.keys.find(&self.section, id.into())?.unwrap_or_else(|at| at))
    }

    /// Ids that have a code.
    pub fn values(&self) -> usize {
        self.values
    }

    /// As [`Column::ranked`], with the code.
    pub fn ranked(&self, rank: usize) -> Result<(u64, u32)> {
        let n = self.order.get::<u32>(&self.section, rank)? as usize;
        Ok((self.codes.get(&self.section, n)?, self.id(n)?))
    }

    /// As [`Column::rank`].
    pub fn rank(&self, code: u64, id: u32) -> Result<usize> {
        let (mut low, mut high) = (0, self.values);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.ranked(middle)? < (code, id) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }
}
