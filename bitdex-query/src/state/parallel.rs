//! Work on several cores, where there is much of it.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use parking_lot::Mutex;

use crate::mapping::slices::Manner;

/// From this many things on, several threads work on them.
const PARALLEL: usize = if cfg!(test) { 1_000 } else { 8_192 };
/// Parts for each of these threads: some take much longer than others, and lie together.
const PARTS: usize = 8;

/// How work on many things is shared out.
pub(super) struct Parts {
    threads: usize,
    /// How many they are.
    pub(super) count: usize,
}

impl Parts {
    pub(super) fn of(things: usize) -> Self {
        match things {
            PARALLEL.. => {
                let threads = thread::available_parallelism().map_or(1, usize::from);
                Self { threads, count: threads * PARTS }
            }
            _ => Self { threads: 1, count: 1 },
        }
    }

    /// Calls `work` once on each thread, with what tells it the number of the part that it is to do next; answers with
    /// what each call made.
    pub(super) fn work<R: Send>(&self, work: impl Fn(&mut dyn Iterator<Item = usize>) -> R + Sync) -> Vec<R> {
        if self.threads == 1 {
            return vec![work(&mut (0..self.count))];
        }
        let next = AtomicUsize::new(0);
        let take = || Some(next.fetch_add(1, Ordering::Relaxed)).filter(|part| *part < self.count);
        let manner = Manner::of_this_thread();
        let other = || {
            manner.take_over();
            work(&mut std::iter::from_fn(take))
        };
        thread::scope(|scope| {
            // Where the system starts no more threads, fewer do it all.
            let start = |_| thread::Builder::new().spawn_scoped(scope, other).ok();
            let others: Vec<_> = (1..self.threads).filter_map(start).collect();
            let mut made = vec![work(&mut std::iter::from_fn(take))];
            let ended = others.into_iter().map(thread::ScopedJoinHandle::join);
            made.extend(ended.map(|made| made.unwrap_or_else(|panic| std::panic::resume_unwind(panic))));
            made
        })
    }

    /// Calls both, at once where there is more than one thread.
    pub(super) fn both(&self, one: impl FnOnce(), other: impl FnOnce() + Send) {
        if self.threads == 1 {
            one();
            return other();
        }
        let manner = Manner::of_this_thread();
        // For whoever comes first, and for this thread where the system starts no other.
        let other = Mutex::new(Some(other));
        let take = || {
            let taken = other.lock().take();
            if let Some(other) = taken {
                other();
            }
        };
        thread::scope(|scope| {
            let polite = || {
                manner.take_over();
                take();
            };
            // Where it fails, what was to be done is still to be taken.
            let _ = thread::Builder::new().spawn_scoped(scope, polite);
            one();
            take();
        });
    }
}
