//! What ends a query before its answer: its time is over, nobody waits for the answer any more, or it costs more than a
//! query may. A query that is ended gives an error; one that is not gives the same answer as without a watch.

use std::{
    cell::{Cell, RefCell},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use crate::log::{Error, Result};

/// Steps between two looks at the clock.
const STEPS: u32 = 1024;
/// Steps between two looks at the clock that a block counts as.
const BLOCK: u32 = 32;
/// Steps that count as a block against the limit of blocks.
const STEPS_OF_BLOCK: u32 = 1 << 16;

/// The limits of one query.
#[derive(Debug, Clone, Default)]
pub struct Watch {
    /// `None`: no end.
    pub until: Option<Instant>,
    /// Set when nobody waits for the answer.
    pub cancelled: Option<Arc<AtomicBool>>,
    /// Blocks of 65 536 ids that may be evaluated; as many steps count as a block. `None`: any number.
    pub max_blocks: Option<u64>,
}

/// Why a query ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Stopped {
    #[error("the query took longer than its deadline allows")]
    Deadline,
    #[error("the query was cancelled")]
    Cancelled,
    #[error(
        "the query needs more than the {0} blocks of 65 536 documents that one may look at here: make its filter \
         narrower, or raise --max-query-blocks"
    )]
    Blocks(u64),
}

thread_local! {
    /// Of the query that runs on this thread.
    static CURRENT: RefCell<Option<Watch>> = const { RefCell::new(None) };
    static STEPS_LEFT: Cell<u32> = const { Cell::new(u32::MAX) };
    /// Steps since the last that counted as a block.
    static STEPPED: Cell<u32> = const { Cell::new(0) };
    static BLOCKS_LEFT: Cell<u64> = const { Cell::new(u64::MAX) };
}

/// Runs a query under a watch.
pub fn watched<T>(watch: Watch, query: impl FnOnce() -> T) -> T {
    struct Restore(Option<Watch>, u32, u32, u64);
    impl Drop for Restore {
        fn drop(&mut self) {
            CURRENT.set(self.0.take());
            STEPS_LEFT.set(self.1);
            STEPPED.set(self.2);
            BLOCKS_LEFT.set(self.3);
        }
    }
    let blocks = watch.max_blocks.unwrap_or(u64::MAX);
    let _restore =
        Restore(CURRENT.replace(Some(watch)), STEPS_LEFT.replace(0), STEPPED.replace(0), BLOCKS_LEFT.replace(blocks));
    query()
}

/// A query says that it goes on: a document, a set, or the like.
#[inline]
pub(super) fn step() -> Result<()> {
    steps(1)
}

/// A query says that it goes on to another block.
#[inline]
pub(super) fn block() -> Result<()> {
    take_block()?;
    steps(BLOCK)
}

#[inline]
fn take_block() -> Result<()> {
    match BLOCKS_LEFT.get().checked_sub(1) {
        Some(left) => {
            BLOCKS_LEFT.set(left);
            Ok(())
        }
        None => CURRENT.with_borrow(|watch| match watch.as_ref().and_then(|watch| watch.max_blocks) {
            Some(most) => Err(Error::stopped(Stopped::Blocks(most))),
            None => Ok(()),
        }),
    }
}

/// As [`step`], so many times.
#[inline]
pub(super) fn steps(steps: u32) -> Result<()> {
    match STEPS_LEFT.get().checked_sub(steps) {
        Some(left) => {
            STEPS_LEFT.set(left);
            Ok(())
        }
        None => look(steps),
    }
}

#[cold]
fn look(steps: u32) -> Result<()> {
    let beyond = steps.saturating_sub(STEPS_LEFT.replace(STEPS));
    STEPPED.set(STEPPED.get() + STEPS + beyond);
    if STEPPED.get() >= STEPS_OF_BLOCK {
        STEPPED.set(STEPPED.get() - STEPS_OF_BLOCK);
        take_block()?;
    }
    CURRENT.with_borrow(|watch| {
        let Some(watch) = watch else { return Ok(()) };
        if watch.cancelled.as_ref().is_some_and(|cancelled| cancelled.load(Ordering::Relaxed)) {
            return Err(Error::stopped(Stopped::Cancelled));
        }
        if watch.until.is_some_and(|until| Instant::now() >= until) {
            return Err(Error::stopped(Stopped::Deadline));
        }
        Ok(())
    })
}
