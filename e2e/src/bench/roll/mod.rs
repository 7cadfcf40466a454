//! A rolling deploy: the processes of one folder are replaced in turn, the writer and readers, by SIGTERM and by
//! `kill -9`, under searches on an open schedule and steady ingestion.
//!
//! Each process has one of four addresses, so that a new one is ready before an old one goes. The client knows all four
//! and tries another connection where one cannot answer. A promotion lasts from the signal to the writer until its
//! successor acknowledges a batch.

mod asking;
mod feeding;

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use bitdex_proto::{
    client::{Client, IngestClient},
    definition::Definition,
    query::{Consistency, CountRequest, Filter, MAX_LIMIT, OpaqueBytes, SearchRequest},
    value::Literal,
};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use self::{
    asking::Search,
    feeding::{Fed, Feed, LIMIT, MARK},
};
use super::{
    Bench, Latencies, Results, search,
    site::Site,
    store::{READY, ops::Changes},
};
use crate::{
    folders,
    processes::{self, Pod},
    stage::{definition_file, find_role},
    terminal::{count, rate, say, step, table},
    workload::{Workload, queries::Queries},
};

const SEARCHES_A_SECOND: u32 = 1_000;
const HITS: u32 = 50;
const SLOW: Duration = Duration::from_millis(50);
const PROCESSES: usize = 3;
const REPLACEMENTS: usize = 20;
/// Batches after which a process that has gone is history.
const STEADY: u64 = 20;

pub(super) async fn measure(bench: &Bench, results: &mut Results) -> Result<()> {
    step("A rolling deploy");
    let binaries = processes::build().await?;
    let logs = folders::logs("bench-roll")?;
    let definition = Definition::load(definition_file())?;
    let schema = definition.schema();
    let now_us = chrono::Utc::now().timestamp_micros();
    let workload = Workload { images: bench.images, seed: bench.seed, now_us };
    let mut site = Site::set(workload, schema, &binaries, &logs).await?;
    site.pod.process.terminate().await?;
    let data = site.data();
    let pod = |number| Pod::new(number, &binaries, &definition_file(), &data, &logs, &[]);
    let pods = (1..=PROCESSES + 1).map(pod).collect::<Result<Vec<_>>>()?;
    let addresses: Vec<String> = pods.iter().map(|pod| pod.grpc().into()).collect();

    let (sender, fed) = watch::channel(Fed::nothing());
    let mut fleet = Fleet { index: schema.index.clone(), pods, running: VecDeque::new(), spare: 0, fed };
    fleet.start().await?;
    let stop = Arc::new(AtomicBool::new(false));
    let clock = Arc::new(AtomicI64::new(now_us));
    let marked = fleet.some_documents().await?;
    let some = marked.len() as u64;
    let feed = Feed {
        client: IngestClient::new(addresses.clone())?,
        schema: Arc::clone(schema),
        changes: Changes::new(schema, site.generator, workload.seed, now_us)?,
        marked,
        clock: Arc::clone(&clock),
        fed: sender,
        stop: Arc::clone(&stop),
    };
    let requests: Vec<SearchRequest> = Queries::new(workload, &schema.index)
        .take(bench.queries)
        .map(|query| SearchRequest { limit: HITS, ..query.request })
        .collect();
    let feeding = tokio::spawn(feed.run());
    let asking = tokio::task::spawn_blocking({
        let stop = Arc::clone(&stop);
        move || {
            search::apart(async || {
                let client = Client::connect(addresses)?;
                let searches = asking::ask(&client, &requests, SEARCHES_A_SECOND, &clock, &stop).await?;
                Ok((searches, client.retries()))
            })
        }
    });
    let replaced = fleet.replace_all().await;
    stop.store(true, Ordering::Relaxed);
    let asked = asking.await.context("the client panicked")?;
    // Why the feed failed says more than that something waited for it in vain.
    timeout(LIMIT, feeding).await.context("the feed does not end")?.context("the feed panicked")??;
    let replacements = replaced.with_context(|| format!("see {}", logs.display()))?;
    let (searches, retries) = asked?;
    tell(&searches, &replacements, retries, results);
    fleet.verify(some).await.with_context(|| format!("see {}", logs.display()))
}

/// The processes, and those of them that run.
struct Fleet {
    index: String,
    pods: Vec<Pod>,
    /// By place among the pods; the one that has run longest comes first.
    running: VecDeque<usize>,
    spare: usize,
    fed: watch::Receiver<Fed>,
}

/// One process that went, and the one that came before it did.
struct Replacement {
    gracefully: bool,
    /// Of the writer: until its successor acknowledged a batch.
    promotion: Option<Duration>,
    /// The new process was started.
    began: Instant,
    /// The old one got its signal.
    signalled: Instant,
}

impl Replacement {
    fn name(&self) -> String {
        let signal = if self.gracefully { "SIGTERM" } else { "kill -9" };
        format!("{signal} of {}", if self.promotion.is_some() { "the writer" } else { "a reader" })
    }
}

impl Fleet {
    async fn start(&mut self) -> Result<()> {
        for place in 0..PROCESSES {
            self.pods[place].process.start()?;
            self.pods[place].process.ready(READY).await?;
            self.running.push_back(place);
        }
        self.spare = PROCESSES;
        Ok(())
    }

    /// Twice the writer, twice a reader, and so on; SIGTERM and `kill -9` in turn.
    async fn replace_all(&mut self) -> Result<Vec<Replacement>> {
        self.goes_on().await?;
        let mut replacements = Vec::new();
        for n in 0..REPLACEMENTS {
            let replacement = self.replace(n % 4 < 2, n % 2 == 0).await?;
            let promotion = replacement.promotion.map(|promotion| format!("; took writes again after {promotion:.1?}"));
            say(format!("  {:>2}  {}{}", n + 1, replacement.name(), promotion.unwrap_or_default()));
            replacements.push(replacement);
        }
        Ok(replacements)
    }

    async fn replace(&mut self, is_writer: bool, gracefully: bool) -> Result<Replacement> {
        let began = Instant::now();
        let new = &mut self.pods[self.spare].process;
        new.start()?;
        new.ready(READY).await?;
        let writer = find_role(&self.pods, &self.index, "writer").await?;
        let goes = self.running.iter().position(|place| (*place == writer) == is_writer);
        let old = goes.and_then(|goes| self.running.remove(goes)).context("the new process is the writer")?;
        self.running.push_back(std::mem::replace(&mut self.spare, old));
        let epoch = self.fed.borrow().epoch;
        let signalled = Instant::now();
        if gracefully {
            self.pods[old].process.terminate().await?;
        } else {
            self.pods[old].process.kill()?;
        }
        let promotion = if is_writer {
            let promoted = self.fed.wait_for(|fed| fed.epoch > epoch);
            let fed = timeout(LIMIT, promoted).await.context("nobody became the writer")?;
            Some(fed.context("the feed has ended")?.since - signalled)
        } else {
            None
        };
        self.goes_on().await?;
        Ok(Replacement { gracefully, promotion, began, signalled })
    }

    async fn goes_on(&mut self) -> Result<()> {
        let until = self.fed.borrow().batches + STEADY;
        let steady = self.fed.wait_for(|fed| fed.batches >= until);
        timeout(LIMIT, steady).await.context("ingestion does not go on")?.context("the feed has ended")?;
        Ok(())
    }

    /// To be marked.
    async fn some_documents(&self) -> Result<Vec<u32>> {
        let request = SearchRequest { limit: MAX_LIMIT, ..SearchRequest::new(self.index.clone()) };
        let found = search::client(self.pods[0].grpc())?.search(request).await?;
        Ok(found.hits.into_iter().map(|hit| hit.id).collect())
    }

    /// Every process shows the marks of all acknowledged batches, and all hold the same state. `marked`: how many
    /// documents are marked in turn.
    async fn verify(&mut self, marked: u64) -> Result<()> {
        let (batches, token) = {
            let fed = self.fed.borrow();
            (fed.batches, fed.token.clone())
        };
        let mut hashes = Vec::new();
        for place in &self.running {
            let client = search::client(self.pods[*place].grpc())?;
            let request = CountRequest {
                index: self.index.clone(),
                filter: Some(Filter::eq(MARK.0, Literal::Text(MARK.1.into()))),
                include_pending: true,
                now_us: None,
                consistency: Some(Consistency::Token(OpaqueBytes(token.clone()))),
                up_to: None,
            };
            let found = client.count(request).await?.count;
            ensure!(found == batches.min(marked), "{batches} batches are durable, a process shows {found}");
            hashes.push(client.describe(&self.index).await?.state_hash);
        }
        ensure!(hashes.windows(2).all(|pair| pair[0] == pair[1]), "states differ: {hashes:?}");
        say(format!("all of {} acknowledged batches are in every process, and their states are equal", count(batches)));
        for place in &self.running {
            self.pods[*place].process.kill()?;
        }
        Ok(())
    }
}

/// `searches` in the order in which they were due.
fn tell(searches: &[Search], replacements: &[Replacement], retries: u64, results: &mut Results) {
    // By what happened when they ended.
    let mut kinds: Vec<(String, Vec<&Search>)> = Vec::new();
    for search in searches {
        let last = replacements.iter().rev().find(|replacement| replacement.began <= search.ended());
        let kind = match last {
            Some(last) if last.signalled <= search.ended() => last.name(),
            Some(_) => "the start of a process".into(),
            None => "nothing yet".into(),
        };
        match kinds.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, searches)) => searches.push(search),
            None => kinds.push((kind, vec![search])),
        }
    }
    let rows = kinds.iter().map(|(kind, searches)| {
        let met = Met::of(searches.iter().copied());
        let numbers = [searches.len(), met.slow, met.failed].map(|number| count(number as u64));
        let shares = [0.5, 0.99, 0.999, 1.0].map(|share| format!("{:.1}", ms(met.latencies.percentile(share))));
        std::iter::once(kind.clone()).chain(numbers).chain(shares).collect()
    });
    let rows: Vec<Vec<String>> = rows.collect();
    table(&["searches after", "number", "slow", "failed", "p50 ms", "p99", "p99.9", "slowest"], &rows);
    if let Some(failure) = searches.iter().find_map(|search| search.failure.as_ref()) {
        say(format!("the first failure: {failure}"));
    }

    let Met { latencies, slow, failed } = Met::of(searches);
    let slowest = ms(latencies.percentile(1.0));
    let lasted = searches.first().zip(searches.last()).map_or(Duration::ZERO, |(first, last)| last.due - first.due);
    let per_s = rate(searches.len() as u64, lasted);
    let promotions: Latencies = replacements.iter().filter_map(|replacement| replacement.promotion).collect();
    say(format!(
        "{} replacements under {} searches at {per_s}/s: {failed} failed, {slow} slower than {} ms, the slowest \
         {slowest:.1} ms, {} retries; {} promotions, at most {:.1} ms without a writer",
        replacements.len(),
        count(searches.len() as u64),
        SLOW.as_millis(),
        count(retries),
        promotions.len(),
        ms(promotions.percentile(1.0))
    ));
    results.set("roll_failed", failed as f64);
    results.set("roll_slow", slow as f64);
    results.set("roll_searches_per_s", per_s as f64);
    results.set("roll_slowest_ms", slowest);
    results.set("roll_retries", retries as f64);
    results.millis("roll_search", latencies);
    results.millis("promote", promotions);
}

/// What searches met.
struct Met {
    /// Of those that were answered in time.
    latencies: Latencies,
    slow: usize,
    failed: usize,
}

impl Met {
    fn of<'a>(searches: impl IntoIterator<Item = &'a Search>) -> Self {
        let mut met = Self { latencies: Latencies::default(), slow: 0, failed: 0 };
        for search in searches {
            if search.failure.is_some() {
                met.failed += 1;
            } else {
                met.slow += usize::from(search.took > SLOW);
                met.latencies.add(search.took);
            }
        }
        met
    }
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
