//! How many searches a second one process answers on the cores that the generator uses too, ids alone, limit 50; and
//! its CPU for each.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use bitdex_proto::{query::SearchRequest, wire};
use prost::Message as _;

use super::lean;
use crate::{
    bench::{Results, site::Site, size, usage},
    terminal::{count, rate, say},
};

const LASTS: Duration = Duration::from_secs(8);
const WARM: Duration = Duration::from_secs(1);
const GRPC_CONNECTIONS: usize = 4;
/// Calls under way on each connection.
const STREAMS: usize = 8;
const HTTP_CONNECTIONS: usize = 32;
const LIMIT: u32 = 50;

pub(super) async fn measure(
    site: &Site,
    first_pages: &[SearchRequest],
    documents: u32,
    results: &mut Results,
) -> Result<()> {
    let requests: Vec<SearchRequest> =
        first_pages.iter().map(|request| SearchRequest { limit: LIMIT, now_us: None, ..request.clone() }).collect();
    let messages: Arc<Vec<Vec<u8>>> = Arc::new(
        requests
            .iter()
            .map(|request| {
                let message = wire::SearchRequest::from(request.clone()).encode_to_vec();
                // Not compressed, and how long it is.
                let mut framed = vec![0];
                framed.extend((message.len() as u32).to_be_bytes());
                framed.extend(message);
                framed
            })
            .collect(),
    );
    let address = site.pod.grpc().to_owned();
    let grpc =
        move |lasts| lean::grpc(&address, "/bitdex.v1.Query/Search", &messages, GRPC_CONNECTIONS, STREAMS, lasts);
    let bodies = requests.iter().map(serde_json::to_vec).collect::<Result<Vec<_>, _>>()?;
    let address = site.pod.process.http().to_owned();
    let http = move |lasts| lean::http(&address, "/v1/search", &bodies, HTTP_CONNECTIONS, lasts);
    one(site, "grpc", documents, grpc, results).await?;
    one(site, "http", documents, http, results).await
}

async fn one(
    site: &Site,
    front: &str,
    documents: u32,
    run: impl Fn(Duration) -> Result<(u64, Duration)> + Send + 'static,
    results: &mut Results,
) -> Result<()> {
    let pid = site.pid()?;
    let (searches, elapsed, [cpu, own]) = tokio::task::spawn_blocking(move || {
        run(WARM)?;
        let used = || anyhow::Ok([usage::cpu_seconds(pid)?, usage::cpu_seconds(std::process::id())?]);
        let before = used()?;
        let (searches, elapsed) = run(LASTS)?;
        let after = used()?;
        anyhow::Ok((searches, elapsed, [after[0] - before[0], after[1] - before[1]]))
    })
    .await
    .context("the generator panicked")??;
    let [cpu_us, own_us] = [cpu, own].map(|seconds| seconds * 1e6 / searches as f64);
    say(format!(
        "{front}, on the same cores: {} searches/s; CPU for each: {cpu_us:.0} µs of the server, {own_us:.0} µs of the \
         generator; {:.2} cores in all",
        count(rate(searches, elapsed)),
        (cpu + own) / elapsed.as_secs_f64()
    ));
    let size = size(documents);
    let per_s = rate(searches, elapsed) as f64;
    for (name, value) in [("searches_per_s", per_s), ("server_cpu_us", cpu_us), ("generator_cpu_us", own_us)] {
        results.set(format!("{front}_{name}_{size}"), value);
        // The last size that was asked for stands for all.
        results.set(format!("{front}_{name}"), value);
    }
    Ok(())
}
