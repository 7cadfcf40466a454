//! The Postgres part of the daemon: has the index loaded if it is empty, then polls for as long as it lives. Whatever
//! fails, it starts over from the cursor that the index has made durable.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bitdex_proto::{
    client::{IngestClient, Session, SessionEvent},
    definition::Definition,
    snapshot::PgCursor,
    wire,
};
use tokio_util::sync::CancellationToken;

use super::health::{Phase, Reporter};
use crate::{
    backoff::Backoff,
    capture::{Plan, PollError, Polled, Poller, Request},
    deliver::SessionSink,
    load::{LoadError, Loader, POSTGRES_SOURCE, Progress},
    postgres::Database,
    setup,
};

/// Progress is sent at least this often.
const PROGRESS_PERIOD: Duration = Duration::from_millis(900);
/// Triggers and history are looked at again this often.
const VERIFY_PERIOD: Duration = Duration::from_secs(10);
/// A session that takes longer to open is held by another process.
const OTHERS_SESSION: Duration = Duration::from_secs(2);
/// Whoever stood by for so long has nothing more to say about what failed before.
const STANDBY_FORGETS: Duration = Duration::from_secs(20);
/// A poll of more ops than this is followed by the next at once.
const BUSY_OPS: u64 = 1_000;

/// What following needs.
#[derive(Debug, Clone)]
pub struct Follower {
    pub definition: Arc<Definition>,
    pub database: Database,
    pub client: Arc<IngestClient>,
    pub plan: Arc<Plan>,
    pub loader: Loader,
    pub poll_interval: Duration,
    pub reporter: Reporter,
    pub stop: CancellationToken,
}

/// Whether to go on after a round.
enum Next {
    Again,
    Stop,
}

impl Follower {
    /// Until `stop`.
    pub async fn run(self) {
        let mut backoff = Backoff::for_connections();
        loop {
            let begun = Instant::now();
            let outcome = tokio::select! {
                outcome = self.round() => outcome,
                () = self.stop.cancelled() => Ok(Next::Stop),
            };
            match outcome {
                Ok(Next::Stop) => break,
                Ok(Next::Again) => backoff.reset(),
                Err(error) => {
                    if begun.elapsed() > Duration::from_secs(30) {
                        backoff.reset();
                    }
                    self.reporter.failed(format!("{error:#}"));
                    tracing::warn!(part = self.reporter.name(), error = format!("{error:#}"), "starting over");
                    tokio::select! {
                        () = tokio::time::sleep(backoff.step()) => {}
                        () = self.stop.cancelled() => break,
                    }
                }
            }
        }
        self.reporter.phase(Phase::Stopped);
    }

    /// Polls once, after which the index has caught up. False where another process holds the session, which then does
    /// the same.
    pub async fn catch_up(&self) -> anyhow::Result<bool> {
        let Ok(session) = tokio::time::timeout(OTHERS_SESSION, self.client.session(self.open())).await else {
            return Ok(false);
        };
        let mut session = session.map_err(|error| anyhow::anyhow!("bitdex-query: {error}"))?;
        if session.opened.caught_up {
            return Ok(true);
        }
        let cursor = PgCursor::from_bytes(&session.opened.cursor)?;
        let mut poller = Poller::connect(&self.database, Arc::clone(&self.plan)).await?;
        self.verify(&mut poller, &cursor).await?;
        let schema = self.definition.schema();
        let mut sink = SessionSink { session: &mut session, schema, source: POSTGRES_SOURCE };
        poller.poll(&cursor, Request { progress: true, caught_up: true }, &mut sink).await?;
        Ok(true)
    }

    fn open(&self) -> wire::SessionOpen {
        wire::SessionOpen {
            index: self.definition.index().into(),
            definition_hash: self.definition.schema().hash.clone(),
            source: POSTGRES_SOURCE.into(),
        }
    }

    async fn session(&self) -> anyhow::Result<Session> {
        // Opening waits while another session is active, which is no fault; and there is no telling for how long.
        let standby = async {
            tokio::time::sleep(OTHERS_SESSION).await;
            self.reporter.phase(Phase::Standby);
            // What failed may fail again as soon as the turn comes: a session of our own that lingers is no success.
            tokio::time::sleep(STANDBY_FORGETS).await;
            self.reporter.succeeded();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            session = self.client.session(self.open()) => session.map_err(|error| anyhow::anyhow!("bitdex-query: {error}")),
            () = standby => unreachable!("standby never ends"),
        }
    }

    async fn round(&self) -> anyhow::Result<Next> {
        self.reporter.phase(Phase::Starting);
        let session = self.session().await?;
        let opened = session.opened.clone();
        if !opened.loaded {
            drop(session);
            return self.load(opened.load).await;
        }
        let cursor = PgCursor::from_bytes(&opened.cursor)?;
        let reporter = self.reporter.clone();
        let poller = Poller::connect(&self.database, Arc::clone(&self.plan)).await?;
        let mut poller = poller.with_signs_of_life(move || reporter.alive());
        self.verify(&mut poller, &cursor).await?;
        tracing::info!(%cursor, epoch = opened.epoch, "following Postgres");
        self.follow(session, poller, cursor, opened.caught_up).await
    }

    async fn load(&self, unfinished: Option<wire::LoadOpened>) -> anyhow::Result<Next> {
        let mut connection = self.database.connect(crate::postgres::Purpose::Poll).await?;
        ensure_set_up(&mut connection, &self.definition).await?;
        drop(connection);
        self.reporter.phase(Phase::Loading);
        let progress = Progress::new(false, Some(self.reporter.clone()));
        match self.loader.load(unfinished, None, &progress).await {
            Ok(_) => Ok(Next::Again),
            Err(LoadError::Elsewhere) => {
                self.reporter.phase(Phase::Standby);
                tokio::time::sleep(Duration::from_secs(1)).await;
                Ok(Next::Again)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Whether everything that changes since `cursor` was and is being recorded.
    async fn verify(&self, poller: &mut Poller, cursor: &PgCursor) -> anyhow::Result<()> {
        ensure_set_up(poller.connection(), &self.definition).await?;
        self.plan.consumer.check(poller.connection(), cursor).await
    }

    async fn follow(
        &self,
        mut session: Session,
        mut poller: Poller,
        mut cursor: PgCursor,
        mut caught_up: bool,
    ) -> anyhow::Result<Next> {
        let mut moved = Instant::now();
        let mut verified = Instant::now();
        let mut wanted = true;
        let mut stall = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        self.reporter.phase(if caught_up { Phase::Following } else { Phase::CatchingUp });
        loop {
            if verified.elapsed() >= VERIFY_PERIOD {
                self.verify(&mut poller, &cursor).await?;
                verified = Instant::now();
            }
            let request = Request { progress: wanted || moved.elapsed() >= PROGRESS_PERIOD, caught_up: !caught_up };
            let schema = self.definition.schema();
            let mut sink = SessionSink { session: &mut session, schema, source: POSTGRES_SOURCE };
            let pause = match poller.poll(&cursor, request, &mut sink).await {
                Ok(Polled::Idle) => self.poll_interval,
                Ok(Polled::Moved { cursor: next, ops }) => {
                    cursor = next;
                    moved = Instant::now();
                    wanted = false;
                    if !caught_up {
                        caught_up = true;
                        tracing::info!(%cursor, "the index has caught up");
                        self.reporter.phase(Phase::Following);
                    }
                    self.reporter.detail("cursor", &cursor);
                    if ops > BUSY_OPS { Duration::ZERO } else { self.poll_interval }
                }
                // The same again, a little later; nothing is skipped.
                Err(error @ (PollError::Busy | PollError::Locked | PollError::Data(_))) => {
                    metrics::counter!("bitdex_sync_stalls_total", "why" => stall_reason(&error)).increment(1);
                    self.reporter.failed(&error);
                    tracing::warn!(%error, "nothing gets past this; trying again");
                    let pause = stall.step();
                    tokio::time::sleep(pause).await;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            stall.reset();
            self.reporter.succeeded();
            metrics::gauge!("bitdex_sync_progress_age_seconds", "source" => POSTGRES_SOURCE)
                .set(moved.elapsed().as_secs_f64());
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                event = session.recv() => match event {
                    Ok(SessionEvent::ProgressWanted) => wanted = true,
                    Ok(other) => anyhow::bail!("bitdex-query answered {other:?}, though nothing was under way"),
                    Err(error) => anyhow::bail!("bitdex-query: {error}"),
                },
            }
        }
    }
}

fn stall_reason(error: &PollError) -> &'static str {
    match error {
        PollError::Busy => "busy",
        PollError::Locked => "locked",
        PollError::Data(_) => "data",
        PollError::History(_) | PollError::Deliver(_) | PollError::Postgres(_) => "other",
    }
}

/// An error that says what to do where triggers are not as the definition wants them.
pub async fn ensure_set_up(connection: &mut sqlx::PgConnection, definition: &Definition) -> anyhow::Result<()> {
    let outdated = setup::verify(connection, definition).await?;
    if outdated.is_empty() {
        return Ok(());
    }
    let what: Vec<_> = outdated.iter().map(|outdated| format!("{}: {}", outdated.source, outdated.reason)).collect();
    anyhow::bail!("the database is not set up for this definition ({}): run `bitdex-sync setup`", what.join("; "))
}
