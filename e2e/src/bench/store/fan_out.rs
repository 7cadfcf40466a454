//! A million documents that refer to one row of a lookup, and that row's change: what it writes to the log, when a
//! reader shows it, and what queries meet meanwhile.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use bitdex_proto::{
    client::{IngestClient, LoadEvent},
    definition::Definition,
    ops::Op,
    query::{Consistency, CountRequest, Filter, OpaqueBytes, SearchRequest, Sort},
    schema::Schema,
    value::{Literal, Value},
    wire,
};

use super::{READY, feed, feed::Feeder, wait_for_writer};
use crate::{
    bench::{Latencies, Results, search, usage},
    folders,
    processes::{Binaries, Pod},
    terminal::{count, say},
};

const DOCUMENTS: u32 = 1_000_000;
const CHANGES: i64 = 20;
const DEFINITION: &str = "
index: wide
document: { table: item, key: id }
fields:
  level:  { type: int, filter: true, sort: true }
  postId: { type: int, filter: true }
lookups:
  post: { table: post, key: id, by: postId, fields: { state: { type: int, filter: true } } }
";

pub(super) async fn measure(binaries: &Binaries, logs: &Path, results: &mut Results) -> Result<()> {
    let folder = tempfile::Builder::new().prefix("wide-").tempdir_in(folders::reachable("data")?)?;
    let definition_file = folder.path().join("wide.yaml");
    fs::write(&definition_file, DEFINITION)?;
    let definition = Definition::load(&definition_file)?;
    let schema = definition.schema();
    let data = folder.path().join("data");
    let pod = |number, options: &[&str]| Pod::new(number, binaries, &definition_file, &data, logs, options);
    let mut writer = pod(10, &["--drain-seconds", "0"])?;
    writer.process.start()?;
    let client = IngestClient::new(vec![writer.grpc().into()])?;
    wait_for_writer(&client, schema).await?;
    load(&client, schema).await?;
    let mut feeder = Feeder::open(&client, schema, "postgres").await?;
    feeder.batch(Vec::new()).await?;
    writer.process.ready(READY).await?;
    let mut reader = pod(11, &["--drain-seconds", "0", "--reader-only"])?;
    reader.process.start()?;
    reader.process.ready(READY).await?;

    let asked = search::client(reader.grpc())?;
    let stop = Arc::new(AtomicBool::new(false));
    let queries = tokio::task::spawn_blocking({
        let (grpc, stop) = (reader.grpc().to_owned(), Arc::clone(&stop));
        move || search::apart(async || ask(&grpc, &stop).await)
    });
    let before = log_bytes(&data)?;
    let mut visible = Latencies::default();
    for state in 1..=CHANGES {
        let post = schema.source("post").context("no source post")?.0;
        let op = Op::Upsert { source: post, key: 1, row: Some([Some(Value::Int(state))].into()) };
        let start = Instant::now();
        let ack = feeder.batch(vec![op.to_wire(schema)]).await?;
        let request = CountRequest {
            index: schema.index.clone(),
            filter: Some(Filter::eq("state", Literal::Int(state))),
            include_pending: false,
            now_us: None,
            consistency: Some(Consistency::Token(OpaqueBytes(ack.token))),
            up_to: None,
        };
        let found = asked.count(request).await?.count;
        visible.add(start.elapsed());
        if found != u64::from(DOCUMENTS) {
            bail!("the change of one row shows in {found} documents");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    stop.store(true, Ordering::Relaxed);
    let (first, latencies) = queries.await.context("the queries panicked")??;
    let bytes = (log_bytes(&data)? - before) as f64 / CHANGES as f64;
    let (slowest, late) = (latencies.percentile(1.0), visible.percentile(1.0));
    say(format!(
        "{} changes of a row that {} documents refer to: shown in a reader after {:.1} ms at most, {bytes:.0} bytes of \
         log each; {} queries meanwhile, the slowest {:.2} ms, without the first of the process: {:.2} ms",
        CHANGES,
        count(DOCUMENTS.into()),
        late.as_secs_f64() * 1e3,
        count(latencies.len() as u64),
        slowest.as_secs_f64() * 1e3,
        first.as_secs_f64() * 1e3
    ));
    results.set("first_query_us", first.as_secs_f64() * 1e6);
    results.set("fanout_visible_ms", late.as_secs_f64() * 1e3);
    results.set("fanout_log_bytes", bytes);
    results.set("fanout_slowest_us", slowest.as_secs_f64() * 1e6);
    reader.process.kill()?;
    writer.process.terminate().await
}

/// Searches, one after the other, until stopped; and how long the first one took, which connects, and is the process's
/// first look into a column.
async fn ask(grpc: &str, stop: &AtomicBool) -> Result<(Duration, Latencies)> {
    let client = search::client(grpc)?;
    let mut first = None;
    let mut latencies = Latencies::default();
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let mut request = SearchRequest::new("wide");
        request.filter = Some(Filter::eq("level", Literal::Int(n % 1_000)));
        request.sort = vec![Sort { field: "level".into(), descending: true }];
        request.limit = 50;
        let start = Instant::now();
        client.search(request).await?;
        match first {
            Some(_) => latencies.add(start.elapsed()),
            None => first = Some(start.elapsed()),
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok((first.context("no query was asked")?, latencies))
}

fn log_bytes(data: &Path) -> Result<u64> {
    let kinds = usage::bytes_by_kind(data)?;
    Ok(kinds.iter().filter(|(kind, _)| kind.starts_with("log")).map(|(_, bytes)| bytes).sum())
}

/// Documents that all refer to the row 1.
async fn load(client: &IngestClient, schema: &Schema) -> Result<()> {
    let source = |name: &str| schema.source(name).map(|(id, _)| id as u32).context("no such source");
    let part = |source| wire::LoadPart { source, lo: i64::MIN, hi: i64::MAX };
    let open = wire::LoadOpen {
        index: schema.index.clone(),
        definition_hash: schema.hash.clone(),
        source: "postgres".into(),
        load_id: "wide".into(),
        cursor: feed::cursor(0),
        parts: vec![part(source("document")?), part(source("post")?)],
    };
    let (sender, mut receiver) = client.load(open).await?.split();
    let row = |values: &[i64]| {
        let mut row = (values.len() as i16).to_be_bytes().to_vec();
        for value in values {
            row.extend(8_i32.to_be_bytes());
            row.extend(value.to_be_bytes());
        }
        row
    };
    let send = async {
        for first in (0..DOCUMENTS).step_by(20_000) {
            let ids = first..(first + 20_000).min(DOCUMENTS);
            let frame: Vec<u8> = ids.flat_map(|id| row(&[id.into(), i64::from(id) * 7 % 1_000, 1])).collect();
            sender.rows(0, frame.into()).await?;
        }
        sender.part_done(0, DOCUMENTS.into()).await?;
        sender.rows(1, row(&[1, 0]).into()).await?;
        sender.part_done(1, 1).await?;
        sender.finish().await?;
        anyhow::Ok(())
    };
    let receive = async {
        while !matches!(receiver.recv().await?, LoadEvent::Finished(_)) {}
        anyhow::Ok(())
    };
    let (sent, received) = tokio::join!(send, receive);
    received.and(sent)
}
