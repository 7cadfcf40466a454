//! The engine by itself: searches for ids and exact counts of the workload's mix, over a store on disk that is built
//! once and kept, and over the same store with changes that no flush has brought into files. No database, no network, one
//! thread. Told apart by kind of query; the slowest are named. Then whether the planner picks well.

mod build;
mod overlay;
mod plans;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Result;
use bitdex_proto::query::{CountRequest, Filter, SearchRequest};
use bitdex_query::{engine, store::format};

use super::{Latencies, size};
use crate::{
    folders,
    terminal::{count, say, seconds, table},
    workload::{
        Workload,
        queries::{Queries, Query},
    },
};

/// The workload's clock, so that a store that was kept stays the right one.
const NOW_US: i64 = 1_767_225_600_000_000;
/// Each query is asked that often; its time is the shortest, which leaves out what other processes took.
const ROUNDS: usize = 5;
const SLOWEST: usize = 10;
/// Unflushed ops over which everything is measured.
const OVERLAYS: [usize; 3] = [0, 10_000, 1_000_000];

#[derive(Debug, Clone)]
pub(super) struct Options {
    pub(super) images: u32,
    pub(super) seed: u64,
    pub(super) queries: usize,
    /// Where the store is kept; under the target folder unless given.
    pub(super) folder: Option<PathBuf>,
}

pub(super) fn run(options: &Options) -> Result<()> {
    let workload = Workload { images: options.images, seed: options.seed, now_us: NOW_US };
    let folder = match &options.folder {
        Some(folder) => folder.clone(),
        // A store of an older format would be measured as it is.
        None => folders::target()?.join(format!("engine-{}-format-{}", size(options.images), format::NEWEST)),
    };
    std::fs::create_dir_all(&folder)?;
    let start = Instant::now();
    let mut state = build::state(workload, &folder)?;
    say(format!("{} documents built or opened in {}", count(state.documents()), seconds(start.elapsed())));
    let schema = state.schema().clone();
    let queries: Vec<Query> = Queries::new(workload, &schema.index).take(options.queries).collect();
    let mut overlay = overlay::Overlay::new(workload, &state)?;
    for ops in OVERLAYS {
        let start = Instant::now();
        overlay.grow(&mut state, ops)?;
        let unflushed = state.unflushed();
        say(format!(
            "{} unflushed ops, applied in {}: {} changed rows, {} MB",
            count(ops as u64),
            seconds(start.elapsed()),
            count(unflushed.rows),
            unflushed.bytes >> 20
        ));
        let pages = super::search::pages(&state, &queries, NOW_US)?;
        measure("search", &pages, |request| Ok(engine::search(&state, request, NOW_US)?.ids.len() as u64))?;
        let first: Vec<SearchRequest> = pages.iter().filter(|request| request.cursor.is_none()).cloned().collect();
        measure(
            "count",
            &first,
            |request| Ok(engine::count(&state, &CountRequest::of_search(request), NOW_US)?.count),
        )?;
        if ops == 0 {
            plans::measure(&state, &pages)?;
        }
    }
    Ok(())
}

fn measure(what: &str, requests: &[SearchRequest], ask: impl Fn(&SearchRequest) -> Result<u64>) -> Result<()> {
    let mut times = vec![Duration::MAX; requests.len()];
    let mut found = vec![0; requests.len()];
    for _ in 0..ROUNDS {
        for (n, request) in requests.iter().enumerate() {
            let start = Instant::now();
            found[n] = std::hint::black_box(ask(request)?);
            times[n] = times[n].min(start.elapsed());
        }
    }
    let mut kinds: BTreeMap<String, Latencies> = BTreeMap::new();
    for (request, time) in requests.iter().zip(&times) {
        kinds.entry("all".into()).or_default().add(*time);
        for kind in [by_sort(request), by_filter(request)] {
            kinds.entry(kind).or_default().add(*time);
        }
    }
    let rows: Vec<Vec<String>> = kinds
        .iter()
        .map(|(kind, times)| {
            let percentiles = [0.5, 0.9, 0.95, 0.99, 0.999, 1.0].map(|share| micros(times.percentile(share)));
            [kind.clone(), times.len().to_string()].into_iter().chain(percentiles).collect()
        })
        .collect();
    table(&[what, "n", "p50", "p90", "p95", "p99", "p99.9", "most"], &rows);
    let mut order: Vec<usize> = (0..requests.len()).collect();
    order.sort_by_key(|n| std::cmp::Reverse(times[*n]));
    for n in order.into_iter().take(SLOWEST) {
        say(format!("  {} µs, {} found: {}", micros(times[n]), found[n], described(&requests[n])));
    }
    Ok(())
}

fn micros(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64() * 1e6)
}

fn filters(request: &SearchRequest) -> &[Filter] {
    match &request.filter {
        Some(Filter::And(filters)) => filters,
        _ => &[],
    }
}

fn by_sort(request: &SearchRequest) -> String {
    format!("by {}", request.sort.first().map_or("id", |sort| &sort.field))
}

/// The filter that decides most.
fn by_filter(request: &SearchRequest) -> String {
    let kind = filters(request).iter().find_map(|filter| match filter {
        Filter::Compare { field, .. } | Filter::In { field, negated: false, .. } => {
            ["userId", "tagIds", "modelVersionIds", "baseModels", "toolIds", "hasMeta"].iter().find(|it| *it == field)
        }
        _ => None,
    });
    format!("of {}", kind.unwrap_or(&"anything"))
}

fn described(request: &SearchRequest) -> String {
    let parts: Vec<String> = filters(request)
        .iter()
        .map(|filter| match filter {
            Filter::Compare { field, comparator, value } => format!("{field} {comparator:?} {value}"),
            Filter::In { field, values, negated, .. } => {
                let values: Vec<String> = values.iter().map(ToString::to_string).collect();
                format!("{field} {}in {}", if *negated { "not " } else { "" }, values.join(","))
            }
            Filter::IsNull { field } => format!("{field} null"),
            other => format!("{other:?}"),
        })
        .collect();
    let later = if request.cursor.is_some() { ", a later page" } else { "" };
    format!("{}, limit {}{later}: {}", by_sort(request), request.limit, parts.join("; "))
}
