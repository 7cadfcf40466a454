//! Postgres snapshots (`pg_snapshot`): which transactions a state of the database contains.

use std::{fmt, str::FromStr};

use crate::{Error, Result};

/// `xmin:xmax:xip,…`: transactions below `xmax` are in, except those in `in_progress`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PgSnapshot {
    xmin: u64,
    xmax: u64,
    /// Ascending, each in `xmin..xmax`.
    in_progress: Vec<u64>,
}

impl PgSnapshot {
    /// The snapshot that contains no transaction.
    pub fn empty() -> Self {
        Self { xmin: 1, xmax: 1, in_progress: Vec::new() }
    }

    pub fn xmin(&self) -> u64 {
        self.xmin
    }

    pub fn xmax(&self) -> u64 {
        self.xmax
    }

    pub fn in_progress(&self) -> &[u64] {
        &self.in_progress
    }

    /// Whether the snapshot contains transaction `xid` (or `xid` had rolled back by then).
    pub fn contains(&self, xid: u64) -> bool {
        xid < self.xmax && self.in_progress.binary_search(&xid).is_err()
    }
}

impl FromStr for PgSnapshot {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || Error::invalid(format!("{text:?} is not a Postgres snapshot (xmin:xmax:xip,…)"));
        let mut parts = text.split(':');
        let (Some(xmin), Some(xmax), Some(xip), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Err(wrong());
        };
        let number = |text: &str| text.parse::<u64>().map_err(|_| wrong());
        let (xmin, xmax) = (number(xmin)?, number(xmax)?);
        let mut in_progress = xip.split(',').filter(|xid| !xid.is_empty()).map(number).collect::<Result<Vec<_>>>()?;
        in_progress.sort_unstable();
        if xmin > xmax || in_progress.iter().any(|xid| !(xmin..xmax).contains(xid)) {
            return Err(wrong());
        }
        Ok(Self { xmin, xmax, in_progress })
    }
}

impl fmt::Display for PgSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:", self.xmin, self.xmax)?;
        for (i, xid) in self.in_progress.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            write!(f, "{xid}")?;
        }
        Ok(())
    }
}

/// The cursor of the source "postgres": a snapshot, and the token that proves the database still has the history that
/// led to it. Text: `snapshot|token`, `snapshot|token|page`, or `snapshot|token|page or nothing|external`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PgCursor {
    pub snapshot: PgSnapshot,
    pub token: String,
    /// Within a long backlog: how many pages of the changes after `snapshot` are in already. Whoever resumes starts
    /// from `snapshot` again, which is harmless, because ops assign state absolutely.
    pub page: Option<u32>,
    /// After a load, until the first step is complete: the snapshot up to which ops on external fields are in. The load
    /// reads tables, and such ops are in none.
    pub external: Option<PgSnapshot>,
}

impl PgCursor {
    /// The snapshot beyond which ops on external fields are to be taken.
    pub fn external_from(&self) -> &PgSnapshot {
        self.external.as_ref().unwrap_or(&self.snapshot)
    }

    pub fn to_bytes(&self) -> bytes::Bytes {
        self.to_string().into()
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        std::str::from_utf8(bytes).map_err(|_| Error::invalid("a Postgres cursor is not text"))?.parse()
    }
}

impl fmt::Display for PgCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}|{}", self.snapshot, self.token)?;
        match self.page {
            Some(page) => write!(f, "|{page}")?,
            None if self.external.is_some() => f.write_str("|")?,
            None => {}
        }
        match &self.external {
            Some(external) => write!(f, "|{external}"),
            None => Ok(()),
        }
    }
}

impl FromStr for PgCursor {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong =
            || Error::invalid(format!("{text:?} is not a Postgres cursor (snapshot|token, or with |page|external)"));
        let mut parts = text.split('|');
        let (Some(snapshot), Some(token)) = (parts.next(), parts.next()) else { return Err(wrong()) };
        let (page, external) = (parts.next(), parts.next());
        if parts.next().is_some() {
            return Err(wrong());
        }
        let page = match page {
            None => None,
            Some("") if external.is_some() => None,
            Some(page) => Some(page.parse().map_err(|_| wrong())?),
        };
        let external = external.map(str::parse).transpose()?;
        Ok(Self { snapshot: snapshot.parse()?, token: token.into(), page, external })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contains_what_committed_before() {
        let snapshot: PgSnapshot = "10:20:10,14".parse().unwrap();
        assert!(snapshot.contains(9) && snapshot.contains(11) && snapshot.contains(19));
        assert!(!snapshot.contains(10) && !snapshot.contains(14) && !snapshot.contains(20));
        assert_eq!(snapshot.to_string(), "10:20:10,14");
        assert_eq!("5:5:".parse::<PgSnapshot>().unwrap().to_string(), "5:5:");
    }

    #[test]
    fn cursors_round_trip() {
        for text in ["10:20:10,14|abc", "5:5:|abc|3", "10:20:14|abc||1:1:", "10:20:|abc|3|8:9:8"] {
            let cursor: PgCursor = text.parse().unwrap();
            assert_eq!(cursor.to_string(), text);
            assert_eq!(PgCursor::from_bytes(&cursor.to_bytes()).unwrap(), cursor);
        }
        let loaded: PgCursor = "10:20:14|abc||1:1:".parse().unwrap();
        assert!(loaded.snapshot.contains(15) && !loaded.external_from().contains(1));
        assert_eq!(loaded.external_from(), &PgSnapshot::empty());
        for text in ["10:20:", "10:20:|a|b", "10:20:|a|", "10:20:|a|1|2", "10:20:|a|1|2:2:|", "x|a"] {
            assert!(text.parse::<PgCursor>().is_err(), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_snapshot() {
        for text in ["", "1:2", "2:1:", "1:5:7", "a:b:", "1:2:3:4"] {
            assert!(text.parse::<PgSnapshot>().is_err(), "{text}");
        }
    }
}
