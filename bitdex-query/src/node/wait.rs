//! Waiting for a version that has what a query demands.

use std::{fs::File, sync::Arc, time::Duration};

use bitdex_proto::{
    Error, Result,
    query::Consistency,
    snapshot::{PgCursor, PgSnapshot},
    token::Token,
};
use tokio::time::{Instant, timeout_at};

use super::{Role, Shared};
use crate::state::State;

/// Name of the session source whose cursor is a Postgres snapshot.
const POSTGRES: &str = "postgres";
/// How often whoever feeds the index is told that somebody still waits.
const REMIND: Duration = Duration::from_millis(25);

/// What a version must have.
#[derive(Debug)]
enum Goal {
    Sequence(u64),
    /// Everything that this snapshot saw.
    Snapshot(PgSnapshot),
    Transaction(u64),
}

pub(super) async fn wait_for(
    shared: &Shared,
    consistency: Option<&Consistency>,
    min_sequence: u64,
    deadline: Instant,
) -> Result<Arc<State>> {
    // Subscribed before the first look, so that no version is missed.
    let mut sequence = shared.sequence.subscribe();
    let state = shared.serving.load_full();
    if !state.readiness().ready {
        return Err(Error::unavailable(shared.current.load().readiness().progress));
    }
    let goals = [Some(Goal::Sequence(min_sequence)), consistency.map(|demand| Goal::new(demand, &state)).transpose()?];
    let mut state = state;
    for goal in goals.iter().flatten() {
        while !goal.is_met(&state) {
            if !matches!(goal, Goal::Sequence(_)) {
                want(shared);
            }
            let remind = deadline.min(Instant::now() + REMIND);
            let waited = timeout_at(remind, sequence.changed()).await;
            state = shared.serving.load_full();
            if waited.is_err() && Instant::now() >= deadline && !goal.is_met(&state) {
                return Err(goal.missed(&state));
            }
        }
    }
    Ok(state)
}

impl Goal {
    fn new(demand: &Consistency, state: &State) -> Result<Self> {
        match demand {
            Consistency::PostgresXid(xid) => Ok(Self::Transaction(*xid)),
            Consistency::Token(bytes) => {
                let token = Token::from_bytes(&bytes.0)?;
                // Numbering goes on over generations, so within a store the number says it all.
                if token.store == state.store() {
                    return Ok(Self::Sequence(token.sequence));
                }
                PgCursor::from_bytes(&token.postgres_cursor).map(|cursor| Self::Snapshot(cursor.snapshot)).map_err(
                    |_| {
                        Error::Precondition(format!(
                            "the token is of store {}, this is store {}, and the token has no Postgres snapshot by \
                             which they could be compared: query the replica group that gave it, or leave the token out",
                            token.store,
                            state.store()
                        ))
                    },
                )
            }
        }
    }

    fn is_met(&self, state: &State) -> bool {
        match self {
            Self::Sequence(sequence) => state.sequence() >= *sequence,
            Self::Snapshot(wanted) => snapshot(state).is_some_and(|reached| covers(&reached, wanted)),
            Self::Transaction(xid) => snapshot(state).is_some_and(|reached| reached.contains(*xid)),
        }
    }

    fn missed(&self, state: &State) -> Error {
        let stands = match snapshot(state) {
            Some(snapshot) => format!("the Postgres snapshot {snapshot}"),
            None => "no Postgres snapshot".into(),
        };
        Error::Deadline(match self {
            Self::Sequence(sequence) => {
                format!("waited for version {sequence}, this process stands at {}", state.sequence())
            }
            Self::Snapshot(wanted) => {
                format!("waited for the Postgres snapshot {wanted}, the index stands at {stands}")
            }
            Self::Transaction(xid) => {
                format!("waited for the Postgres transaction {xid}, the index stands at {stands}")
            }
        })
    }
}

fn snapshot(state: &State) -> Option<PgSnapshot> {
    PgCursor::from_bytes(&state.cursor(POSTGRES)).ok().map(|cursor| cursor.snapshot)
}

/// Whether `reached` has everything that `wanted` has.
fn covers(reached: &PgSnapshot, wanted: &PgSnapshot) -> bool {
    reached.xmax() >= wanted.xmax() && reached.in_progress().iter().all(|xid| !wanted.contains(*xid))
}

/// Tells the writer that somebody waits for changes.
fn want(shared: &Shared) {
    match *shared.role.borrow() {
        Role::Writer => shared.wanted.send_modify(|count| *count += 1),
        Role::Reader => {
            // The writer looks at the file's time of change. A reader on a read-only volume cannot touch it, and waits
            // for the regular progress instead.
            let touched = File::options()
                .write(true)
                .create(true)
                .truncate(false)
                .open(shared.folder.wanted())
                .and_then(|file| file.set_modified(std::time::SystemTime::now()));
            if let Err(error) = touched {
                tracing::debug!(%error, "cannot tell the writer that a query waits");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_covers_what_it_contains() {
        let covers = |reached: &str, wanted: &str| {
            covers(&reached.parse::<PgSnapshot>().unwrap(), &wanted.parse::<PgSnapshot>().unwrap())
        };
        assert!(covers("10:20:", "10:20:"));
        assert!(covers("10:20:12", "10:20:12,14"));
        assert!(!covers("10:20:12", "10:20:14"));
        assert!(!covers("10:19:", "10:20:19"));
        assert!(covers("10:25:22", "10:20:12"));
        assert!(!covers("10:25:12", "10:20:"));
    }
}
