//! The workload's queries at each size, in this process and over gRPC, beside Postgres and beside tantivy, in one run on
//! the same rows: searches for ids (all pages), pages of 50 with all stored fields, and exact counts. Every answer is
//! compared before anything is timed; then each is asked for again and timed. There is no result cache anywhere.

mod cold;
mod flat;
mod lean;
#[cfg(feature = "bench")]
mod plots;
mod postgres;
mod report;
#[cfg(feature = "bench")]
mod tantivy;
mod throughput;

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use bitdex_proto::{
    definition::Definition,
    query::{CountRequest, Fields, OpaqueBytes, SearchRequest},
    schema::Schema,
    value::{FieldValue, Value},
};
use bitdex_query::{engine, state::State};

use self::{
    flat::Flats,
    postgres::Table,
    report::{Asked, Kind, Report, Who},
};
use super::{Bench, Part, Results, site::Site};
use crate::{
    folders,
    postgres::{Postgres, Wanted},
    processes,
    stage::definition_file,
    terminal::{count, say, seconds, step},
    workload::{Workload, queries::Queries},
};

/// A sort value and an id: the row that a page begins behind.
type Key = (i64, u32);

/// Each query is timed that often in this process, after it was answered once untimed; every time counts.
const ROUNDS: usize = 5;
/// Rows of a page with all stored fields.
const PAGE: u32 = 50;

/// One page of a query.
struct Query {
    /// For ids alone.
    request: SearchRequest,
    after: Option<Key>,
    page: u32,
    ids: Vec<u32>,
}

impl Query {
    fn is_first(&self) -> bool {
        self.page == 1
    }

    /// With all stored fields.
    fn whole(&self) -> SearchRequest {
        SearchRequest { limit: PAGE, fields: Fields::All, ..self.request.clone() }
    }
}

pub(super) async fn measure(bench: &Bench, results: &mut Results) -> Result<()> {
    let binaries = processes::build().await?;
    let logs = folders::logs("bench-beside")?;
    let definition = Definition::load(definition_file())?;
    let schema = definition.schema();
    let mut reports = Vec::new();
    for millions in &bench.sizes {
        let images = (millions * 1e6).round() as u32;
        // Whole seconds, as bitdex-sync's clock is no part of what is compared.
        let now_us = chrono::Utc::now().timestamp() * 1_000_000;
        let workload = Workload { images, seed: bench.seed, now_us };
        step(&format!("Searches at {} documents", count(images.into())));
        let site = Site::set(workload, schema, &binaries, &logs).await?;
        let report = at_one_size(bench, workload, schema, site, &logs, results).await;
        let report =
            report.with_context(|| format!("at {} documents; see {}", count(images.into()), logs.display()))?;
        reports.extend(report);
    }
    if !reports.is_empty() {
        let folder = super::folder()?;
        let exponents = report::exponents(&reports, results);
        report::write(&reports, &folder)?;
        draw(&reports, &exponents, &folder)?;
    }
    Ok(())
}

#[cfg(feature = "bench")]
use plots::draw;

#[cfg(not(feature = "bench"))]
fn draw(_: &[Report], _: &report::Exponents, _: &Path) -> Result<()> {
    Ok(())
}

async fn at_one_size(
    bench: &Bench,
    workload: Workload,
    schema: &Arc<Schema>,
    mut site: Site,
    logs: &Path,
    results: &mut Results,
) -> Result<Option<Report>> {
    let now_us = workload.now_us;
    let node = site.follow(schema).await?;
    let flats = tokio::task::block_in_place(|| Flats::make(workload))?;
    let queries = queries(&node.current(), workload, bench.queries, &schema.index, &flats)?;
    say(format!("{} queries of the mix, {} pages", count(bench.queries as u64), count(queries.len() as u64)));
    let mut report = None;
    if bench.wants(Part::Search) {
        let mut asked = Asked::new(workload, &queries);
        #[cfg(feature = "bench")]
        let tantivy_folder = site.folder().join("tantivy");
        #[cfg(feature = "bench")]
        tantivy_is_built(&flats, schema, &tantivy_folder)?;
        #[cfg(not(feature = "bench"))]
        say("without tantivy and plots: built without the feature `bench`");
        let wanted = Wanted { shared_buffers: "2GB", ..Wanted::default() };
        let postgres = Postgres::start(&wanted, logs).await?;
        let mut table = Table::fill(&postgres, &flats, schema).await?;
        ours_is_right(&node.current(), &queries, &flats, schema, &mut asked)?;
        #[cfg(feature = "bench")]
        tantivy_is_right(&tantivy::Tantivy::open(schema, &tantivy_folder)?, &queries, &flats, schema, &asked)?;
        let limit = Duration::from_secs_f64(60.0 * bench.postgres_minutes);
        beside_postgres(&mut table, &queries, &flats, schema, limit, &mut asked).await?;
        drop(flats);
        drop(table);
        postgres.close().await?;

        #[cfg(feature = "bench")]
        let tantivy = tantivy::Tantivy::open(schema, &tantivy_folder)?;
        for _ in 0..ROUNDS {
            in_process(&node.current(), &queries, now_us, Who::Ours, &mut asked)?;
            #[cfg(feature = "bench")]
            in_tantivy(&tantivy, &queries, now_us, Who::Tantivy, &mut asked)?;
        }
        over_grpc(&site, &queries, &mut asked).await?;
        #[cfg(feature = "bench")]
        drop(tantivy);
        report = Some(asked);
    } else {
        drop(flats);
    }
    drop(node);
    if bench.wants(Part::Throughput) {
        let first: Vec<SearchRequest> =
            queries.iter().filter(|query| query.is_first()).map(|query| query.request.clone()).collect();
        throughput::measure(&site, &first, workload.images, results).await?;
    }
    site.pod.process.terminate().await?;
    let Some(mut asked) = report else { return Ok(None) };

    // Nothing has the files open now.
    for kind in Kind::ALL {
        let dropped = cold::drop_pages(&[site.folder()])?;
        asked.dropped = dropped.how();
        let node = site.follow(schema).await?;
        one_kind(&node.current(), &queries, now_us, kind, Who::OursCold, &mut asked)?;
    }
    #[cfg(feature = "bench")]
    for kind in Kind::ALL {
        cold::drop_pages(&[site.folder()])?;
        let tantivy = tantivy::Tantivy::open(schema, &site.folder().join("tantivy"))?;
        one_kind_in_tantivy(&tantivy, &queries, now_us, kind, Who::TantivyCold, &mut asked)?;
    }
    let report = asked.done();
    report.tell();
    report.summarise(results);
    Ok(Some(report))
}

/// Every page as a query of its own.
fn queries(state: &State, workload: Workload, many: usize, index: &str, flats: &Flats) -> Result<Vec<Query>> {
    let mut all = Vec::new();
    for query in Queries::new(workload, index).take(many) {
        let mut request = query.request;
        // One clock for all who answer.
        request.now_us = Some(workload.now_us);
        let mut after = None;
        for page in 1..=query.pages {
            let answer = engine::search(state, &request, workload.now_us)?;
            let last = answer.ids.last().copied();
            all.push(Query { request: request.clone(), after, page, ids: answer.ids });
            let (Some(cursor), Some(last)) = (answer.next_cursor, last) else { break };
            request.cursor = Some(OpaqueBytes(cursor));
            let flat = flats.find(last)?;
            let field = request.sort.first().map(|sort| sort.field.as_str());
            let value = match flat::COUNTS.iter().position(|count| Some(*count) == field) {
                Some(place) => flat.counts[place].into(),
                None => flat.sort_us(),
            };
            after = Some((value, last));
        }
    }
    Ok(all)
}

fn told(query: &Query) -> String {
    serde_json::to_string(&query.request).unwrap_or_default()
}

/// Our whole rows are the generator's, and our counts are kept for the others to be held against.
fn ours_is_right(state: &State, queries: &[Query], flats: &Flats, schema: &Schema, asked: &mut Asked) -> Result<()> {
    for (place, query) in queries.iter().enumerate().filter(|(_, query)| query.is_first()) {
        let page = engine::search(state, &query.whole(), asked.now_us())?;
        let common = page.ids.len().min(query.ids.len());
        ensure!(page.ids[..common] == query.ids[..common], "two pages of one query differ: {}", told(query));
        for (id, row) in page.ids.iter().zip(&page.rows) {
            ensure!(*row == flats.values(flats.find(*id)?, schema)?, "document {id} is not what was made");
        }
        asked.matches(place, engine::count(state, &CountRequest::of_search(&query.request), asked.now_us())?.count);
    }
    Ok(())
}

fn differ(who: &str, what: &str, found: impl std::fmt::Debug, ours: impl std::fmt::Debug, query: &Query) -> Result<()> {
    bail!("{who} gives other {what}: {found:?}, the index {ours:?}: {}", told(query))
}

/// Whole rows as the generator made them.
fn are_rows(who: &str, rows: &[Vec<FieldValue>], query: &Query, flats: &Flats, schema: &Schema) -> Result<()> {
    for row in rows {
        let Some(FieldValue::One(Value::Int(id))) = row.first() else { bail!("a row without an id") };
        ensure!(
            *row == flats.values(flats.find(u32::try_from(*id)?)?, schema)?,
            "{who} has another document {id}: {}",
            told(query)
        );
    }
    Ok(())
}

fn in_process(state: &State, queries: &[Query], now_us: i64, who: Who, asked: &mut Asked) -> Result<()> {
    Kind::ALL.into_iter().try_for_each(|kind| one_kind(state, queries, now_us, kind, who, asked))
}

fn one_kind(state: &State, queries: &[Query], now_us: i64, kind: Kind, who: Who, asked: &mut Asked) -> Result<()> {
    for (place, query) in queries.iter().enumerate().filter(|(_, query)| kind == Kind::Search || query.is_first()) {
        let elapsed = match kind {
            Kind::Search => {
                let start = Instant::now();
                std::hint::black_box(engine::search(state, &query.request, now_us)?);
                start.elapsed()
            }
            Kind::Page => {
                let request = query.whole();
                let start = Instant::now();
                std::hint::black_box(engine::search(state, &request, now_us)?);
                start.elapsed()
            }
            Kind::Count => {
                let request = CountRequest::of_search(&query.request);
                let start = Instant::now();
                std::hint::black_box(engine::count(state, &request, now_us)?);
                start.elapsed()
            }
        };
        asked.took(kind, who, place, elapsed);
    }
    Ok(())
}

async fn over_grpc(site: &Site, queries: &[Query], asked: &mut Asked) -> Result<()> {
    let client = site.client()?;
    for timed in [false, true] {
        for (place, query) in queries.iter().enumerate() {
            let start = Instant::now();
            let answer = client.search(query.request.clone()).await?;
            let elapsed = start.elapsed();
            let ids: Vec<u32> = answer.hits.iter().map(|hit| hit.id).collect();
            ensure!(ids == query.ids, "over gRPC another page comes: {}", told(query));
            if timed {
                asked.took(Kind::Search, Who::Grpc, place, elapsed);
            }
            if !query.is_first() {
                continue;
            }
            let request = query.whole();
            let start = Instant::now();
            client.search(request).await?;
            let page = start.elapsed();
            let request = CountRequest::of_search(&query.request);
            let start = Instant::now();
            let count = client.count(request).await?.count;
            let counted = start.elapsed();
            ensure!(Some(count) == asked.matched(place), "over gRPC another count comes: {}", told(query));
            if timed {
                asked.took(Kind::Page, Who::Grpc, place, page);
                asked.took(Kind::Count, Who::Grpc, place, counted);
            }
        }
    }
    Ok(())
}

/// Each kind twice over, the first round to compare and to warm; a kind ends at its time limit, which is told.
async fn beside_postgres(
    table: &mut Table<'_>,
    queries: &[Query],
    flats: &Flats,
    schema: &Schema,
    limit: Duration,
    asked: &mut Asked,
) -> Result<()> {
    let now_us = asked.now_us();
    for kind in Kind::ALL {
        let wanted: Vec<(usize, &Query)> = {
            let all = queries.iter().enumerate();
            all.filter(|(_, query)| kind == Kind::Search || query.is_first()).collect()
        };
        for timed in [false, true] {
            let start = Instant::now();
            let mut ran = 0;
            for (place, query) in &wanted {
                if start.elapsed() >= limit {
                    break;
                }
                ran += 1;
                let elapsed = match kind {
                    Kind::Search => {
                        let (ids, elapsed) = table.search(&query.request, query.after, now_us).await?;
                        if ids != query.ids {
                            differ("Postgres", "ids", ids, &query.ids, query)?;
                        }
                        elapsed
                    }
                    Kind::Page => {
                        let (rows, elapsed) = table.page(&query.whole(), now_us).await?;
                        are_rows("Postgres", &rows, query, flats, schema)?;
                        let wanted = asked.matched(*place).map(|matches| matches.min(PAGE.into()));
                        ensure!(Some(rows.len() as u64) == wanted, "Postgres gives another page: {}", told(query));
                        elapsed
                    }
                    Kind::Count => {
                        let (count, elapsed) = table.count(&query.request, now_us).await?;
                        if Some(count) != asked.matched(*place) {
                            differ("Postgres", "counts", count, asked.matched(*place), query)?;
                        }
                        elapsed
                    }
                };
                if timed {
                    asked.took(kind, Who::Postgres, *place, elapsed);
                }
            }
            let round = if timed { "timed" } else { "compared, all equal" };
            say(format!(
                "  Postgres, {}: {ran} of {} {round} in {}",
                kind.name(),
                wanted.len(),
                seconds(start.elapsed())
            ));
        }
    }
    Ok(())
}

#[cfg(feature = "bench")]
fn tantivy_is_built(flats: &Flats, schema: &Schema, folder: &Path) -> Result<()> {
    let start = Instant::now();
    tokio::task::block_in_place(|| tantivy::Tantivy::build(flats, schema, folder))?;
    say(format!("tantivy's index is built: {}", seconds(start.elapsed())));
    Ok(())
}

#[cfg(feature = "bench")]
fn tantivy_is_right(
    tantivy: &tantivy::Tantivy,
    queries: &[Query],
    flats: &Flats,
    schema: &Schema,
    asked: &Asked,
) -> Result<()> {
    let now_us = asked.now_us();
    for (place, query) in queries.iter().enumerate() {
        let ids = tantivy.ids(&tantivy.search(&query.request, query.after, now_us)?);
        if ids != query.ids {
            differ("tantivy", "ids", ids, &query.ids, query)?;
        }
        if !query.is_first() {
            continue;
        }
        let docs = tantivy.search(&query.whole(), None, now_us)?;
        let rows: Vec<Vec<FieldValue>> =
            tantivy.documents(&docs)?.iter().map(|document| tantivy.values(document, schema)).collect();
        are_rows("tantivy", &rows, query, flats, schema)?;
        let count = tantivy.count(&query.request, now_us)?;
        if Some(count) != asked.matched(place) {
            differ("tantivy", "counts", count, asked.matched(place), query)?;
        }
    }
    say("tantivy's ids, rows and counts equal the index's");
    Ok(())
}

#[cfg(feature = "bench")]
fn in_tantivy(tantivy: &tantivy::Tantivy, queries: &[Query], now_us: i64, who: Who, asked: &mut Asked) -> Result<()> {
    Kind::ALL.into_iter().try_for_each(|kind| one_kind_in_tantivy(tantivy, queries, now_us, kind, who, asked))
}

#[cfg(feature = "bench")]
fn one_kind_in_tantivy(
    tantivy: &tantivy::Tantivy,
    queries: &[Query],
    now_us: i64,
    kind: Kind,
    who: Who,
    asked: &mut Asked,
) -> Result<()> {
    for (place, query) in queries.iter().enumerate().filter(|(_, query)| kind == Kind::Search || query.is_first()) {
        let whole = query.whole();
        let start = Instant::now();
        match kind {
            Kind::Search => {
                let docs = tantivy.search(&query.request, query.after, now_us)?;
                std::hint::black_box(tantivy.ids(&docs));
            }
            Kind::Page => {
                let docs = tantivy.search(&whole, None, now_us)?;
                std::hint::black_box(tantivy.documents(&docs)?);
            }
            Kind::Count => {
                std::hint::black_box(tantivy.count(&query.request, now_us)?);
            }
        }
        asked.took(kind, who, place, start.elapsed());
    }
    Ok(())
}
