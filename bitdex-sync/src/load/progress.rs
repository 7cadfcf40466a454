//! How far a load is: bars on a terminal, log lines elsewhere, numbers for the daemon's status.

use std::{
    io::IsTerminal as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bitdex_proto::{definition::Definition, wire};
use indicatif::{ProgressBar, ProgressStyle};
use parking_lot::Mutex;

use crate::daemon::health::Reporter;

/// Time between log lines.
const LOG_PERIOD: Duration = Duration::from_secs(5);

#[derive(Debug, Clone)]
pub struct Progress {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    rows: AtomicU64,
    bytes: AtomicU64,
    state: Mutex<State>,
    reporter: Option<Reporter>,
    bars: bool,
}

#[derive(Debug)]
struct State {
    bar: Option<ProgressBar>,
    started: Instant,
    logged: Instant,
    parts: u64,
    /// Parts durable before this process began.
    resumed: u64,
    durable: u64,
}

impl Progress {
    /// With bars where `bars` and standard error is a terminal.
    pub fn new(bars: bool, reporter: Option<Reporter>) -> Self {
        let now = Instant::now();
        let state = State { bar: None, started: now, logged: now, parts: 0, resumed: 0, durable: 0 };
        Self {
            shared: Arc::new(Shared {
                rows: AtomicU64::new(0),
                bytes: AtomicU64::new(0),
                state: Mutex::new(state),
                reporter,
                bars: bars && std::io::stderr().is_terminal(),
            }),
        }
    }

    pub(super) fn begin(&self, definition: &Definition, opened: &wire::LoadOpened) {
        let mut state = self.shared.state.lock();
        state.parts = opened.parts.len() as u64;
        state.resumed = opened.done.len() as u64;
        state.durable = state.resumed;
        state.started = Instant::now();
        if self.shared.bars {
            let bar = ProgressBar::new(state.parts);
            if let Ok(style) = ProgressStyle::with_template("{prefix} [{bar:40}] {pos}/{len} parts  {msg}") {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_prefix(format!("load {}", definition.index()));
            bar.set_position(state.durable);
            state.bar = Some(bar);
        }
    }

    pub(super) fn read(&self, rows: u64, bytes: usize) {
        self.shared.rows.fetch_add(rows, Ordering::Relaxed);
        self.shared.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        metrics::counter!("bitdex_sync_load_rows_total").increment(rows);
        metrics::counter!("bitdex_sync_load_bytes_total").increment(bytes as u64);
        self.show(false);
    }

    pub(super) fn durable(&self, done: &wire::LoadPartDone) {
        tracing::debug!(part = done.part, rows = done.rows, "a part is durable");
        self.shared.state.lock().durable += 1;
        self.succeeded();
        self.show(false);
    }

    pub(super) fn finishing(&self) {
        if let Some(reporter) = &self.shared.reporter {
            reporter.detail("load", "all rows sent; the index is computing what it serves");
        }
        match &self.shared.state.lock().bar {
            Some(bar) => bar.set_message("the index is computing what it serves"),
            None => tracing::info!("all rows sent; the index is computing what it serves"),
        }
    }

    pub(super) fn finished(&self) {
        self.succeeded();
        self.show(true);
        let state = self.shared.state.lock();
        if let Some(bar) = &state.bar {
            bar.finish();
        }
        let rows = self.rows();
        let seconds = state.started.elapsed().as_secs_f64();
        tracing::info!(rows, seconds, rows_per_second = (rows as f64 / seconds) as u64, "the load is complete");
    }

    pub fn rows(&self) -> u64 {
        self.shared.rows.load(Ordering::Relaxed)
    }

    fn succeeded(&self) {
        if let Some(reporter) = &self.shared.reporter {
            reporter.succeeded();
        }
    }

    fn show(&self, now: bool) {
        let mut state = self.shared.state.lock();
        let text = summary(self.rows(), self.shared.bytes.load(Ordering::Relaxed), &state);
        if let Some(reporter) = &self.shared.reporter {
            // Rows that were read and sent are no success yet: the index may refuse them, each time anew.
            reporter.alive();
            reporter.detail("load", &text);
        }
        match &state.bar {
            Some(bar) => {
                bar.set_position(state.durable);
                bar.set_message(text);
            }
            None if now || state.logged.elapsed() >= LOG_PERIOD => {
                state.logged = Instant::now();
                tracing::info!("load: {text}");
            }
            None => {}
        }
    }
}

fn summary(rows: u64, bytes: u64, state: &State) -> String {
    let seconds = state.started.elapsed().as_secs_f64().max(0.001);
    let done = state.durable - state.resumed;
    let eta = if done == 0 {
        "unknown".to_owned()
    } else {
        let left = state.parts.saturating_sub(state.durable);
        format!("{:.0} s", seconds * left as f64 / done as f64)
    };
    format!(
        "{}/{} parts, {rows} rows, {:.0} rows/s, {:.1} MB/s, {eta} left",
        state.durable,
        state.parts,
        rows as f64 / seconds,
        bytes as f64 / seconds / 1e6
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::health::Health;

    #[test]
    fn rows_on_their_way_do_not_forget_an_error() {
        let health = Health::default();
        let reporter = health.part("postgres");
        let progress = Progress::new(false, Some(reporter.clone()));
        let error = || health.status()["postgres"].error.clone();
        reporter.failed("the index refuses part 3");
        progress.read(1000, 1000);
        progress.finishing();
        assert_eq!(error().as_deref(), Some("the index refuses part 3"));
        progress.durable(&wire::LoadPartDone { part: 3, rows: 1000 });
        assert_eq!(error(), None);
    }
}
