//! Following ClickHouse: first all metrics, then a trailing window of what was inserted, and everything again once a day.
//!
//! - A sweep reads range by range of the keys, and says of each which keys there are: what the index has of others goes.
//! - Values, not increments, go out: each is what ClickHouse computes for the key over all of its rows, so nothing that
//!   is read twice counts twice.
//! - A later sweep takes one range between two windows, so that neither delays the other. When the last one was through
//!   stands in the cursor, so that no restart puts it off.
//! - The window reaches back before what it covered (`overlap`), for rows that become visible late; its clock is
//!   ClickHouse's own.
//! - A value that was acknowledged is not sent again. What is remembered for that is bounded.

mod cursor;
mod source;
mod suppress;
mod sweep;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bitdex_proto::{
    client::{IngestClient, Session},
    definition::Definition,
    ops::Op,
    schema::SourceId,
    wire,
};
use tokio_util::sync::CancellationToken;

pub use self::source::ClickHouse;
use self::{cursor::MetricsCursor, suppress::Acknowledged};
use crate::{
    backoff::Backoff,
    cli::{ClickHouseArgs, FollowArgs},
    daemon::health::{Phase, Reporter},
    deliver::{Batch, DeliverError, SessionSink, Sink},
};

/// Name of the session source.
pub const CLICKHOUSE_SOURCE: &str = "clickhouse";
/// Ops of one batch.
const BATCH_OPS: usize = 50_000;
/// Rows inserted in the last moments may not be visible yet; they are left to the next window.
const SETTLE_S: i64 = 2;
/// Progress is sent at least this often.
const PROGRESS_PERIOD: Duration = Duration::from_secs(1);
/// A session that takes longer to open may be held by another process.
const OTHERS_SESSION: Duration = Duration::from_secs(2);
/// One that takes this long is: no server's silence is waited for as long.
const SURELY_OTHERS_SESSION: Duration = Duration::from_secs(15);

#[derive(Debug)]
pub struct MetricsFollower {
    definition: Arc<Definition>,
    clickhouse: ClickHouse,
    client: Arc<IngestClient>,
    sources: Vec<SourceId>,
    interval: Duration,
    overlap_s: i64,
    sweep_period_s: u64,
    reporter: Reporter,
    stop: CancellationToken,
    acknowledged: Acknowledged,
}

/// One session's state.
struct Following {
    session: Session,
    cursor: MetricsCursor,
    /// Exactly what the index has.
    cursor_bytes: bytes::Bytes,
    caught_up: bool,
}

impl MetricsFollower {
    pub fn new(
        definition: &Arc<Definition>,
        clickhouse: &ClickHouseArgs,
        follow: &FollowArgs,
        client: Arc<IngestClient>,
        reporter: Reporter,
        stop: CancellationToken,
    ) -> anyhow::Result<Self> {
        let sources = definition.schema().sources.iter().enumerate().filter(|(_, source)| !source.is_postgres());
        Ok(Self {
            sources: sources.map(|(id, _)| id).collect(),
            definition: Arc::clone(definition),
            clickhouse: ClickHouse::new(clickhouse)?,
            client,
            interval: Duration::from_millis(follow.metrics_interval_ms),
            overlap_s: i64::try_from(follow.metrics_overlap_s)?,
            sweep_period_s: follow.metrics_sweep_s,
            reporter,
            stop,
            acknowledged: Acknowledged::default(),
        })
    }

    /// Until stopped.
    pub async fn run(mut self) {
        let mut backoff = Backoff::for_connections();
        let stop = self.stop.clone();
        loop {
            let begun = Instant::now();
            let outcome = tokio::select! {
                outcome = self.round() => outcome,
                () = stop.cancelled() => break,
            };
            if let Err(error) = outcome {
                if begun.elapsed() > Duration::from_secs(30) {
                    backoff.reset();
                }
                // Whether the last batch was taken is unknown, and so what the index holds.
                self.acknowledged.clear();
                self.reporter.failed(format!("{error:#}"));
                tracing::warn!(part = self.reporter.name(), error = format!("{error:#}"), "starting over");
                tokio::select! {
                    () = tokio::time::sleep(backoff.step()) => {}
                    () = stop.cancelled() => break,
                }
            }
        }
        self.reporter.phase(Phase::Stopped);
    }

    async fn session(&self) -> anyhow::Result<Session> {
        let open = wire::SessionOpen {
            index: self.definition.index().into(),
            definition_hash: self.definition.schema().hash.clone(),
            source: CLICKHOUSE_SOURCE.into(),
        };
        let standby = async {
            tokio::time::sleep(OTHERS_SESSION).await;
            self.reporter.alive();
            self.reporter.phase(Phase::Standby);
            // Until then it may also be a server that does not answer, which mends no error.
            tokio::time::sleep(SURELY_OTHERS_SESSION - OTHERS_SESSION).await;
            self.reporter.succeeded();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            session = self.client.session(open) => session.map_err(|error| anyhow::anyhow!("bitdex-query: {error}")),
            () = standby => unreachable!("standby never ends"),
        }
    }

    async fn round(&mut self) -> anyhow::Result<()> {
        self.reporter.phase(Phase::Starting);
        let session = self.session().await?;
        let cursor_bytes = session.opened.cursor.clone();
        let caught_up = session.opened.caught_up;
        let now = self.clickhouse.now().await?;
        let cursor = MetricsCursor::from_bytes(&cursor_bytes)?.unwrap_or_else(|| MetricsCursor::first(now - SETTLE_S));
        let mut following = Following { session, cursor, cursor_bytes, caught_up };
        self.reporter.phase(if caught_up { Phase::Following } else { Phase::Loading });
        // Nothing serves before the first sweep is through, so it need not be paced.
        while !following.caught_up && following.cursor.sweep.is_some() {
            self.sweep_step(&mut following).await?;
            self.reporter.succeeded();
        }
        tracing::info!(cursor = %following.cursor, "following ClickHouse");
        self.follow(following).await
    }

    /// Reads the next range of a sweep. Gives the number of keys whose values the index may not have had.
    async fn sweep_step(&mut self, following: &mut Following) -> anyhow::Result<u64> {
        let Some(at) = following.cursor.sweep else { return Ok(0) };
        let Some(&source) = self.sources.get(at.source) else {
            let next = following.cursor.swept_at(self.clickhouse.now().await?);
            self.deliver(following, next, Vec::new(), true).await?;
            return Ok(0);
        };
        let (ops, last) = sweep::step(&self.clickhouse, &self.definition, source, at.key).await?;
        let ops = self.acknowledged.unknown(ops);
        let changed = ops.iter().filter(|op| matches!(op, Op::Upsert { .. })).count() as u64;
        self.deliver(following, following.cursor.at(at.after(last)), ops, false).await?;
        self.reporter.detail("cursor", following.cursor);
        Ok(changed)
    }

    async fn follow(&mut self, mut following: Following) -> anyhow::Result<()> {
        self.reporter.phase(Phase::Following);
        let mut moved = Instant::now();
        let mut mended = 0;
        loop {
            if following.cursor.sweep.is_some() {
                // What a sweep finds, the windows have missed: late rows, mutations.
                mended += self.sweep_step(&mut following).await?;
                if following.cursor.sweep.is_none() {
                    metrics::counter!("bitdex_sync_metrics_mended_total").increment(mended);
                    tracing::info!(sent = mended, "all metrics were read again");
                    mended = 0;
                }
            }
            let now = self.clickhouse.now().await?;
            if following.cursor.is_sweep_due(now, self.sweep_period_s) {
                following.cursor = following.cursor.sweeping();
            }
            let since = following.cursor.covered - self.overlap_s;
            let mut ops = Vec::new();
            for &source in &self.sources {
                ops.extend(self.clickhouse.changed_since(&self.definition, source, since).await?);
            }
            let ops = self.acknowledged.unknown(ops);
            if !ops.is_empty() || moved.elapsed() >= PROGRESS_PERIOD || !following.caught_up {
                let covered = (now - SETTLE_S).max(following.cursor.covered);
                let next = MetricsCursor { covered, ..following.cursor };
                self.deliver(&mut following, next, ops, true).await?;
                moved = Instant::now();
                self.reporter.detail("cursor", following.cursor);
                metrics::gauge!("bitdex_sync_metrics_covered_age_seconds").set((now - covered) as f64);
                self.reporter.succeeded();
            } else {
                // ClickHouse answered; whether the index takes what it says is not known.
                self.reporter.alive();
            }
            tokio::time::sleep(self.interval).await;
        }
    }

    /// Delivers ops as the step to `next`. In between, batches keep the cursor, because they can be repeated.
    async fn deliver(
        &mut self,
        following: &mut Following,
        next: MetricsCursor,
        ops: Vec<Op>,
        caught_up: bool,
    ) -> anyhow::Result<()> {
        let next_bytes = next.to_bytes();
        let batches = ops.len().div_ceil(BATCH_OPS).max(1);
        let mut ops = ops.into_iter();
        let schema = Arc::clone(self.definition.schema());
        for batch in 1..=batches {
            let last = batch == batches;
            let part: Vec<Op> = ops.by_ref().take(BATCH_OPS).collect();
            let new_cursor = if last { next_bytes.clone() } else { following.cursor_bytes.clone() };
            let mut sink = SessionSink { session: &mut following.session, schema: &schema, source: CLICKHOUSE_SOURCE };
            sink.deliver(Batch {
                previous_cursor: following.cursor_bytes.clone(),
                new_cursor: new_cursor.clone(),
                ops: part.clone(),
                backlog: ops.len() as u64,
                caught_up: caught_up && last,
            })
            .await
            .map_err(|error: DeliverError| anyhow::Error::from(error))?;
            following.cursor_bytes = new_cursor;
            self.acknowledged.learn(part);
            self.reporter.alive();
        }
        following.cursor = next;
        following.caught_up |= caught_up;
        Ok(())
    }
}
