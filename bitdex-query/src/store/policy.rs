//! When changes go from memory into a checkpoint, and how fast they may come meanwhile. Pure: it is told all it needs.
//!
//! A flush is due after so many rows, bytes of memory, bytes of log, or so much time, whichever comes first, but no
//! sooner after the last one than the floor: [`Settings::interval`], and [`REST`] times as long as the last one took.
//! Memory goes before the floor: half of [`Settings::memory`] is flushed at once, for the other half is what comes while
//! that is written. Past three quarters, ingestion is slowed more and more, and at the bound it waits for the flush.

use std::time::Duration;

use crate::state::Unflushed;

/// So many times as long as a flush took, none is begun after it.
const REST: u32 = 4;
/// So often in a row compaction gives way to a flush; then the flush waits,
const GIVES_WAY: u32 = 3;
/// and where ingestion waits for the flush, only after so often.
const GIVES_WAY_IN_NEED: u32 = 8;
/// The longest pause before a group of records, short of waiting for the flush.
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Bound, in bytes, of the memory that changes take until they are flushed.
    pub memory: u64,
    /// Flush after so many changed rows.
    pub rows: u64,
    /// Flush once a change has been in memory alone for so long.
    pub age: Duration,
    /// Flush once so many bytes of log would have to be replayed by the next process.
    pub log_bytes: u64,
    /// From the start of one flush to that of the next, at least.
    pub interval: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            memory: 128 << 20,
            rows: 2_000_000,
            age: Duration::from_secs(60),
            log_bytes: 256 << 20,
            interval: Duration::from_secs(5),
        }
    }
}

/// How things stand.
#[derive(Debug, Clone, Copy, Default)]
pub struct Situation {
    /// Of the active layer.
    pub unflushed: Unflushed,
    /// Bytes of the frozen layer, which a flush is writing or is to write again.
    pub frozen: u64,
    /// How long the oldest change of the active layer has been there.
    pub age: Duration,
    /// Bytes of log behind the checkpoint.
    pub log_bytes: u64,
    /// Whether a flush is under way.
    pub flushing: bool,
    /// How long ago the last flush began; `None`: this process has begun none.
    pub since_last: Option<Duration>,
    /// How long the last one took.
    pub last_took: Duration,
    /// The process gives up writing.
    pub draining: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// Freeze and flush now.
    pub flush: bool,
    pub ingestion: Ingestion,
}

/// How fast records may be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ingestion {
    Free,
    /// Pause before the next group.
    Slowed(Duration),
    /// Take none until a flush has ended.
    Waits,
}

pub fn decide(settings: &Settings, now: &Situation) -> Decision {
    let held = now.unflushed.bytes.saturating_add(now.frozen);
    Decision { flush: !now.flushing && is_due(settings, now), ingestion: ingestion(settings.memory, held) }
}

/// Whether a compaction is broken off for a flush that is due, when it was so many `times` in a row. Were it broken off
/// each time, it would never come to an end under steady flushes, and each checkpoint would be larger than the last.
pub fn gives_way(ingestion: Ingestion, times: u32) -> bool {
    times < if ingestion == Ingestion::Waits { GIVES_WAY_IN_NEED } else { GIVES_WAY }
}

fn is_due(settings: &Settings, now: &Situation) -> bool {
    let Unflushed { rows, bytes } = now.unflushed;
    let changed = rows > 0 || bytes > 0;
    // A frozen layer that no flush is writing is one whose flush failed: it is in the way of the next.
    let urgent = bytes >= settings.memory / 2 && changed
        || ingestion(settings.memory, bytes.saturating_add(now.frozen)) == Ingestion::Waits;
    if urgent || now.draining && (changed || now.frozen > 0) {
        return true;
    }
    let floor = settings.interval.max(now.last_took.saturating_mul(REST + 1));
    let rested = now.since_last.is_none_or(|since| since >= floor);
    rested && (rows >= settings.rows || changed && now.age >= settings.age || now.log_bytes >= settings.log_bytes)
}

fn ingestion(memory: u64, held: u64) -> Ingestion {
    let slow_from = memory / 4 * 3;
    if held >= memory {
        return Ingestion::Waits;
    }
    match held.saturating_sub(slow_from) {
        0 => Ingestion::Free,
        over => Ingestion::Slowed(LONGEST_PAUSE.mul_f64(over as f64 / (memory - slow_from) as f64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: Settings = Settings {
        memory: 1000,
        rows: 100,
        age: Duration::from_secs(60),
        log_bytes: 5000,
        interval: Duration::from_secs(5),
    };

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn with(rows: u64, bytes: u64) -> Situation {
        Situation { unflushed: Unflushed { rows, bytes }, ..Situation::default() }
    }

    fn flushes(now: Situation) -> bool {
        decide(&SETTINGS, &now).flush
    }

    #[test]
    fn each_limit_alone_makes_a_flush_due() {
        assert!(!flushes(with(0, 0)));
        assert!(!flushes(with(99, 499)));
        assert!(flushes(with(100, 0)));
        assert!(flushes(with(1, 500)));
        assert!(!flushes(Situation { age: secs(59), ..with(1, 1) }));
        assert!(flushes(Situation { age: secs(60), ..with(1, 1) }));
        assert!(!flushes(Situation { log_bytes: 4999, ..with(1, 1) }));
        assert!(flushes(Situation { log_bytes: 5000, ..with(1, 1) }));
    }

    #[test]
    fn compaction_gives_way_to_flushes_but_not_for_ever() {
        let times = |ingestion| (0..).find(|times| !gives_way(ingestion, *times));
        assert_eq!(times(Ingestion::Free), Some(3));
        assert_eq!(times(Ingestion::Slowed(secs(1))), Some(3));
        assert_eq!(times(Ingestion::Waits), Some(8));
    }

    #[test]
    fn nothing_is_flushed_for_its_age_where_nothing_changed() {
        assert!(!flushes(Situation { age: secs(600), ..with(0, 0) }));
        // Records without rows make the log longer, which only a checkpoint makes shorter.
        assert!(flushes(Situation { log_bytes: 5000, ..with(0, 0) }));
    }

    #[test]
    fn the_floor_holds_back_all_but_memory_and_the_drain() {
        let soon = |now: Situation| Situation { since_last: Some(secs(4)), ..now };
        let late = |now: Situation| Situation { since_last: Some(secs(5)), ..now };
        for due in
            [with(100, 0), Situation { age: secs(60), ..with(1, 1) }, Situation { log_bytes: 5000, ..with(1, 1) }]
        {
            assert!(!flushes(soon(due)) && flushes(late(due)), "{due:?}");
            let slow = Situation { last_took: secs(3), ..due };
            assert!(!flushes(Situation { since_last: Some(secs(14)), ..slow }));
            assert!(flushes(Situation { since_last: Some(secs(15)), ..slow }));
        }
        assert!(flushes(soon(with(1, 500))));
        assert!(flushes(soon(Situation { draining: true, ..with(1, 1) })));
    }

    #[test]
    fn a_drain_flushes_what_there_is() {
        assert!(!flushes(Situation { draining: true, ..with(0, 0) }));
        assert!(flushes(Situation { draining: true, ..with(1, 1) }));
        assert!(flushes(Situation { draining: true, frozen: 1, ..with(0, 0) }));
        assert!(!flushes(Situation { draining: true, flushing: true, ..with(1, 1) }));
    }

    #[test]
    fn there_is_one_flush_at_a_time() {
        for now in [with(100, 0), with(1, 5000), Situation { draining: true, ..with(1, 1) }] {
            assert!(flushes(now));
            assert!(!flushes(Situation { flushing: true, ..now }));
        }
    }

    #[test]
    fn ingestion_is_slowed_towards_the_bound_and_waits_at_it() {
        let of = |bytes, frozen| decide(&SETTINGS, &Situation { frozen, ..with(1, bytes) }).ingestion;
        assert_eq!(of(750, 0), Ingestion::Free);
        assert_eq!(of(375, 375), Ingestion::Free);
        let mut last = Duration::ZERO;
        for bytes in 751..1000 {
            let Ingestion::Slowed(pause) = of(bytes / 2, bytes - bytes / 2) else { panic!("{bytes}") };
            assert!(pause > last && pause <= LONGEST_PAUSE);
            last = pause;
        }
        assert_eq!(of(1000, 0), Ingestion::Waits);
        assert_eq!(of(0, 1000), Ingestion::Waits);
        assert_eq!(of(u64::MAX, u64::MAX), Ingestion::Waits);
    }

    #[test]
    fn whoever_waits_waits_for_a_flush() {
        for memory in [0, 1, 3, 1000] {
            for bytes in 0..1100 {
                for frozen in [0, 1, 500, 999, 1000] {
                    for since_last in [None, Some(Duration::ZERO)] {
                        let now = Situation { frozen, since_last, ..with(1, bytes) };
                        let decision = decide(&Settings { memory, ..SETTINGS }, &now);
                        assert!(decision.flush || decision.ingestion != Ingestion::Waits, "{memory} {now:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_defaults_leave_a_half_for_what_comes_while_the_other_is_written() {
        let settings = Settings::default();
        let half = settings.memory / 2;
        let now = Situation { flushing: true, frozen: half, ..with(1, half / 2) };
        assert_eq!(decide(&settings, &now), Decision { flush: false, ingestion: Ingestion::Free });
    }
}
