//! What each part of the daemon is doing, and whether that is well. Healthy means: every part that must work either
//! succeeded a moment ago, or waits for a reason that is no fault.

use std::{
    collections::BTreeMap,
    fmt::Display,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde::Serialize;

/// An error may last this long before it counts: a rolling deploy of the index takes less.
const ERROR_GRACE: Duration = Duration::from_secs(3);
/// Without a sign of life for this long, a part counts as stopped.
const SILENCE_LIMIT: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Default)]
pub struct Health {
    parts: Arc<Mutex<BTreeMap<&'static str, Part>>>,
}

#[derive(Debug)]
struct Part {
    phase: Phase,
    detail: BTreeMap<&'static str, String>,
    last_alive: Instant,
    /// Since when, and the newest.
    error: Option<(Instant, String)>,
    errors: u64,
}

/// What a part is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    Starting,
    /// Another process holds the session or the load.
    Standby,
    Loading,
    CatchingUp,
    Following,
    Stopped,
}

/// One part as `/status` shows it.
#[derive(Debug, Clone, Serialize)]
pub struct PartStatus {
    pub phase: Phase,
    pub healthy: bool,
    pub seconds_since_alive: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    pub errors: u64,
    #[serde(flatten)]
    pub detail: BTreeMap<&'static str, String>,
}

impl Health {
    /// The handle of one part, which must report from now on.
    pub fn part(&self, name: &'static str) -> Reporter {
        let part = Part {
            phase: Phase::Starting,
            detail: BTreeMap::new(),
            last_alive: Instant::now(),
            error: None,
            errors: 0,
        };
        self.parts.lock().insert(name, part);
        Reporter { health: self.clone(), name }
    }

    pub fn status(&self) -> BTreeMap<&'static str, PartStatus> {
        let now = Instant::now();
        self.parts.lock().iter().map(|(name, part)| (*name, part.status(now))).collect()
    }

    /// Why the process is not well; empty where it is.
    pub fn complaints(&self) -> Vec<String> {
        let now = Instant::now();
        self.parts
            .lock()
            .iter()
            .filter_map(|(name, part)| part.complaint(now).map(|why| format!("{name}: {why}")))
            .collect()
    }

    /// Whether every part follows, or stands by for another that does.
    pub fn is_ready(&self) -> bool {
        self.complaints().is_empty()
            && self.parts.lock().values().all(|part| matches!(part.phase, Phase::Following | Phase::Standby))
    }
}

impl Part {
    fn complaint(&self, now: Instant) -> Option<String> {
        if self.phase == Phase::Stopped {
            return Some("has stopped".into());
        }
        if let Some((since, error)) = &self.error
            && now.duration_since(*since) >= ERROR_GRACE
        {
            return Some(error.clone());
        }
        let silent = now.duration_since(self.last_alive);
        (self.phase != Phase::Standby && silent >= SILENCE_LIMIT)
            .then(|| format!("no sign of life for {} s", silent.as_secs()))
    }

    fn status(&self, now: Instant) -> PartStatus {
        PartStatus {
            phase: self.phase,
            healthy: self.complaint(now).is_none(),
            seconds_since_alive: now.duration_since(self.last_alive).as_secs_f64(),
            error: self.error.as_ref().map(|(_, error)| error.clone()),
            errors: self.errors,
            detail: self.detail.clone(),
        }
    }
}

/// How one part reports.
#[derive(Debug, Clone)]
pub struct Reporter {
    health: Health,
    name: &'static str,
}

impl Reporter {
    fn update(&self, change: impl FnOnce(&mut Part)) {
        if let Some(part) = self.health.parts.lock().get_mut(self.name) {
            change(part);
        }
    }

    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Still at work, no claim that anything succeeded.
    pub fn alive(&self) {
        self.update(|part| part.last_alive = Instant::now());
    }

    /// A step succeeded.
    pub fn succeeded(&self) {
        self.update(|part| {
            part.last_alive = Instant::now();
            part.error = None;
        });
    }

    pub fn phase(&self, phase: Phase) {
        self.update(|part| {
            part.phase = phase;
            part.last_alive = Instant::now();
        });
    }

    /// A step failed and will be tried again.
    pub fn failed(&self, error: impl Display) {
        metrics::counter!("bitdex_sync_errors_total", "part" => self.name).increment(1);
        self.update(|part| {
            part.last_alive = Instant::now();
            part.errors += 1;
            let since = part.error.as_ref().map_or_else(Instant::now, |(since, _)| *since);
            part.error = Some((since, error.to_string()));
        });
    }

    /// A value to show.
    pub fn detail(&self, name: &'static str, value: impl Display) {
        self.update(|part| {
            part.detail.insert(name, value.to_string());
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lasting_error_or_silence_is_a_complaint() {
        let health = Health::default();
        let reporter = health.part("postgres");
        reporter.phase(Phase::Following);
        assert!(health.is_ready());
        reporter.failed("Postgres is gone");
        assert!(health.complaints().is_empty(), "a short error is none");
        let backdate = |by: Duration| {
            reporter.update(|part| {
                part.last_alive -= by;
                if let Some((since, _)) = &mut part.error {
                    *since -= by;
                }
            });
        };
        backdate(ERROR_GRACE);
        assert_eq!(health.complaints(), ["postgres: Postgres is gone"]);
        reporter.succeeded();
        assert!(health.is_ready());
        backdate(SILENCE_LIMIT);
        assert_eq!(health.complaints(), ["postgres: no sign of life for 20 s"]);
        reporter.phase(Phase::Stopped);
        assert_eq!(health.complaints(), ["postgres: has stopped"]);
    }
}
