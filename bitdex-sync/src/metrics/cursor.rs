//! The cursor of the source "clickhouse": `v2|<covered>|<swept>` says that everything inserted by the first time is in,
//! and that the last sweep was through at the second (`-`: none yet; both are seconds of ClickHouse's clock);
//! `v2|<covered>|<swept>|<source>|<key>` that a sweep is under way, which goes on with that key of that metrics source.
//! `v1|<covered>` and `v1|<covered>|<source>|<key>` are read too, and know of no sweep that is through.

use std::fmt;

use anyhow::Context as _;
use bytes::Bytes;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MetricsCursor {
    /// Seconds since 1970.
    pub covered: i64,
    /// When the last sweep was through, seconds since 1970.
    pub swept: Option<i64>,
    pub sweep: Option<SweepAt>,
}

/// The next keys of a sweep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SweepAt {
    /// Position among the metrics sources; at their number, the sweep is through.
    pub source: usize,
    pub key: u32,
}

impl SweepAt {
    const START: Self = Self { source: 0, key: 0 };

    /// Behind the key `last` of the source.
    pub(super) fn after(self, last: u32) -> Self {
        match last.checked_add(1) {
            Some(key) => Self { key, ..self },
            None => Self { source: self.source + 1, key: 0 },
        }
    }
}

impl MetricsCursor {
    /// Before anything was read: everything has to be.
    pub(super) fn first(covered: i64) -> Self {
        Self { covered, swept: None, sweep: Some(SweepAt::START) }
    }

    pub(super) fn sweeping(self) -> Self {
        Self { sweep: Some(SweepAt::START), ..self }
    }

    pub(super) fn at(self, at: SweepAt) -> Self {
        Self { sweep: Some(at), ..self }
    }

    /// The sweep was through at `now`.
    pub(super) fn swept_at(self, now: i64) -> Self {
        Self { swept: Some(now), sweep: None, ..self }
    }

    /// Whether a sweep should begin: none is under way, and the last is this long ago. ClickHouse's clock may have been
    /// set back, or differ between its servers.
    pub(super) fn is_sweep_due(&self, now: i64, period_s: u64) -> bool {
        self.sweep.is_none() && self.swept.is_none_or(|swept| now.abs_diff(swept) >= period_s)
    }

    pub(super) fn to_bytes(self) -> Bytes {
        self.to_string().into()
    }

    /// `None` before the first batch.
    pub(super) fn from_bytes(bytes: &[u8]) -> anyhow::Result<Option<Self>> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let text = std::str::from_utf8(bytes).context("the index's cursor for ClickHouse is not text")?;
        let parts: Vec<_> = text.split('|').collect();
        let read = || -> Option<Self> {
            let (covered, swept, sweep) = match parts.as_slice() {
                ["v1", covered, sweep @ ..] => (covered, None, sweep),
                ["v2", covered, "-", sweep @ ..] => (covered, None, sweep),
                ["v2", covered, swept, sweep @ ..] => (covered, Some(swept.parse().ok()?), sweep),
                _ => return None,
            };
            let sweep = match sweep {
                [] => None,
                [source, key] => Some(SweepAt { source: source.parse().ok()?, key: key.parse().ok()? }),
                _ => return None,
            };
            Some(Self { covered: covered.parse().ok()?, swept, sweep })
        };
        read().map(Some).with_context(|| format!("{text:?} is no cursor for ClickHouse that this release reads"))
    }
}

impl fmt::Display for MetricsCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v2|{}|", self.covered)?;
        match self.swept {
            Some(swept) => write!(f, "{swept}")?,
            None => f.write_str("-")?,
        }
        match self.sweep {
            Some(at) => write!(f, "|{}|{}", at.source, at.key),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> anyhow::Result<Option<MetricsCursor>> {
        MetricsCursor::from_bytes(text.as_bytes())
    }

    #[test]
    fn round_trips_and_refuses() {
        let first = MetricsCursor::first(-3);
        let swept = first.swept_at(17);
        for (cursor, text) in [
            (first, "v2|-3|-|0|0"),
            (first.at(SweepAt { source: 1, key: 9 }), "v2|-3|-|1|9"),
            (swept, "v2|-3|17"),
            (swept.sweeping(), "v2|-3|17|0|0"),
        ] {
            assert_eq!(cursor.to_string(), text);
            assert_eq!(read(text).unwrap(), Some(cursor));
        }
        assert_eq!(read("").unwrap(), None);
        assert_eq!(read("v1|17").unwrap(), Some(MetricsCursor { covered: 17, swept: None, sweep: None }));
        assert_eq!(read("v1|-3|0|0").unwrap(), Some(first));
        for text in ["v3|1|1", "v2|1", "v2|1|x", "v2|1|1|2", "v2|1|1|0|-1", "v1", "v1|x", "v1|1|2", "v1|1|0|-1"] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_sweep_is_due_a_period_after_the_last_whatever_restarted_meanwhile() {
        let cursor = MetricsCursor::first(1_000).swept_at(1_000);
        let again = read(&cursor.to_string()).unwrap().unwrap();
        assert!(!again.is_sweep_due(1_099, 100));
        assert!(again.is_sweep_due(1_100, 100));
        assert!(again.is_sweep_due(900, 100), "the clock was set back");
        assert!(!again.is_sweep_due(999, 100), "another server's clock");
        assert!(!again.sweeping().is_sweep_due(2_000, 100), "one is under way");
        assert!(read("v1|1000").unwrap().unwrap().is_sweep_due(1_000, 100), "none is known to be through");
    }

    #[test]
    fn a_sweep_goes_on_behind_the_last_key_and_then_with_the_next_source() {
        let at = SweepAt { source: 1, key: 5 };
        assert_eq!(at.after(9), SweepAt { source: 1, key: 10 });
        assert_eq!(at.after(u32::MAX), SweepAt { source: 2, key: 0 });
    }
}
