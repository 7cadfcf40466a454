//! Searches on an open schedule: each is due at its moment, whether or not those before have been answered.

use std::{
    sync::atomic::{AtomicBool, AtomicI64, Ordering},
    time::Duration,
};

use anyhow::Result;
use bitdex_proto::{client::Client, query::SearchRequest};
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval},
};

/// Without an answer for so long, a search has failed.
const PATIENCE: Duration = Duration::from_secs(1);

/// What became of a search.
#[derive(Debug)]
pub(super) struct Search {
    pub(super) due: Instant,
    /// From the moment at which it was due.
    pub(super) took: Duration,
    /// Why there was no answer in time.
    pub(super) failure: Option<String>,
}

impl Search {
    pub(super) fn ended(&self) -> Instant {
        self.due + self.took
    }
}

/// So many searches a second, until stopped, in the order in which they were due; `clock` is that of each request.
pub(super) async fn ask(
    client: &Client,
    requests: &[SearchRequest],
    a_second: u32,
    clock: &AtomicI64,
    stop: &AtomicBool,
) -> Result<Vec<Search>> {
    let mut pace = interval(Duration::from_secs(1) / a_second);
    pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut under_way = JoinSet::new();
    let mut done = Vec::new();
    for request in requests.iter().cycle() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let due = pace.tick().await;
        let client = client.clone();
        let request = SearchRequest { now_us: Some(clock.load(Ordering::Relaxed)), ..request.clone() };
        under_way.spawn(async move {
            let answer = client.search(request).await;
            let took = due.elapsed();
            let failure = match answer {
                Err(error) => Some(error.to_string()),
                Ok(_) if took > PATIENCE => Some(format!("answered after {took:?}")),
                Ok(_) => None,
            };
            Search { due, took, failure }
        });
        while let Some(search) = under_way.try_join_next() {
            done.push(search?);
        }
    }
    while let Some(search) = under_way.join_next().await {
        done.push(search?);
    }
    done.sort_unstable_by_key(|search| search.due);
    Ok(done)
}
