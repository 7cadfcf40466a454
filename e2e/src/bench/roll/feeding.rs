//! The workload's changes at a steady pace, sent to whichever process is the writer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use bitdex_proto::{
    client::IngestClient,
    ops::{Change, Op},
    schema::Schema,
    value::Value,
    wire,
};
use bytes::Bytes;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval},
};

use crate::bench::store::{feed::Feeder, ops::Changes};

/// Ops of a batch, besides the mark.
const BATCH: usize = 100;
/// A batch each: 2 000 ops/s.
const PERIOD: Duration = Duration::from_millis(50);
/// Before the writer is looked for again.
const PAUSE: Duration = Duration::from_millis(2);
/// Without an acknowledgement for so long, something is wrong.
pub(super) const LIMIT: Duration = Duration::from_secs(30);
/// Each batch adds this label to one of the documents to be marked.
pub(super) const MARK: (&str, &str) = ("labels", "rolled");

/// How far the feed has come.
#[derive(Debug)]
pub(super) struct Fed {
    /// Durable ones.
    pub(super) batches: u64,
    /// Of the writer that acknowledged last.
    pub(super) epoch: u64,
    /// When that one acknowledged its first batch.
    pub(super) since: Instant,
    /// Of the last acknowledgement.
    pub(super) token: Bytes,
    last: Instant,
}

impl Fed {
    pub(super) fn nothing() -> Self {
        let now = Instant::now();
        Self { batches: 0, epoch: 0, since: now, token: Bytes::new(), last: now }
    }
}

pub(super) struct Feed {
    pub(super) client: IngestClient,
    pub(super) schema: Arc<Schema>,
    pub(super) changes: Changes,
    /// Documents to be marked, one after the other.
    pub(super) marked: Vec<u32>,
    /// That of the newest change.
    pub(super) clock: Arc<AtomicI64>,
    pub(super) fed: watch::Sender<Fed>,
    pub(super) stop: Arc<AtomicBool>,
}

impl Feed {
    /// Until stopped. A batch that was under way when its session broke is sent again, unless the next session's cursor
    /// says that it is durable; an error where that cursor is any other.
    pub(super) async fn run(mut self) -> Result<()> {
        let mut pace = interval(PERIOD);
        pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut due: Option<(u64, Vec<wire::Op>)> = None;
        while !self.stop.load(Ordering::Relaxed) {
            let mut feeder = match Feeder::open(&self.client, &self.schema, "postgres").await {
                Ok(feeder) => feeder,
                Err(error) => {
                    self.check(error)?;
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let (mut number, mut ops) = match due.take() {
                Some((number, ops)) if number == feeder.next() => (number, ops),
                Some((number, _)) if number + 1 == feeder.next() => {
                    self.fed.send_modify(|fed| fed.batches += 1);
                    (number + 1, self.batch(number + 1)?)
                }
                Some((number, _)) => bail!("batch {number} was under way, and {} is due", feeder.next()),
                None => (feeder.next(), self.batch(feeder.next())?),
            };
            // The first is sent at once: it was due while there was no writer.
            while !self.stop.load(Ordering::Relaxed) {
                match feeder.batch(ops.clone()).await {
                    Ok(ack) => self.acknowledged(feeder.epoch(), ack.token),
                    Err(error) => {
                        self.check(error)?;
                        break;
                    }
                }
                number += 1;
                ops = self.batch(number)?;
                self.clock.store(self.changes.now_us(), Ordering::Relaxed);
                tokio::select! {
                    _ = pace.tick() => {}
                    () = feeder.ended() => break,
                }
            }
            due = Some((number, ops));
        }
        Ok(())
    }

    fn batch(&mut self, number: u64) -> Result<Vec<wire::Op>> {
        let (field, _) = self.schema.field(MARK.0).with_context(|| format!("no field {}", MARK.0))?;
        let document = self.marked[number as usize % self.marked.len()];
        let mark = Op::Field { document, field, change: Change::Add(Value::Text(MARK.1.into())) };
        let mut ops = self.changes.batch(BATCH)?;
        ops.push(mark.to_wire(&self.schema));
        Ok(ops)
    }

    fn acknowledged(&self, epoch: u64, token: Bytes) {
        self.fed.send_modify(|fed| {
            let last = Instant::now();
            let since = if fed.epoch == epoch { fed.since } else { last };
            *fed = Fed { batches: fed.batches + 1, epoch, since, token, last };
        });
    }

    /// The error, where there has been no acknowledgement for too long.
    fn check(&self, error: anyhow::Error) -> Result<()> {
        if self.fed.borrow().last.elapsed() > LIMIT {
            return Err(error.context("the feed stands still"));
        }
        Ok(())
    }
}
