//! Blocks that were worked out of what several layers say, kept until what they were made of changes. All that the
//! process keeps is bounded: past that, blocks are worked out anew each time.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicUsize, Ordering},
};

use super::sets::{Block, OwnedBlock};

/// Bytes that all kept blocks may take.
const MOST: usize = 32 << 20;

static HELD: AtomicUsize = AtomicUsize::new(0);

/// Room for a block. A clone has the same block, until either is cleared.
#[derive(Debug, Clone, Default)]
pub struct Kept(OnceLock<Arc<Held>>);

/// Counts as held as long as it is there.
#[derive(Debug)]
struct Held(OwnedBlock);

impl Kept {
    pub const fn new() -> Self {
        Self(OnceLock::new())
    }

    #[inline]
    pub fn get(&self) -> Option<Block<'_>> {
        self.0.get().map(|held| held.0.as_block())
    }

    /// Keeps a block where nothing is kept yet; `None` where there is no room.
    pub fn keep(&self, block: Block<'_>) -> Option<Block<'_>> {
        let bytes = bytes_of(block);
        if HELD.fetch_add(bytes, Ordering::Relaxed) > MOST {
            HELD.fetch_sub(bytes, Ordering::Relaxed);
            return None;
        }
        let held = Arc::new(Held(block.into()));
        Some(self.0.get_or_init(|| held).0.as_block())
    }

    pub fn clear(&mut self) {
        self.0 = OnceLock::new();
    }
}

fn bytes_of(block: Block<'_>) -> usize {
    size_of::<Held>() + block.bytes()
}

impl Drop for Held {
    fn drop(&mut self) {
        HELD.fetch_sub(bytes_of(self.0.as_block()), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::sets::WORDS;

    #[test]
    fn what_is_kept_is_shared_with_clones_and_bounded_and_room_comes_back() {
        let words = Box::new([u64::MAX; WORDS]);
        let mut first = Kept::new();
        assert!(first.get().is_none());
        assert_eq!(first.keep(Block::Array(&[3, 70])).map(|block| block.len()), Some(2));
        assert_eq!(first.keep(Block::Bits(&words)).map(|block| block.len()), Some(2), "the first stays");
        let clone = first.clone();
        first.clear();
        assert!(first.get().is_none());
        assert_eq!(clone.get().map(|block| block.iter().collect()), Some(vec![3, 70]));

        let mut kept = Vec::new();
        loop {
            let one = Kept::new();
            if one.keep(Block::Bits(&words)).is_none() {
                assert!(one.get().is_none());
                break;
            }
            kept.push(one);
        }
        // What other tests keep meanwhile takes of the same room.
        assert!(!kept.is_empty() && (kept.len() - 1) * size_of_val(&*words) <= MOST, "{}", kept.len());
        kept.clear();
        assert!(Kept::new().keep(Block::Bits(&words)).is_some());
    }
}
