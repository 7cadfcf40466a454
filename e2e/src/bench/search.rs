//! Searches and counts of the workload's mix, in process and over gRPC, for the parts that measure the store.

use std::time::{Duration, Instant};

use anyhow::Result;
use bitdex_proto::{
    client::Client,
    query::{CountRequest, OpaqueBytes, SearchRequest},
};
use bitdex_query::{
    engine,
    mapping::slices::{ANSWERING, set_slice},
    state::State,
};

use super::Latencies;
use crate::{terminal::table, workload::queries::Query};

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

/// A client on a thread of its own: what it measures waits for no other work of this process. To be called where a thread
/// may block.
pub(super) fn apart<T>(run: impl AsyncFnOnce() -> Result<T>) -> Result<T> {
    // Where it is refused, the client itself may wait for a core, which counts as latency.
    let _ = set_slice(ANSWERING);
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(run())
}

/// A client that waits for any answer that may still count.
pub(super) fn client(grpc: &str) -> Result<Client> {
    Ok(Client::connect(vec![grpc.into()])?.with_deadline(Duration::from_secs(30)))
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
