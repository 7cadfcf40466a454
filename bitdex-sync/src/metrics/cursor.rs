//! The cursor of the source "clickhouse": `v1|<seconds>` says that everything inserted by then (ClickHouse's clock) is
//! in; `v1|<seconds>|<source>|<key>` that a sweep is under way, which goes on with that key of that metrics source.

use std::fmt;

use anyhow::Context as _;
use bytes::Bytes;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MetricsCursor {
    /// Seconds since 1970.
    pub covered: i64,
    pub sweep: Option<SweepAt>,
}

/// The next keys of a sweep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SweepAt {
    /// Position among the metrics sources; at their number, the sweep is through.
    pub source: usize,
    pub key: u32,
}

impl MetricsCursor {
    pub(super) fn sweep_from(covered: i64) -> Self {
        Self { covered, sweep: Some(SweepAt { source: 0, key: 0 }) }
    }

    pub(super) fn next_source(&self, at: SweepAt) -> Self {
        Self { covered: self.covered, sweep: Some(SweepAt { source: at.source + 1, key: 0 }) }
    }

    pub(super) fn next_key(&self, at: SweepAt, key: u32) -> Self {
        Self { covered: self.covered, sweep: Some(SweepAt { source: at.source, key }) }
    }

    pub(super) fn to_bytes(&self) -> Bytes {
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
            Some(match parts.as_slice() {
                ["v1", covered] => Self { covered: covered.parse().ok()?, sweep: None },
                ["v1", covered, source, key] => Self {
                    covered: covered.parse().ok()?,
                    sweep: Some(SweepAt { source: source.parse().ok()?, key: key.parse().ok()? }),
                },
                _ => return None,
            })
        };
        read().map(Some).with_context(|| format!("{text:?} is no cursor for ClickHouse that this release reads"))
    }
}

impl fmt::Display for MetricsCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v1|{}", self.covered)?;
        match self.sweep {
            Some(at) => write!(f, "|{}|{}", at.source, at.key),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_and_refuses() {
        for cursor in [MetricsCursor { covered: 17, sweep: None }, MetricsCursor::sweep_from(-3)] {
            assert_eq!(MetricsCursor::from_bytes(&cursor.to_bytes()).unwrap(), Some(cursor));
        }
        assert_eq!(MetricsCursor::from_bytes(b"").unwrap(), None);
        for text in ["v2|1", "v1", "v1|x", "v1|1|2", "v1|1|0|-1"] {
            assert!(MetricsCursor::from_bytes(text.as_bytes()).is_err(), "{text}");
        }
    }
}
