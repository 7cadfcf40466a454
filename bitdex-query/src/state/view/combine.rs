//! Changes of a block applied to it.

use crate::segment::sets::{Block, BlockBuffer, WORDS};

/// What came into a block, and what went out of it. No id is in both.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Change<'a> {
    pub(crate) added: Block<'a>,
    pub(crate) removed: Block<'a>,
}

impl Change<'_> {
    pub(crate) const NONE: Change<'static> = Change { added: Block::Empty, removed: Block::Empty };

    pub(crate) fn is_empty(&self) -> bool {
        matches!((self.added, self.removed), (Block::Empty, Block::Empty))
    }
}

/// Changes of at most so many ids are put into an array one by one.
const FEW: usize = 64;
/// The most ids that an array holds.
const ARRAY: usize = 4096;

/// `base` with the changes, in this order, applied.
pub(crate) fn combine<'b>(base: Block<'b>, changes: &[Change<'_>], buffer: &'b mut BlockBuffer) -> Block<'b> {
    if changes.iter().all(Change::is_empty) {
        return base;
    }
    let few = |block: Block<'_>| match block {
        Block::Empty => true,
        Block::Array(ids) => ids.len() <= FEW,
        Block::Bits(_) => false,
    };
    let small = match base {
        Block::Empty => true,
        Block::Array(ids) => ids.len() <= ARRAY - changes.len() * FEW,
        Block::Bits(_) => false,
    };
    if small && changes.iter().all(|change| few(change.added) && few(change.removed)) {
        return combine_array(base, changes, &mut buffer.ids);
    }
    let words = &mut *buffer.words;
    match base {
        Block::Bits(base) => *words = *base,
        other => {
            words.fill(0);
            add(words, other);
        }
    }
    for change in changes {
        remove(words, change.removed);
        add(words, change.added);
    }
    Block::Bits(words)
}

fn combine_array<'b>(base: Block<'_>, changes: &[Change<'_>], ids: &'b mut Vec<u16>) -> Block<'b> {
    ids.clear();
    if let Block::Array(base) = base {
        ids.extend_from_slice(base);
    }
    for change in changes {
        if let Block::Array(removed) = change.removed {
            for id in removed {
                if let Ok(at) = ids.binary_search(id) {
                    ids.remove(at);
                }
            }
        }
        if let Block::Array(added) = change.added {
            for id in added {
                if let Err(at) = ids.binary_search(id) {
                    ids.insert(at, *id);
                }
            }
        }
    }
    if ids.is_empty() { Block::Empty } else { Block::Array(ids) }
}

fn add(words: &mut [u64; WORDS], block: Block<'_>) {
    match block {
        Block::Empty => {}
        Block::Array(ids) => ids.iter().for_each(|id| words[usize::from(id >> 6)] |= 1 << (id & 63)),
        Block::Bits(other) => words.iter_mut().zip(other).for_each(|(word, other)| *word |= other),
    }
}

fn remove(words: &mut [u64; WORDS], block: Block<'_>) {
    match block {
        Block::Empty => {}
        Block::Array(ids) => ids.iter().for_each(|id| words[usize::from(id >> 6)] &= !(1 << (id & 63))),
        Block::Bits(other) => words.iter_mut().zip(other).for_each(|(word, other)| *word &= !other),
    }
}

/// Number of ids.
pub(crate) fn count(block: Block<'_>) -> u32 {
    match block {
        Block::Empty => 0,
        Block::Array(ids) => ids.len() as u32,
        Block::Bits(words) => words.iter().map(|word| word.count_ones()).sum(),
    }
}
