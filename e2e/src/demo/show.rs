//! Pages as tables, checked against SQL; and the lines that a visitor can try.

use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use bitdex_proto::{
    query::{Fields, Filter, SearchRequest, Sort},
    value::{Literal, format_timestamp},
    wire,
};
use serde_json::json;
use sqlx::{AssertSqlSafe, Row as _};

use crate::{
    oracle::documents,
    postgres, sql,
    stage::Stage,
    terminal::{count, say, table},
};

/// What the site shows to everybody.
pub(super) fn safe(more: Vec<Filter>) -> Filter {
    let mut all = vec![
        Filter::eq("availability", Literal::Text("Public".into())),
        Filter::IsNull { field: "blockedFor".into() },
        Filter::eq("poi", Literal::Bool(false)),
        Filter::eq("minor", Literal::Bool(false)),
        Filter::eq("isPublished", Literal::Bool(true)),
        Filter::any_of("nsfwLevel", vec![Literal::Int(1), Literal::Int(2)]),
    ];
    all.extend(more);
    Filter::And(all)
}

pub(super) fn search(stage: &Stage, filter: Filter, sort: &str, limit: u32) -> SearchRequest {
    let mut request = SearchRequest::new(stage.index());
    request.filter = Some(filter);
    request.sort = vec![Sort { field: sort.into(), descending: true }];
    request.limit = limit;
    request
}

/// Pages of three searches; those that need nothing from ClickHouse are compared with SQL.
pub(super) async fn first_pages(stage: &Stage) -> Result<()> {
    let popular = Filter::any_of("tagIds", vec![Literal::Int(1), Literal::Int(2), Literal::Int(3)]);
    let one_user = Filter::eq("userId", Literal::Int(1));
    for (what, filter, sort, compared) in [
        ("the newest images with tag 1, 2 or 3", safe(vec![popular.clone()]), "sortAt", true),
        ("the newest images of user 1", safe(vec![one_user]), "sortAt", true),
        ("the images with tag 1, 2 or 3 that people like most", safe(vec![popular]), "reactionCount", false),
    ] {
        let mut request = search(stage, filter, sort, 5);
        request.count = true;
        request.now_us = Some(chrono::Utc::now().timestamp_micros());
        let ids = print(stage, what, request.clone()).await?;
        if compared {
            same_in_postgres(stage, &request, &ids).await?;
        }
    }
    Ok(())
}

/// Prints a page, and gives its ids.
pub(super) async fn print(stage: &Stage, what: &str, mut request: SearchRequest) -> Result<Vec<u32>> {
    let names = ["nsfwLevel", "type", "userId", "tagIds", "sortAt", "reactionCount"];
    request.fields = Fields::Named(names.map(str::to_owned).into());
    // The first call makes the connection.
    stage.client.search(request.clone()).await?;
    let start = Instant::now();
    let answer = stage.client.search(request).await?;
    let elapsed = start.elapsed();
    let of = answer.count.map(|all| format!(" of {}", count(all))).unwrap_or_default();
    say(format!("{what}: {}{of}, in {:.2} ms with the way there and back", answer.hits.len(), ms(elapsed)));
    let rows: Vec<Vec<String>> = answer
        .hits
        .iter()
        .map(|hit| std::iter::once(hit.id.to_string()).chain(hit.values.iter().map(cell)).collect())
        .collect();
    table(&["id", "nsfwLevel", "type", "userId", "tags", "sortAt", "reactionCount"], &rows);
    Ok(answer.hits.iter().map(|hit| hit.id).collect())
}

pub(super) fn ms(duration: std::time::Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

fn cell(value: &wire::FieldValue) -> String {
    use wire::value::Kind;
    if value.many {
        return format!("{} tags", value.values.len());
    }
    match value.values.first().and_then(|value| value.kind.as_ref()) {
        Some(Kind::Int(int)) => count_signed(*int),
        Some(Kind::Text(text)) => text.clone(),
        Some(Kind::TimestampUs(us)) => format_timestamp(*us).chars().take(19).collect(),
        Some(Kind::Bool(bool)) => bool.to_string(),
        _ => "–".into(),
    }
}

fn count_signed(int: i64) -> String {
    let sign = if int < 0 { "-" } else { "" };
    format!("{sign}{}", count(int.unsigned_abs()))
}

/// The same search in SQL over the view must give the same ids.
async fn same_in_postgres(stage: &Stage, request: &SearchRequest, ids: &[u32]) -> Result<()> {
    let schema = stage.schema();
    let now_us = request.now_us.context("the request has no clock of its own")?;
    let filter = request.filter.as_ref().context("the request has no filter")?;
    let visible = sql::visible(schema, now_us).unwrap_or("TRUE".into());
    let sql = format!(
        "SELECT id::int8 FROM ({}) v WHERE ({}) AND {visible} ORDER BY {} LIMIT {}",
        stage.definition.view_sql(),
        sql::condition(filter, schema, now_us)?,
        sql::order(&request.sort, schema)?,
        request.limit
    );
    let mut connection = stage.postgres.connect().await?;
    documents::pin(&mut connection).await?;
    // Postgres takes a filter over so many columns for far more selective than it is, and would join row by row.
    postgres::execute(&mut connection, "SET enable_nestloop = off").await?;
    let start = Instant::now();
    let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(&mut connection).await?;
    let wanted: Vec<u32> =
        rows.iter().map(|row| row.try_get::<i64, _>(0).map(|id| id as u32)).collect::<Result<_, _>>()?;
    if wanted != ids {
        bail!("the index gives {ids:?}, the view {wanted:?}");
    }
    say(format!("  ✓ the same ids as the SQL view, which took {:.0} ms\n", ms(start.elapsed())));
    Ok(())
}

pub(super) fn lines_to_try(stage: &Stage) {
    let body = json!({
        "index": stage.index(),
        "filter": {"and": [{"field": "nsfwLevel", "in": [1, 2]}, {"field": "tagIds", "in": [1, 2, 3]},
            {"field": "sortAt", "ge": {"now": "-30d"}}]},
        "sort": [{"field": "reactionCount", "descending": true}],
        "limit": 5, "fields": ["userId", "sortAt", "reactionCount"], "count": true,
    });
    crate::terminal::step("Try it");
    for pod in &stage.pair.pods {
        let http = pod.process.http();
        say(format!("curl -s http://{http}/v1/search -d '{body}'"));
    }
    if let Some(pod) = stage.pair.pods.first() {
        let (http, grpc) = (pod.process.http(), pod.grpc());
        say(format!("curl -s http://{http}/v1/get -d '{{\"index\": \"{}\", \"ids\": [1, 2]}}'", stage.index()));
        say(format!("curl -s http://{http}/v1/describe"));
        say(format!("curl -s http://{http}/metrics"));
        say(format!("grpcurl -plaintext {grpc} list"));
        say(format!(
            "grpcurl -plaintext -d '{{\"index\": \"{}\", \"limit\": 5, \"sort\": [{{\"field\": \"sortAt\", \
             \"descending\": true}}]}}' {grpc} bitdex.v1.Query/Search",
            stage.index()
        ));
    }
    say(format!("curl -s http://{}/status", stage.pair.sync.http()));
    say(format!("psql '{}'", stage.postgres.url()));
    say("\nChange rows in psql and search again. Ctrl-C ends everything.");
}
