//! What a query does and costs, for who reads it: its plan, those that were considered, and each step of its filter.

use std::{fmt::Write as _, rc::Rc, time::Instant};

use bitdex_proto::{
    Result,
    query::{CountRequest, ExplainRequest, SearchRequest},
    value::format_timestamp,
};
use serde::Serialize;

use super::{
    Counted, How, Plan, count_how, search_how,
    trace::{Run, StepId, Trace, Traced},
};
use crate::state::State;

/// Answer of [`explain`]. Times are in microseconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explained {
    /// What the query takes, none of its steps being timed.
    pub total_us: f64,
    /// Rows of the page.
    pub rows: u64,
    /// Matches, where they are counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// There are at least so many: counting ended there.
    #[serde(skip_serializing_if = "is_false")]
    pub count_is_lower_bound: bool,
    /// In the order in which the filter was used.
    pub runs: Vec<ExplainedRun>,
    /// Runs behind those: `distinct` may take many.
    #[serde(skip_serializing_if = "is_zero")]
    pub more_runs: u64,
    /// The same, to be read.
    pub text: String,
    #[serde(skip)]
    pub now_us: i64,
}

/// One use of the filter.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExplainedRun {
    pub plan: String,
    /// All plans there are, the cheapest first. Empty where there is but one.
    pub considered: Vec<Considered>,
    pub estimated_matches: Option<u64>,
    /// Blocks of 65 536 ids that the index has.
    pub blocks: u64,
    /// Of these, those where the filter may hold.
    pub candidate_blocks: u64,
    /// Of these, those whose ids were worked out.
    pub evaluated_blocks: u64,
    /// Ids come to in the order of the first sort key.
    pub walked: u64,
    /// How pending documents are told; `None`: there are none to hide.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hidden: Option<String>,
    pub rows: u64,
    pub planning_us: f64,
    /// With what it takes to time each step.
    pub run_us: f64,
    /// All of them have to let an id pass, in this order.
    pub steps: Vec<ExplainedStep>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Considered {
    pub plan: String,
    pub estimated_us: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExplainedStep {
    pub what: String,
    /// In what form the ids lie.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub how: &'static str,
    /// It takes ids out.
    #[serde(skip_serializing_if = "is_false")]
    pub excludes: bool,
    /// Ids that it holds in all of the index.
    pub estimated_rows: u64,
    /// Blocks that came to it, the ids in them before and after.
    pub blocks: u64,
    pub rows_in: u64,
    pub rows: u64,
    /// Ids that were tested one by one, and those that passed.
    pub tested: u64,
    pub passed: u64,
    pub time_us: f64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<ExplainedStep>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn is_false(flag: &bool) -> bool {
    !flag
}

/// Runs a query, and tells how. The clock is as in [`super::search`] and [`super::count`].
pub fn explain(state: &State, request: &ExplainRequest, now_us: i64) -> Result<Explained> {
    let trace = Rc::new(Trace::default());
    let traced = How { plan: None, trace: Some(&trace) };
    let (found, total_us) = match request {
        ExplainRequest::Search(request) => {
            let start = Instant::now();
            search_how(state, request, now_us, How::default())?;
            let total = micros(start.elapsed());
            (of_search(state, request, now_us, traced)?, total)
        }
        ExplainRequest::Count(request) => {
            let start = Instant::now();
            count_how(state, request, now_us, How::default())?;
            let total = micros(start.elapsed());
            (of_count(state, request, now_us, traced)?, total)
        }
    };
    let Traced { runs, more } = Rc::try_unwrap(trace).map(Trace::finish).unwrap_or_default();
    let mut explained = Explained {
        total_us,
        rows: found.rows,
        count: found.count.map(|counted| counted.count),
        count_is_lower_bound: found.count.is_some_and(|counted| counted.is_lower_bound),
        runs: runs.iter().map(explained_run).collect(),
        more_runs: more,
        text: String::new(),
        now_us: found.now_us,
    };
    explained.text = text(state, request, &explained);
    Ok(explained)
}

struct Found {
    rows: u64,
    count: Option<Counted>,
    now_us: i64,
}

fn of_search(state: &State, request: &SearchRequest, now_us: i64, how: How<'_>) -> Result<Found> {
    let page = search_how(state, request, now_us, how)?;
    Ok(Found { rows: page.ids.len() as u64, count: page.count, now_us: page.now_us })
}

fn of_count(state: &State, request: &CountRequest, now_us: i64, how: How<'_>) -> Result<Found> {
    let counted = count_how(state, request, now_us, how)?;
    Ok(Found { rows: 0, count: Some(counted), now_us: request.now_us.unwrap_or(now_us) })
}

fn micros(time: std::time::Duration) -> f64 {
    time.as_nanos() as f64 / 1e3
}

fn explained_run(run: &Run) -> ExplainedRun {
    let mut considered: Vec<Considered> = match &run.estimates {
        Some(estimates) => Plan::ALL
            .map(|plan| Considered { plan: plan.to_string(), estimated_us: estimates.of(plan) / 1e3 })
            .into_iter()
            .filter(|considered| considered.estimated_us.is_finite())
            .collect(),
        None => Vec::new(),
    };
    if considered.len() == 1 {
        considered.clear();
    }
    considered.sort_by(|a, b| a.estimated_us.total_cmp(&b.estimated_us));
    ExplainedRun {
        plan: run.plan.clone(),
        considered,
        estimated_matches: run.estimates.as_ref().map(|estimates| estimates.matches),
        blocks: run.blocks.0 as u64,
        candidate_blocks: run.blocks.1 as u64,
        evaluated_blocks: run.evaluated,
        walked: run.walked,
        hidden: run.hidden.clone(),
        rows: run.rows,
        planning_us: micros(run.planning),
        run_us: micros(run.all),
        steps: run.roots.iter().filter_map(|step| explained_step(run, *step)).collect(),
    }
}

fn explained_step(run: &Run, step: StepId) -> Option<ExplainedStep> {
    let step = run.step(step)?;
    Some(ExplainedStep {
        what: step.what.clone(),
        how: step.how,
        excludes: step.excludes,
        estimated_rows: step.estimate,
        blocks: step.did.blocks,
        rows_in: step.did.rows_in,
        rows: step.did.rows,
        tested: step.did.tested,
        passed: step.did.passed,
        time_us: micros(step.did.time),
        parts: step.parts.iter().filter_map(|part| explained_step(run, *part)).collect(),
    })
}

fn text(state: &State, request: &ExplainRequest, explained: &Explained) -> String {
    let mut text = String::new();
    let at_least = if explained.count_is_lower_bound { "at least " } else { "" };
    let what = match (request, explained.count) {
        (ExplainRequest::Search(_), None) => format!("{} rows", explained.rows),
        (ExplainRequest::Search(_), Some(count)) => format!("{} rows of {at_least}{count}", explained.rows),
        (ExplainRequest::Count(_), count) => format!("{at_least}{} matches", count.unwrap_or_default()),
    };
    // Writing to text does not fail.
    let _ = writeln!(
        text,
        "{} at record {}, clock {}: {what} in {:.1} µs",
        state.schema().index,
        state.sequence(),
        format_timestamp(explained.now_us),
        explained.total_us,
    );
    for run in &explained.runs {
        let _ = writeln!(text);
        run.write(&mut text);
    }
    if explained.more_runs > 0 {
        let _ = writeln!(text, "\nand {} more like the last, each for other rows", explained.more_runs);
    }
    text
}

impl ExplainedRun {
    fn write(&self, text: &mut String) {
        let _ = writeln!(text, "{}", self.plan);
        let mut line = |name: &str, value: String| {
            let _ = writeln!(text, "  {name:<11} {value}");
        };
        if !self.considered.is_empty() {
            let plans = self.considered.iter().map(|it| format!("{} {:.1} µs", it.plan, it.estimated_us));
            line("estimated", plans.collect::<Vec<_>>().join(", "));
        }
        match self.estimated_matches {
            Some(matches) => line("rows", format!("{} found; about {matches} match", self.rows)),
            None => line("rows", format!("{} found", self.rows)),
        }
        let Self { blocks, candidate_blocks, evaluated_blocks, .. } = self;
        line(
            "blocks",
            format!("{blocks} in the index, {candidate_blocks} may hold rows, {evaluated_blocks} evaluated"),
        );
        if self.walked > 0 {
            line("walked", format!("{} ids", self.walked));
        }
        if let Some(hidden) = &self.hidden {
            line("pending", hidden.clone());
        }
        line("time", format!("{:.1} µs to plan, {:.1} in all with steps timed", self.planning_us, self.run_us));
        let mut rows = Vec::new();
        self.steps.iter().for_each(|step| step.rows(0, &mut rows));
        table(&rows, text);
    }
}

const COLUMNS: [&str; 9] = ["step", "lies as", "estimated", "blocks", "rows in", "rows", "tested", "passed", "µs"];

impl ExplainedStep {
    fn rows(&self, depth: usize, rows: &mut Vec<[String; COLUMNS.len()]>) {
        let not = if self.excludes { "NOT " } else { "" };
        let number = |number: u64| number.to_string();
        rows.push([
            format!("{:width$}{not}{}", "", self.what, width = depth * 2),
            self.how.into(),
            number(self.estimated_rows),
            number(self.blocks),
            number(self.rows_in),
            number(self.rows),
            number(self.tested),
            number(self.passed),
            format!("{:.1}", self.time_us),
        ]);
        self.parts.iter().for_each(|part| part.rows(depth + 1, rows));
    }
}

/// The first two columns to the left, numbers to the right.
fn table(rows: &[[String; COLUMNS.len()]], text: &mut String) {
    let head = COLUMNS.map(str::to_owned);
    let mut widths = [0; COLUMNS.len()];
    for row in std::iter::once(&head).chain(rows) {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    for row in std::iter::once(&head).chain(rows) {
        let mut line = String::from(" ");
        for (n, (cell, width)) in row.iter().zip(widths).enumerate() {
            let _ = if n < 2 { write!(line, " {cell:<width$}") } else { write!(line, "  {cell:>width$}") };
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
}
