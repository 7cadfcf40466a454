//! The store by itself, at any size: rows of the workload go straight into a load, changes straight into sessions, with
//! no database beside. For each size: the load and the build with its memory, opening, replay, the heap of a reader,
//! the size of the files, searches and counts in process and over gRPC, durable ingestion, acknowledgements, and
//! searches while ingestion is paced.

mod fan_out;
pub(super) mod feed;
pub(super) mod ops;
pub(super) mod rows;
mod watch;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use bitdex_proto::{client::IngestClient, definition::Definition, schema::Schema, wire};
use bitdex_query::{
    inspect::Report,
    node::{Node, NodeOptions},
    store::Folder,
};

use self::{feed::Feeder, ops::Changes, rows::Rows, watch::Watch};
use super::{Bench, Latencies, Results, search, size, usage};
use crate::{
    folders, http,
    processes::{self, Binaries, Pod},
    stage::{definition_file, sample},
    terminal::{count, rate, say, seconds, step},
    workload::{
        Workload,
        queries::{Queries, Query},
    },
};

pub(super) const READY: Duration = Duration::from_secs(600);
/// A store whose files stay the same for so long is at rest.
const REST: Duration = Duration::from_secs(8);
/// Ops of a batch.
const BATCH: usize = 10_000;
/// Ops in the log behind the last flush, for replay.
const TAIL: usize = 1_000_000;
/// How much the thread that makes ops steps back.
const GENERATOR_NICE: i32 = 10;
/// Ops a second while searches are measured under ingestion.
const PACE: usize = 50_000;

pub(super) async fn measure(bench: &Bench, results: &mut Results) -> Result<()> {
    let binaries = processes::build().await?;
    let logs = folders::logs("bench-store")?;
    for millions in &bench.sizes {
        let images = (millions * 1e6).round() as u32;
        let now_us = chrono::Utc::now().timestamp_micros();
        let workload = Workload { images, seed: bench.seed, now_us };
        let folder = tempfile::Builder::new().prefix("store-").tempdir_in(folders::reachable("data")?)?;
        let measured =
            Place { bench, workload, binaries: &binaries, logs: &logs, folder: folder.path() }.measure(results).await;
        measured.with_context(|| format!("at {} documents; see {}", count(images.into()), logs.display()))?;
    }
    step("One lookup's row, a million documents");
    fan_out::measure(&binaries, &logs, results).await
}

/// Where one size is measured.
struct Place<'a> {
    bench: &'a Bench,
    workload: Workload,
    binaries: &'a Binaries,
    logs: &'a Path,
    folder: &'a Path,
}

impl Place<'_> {
    fn pod(&self, number: usize, options: &[&str]) -> Result<Pod> {
        let data = self.folder.join("data");
        Pod::new(number, self.binaries, &definition_file(), &data, self.logs, options)
    }

    async fn measure(&self, results: &mut Results) -> Result<()> {
        let documents = self.workload.images;
        let name = size(documents);
        step(&format!("The store at {} documents", count(documents.into())));
        let definition = Definition::load(definition_file())?;
        let schema = Arc::clone(definition.schema());
        let start = Instant::now();
        let made = self.folder.join("rows");
        std::fs::create_dir_all(&made)?;
        let rows = tokio::task::block_in_place(|| rows::make(self.workload, &schema, &made))?;
        say(format!(
            "{} documents and {} member rows made in {}",
            count(rows.documents),
            count(rows.member_rows),
            seconds(start.elapsed())
        ));

        let mut writer = self.pod(0, &["--drain-seconds", "0"])?;
        writer.process.start()?;
        self.load(&mut writer, &schema, &rows, results).await?;
        let Rows { value_bytes, generator, .. } = rows;
        self.at_rest().await?;
        self.check(results).await?;

        let mut reader = self.pod(1, &["--drain-seconds", "0", "--reader-only"])?;
        reader.process.start()?;
        reader.process.ready(READY).await?;
        let node = self.open(&schema, results).await?;
        let queries = self.queries(&schema);
        self.searches(&node, &queries, &reader, results).await?;
        drop(node);
        results.set(format!("reader_heap_{name}_mb"), usage::anonymous_kb(pid(&reader)?)? as f64 / 1_024.0);
        self.files(value_bytes, results)?;

        let mut changes = Changes::new(&schema, generator, self.workload.seed, self.workload.now_us)?;
        let before = Written::by(&writer).await?;
        self.ingestion(&writer, &schema, &mut changes, results).await?;
        self.under_ingestion(&writer, &reader, &schema, &queries, &mut changes, results).await?;
        Written::by(&writer).await?.tell_since(&before, results);
        reader.process.kill()?;
        writer.process.terminate().await?;
        self.replay(&schema, &mut changes, results).await
    }

    async fn load(&self, writer: &mut Pod, schema: &Arc<Schema>, rows: &Rows, results: &mut Results) -> Result<()> {
        let name = size(self.workload.images);
        let client = ingest(writer)?;
        wait_for_writer(&client, schema).await?;
        let memory = Watch::start(pid(writer)?);
        let load = feed::load(&client, schema, rows).await?;
        let peak_mb = memory.stop().await?.peak_mb;
        let sent: u64 = rows.parts.iter().map(|part| part.rows).sum();
        say(format!(
            "{} rows durable in {} ({}/s), built in {}: {} documents/s, {} member rows/s; at most {peak_mb:.0} MB of heap",
            count(sent),
            seconds(load.rows),
            count(rate(sent, load.rows)),
            seconds(load.build),
            count(rate(rows.documents, load.build)),
            count(rate(rows.member_rows, load.build))
        ));
        results.set(format!("load_{name}_rows_per_s"), rate(sent, load.rows) as f64);
        results.set("build_documents_per_s", rate(rows.documents, load.build) as f64);
        results.set("build_member_rows_per_s", rate(rows.member_rows, load.build) as f64);
        results.set("build_peak_mb", peak_mb);
        let mut postgres = Feeder::open(&client, schema, "postgres").await?;
        postgres.batch(Vec::new()).await?;
        let mut clickhouse = Feeder::open(&client, schema, "clickhouse").await?;
        let elapsed = clickhouse.batches(feed::metrics(schema, &rows.metrics)?).await?;
        say(format!("{} rows of metrics in {}", count(rows.metrics.len() as u64), seconds(elapsed)));
        writer.process.ready(READY).await
    }

    async fn at_rest(&self) -> Result<()> {
        at_rest(&self.folder.join("data")).await
    }

    /// `bitdex-query check` of the whole folder, beside the writer.
    async fn check(&self, results: &mut Results) -> Result<()> {
        let start = Instant::now();
        let output = tokio::process::Command::new(&self.binaries.query)
            .arg("check")
            .arg("--data")
            .arg(self.folder.join("data"))
            .arg("--definition")
            .arg(definition_file())
            .output()
            .await?;
        let elapsed = start.elapsed();
        let told = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            bail!("check: {}: {told}{}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        say(format!("checked whole in {}: {}", seconds(elapsed), told.trim()));
        results.set(format!("check_{}_s", size(self.workload.images)), elapsed.as_secs_f64());
        Ok(())
    }

    /// Opens the files in this process, as a reader does.
    async fn open(&self, schema: &Arc<Schema>, results: &mut Results) -> Result<Arc<Node>> {
        let mut best = Duration::MAX;
        let mut node = None;
        for _ in 0..5 {
            drop(node.take());
            let start = Instant::now();
            node = Some(self.node(schema).await?);
            best = best.min(start.elapsed());
        }
        say(format!("opened in {:.1} ms (the best of five)", best.as_secs_f64() * 1e3));
        results.set(format!("open_{}_ms", size(self.workload.images)), best.as_secs_f64() * 1e3);
        node.context("no node")
    }

    async fn node(&self, schema: &Arc<Schema>) -> Result<Arc<Node>> {
        let mut options = NodeOptions::new(Arc::clone(schema), self.folder.join("data"));
        options.reader_only = true;
        let node = Node::open(options).await?;
        node.wait_for(None, 0, tokio::time::Instant::now() + READY).await?;
        Ok(node)
    }

    fn queries(&self, schema: &Schema) -> Vec<Query> {
        let one = |mut query: Query| {
            query.request.now_us = Some(self.workload.now_us);
            query
        };
        Queries::new(self.workload, &schema.index).take(self.bench.queries).map(one).collect()
    }

    async fn searches(&self, node: &Node, queries: &[Query], reader: &Pod, results: &mut Results) -> Result<()> {
        let name = size(self.workload.images);
        let state = node.current();
        let pages = search::pages(&state, queries, self.workload.now_us)?;
        search::in_process(&state, &pages, self.workload.now_us)?;
        let (searches, counts) = search::in_process(&state, &pages, self.workload.now_us)?;
        let client = search::client(reader.grpc())?;
        let grpc = search::through_grpc(&client, &pages).await?;
        search::show(&[("search, in process", &searches), ("search, gRPC", &grpc), ("count, in process", &counts)]);
        results.micros(&format!("search_{name}"), searches);
        results.micros(&format!("grpc_search_{name}"), grpc);
        results.micros(&format!("count_{name}"), counts);
        Ok(())
    }

    /// The files' bytes a document, by kind.
    fn files(&self, value_bytes: u64, results: &mut Results) -> Result<()> {
        let documents = f64::from(self.workload.images);
        let kinds = usage::bytes_by_kind(&self.folder.join("data"))?;
        // The log is bounded by its own setting, not by the documents.
        let stored: u64 = kinds.iter().filter(|(kind, _)| !kind.starts_with("log")).map(|(_, bytes)| bytes).sum();
        for (kind, bytes) in &kinds {
            say(format!("  {kind:<12} {:>7.1} bytes a document", *bytes as f64 / documents));
        }
        let (stored, values) = (stored as f64 / documents, value_bytes as f64 / documents);
        say(format!("{stored:.1} bytes a document without the log, {values:.1} of them the values themselves"));
        results.set("store_bytes_per_document_with_values", stored);
        results.set("store_bytes_per_document", stored - values);
        Ok(())
    }

    async fn ingestion(
        &self,
        writer: &Pod,
        schema: &Arc<Schema>,
        changes: &mut Changes,
        results: &mut Results,
    ) -> Result<()> {
        let client = ingest(writer)?;
        let batches = (0..200).map(|_| changes.batch(BATCH)).collect::<Result<Vec<_>>>()?;
        let ops = batches.iter().map(|ops| ops.len() as u64).sum();
        let mut feeder = Feeder::open(&client, schema, "postgres").await?;
        let elapsed = feeder.batches(batches).await?;
        say(format!(
            "{} ops of the mix in batches of {}: {}/s, each durable",
            count(ops),
            count(BATCH as u64),
            count(rate(ops, elapsed))
        ));
        results.set("ingest_ops_per_s", rate(ops, elapsed) as f64);
        let alone = feed::acknowledgements(&client, schema, 1, 500).await?;
        let many = feed::acknowledgements(&client, schema, 64, 100).await?;
        search::show(&[("acknowledged, 1 submitter", &alone), ("acknowledged, 64 submitters", &many)]);
        results.micros("ack_alone", alone);
        results.micros("ack_64", many);
        Ok(())
    }

    /// Searches over gRPC on a reader while the writer takes ops at a steady pace; with the memory of both.
    async fn under_ingestion(
        &self,
        writer: &Pod,
        reader: &Pod,
        schema: &Arc<Schema>,
        queries: &[Query],
        changes: &mut Changes,
        results: &mut Results,
    ) -> Result<()> {
        const EACH: usize = PACE / 50;
        let lasts = Duration::from_secs_f64(60.0 * self.bench.minutes);
        let batches = lasts.as_millis() as usize / 20;
        let client = ingest(writer)?;
        let mut feeder = Feeder::open(&client, schema, "postgres").await?;
        let memory = [Watch::start(pid(writer)?), Watch::start(pid(reader)?)];
        let start = Instant::now();
        // Made as they are sent, in a thread of their own: so many do not fit into memory.
        let (sender, mut receiver) = tokio::sync::mpsc::channel::<(Vec<wire::Op>, i64)>(50);
        // Changes come quicker than their clock would have it; queries keep to that clock, so that what is new shows.
        let clock = AtomicI64::new(changes.now_us());
        let feeding = async {
            let mut pace = tokio::time::interval(Duration::from_millis(20));
            pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
            let mut sent = 0_u64;
            while let Some((ops, now_us)) = receiver.recv().await {
                pace.tick().await;
                sent += ops.len() as u64;
                feeder.batch(ops).await?;
                clock.store(now_us, Ordering::Relaxed);
            }
            anyhow::Ok((sent, start.elapsed()))
        };
        let asking = async || {
            let client = search::client(reader.grpc())?;
            let mut latencies = Latencies::default();
            for query in queries.iter().cycle() {
                if start.elapsed() >= lasts {
                    break;
                }
                let asked = Instant::now();
                let mut request = query.request.clone();
                request.now_us = Some(clock.load(Ordering::Relaxed));
                client.search(request).await?;
                latencies.add(asked.elapsed());
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            anyhow::Ok(latencies)
        };
        let (fed, asked) = std::thread::scope(|scope| {
            scope.spawn(move || {
                // On Linux this is of the thread. It is no part of what is measured.
                let _ = rustix::process::nice(GENERATOR_NICE);
                for _ in 0..batches {
                    // An error of the sender is a feeder that failed, which tells its own.
                    let Ok(ops) = changes.batch(EACH) else { break };
                    if sender.blocking_send((ops, changes.now_us())).is_err() {
                        break;
                    }
                }
            });
            let asking = scope.spawn(|| search::apart(asking));
            let fed = tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(feeding));
            (fed, asking.join())
        });
        let (sent, elapsed) = fed?;
        let latencies = asked.map_err(|_| anyhow!("the queries panicked"))??;
        let p99 = latencies.percentile(0.99);
        say(format!(
            "{} ops/s paced for {}: {} searches over gRPC, p50 {:.0} µs, p99 {:.0} µs, slowest {:.1} ms",
            count(rate(sent, elapsed)),
            seconds(elapsed),
            count(latencies.len() as u64),
            latencies.percentile(0.5).as_secs_f64() * 1e6,
            p99.as_secs_f64() * 1e6,
            latencies.percentile(1.0).as_secs_f64() * 1e3
        ));
        results.set("ingest_paced_ops_per_s", rate(sent, elapsed) as f64);
        results.micros("search_under_ingest", latencies);
        for (who, watch) in ["writer", "reader"].into_iter().zip(memory) {
            let seen = watch.stop().await?;
            say(format!(
                "heap of the {who}: {:.0} MB at most in the second quarter, {:.0} MB in the last",
                seen.second_quarter_mb, seen.last_quarter_mb
            ));
            results.set(format!("{who}_heap_early_mb"), seen.second_quarter_mb);
            results.set(format!("{who}_heap_late_mb"), seen.last_quarter_mb);
        }
        Ok(())
    }

    /// A writer that flushes nothing dies behind a long tail; opened again, all of it is applied.
    async fn replay(&self, schema: &Arc<Schema>, changes: &mut Changes, results: &mut Results) -> Result<()> {
        let mut writer = self.pod(2, &["--drain-seconds", "0"])?;
        writer.process.start()?;
        writer.process.ready(READY).await?;
        self.at_rest().await?;
        writer.process.terminate().await?;
        let mut writer =
            self.pod(3, &["--drain-seconds", "0", "--flush-seconds", "100000", "--unflushed-mb", "8192"])?;
        writer.process.start()?;
        writer.process.ready(READY).await?;
        let client = ingest(&writer)?;
        wait_for_writer(&client, schema).await?;
        self.at_rest().await?;
        let mut feeder = Feeder::open(&client, schema, "postgres").await?;
        let batches = (0..TAIL / BATCH).map(|_| changes.batch(BATCH)).collect::<Result<Vec<_>>>()?;
        feeder.batches(batches).await?;
        writer.process.kill()?;
        let report = Report::read(&Folder::open(self.folder.join("data"), false)?, None)?;
        let behind = report.frontier - report.checkpoint.unwrap_or(0);
        if behind < (TAIL / BATCH) as u64 {
            bail!("only {behind} records are left to replay");
        }
        // Opening takes about a thousandth of it.
        let start = Instant::now();
        let node = self.node(schema).await?;
        let elapsed = start.elapsed();
        drop(node);
        let ops = TAIL as u64;
        say(format!(
            "{} ops in {behind} records replayed in {}: {}/s",
            count(ops),
            seconds(elapsed),
            count(rate(ops, elapsed))
        ));
        results.set("replay_ops_per_s", rate(ops, elapsed) as f64);
        Ok(())
    }
}

/// Bytes that a writer has written, by its own metrics.
struct Written {
    log: f64,
    checkpoints: f64,
    compaction: f64,
}

impl Written {
    async fn by(pod: &Pod) -> Result<Self> {
        let http = http::client(Duration::from_secs(10))?;
        let url = format!("http://{}/metrics", pod.process.http());
        let text = http.get(&url).send().await?.error_for_status()?.text().await?;
        // A counter that was never raised is not told.
        let counter = |name| sample(&text, name).unwrap_or(0) as f64;
        Ok(Self {
            log: counter("bitdex_log_bytes_total"),
            checkpoints: counter("bitdex_checkpoint_bytes_total"),
            compaction: counter("bitdex_compaction_bytes_total"),
        })
    }

    fn tell_since(&self, before: &Self, results: &mut Results) {
        let (log, checkpoints) = (self.log - before.log, self.checkpoints - before.checkpoints);
        let compaction = self.compaction - before.compaction;
        let amplification = (log + checkpoints + compaction) / log.max(1.0);
        let mb = |bytes: f64| bytes / 1e6;
        say(format!(
            "written since: {:.0} MB of log, {:.0} MB of checkpoints, {:.0} MB by compaction: {amplification:.1} times the log",
            mb(log),
            mb(checkpoints),
            mb(compaction)
        ));
        results.set("write_amplification", amplification);
    }
}

fn ingest(pod: &Pod) -> Result<IngestClient> {
    Ok(IngestClient::new(vec![pod.grpc().into()])?)
}

fn pid(pod: &Pod) -> Result<u32> {
    pod.process.pid().context("the process does not run")
}

/// Waits until all changes are in files and nothing has been compacted for a while: what an opening has to replay
/// besides is measured by itself.
pub(super) async fn at_rest(data: &Path) -> Result<()> {
    let folder = Folder::open(data, false)?;
    let start = Instant::now();
    let (mut files, mut since) = (Vec::new(), start);
    loop {
        let report = tokio::task::block_in_place(|| Report::read(&folder, None))?;
        let names: Vec<String> = report.files.into_iter().map(|file| file.name).collect();
        if report.checkpoint != Some(report.frontier) || names != files {
            (files, since) = (names, Instant::now());
        } else if since.elapsed() >= REST {
            return Ok(());
        }
        if start.elapsed() > READY {
            bail!("record {} is not in files, checkpoint {:?} is the newest", report.frontier, report.checkpoint);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Waits until the process takes writes.
pub(super) async fn wait_for_writer(client: &IngestClient, schema: &Schema) -> Result<()> {
    let start = Instant::now();
    while let Err(error) = client.session(feed::session_open(schema, "bench")).await {
        if start.elapsed() > READY {
            bail!("it takes no writes: {error}");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}
