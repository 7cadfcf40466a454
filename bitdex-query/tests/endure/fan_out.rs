//! One lookup's row that many documents refer to: its change writes little, and shows soon.

use std::time::{Duration, Instant};

use bitdex_proto::{
    ops::Op,
    query::{Consistency, CountRequest, Filter, OpaqueBytes},
    schema::DOCUMENT_SOURCE,
    value::{Literal, Value},
};

use crate::{
    alone,
    feed::{acknowledged, commit, first_load, folder, open, ready, to_wire},
    long,
    model::Model,
    process::Process,
    report,
};

const POST: i64 = 1;
/// Generous, because the machine may be busy; what it takes on a quiet one, the benchmarks tell.
const PATIENCE: Duration = Duration::from_secs(2);
/// Bytes of log for a change, however many documents it reaches.
const LOG_MOST: u64 = 4096;

/// Bytes that a process has written into the log.
async fn log_bytes(writer: &Process) -> u64 {
    let metrics = writer.get("/metrics").await.1;
    let line = metrics.lines().find(|line| line.starts_with("bitdex_log_bytes_total "));
    line.and_then(|line| line.split(' ').next_back()?.parse().ok()).unwrap_or_else(|| panic!("no bytes in {metrics}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wide_change_is_small_and_shows_soon() {
    let _alone = alone().await;
    let documents = if long() { 1_000_000 } else { 50_000 };
    let folder = folder();
    let writer = folder.start();
    let reader = folder.start_with(&["--drain-seconds=0", "--reader-only"]);
    let mut model = Model::new();
    let schema = std::sync::Arc::clone(&model.schema);
    for id in 0..documents {
        let row = Some([Some(Value::Int(id % 1_000)), None, None, Some(Value::Int(POST)), None].into());
        model.apply(&Op::Upsert { source: DOCUMENT_SOURCE, key: id, row });
    }
    first_load(&[&writer], &model).await;
    ready(&reader).await;
    let post = schema.source("post").unwrap().0;
    let mut session = open(&[&writer], &schema, "postgres").await;
    let mut slowest = Duration::ZERO;
    let (before, changes) = (log_bytes(&writer).await, 10);
    for n in 2..2 + changes {
        let state = format!("state {n}");
        let row = Some([None, Some(Value::Text(state.as_str().into()))].into());
        let op = Op::Upsert { source: post, key: POST, row };
        let start = Instant::now();
        let ack = acknowledged(&mut session, to_wire(&schema, &[op]), commit(n, n + 1)).await;
        let request = CountRequest {
            index: schema.index.clone(),
            filter: Some(Filter::eq("state", Literal::Text(state))),
            include_pending: false,
            now_us: None,
            consistency: Some(Consistency::Token(OpaqueBytes(ack.token))),
            up_to: None,
        };
        let count = reader.client().count(request).await.unwrap().count;
        slowest = slowest.max(start.elapsed());
        assert_eq!(count, u64::try_from(documents).unwrap());
    }
    let each = (log_bytes(&writer).await - before) / changes;
    report(&format!("{documents} documents changed by one row: shown after {slowest:?} at most, {each} bytes of log"));
    assert!(each <= LOG_MOST, "a change of one row wrote {each} bytes into the log");
    assert!(slowest < PATIENCE, "it took {slowest:?}");
}
