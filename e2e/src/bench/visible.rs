//! From the return of COMMIT until a reader's answer has the change, at 500 changes a second.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bitdex_proto::{
    client::Client,
    query::{Consistency, Fields, GetRequest},
    wire::value::Kind,
};
use tokio::task::JoinSet;

use super::{Latencies, Results, search};
use crate::{
    postgres,
    stage::{Stage, find_role},
    terminal::say,
};

const RATE: u32 = 500;
const SECONDS: u32 = 20;
/// Each commits a change, then pauses; enough of them that none is behind.
const WRITERS: u32 = 4;

pub(super) async fn measure(stage: &Stage, results: &mut Results) -> Result<()> {
    let reader = find_role(&stage.pair.pods, &stage.index(), "reader").await?;
    let client = search::client(stage.pair.pods[reader].grpc())?;
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let connection = stage.postgres.connect().await?;
        writers.spawn(write(connection, client.clone(), stage.index(), writer, stage.workload.images));
    }
    let start = Instant::now();
    let mut latencies = Latencies::default();
    while let Some(done) = writers.join_next().await {
        done.context("a writer panicked")??.into_iter().for_each(|latency| latencies.add(latency));
    }
    let achieved = latencies.len() as f64 / start.elapsed().as_secs_f64();
    say(format!(
        "{} changes at {achieved:.0}/s: p50 {:.1} ms, p99 {:.1} ms",
        latencies.len(),
        latencies.percentile(0.5).as_secs_f64() * 1e3,
        latencies.percentile(0.99).as_secs_f64() * 1e3
    ));
    if achieved < f64::from(RATE) * 0.9 {
        say(format!("  (the machine did not reach {RATE} changes/s)"));
    }
    results.set("visible_changes_per_s", achieved);
    results.millis("visible", latencies);
    Ok(())
}

async fn write(
    mut connection: sqlx::PgConnection,
    client: Client,
    index: String,
    writer: u32,
    images: u32,
) -> Result<Vec<Duration>> {
    let mut pace = tokio::time::interval(Duration::from_secs(1) * WRITERS / RATE);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    let mut waits = JoinSet::new();
    for n in 0..RATE * SECONDS / WRITERS {
        pace.tick().await;
        // Never two writers on one row, and never one row twice while it is awaited.
        let id = 1 + (n * WRITERS + writer) % images.saturating_sub(1).max(1);
        let width = i64::from(100_000 + n);
        let update = format!("BEGIN; UPDATE \"Image\" SET width = {width} WHERE id = {id}");
        postgres::execute(&mut connection, &update).await?;
        let xid: u64 = postgres::scalar(&mut connection, "SELECT pg_current_xact_id()::text").await?.parse()?;
        postgres::execute(&mut connection, "COMMIT").await?;
        let committed = Instant::now();
        let client = client.clone();
        let request = GetRequest {
            index: index.clone(),
            ids: vec![id],
            fields: Fields::Named(vec!["width".into()]),
            include_pending: true,
            now_us: None,
            consistency: Some(Consistency::PostgresXid(xid)),
        };
        waits.spawn(async move {
            let answer = client.get(request).await?;
            let elapsed = committed.elapsed();
            // An id in a gap has no document; the answer has seen the transaction all the same.
            if let Some(hit) = answer.documents.first() {
                let seen =
                    hit.values.first().and_then(|value| value.values.first()).and_then(|value| value.kind.clone());
                if seen != Some(Kind::Int(width)) {
                    bail!("image {id} should be {width} wide, it is {seen:?}");
                }
            }
            Ok(elapsed)
        });
    }
    let mut latencies = Vec::new();
    while let Some(done) = waits.join_next().await {
        latencies.push(done.context("a wait panicked")??);
    }
    Ok(latencies)
}
