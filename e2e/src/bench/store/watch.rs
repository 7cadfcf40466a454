//! The heap of a process over time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use tokio::task::JoinHandle;

use crate::bench::usage;

const EVERY: Duration = Duration::from_millis(20);

/// Looks at a process until it is stopped.
#[derive(Debug)]
pub(super) struct Watch {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Vec<u64>>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    pub(super) peak_mb: f64,
    pub(super) second_quarter_mb: f64,
    pub(super) last_quarter_mb: f64,
}

impl Watch {
    pub(super) fn start(pid: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn({
            let stop = Arc::clone(&stop);
            async move {
                let mut seen = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    // A process that has ended fails its own caller.
                    seen.extend(usage::anonymous_kb(pid));
                    tokio::time::sleep(EVERY).await;
                }
                seen
            }
        });
        Self { stop, task }
    }

    pub(super) async fn stop(self) -> Result<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        let seen = self.task.await.context("the watch panicked")?;
        let most = |samples: &[u64]| samples.iter().max().copied().unwrap_or(0) as f64 / 1_024.0;
        let quarter = seen.len() / 4;
        Ok(Seen {
            peak_mb: most(&seen),
            second_quarter_mb: most(&seen[quarter..2 * quarter]),
            last_quarter_mb: most(&seen[3 * quarter..]),
        })
    }
}
