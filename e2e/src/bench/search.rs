//! Searches and counts of the workload's mix: without a network, through gRPC and HTTP, and by Postgres over a flat
//! table with the indexes that suit the mix best.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use bitdex_proto::{
    client::Client,
    query::{CountRequest, OpaqueBytes, SearchRequest},
};
use bitdex_query::{
    engine,
    node::{Node, NodeOptions},
    state::State,
};
use sqlx::{AssertSqlSafe, PgConnection, Row as _};

use super::{Latencies, Results, size, usage};
use crate::{
    http,
    oracle::documents,
    postgres::execute,
    sql,
    stage::Stage,
    terminal::{self, count, rate, say, table},
    workload::queries::{Queries, Query},
};

const FLAT: &str = "flat";
/// Clients at once, for throughput.
const CLIENTS: usize = 16;
const THROUGHPUT: Duration = Duration::from_secs(8);

pub(super) async fn measure(stage: &Stage, queries: usize, results: &mut Results) -> Result<()> {
    let size = size(stage.workload.images);
    let now_us = chrono::Utc::now().timestamp_micros();
    let queries: Vec<Query> = Queries::new(stage.workload, &stage.index())
        .take(queries)
        .map(|mut query| {
            // One clock for all who answer.
            query.request.now_us = Some(now_us);
            query
        })
        .collect();
    let node = follow(stage).await?;
    let state = node.current();
    let pages = pages(&state, &queries, now_us)?;
    say(format!("{} queries of the mix, {} pages", count(queries.len() as u64), count(pages.len() as u64)));

    in_process(&state, &pages, now_us)?;
    let (searches, counts) = in_process(&state, &pages, now_us)?;
    let grpc = through_grpc(&one_pod(stage)?, &pages).await?;
    let postgres = beside_postgres(stage, &state, &pages, now_us).await?;
    for (name, latencies) in [
        ("search", &searches),
        ("grpc_search", &grpc),
        ("postgres_search", &postgres.searches),
        ("count", &counts),
        ("postgres_count", &postgres.counts),
    ] {
        results.micros(&format!("{name}_{size}"), latencies.clone());
    }
    show(&[
        ("search, in process", &searches),
        ("search, gRPC", &grpc),
        ("search, Postgres", &postgres.searches),
        ("count, in process", &counts),
        ("count, Postgres", &postgres.counts),
    ]);
    throughput(stage, &pages, results).await
}

pub(super) fn show(rows: &[(&str, &Latencies)]) {
    let micros = |latencies: &Latencies, share| format!("{:.0}", latencies.percentile(share).as_secs_f64() * 1e6);
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|(what, latencies)| {
            let cells = [0.5, 0.95, 0.99].map(|share| micros(latencies, share));
            std::iter::once((*what).to_owned()).chain(cells).collect()
        })
        .collect();
    table(&["µs", "p50", "p95", "p99"], &rows);
}

/// This process becomes one more reader of the pods' files.
async fn follow(stage: &Stage) -> Result<Arc<Node>> {
    let mut options = NodeOptions::new(Arc::clone(stage.schema()), stage.pair.data());
    options.reader_only = true;
    let start = Instant::now();
    let node = Node::open(options).await?;
    node.wait_for(None, 0, tokio::time::Instant::now() + Duration::from_secs(300)).await?;
    say(format!("opened the store as one more reader in {:.2} s", start.elapsed().as_secs_f64()));
    Ok(node)
}

/// Every page as a request of its own, with the cursor that leads to it.
pub(super) fn pages(state: &State, queries: &[Query], now_us: i64) -> Result<Vec<SearchRequest>> {
    let mut pages = Vec::new();
    for query in queries {
        let mut request = query.request.clone();
        for _ in 0..query.pages {
            let page = engine::search(state, &request, now_us)?;
            pages.push(request.clone());
            match page.next_cursor {
                Some(cursor) => request.cursor = Some(OpaqueBytes(cursor)),
                None => break,
            }
        }
    }
    Ok(pages)
}

/// Each page, and the exact count of each first page.
pub(super) fn in_process(state: &State, pages: &[SearchRequest], now_us: i64) -> Result<(Latencies, Latencies)> {
    let (mut searches, mut counts) = (Latencies::default(), Latencies::default());
    for request in pages {
        let start = Instant::now();
        std::hint::black_box(engine::search(state, request, now_us)?);
        searches.add(start.elapsed());
        if request.cursor.is_none() {
            let request = CountRequest::of_search(request);
            let start = Instant::now();
            std::hint::black_box(engine::count(state, &request, now_us)?);
            counts.add(start.elapsed());
        }
    }
    Ok((searches, counts))
}

pub(super) async fn through_grpc(client: &Client, pages: &[SearchRequest]) -> Result<Latencies> {
    let mut latencies = Latencies::default();
    for request in pages {
        let start = Instant::now();
        client.search(request.clone()).await?;
        latencies.add(start.elapsed());
    }
    Ok(latencies)
}

fn one_pod(stage: &Stage) -> Result<Client> {
    let pod = stage.pair.pods.first().context("no pod")?;
    Ok(Client::connect(vec![pod.grpc().into()])?.with_deadline(Duration::from_secs(30)))
}

#[derive(Debug, Default)]
struct Beside {
    searches: Latencies,
    counts: Latencies,
}

/// The same first pages and counts in Postgres, each answer compared. Later pages are left out: what they cost there
/// depends on how a page is asked for.
async fn beside_postgres(stage: &Stage, state: &State, pages: &[SearchRequest], now_us: i64) -> Result<Beside> {
    let mut connection = stage.postgres.connect().await?;
    materialise(stage, &mut connection).await?;
    let first: Vec<&SearchRequest> = pages.iter().filter(|request| request.cursor.is_none()).collect();
    let bar = terminal::bar("The same queries in Postgres", 2 * first.len() as u64);
    // Once to warm its caches, once to measure.
    let mut beside = Beside::default();
    for round in 0..2 {
        beside = Beside::default();
        for request in &first {
            let schema = stage.schema();
            let filter = request.filter.as_ref().context("a query without a filter")?;
            let visible = sql::visible(schema, now_us).unwrap_or("TRUE".into());
            let condition = format!("{} AND {visible}", sql::condition(filter, schema, now_us)?);
            let order = sql::order(&request.sort, schema)?;
            let search = format!("SELECT id FROM {FLAT} WHERE {condition} ORDER BY {order} LIMIT {}", request.limit);
            let start = Instant::now();
            let rows = sqlx::query(AssertSqlSafe(search.as_str())).persistent(false).fetch_all(&mut connection).await?;
            beside.searches.add(start.elapsed());
            let counting = format!("SELECT count(*) FROM {FLAT} WHERE {condition}");
            let start = Instant::now();
            let row =
                sqlx::query(AssertSqlSafe(counting.as_str())).persistent(false).fetch_one(&mut connection).await?;
            beside.counts.add(start.elapsed());
            if round == 0 {
                let wanted: Vec<u32> =
                    rows.iter().map(|row| row.try_get::<i64, _>(0).map(|id| id as u32)).collect::<Result<_, _>>()?;
                let found = engine::search(state, request, now_us)?.ids;
                if found != wanted {
                    bail!("Postgres gives {} ids, the index {}: {search}", wanted.len(), found.len());
                }
                let (wanted, found) = (
                    row.try_get::<i64, _>(0)? as u64,
                    engine::count(state, &CountRequest::of_search(request), now_us)?.count,
                );
                if found != wanted {
                    bail!("Postgres counts {wanted}, the index {found}: {counting}");
                }
            }
            bar.inc(1);
        }
    }
    terminal::done(&bar, "searches, and as many counts; the first round's all equal the index's");
    Ok(beside)
}

/// One flat table with the view's rows and the counts, and indexes for each kind of query of the mix.
async fn materialise(stage: &Stage, connection: &mut PgConnection) -> Result<()> {
    let start = Instant::now();
    execute(connection, "SET jit = off; SET work_mem = '256MB'; SET maintenance_work_mem = '1GB'").await?;
    documents::materialise(connection, &stage.definition, &stage.clickhouse, FLAT).await?;
    let safe = "availability = 'Public' AND \"blockedFor\" IS NULL AND poi = false AND minor = false AND \
                \"isPublished\" = true";
    for index in [
        "(\"sortAt\" DESC NULLS LAST, id DESC)".to_owned(),
        "(\"userId\", \"sortAt\" DESC NULLS LAST, id DESC)".to_owned(),
        "(\"userId\", \"reactionCount\" DESC NULLS LAST, id DESC)".to_owned(),
        "(\"reactionCount\" DESC NULLS LAST, id DESC)".to_owned(),
        "(\"commentCount\" DESC NULLS LAST, id DESC)".to_owned(),
        "(\"collectedCount\" DESC NULLS LAST, id DESC)".to_owned(),
        format!("(\"sortAt\" DESC NULLS LAST, id DESC) INCLUDE (\"nsfwLevel\", type) WHERE {safe}"),
        format!("(\"reactionCount\" DESC NULLS LAST, id DESC) INCLUDE (\"nsfwLevel\", type) WHERE {safe}"),
        "USING gin (\"tagIds\")".to_owned(),
        "USING gin (\"modelVersionIds\")".to_owned(),
        "USING gin (\"baseModels\")".to_owned(),
        "USING gin (\"toolIds\")".to_owned(),
    ] {
        execute(connection, &format!("CREATE INDEX ON {FLAT} {index}")).await?;
    }
    execute(connection, &format!("VACUUM (FREEZE, ANALYZE) {FLAT}")).await?;
    say(format!("the view as one flat table with 13 indexes: {:.1} s", start.elapsed().as_secs_f64()));
    Ok(())
}

/// As many searches as one pod answers, ids alone, limit 50; with its CPU for each.
async fn throughput(stage: &Stage, pages: &[SearchRequest], results: &mut Results) -> Result<()> {
    let requests: Arc<Vec<SearchRequest>> = Arc::new(
        pages
            .iter()
            .filter(|request| request.cursor.is_none())
            .map(|request| SearchRequest { limit: 50, ..request.clone() })
            .collect(),
    );
    let pod = stage.pair.pods.first().context("no pod")?;
    let pid = pod.process.pid().context("the pod does not run")?;
    let client = one_pod(stage)?;
    let before = usage::cpu_seconds(pid)?;
    let (searches, elapsed) = spread(&requests, |request| {
        let client = client.clone();
        async move { Ok(client.search(request).await.map(|_| ())?) }
    })
    .await?;
    let cpu_us = (usage::cpu_seconds(pid)? - before) * 1e6 / searches as f64;
    results.set("grpc_searches_per_s", rate(searches, elapsed) as f64);
    results.set("grpc_server_cpu_us", cpu_us);
    say(format!(
        "gRPC, {CLIENTS} at once on the same cores: {} searches/s, {cpu_us:.0} µs of the server's CPU each",
        count(rate(searches, elapsed))
    ));
    let url = format!("http://{}/v1/search", pod.process.http());
    let client = http::client(Duration::from_secs(30))?;
    let (searches, elapsed) = spread(&requests, |request| {
        let (client, url) = (client.clone(), url.clone());
        async move {
            let answer = client.post(url).body(serde_json::to_vec(&request)?).send().await?.error_for_status()?;
            answer.bytes().await?;
            Ok(())
        }
    })
    .await?;
    results.set("http_searches_per_s", rate(searches, elapsed) as f64);
    say(format!("HTTP, {CLIENTS} at once: {} searches/s", count(rate(searches, elapsed))));
    Ok(())
}

/// [`CLIENTS`] at once, each one request after the other, for [`THROUGHPUT`].
async fn spread<F, R>(requests: &Arc<Vec<SearchRequest>>, ask: F) -> Result<(u64, Duration)>
where
    F: Fn(SearchRequest) -> R,
    R: Future<Output = Result<()>>,
{
    let start = Instant::now();
    let each = (0..CLIENTS).map(|client| {
        let ask = &ask;
        async move {
            let mut answered = 0;
            for request in requests.iter().cycle().skip(client * requests.len() / CLIENTS) {
                if start.elapsed() >= THROUGHPUT {
                    break;
                }
                ask(request.clone()).await?;
                answered += 1;
            }
            anyhow::Ok(answered)
        }
    });
    let answered: u64 = futures::future::try_join_all(each).await?.into_iter().sum();
    Ok((answered, start.elapsed()))
}
