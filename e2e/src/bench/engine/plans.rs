//! Whether the plan that is picked is a good one: each search by each plan in turn, and by the planner.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bitdex_proto::query::{ExplainRequest, SearchRequest};
use bitdex_query::{
    engine::{self, Plan},
    state::State,
};

use super::{NOW_US, ROUNDS, by_sort, described, micros};
use crate::terminal::{say, table};

/// A search counts as well planned where it takes no longer than so many times what the best plan takes.
const WITHIN: f64 = 2.0;
/// Times below are taken for this one: a search is not planned badly for what a clock cannot tell.
const NOISE: Duration = Duration::from_micros(5);
/// A plan that takes so many times the best is not measured again.
const HOPELESS: u32 = 4;
const WORST: usize = 12;

struct Planned {
    picked: Duration,
    /// In the order of [`Plan::ALL`].
    by: [Duration; Plan::ALL.len()],
}

impl Planned {
    fn best(&self) -> Duration {
        self.by.into_iter().min().unwrap_or_default()
    }

    /// What the search takes, in times of the best plan.
    fn ratio(&self) -> f64 {
        self.picked.max(NOISE).as_secs_f64() / self.best().max(NOISE).as_secs_f64()
    }
}

pub(super) fn measure(state: &State, pages: &[SearchRequest]) -> Result<()> {
    let planned = pages.iter().map(|request| plan(state, request)).collect::<Result<Vec<_>>>()?;
    let mut kinds: Vec<String> = pages.iter().map(by_sort).chain(["all".into()]).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let rows = kinds.iter().map(|kind| {
        let of_kind = |request: &SearchRequest| kind == "all" || *kind == by_sort(request);
        let some: Vec<&Planned> =
            pages.iter().zip(&planned).filter(|(request, _)| of_kind(request)).map(|(_, it)| it).collect();
        let within = some.iter().filter(|it| it.ratio() <= WITHIN).count();
        let sum = |time: &dyn Fn(&Planned) -> Duration| micros(some.iter().map(|it| time(it)).sum());
        let mut cells = vec![kind.clone(), some.len().to_string()];
        cells.push(format!("{:.2} %", 100.0 * within as f64 / some.len().max(1) as f64));
        cells.extend([sum(&|it| it.picked), sum(&Planned::best)]);
        cells.extend((0..Plan::ALL.len()).map(|n| {
            let best = some.iter().filter(|it| it.by[n] == it.best()).count();
            best.to_string()
        }));
        cells
    });
    let rows: Vec<_> = rows.collect();
    let best = Plan::ALL.map(|plan| format!("best by {plan}"));
    let mut head = vec!["plans", "n", "within twice", "picked, µs in all", "best, µs in all"];
    head.extend(best.iter().map(String::as_str));
    table(&head, &rows);

    let mut order: Vec<usize> = (0..pages.len()).collect();
    order.sort_by(|a, b| planned[*b].ratio().total_cmp(&planned[*a].ratio()));
    for n in order.iter().copied().take(WORST) {
        let it = &planned[n];
        let told = engine::explain(state, &ExplainRequest::Search(pages[n].clone()), NOW_US)?;
        let run = told.runs.last();
        let estimated = run.map(|run| {
            let each = run.considered.iter().map(|it| format!("{} {:.0}", it.plan, it.estimated_us));
            format!(
                "{}; about {} match",
                each.collect::<Vec<_>>().join(", "),
                run.estimated_matches.unwrap_or_default()
            )
        });
        let by = Plan::ALL.iter().zip(it.by).map(|(plan, time)| format!("{plan} {}", micros(time)));
        say(format!(
            "  {:.2} times: {} µs by {}; {}; estimated {}: {}",
            it.ratio(),
            micros(it.picked),
            run.map_or("", |run| &run.plan),
            by.collect::<Vec<_>>().join(", "),
            estimated.unwrap_or_default(),
            described(&pages[n])
        ));
    }
    order.sort_by_key(|n| std::cmp::Reverse(planned[*n].picked));
    let median = order.get(order.len() / 2);
    for (what, n) in [("slowest", order.first()), ("median", median)] {
        if let Some(request) = n.and_then(|n| pages.get(*n)) {
            let told = engine::explain(state, &ExplainRequest::Search(request.clone()), NOW_US)?;
            say(format!("the {what} search, {}:\n{}", described(request), told.text));
        }
    }
    Ok(())
}

/// The best of several rounds of each way. All give the same rows.
fn plan(state: &State, request: &SearchRequest) -> Result<Planned> {
    let mut planned = Planned { picked: Duration::MAX, by: [Duration::MAX; Plan::ALL.len()] };
    let timed = |search: &dyn Fn() -> bitdex_proto::Result<engine::Page>| -> Result<(Duration, Vec<u32>)> {
        let start = Instant::now();
        let page = std::hint::black_box(search()?);
        Ok((start.elapsed(), page.ids))
    };
    for round in 0..ROUNDS {
        let (time, rows) = timed(&|| engine::search(state, request, NOW_US))?;
        planned.picked = planned.picked.min(time);
        for (n, plan) in Plan::ALL.into_iter().enumerate() {
            if round > 0 && planned.by[n] / HOPELESS > planned.best() {
                continue;
            }
            let (time, others) = timed(&|| engine::search_by(state, request, NOW_US, plan))?;
            ensure!(others == rows, "other rows by {plan}: {}", described(request));
            planned.by[n] = planned.by[n].min(time);
        }
    }
    Ok(planned)
}
