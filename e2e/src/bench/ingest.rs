//! Durable batches, sent straight to the writer by a source of their own, as fast as they are acknowledged.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bitdex_proto::{
    client::{IngestClient, SessionEvent},
    ops::Op,
    value::Value,
    wire,
};
use bytes::Bytes;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::Results;
use crate::{
    stage::Stage,
    terminal::{count, rate, say},
    workload::TAGS,
};

const BATCH: usize = 10_000;
const BATCHES: u64 = 100;
/// Batches under way, so that the writer never waits for the sender.
const WINDOW: u64 = 4;

pub(super) async fn measure(stage: &Stage, results: &mut Results) -> Result<()> {
    let ingest = IngestClient::new(stage.pair.grpc())?;
    let open = wire::SessionOpen {
        index: stage.index(),
        definition_hash: stage.schema().hash.clone(),
        source: "bench".into(),
    };
    let session = ingest.session(open).await?;
    let mut previous = session.opened.cursor.clone();
    let (mut sender, mut receiver) = session.split();
    let mut random = ChaCha8Rng::seed_from_u64(stage.workload.seed);
    let batches = (0..BATCHES).map(|_| batch(stage, &mut random)).collect::<Result<Vec<_>>>()?;
    let start = Instant::now();
    let (mut sent, mut acknowledged) = (0, 0);
    for ops in batches {
        sender.send(ops).await?;
        let new_cursor = Bytes::from(format!("batch {sent}"));
        let commit =
            wire::Commit { previous_cursor: previous, new_cursor: new_cursor.clone(), caught_up: true, backlog: 0 };
        sender.commit(commit).await?;
        previous = new_cursor;
        sent += 1;
        while sent - acknowledged >= WINDOW || (sent == BATCHES && acknowledged < sent) {
            match receiver.recv().await? {
                SessionEvent::Ack(_) => acknowledged += 1,
                SessionEvent::Refused(refused) => bail!("a batch was refused: {}", refused.reason),
                SessionEvent::ProgressWanted => {}
            }
        }
    }
    let elapsed: Duration = start.elapsed();
    let ops = BATCHES * BATCH as u64;
    say(format!(
        "{} ops in batches of {}: {}/s, each durable",
        count(ops),
        count(BATCH as u64),
        count(rate(ops, elapsed))
    ));
    results.set("ingest_ops_per_s", rate(ops, elapsed) as f64);
    Ok(())
}

/// Tags put on and taken off, over all documents.
fn batch(stage: &Stage, random: &mut ChaCha8Rng) -> Result<Vec<wire::Op>> {
    let schema = stage.schema();
    let (source, _) = schema.source("tagIds").context("the definition has no tagIds")?;
    let ops = (0..BATCH).map(|_| {
        let op = Op::Member {
            source,
            document: random.random_range(1..=stage.workload.images),
            value: Value::Int(random.random_range(1..=i64::from(TAGS))),
            present: random.random_bool(0.7),
        };
        op.to_wire(schema)
    });
    Ok(ops.collect())
}
