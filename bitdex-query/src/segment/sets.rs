//! Sets of ids within a block of 65 536, and what is done with them.

/// Words of a block's bitmap.
pub const WORDS: usize = 1024;

/// The ids (without their upper 16 bits) of one block.
#[derive(Debug, Clone, Copy)]
pub enum Block<'a> {
    Empty,
    /// Ascending, without duplicates, not empty.
    Array(&'a [u16]),
    Bits(&'a [u64; WORDS]),
}

impl Block<'_> {
    pub fn contains(&self, id: u16) -> bool {
        match self {
            Self::Empty => false,
            Self::Array(ids) => ids.binary_search(&id).is_ok(),
            Self::Bits(words) => words[usize::from(id >> 6)] >> (id & 63) & 1 == 1,
        }
    }
}

/// Room for one block, for those who combine blocks; kept and used again from block to block.
#[derive(Debug, Clone)]
pub struct BlockBuffer {
    pub words: Box<[u64; WORDS]>,
    pub ids: Vec<u16>,
}

impl Default for BlockBuffer {
    fn default() -> Self {
        Self { words: Box::new([0; WORDS]), ids: Vec::new() }
    }
}
