//! Loads and batches, sent as bitdex-sync sends them.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use bitdex_proto::{
    client::{IngestClient, LoadEvent, Session, SessionEvent},
    ops::Op,
    schema::Schema,
    value::Value,
    wire,
};
use bytes::Bytes;

use super::rows::Rows;
use crate::bench::Latencies;

/// A cursor of the source "postgres", the n-th of a made-up history.
pub(in crate::bench) fn cursor(n: u64) -> Bytes {
    format!("{}:{}:|bench-{n}", 1_000 + n, 1_000 + n).into()
}

pub(super) fn session_open(schema: &Schema, source: &str) -> wire::SessionOpen {
    wire::SessionOpen { index: schema.index.clone(), definition_hash: schema.hash.clone(), source: source.into() }
}

/// A source that sends batches.
#[derive(Debug)]
pub(in crate::bench) struct Feeder {
    session: Session,
    at: Bytes,
    next: u64,
}

impl Feeder {
    pub(in crate::bench) async fn open(client: &IngestClient, schema: &Schema, source: &str) -> Result<Self> {
        let session = client.session(session_open(schema, source)).await?;
        let at = session.opened.cursor.clone();
        let text = String::from_utf8_lossy(&at);
        let next = text.rsplit_once("bench-").and_then(|(_, n)| n.parse::<u64>().ok()).map_or(1, |n| n + 1);
        Ok(Self { session, at, next })
    }

    /// The number of the batch that is due: 1 more than that of the last durable one.
    pub(in crate::bench) fn next(&self) -> u64 {
        self.next
    }

    /// Of the writer that it sends to.
    pub(in crate::bench) fn epoch(&self) -> u64 {
        self.session.opened.epoch
    }

    /// Waits, with no batch under way, until the writer ends the session.
    pub(in crate::bench) async fn ended(&mut self) {
        while self.session.recv().await.is_ok() {}
    }

    async fn send(&mut self, ops: Vec<wire::Op>) -> Result<()> {
        let new_cursor = cursor(self.next);
        let previous_cursor = std::mem::replace(&mut self.at, new_cursor.clone());
        self.next += 1;
        self.session.send(ops).await?;
        let commit = wire::Commit { previous_cursor, new_cursor, caught_up: true, backlog: 0 };
        Ok(self.session.commit(commit).await?)
    }

    async fn acknowledged(&mut self) -> Result<wire::Ack> {
        loop {
            match self.session.recv().await? {
                SessionEvent::Ack(ack) => return Ok(ack),
                SessionEvent::Refused(refused) => bail!("a batch was refused: {}", refused.reason),
                SessionEvent::ProgressWanted => {}
            }
        }
    }

    /// One batch, durable.
    pub(in crate::bench) async fn batch(&mut self, ops: Vec<wire::Op>) -> Result<wire::Ack> {
        self.send(ops).await?;
        self.acknowledged().await
    }

    /// All batches, four under way at once; the time until the last is durable.
    pub(in crate::bench) async fn batches(
        &mut self,
        batches: impl IntoIterator<Item = Vec<wire::Op>>,
    ) -> Result<Duration> {
        let start = Instant::now();
        let mut under_way = 0;
        for ops in batches {
            self.send(ops).await?;
            under_way += 1;
            if under_way == 4 {
                self.acknowledged().await?;
                under_way -= 1;
            }
        }
        for _ in 0..under_way {
            self.acknowledged().await?;
        }
        Ok(start.elapsed())
    }
}

/// How long a load took.
#[derive(Debug)]
pub(in crate::bench) struct Load {
    /// Until every row was durable.
    pub(in crate::bench) rows: Duration,
    /// From there until the index was built.
    pub(in crate::bench) build: Duration,
}

/// Sends all rows of a load, and waits until it is built.
pub(in crate::bench) async fn load(client: &IngestClient, schema: &Schema, rows: &Rows) -> Result<Load> {
    let open = wire::LoadOpen {
        index: schema.index.clone(),
        definition_hash: schema.hash.clone(),
        source: "postgres".into(),
        load_id: "bench".into(),
        cursor: cursor(0),
        parts: rows.parts.iter().map(|part| part.part).collect(),
    };
    let start = Instant::now();
    let (sender, mut receiver) = client.load(open).await?.split();
    let send = async {
        for (number, part) in (0..).zip(&rows.parts) {
            part.send(async |frame| Ok(sender.rows(number, frame).await?)).await?;
            sender.part_done(number, part.rows).await?;
        }
        anyhow::Ok(())
    };
    let receive = async {
        for _ in 0..rows.parts.len() {
            match receiver.recv().await? {
                LoadEvent::PartDone(_) => {}
                LoadEvent::Finished(_) => bail!("the load is finished before its end"),
            }
        }
        anyhow::Ok(())
    };
    let (sent, received) = tokio::join!(send, receive);
    received?;
    sent?;
    let durable = Instant::now();
    sender.finish().await?;
    match receiver.recv().await? {
        LoadEvent::Finished(_) => Ok(Load { rows: durable - start, build: durable.elapsed() }),
        LoadEvent::PartDone(_) => bail!("one part too many"),
    }
}

/// The rows of metrics, as batches of ops.
pub(in crate::bench) fn metrics(
    schema: &Schema,
    rows: &[(u32, [i32; 3])],
) -> Result<impl Iterator<Item = Vec<wire::Op>>> {
    let (source, _) = schema.source("events").context("no source events")?;
    Ok(rows.chunks(10_000).map(move |rows| {
        let op = |(id, sums): &(u32, [i32; 3])| {
            let row = sums.map(|sum| Some(Value::Int(sum.into())));
            Op::Upsert { source, key: i64::from(*id), row: Some(row.into()) }.to_wire(schema)
        };
        rows.iter().map(op).collect()
    }))
}

/// How long single ops take to become durable: so many submitters, each with one op under way, as many ops each.
pub(super) async fn acknowledgements(
    client: &IngestClient,
    schema: &Arc<Schema>,
    submitters: u32,
    each: u32,
) -> Result<Latencies> {
    let (field, _) = schema.field("pinnedRank").context("no field pinnedRank")?;
    let one = |submitter: u32| async move {
        let mut feeder = Feeder::open(client, schema, &format!("service {submitters} {submitter}")).await?;
        let mut latencies = Vec::new();
        for n in 0..each {
            let value = bitdex_proto::value::FieldValue::One(Value::Int(n.into()));
            let op = Op::Field { document: 1 + submitter, field, change: bitdex_proto::ops::Change::Set(value) };
            let ops = vec![op.to_wire(schema)];
            let start = Instant::now();
            feeder.batch(ops).await?;
            latencies.push(start.elapsed());
        }
        anyhow::Ok(latencies)
    };
    let all = futures::future::try_join_all((0..submitters).map(one)).await?;
    Ok(all.into_iter().flatten().collect())
}
