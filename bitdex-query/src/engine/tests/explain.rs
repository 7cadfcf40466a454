//! What Explain tells, against what is so.

use bitdex_proto::query::ExplainRequest;

use super::*;
use crate::engine::{ExplainedRun, ExplainedStep, explain, search_by};

/// A query that is explained gives the same answer, and its steps add up to it.
pub(super) fn check(state: &State, request: &SearchRequest, now: i64, expected: &[u32], what: &str) {
    let count = CountRequest { now_us: Some(now), ..CountRequest::of_search(request) };
    let told = explain(state, &ExplainRequest::Count(count), 0).unwrap();
    assert_eq!((told.count, told.runs.len()), (Some(expected.len() as u64), 1), "{what}: {request:?}");
    let run = &told.runs[0];
    assert_eq!((run.rows, run.evaluated_blocks), (expected.len() as u64, run.candidate_blocks), "{what}");
    // What one step leaves comes to the next.
    let steps = run.steps.windows(2).all(|pair| pair[1].rows_in == pair[0].rows);
    assert!(steps, "{what}: {}", told.text);
    let last = run.steps.last().map(|step| step.rows);
    assert_eq!(last, Some(expected.len() as u64), "{what}: {request:?}\n{}", told.text);

    let counted = SearchRequest { count: true, ..request.clone() };
    let told = explain(state, &ExplainRequest::Search(counted), now).unwrap();
    let rows = expected.len().min(request.limit as usize) as u64;
    assert_eq!((told.rows, told.count), (rows, Some(expected.len() as u64)), "{what}: {request:?}");
    let [counting, page] = told.runs.as_slice() else { panic!("{what}: {}", told.text) };
    let plans = ["count, block by block", "count, by cells; its steps block by block"];
    assert!(plans.contains(&counting.plan.as_str()), "{}", counting.plan);
    let more = rows + u64::from(expected.len() as u64 > rows);
    assert_eq!(page.rows, more, "{what}: one row more tells of the next page\n{}", told.text);
    // Once for those with a value, and once for those without.
    assert!(page.evaluated_blocks <= 2 * page.blocks && page.candidate_blocks <= page.blocks, "{what}: {}", told.text);
}

fn run_of(state: &State, request: SearchRequest) -> (ExplainedRun, String) {
    let mut told = explain(state, &ExplainRequest::Search(request), NOW).unwrap();
    assert_eq!(told.runs.len(), 1);
    (told.runs.remove(0), told.text)
}

fn step<'r>(run: &'r ExplainedRun, what: &str) -> &'r ExplainedStep {
    run.steps.iter().find(|step| step.what == what).unwrap_or_else(|| panic!("no step {what}: {:?}", run.steps))
}

#[test]
fn a_plan_is_told_with_its_steps() {
    // Two blocks; nine rows of ten in the first have a level that is asked for.
    let rows: Vec<_> = (0..400).map(|n| (n + if n < 300 { 0 } else { 70_000 }, Some(n % 10))).collect();
    let state = state_of(&rows);
    let schema = state.schema().clone();
    let request = |filter: &str, sort| SearchRequest {
        filter: Some(Filter::parse(filter, &schema).unwrap()),
        sort,
        limit: 5,
        ..SearchRequest::new("things")
    };
    let (run, text) = run_of(&state, request("level < 9 AND NOT level = 3 AND flag IS NULL", by("level", true)));
    assert!(run.plan.ends_with("by level downwards"), "{}", run.plan);
    assert_eq!((run.rows, run.blocks, run.candidate_blocks), (6, 2, 2), "{text}");
    let plans: Vec<_> = run.considered.iter().map(|considered| considered.plan.as_str()).collect();
    assert!(plans == ["walk", "gather"] || plans == ["gather", "walk"], "{plans:?}");
    assert!(run.considered.is_sorted_by_key(|considered| considered.estimated_us));
    let excluding: Vec<_> = run.steps.iter().filter(|step| step.excludes).collect();
    assert_eq!(excluding.len(), 3, "{text}");
    assert!(step(&run, "flag EXISTS").excludes && step(&run, "level = 3").excludes);
    assert!(excluding[2].what.starts_with("publishedAt > "), "pending documents: {text}");
    assert!(excluding.iter().all(|step| step.tested >= 6), "{text}");
    assert_eq!(step(&run, "level < 9").how, "ends of the order");
    assert!(text.contains("NOT flag EXISTS") && text.contains(&run.plan), "{text}");

    let (run, text) = run_of(&state, request("level IN [1, 2] OR level = 7", Vec::new()));
    let any = step(&run, "any of");
    let parts: Vec<_> = any.parts.iter().map(|part| (part.what.as_str(), part.estimated_rows)).collect();
    assert_eq!(parts, [("level IN [1, 2]", 80), ("level = 7", 40)], "{text}");
    assert_eq!((any.blocks, any.rows), (1, 90), "the second block is not needed: {text}");
    assert!(run.considered.is_empty() && run.plan == "page: gather by id upwards", "{text}");

    let many: Vec<String> = (0..9).map(|n| n.to_string()).collect();
    let (run, _) = run_of(&state, request(&format!("tags IN [{}]", many.join(", ")), Vec::new()));
    assert_eq!(run.plan, "page: nothing can match");
    assert!(run.steps[0].what.ends_with(", … 3 more]"), "{:?}", run.steps);
}

#[test]
fn distinct_tells_its_runs() {
    let rows: Vec<_> = (0..400).map(|n| (n, Some(n / 50))).collect();
    let state = state_of(&rows);
    let request = SearchRequest { distinct: Some("level".into()), limit: 8, ..SearchRequest::new("things") };
    let told = explain(&state, &ExplainRequest::Search(request), NOW).unwrap();
    assert_eq!(told.rows, 8);
    assert!(told.runs.len() > 1, "{}", told.text);
}

/// With all that it says in segments.
fn in_files(mut state: State) -> (State, Store) {
    state.apply(3, &freeze()).unwrap();
    let mut store = Store::new(state.schema());
    state.adopt(store.flush(&state, &[])).unwrap();
    while let Some(files) = store.compact(state.files(), 0.0) {
        state.adopt(files).unwrap();
    }
    (state, store)
}

fn considers_skim(state: &State, request: SearchRequest) -> bool {
    let (run, _) = run_of(state, request);
    run.considered.iter().any(|considered| considered.plan == "skim")
}

#[test]
fn an_order_that_follows_ids_goes_on_doing_so_where_new_ids_are_in_no_file_yet() {
    let rows: Vec<_> = (0..4_000).map(|n| (n * 40, Some(n))).collect();
    let (mut state, _store) = in_files(state_of(&rows));
    let request = || SearchRequest { sort: by("level", true), limit: 5, ..SearchRequest::new("things") };
    assert!(!considers_skim(&state, request()));
    let mut values = vec![None; 7];
    values[0] = Some(Value::Int(5_000));
    let new = Op::Upsert { source: 0, key: 4_000 * 60, row: Some(row(values)) };
    state.apply(4, &batch(state.schema(), "a", "b", &[new])).unwrap();
    assert!(!considers_skim(&state, request()));
}

#[test]
fn the_greatest_codes_are_looked_at_alone_where_an_order_has_nothing_to_do_with_ids() {
    let mut rng = ChaCha8Rng::seed_from_u64(seed());
    let rows: Vec<_> = (0..4_000).map(|n| (n, Some(rng.random_range(0..1_000)))).collect();
    let (state, _store) = in_files(state_of(&rows));
    let request = |sort, limit| SearchRequest { sort, limit, ..SearchRequest::new("things") };
    assert!(considers_skim(&state, request(by("level", true), 5)));
    assert!(!considers_skim(&state, request(by("level", true), 2_000)), "nearly all would be looked at");
    assert!(!considers_skim(&state, request(by("level", false), 5)), "they are the greatest");
    let [skimmed, gathered] = [Plan::Skim, Plan::Gather]
        .map(|plan| search_by(&state, &request(by("level", true), 5), NOW, plan).unwrap().ids);
    assert_eq!(skimmed, gathered);
}
