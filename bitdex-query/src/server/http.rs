//! The HTTP front end: the query calls in JSON, metrics, and the probes.
//!
//! Every answer below `/v1` is JSON, errors too: `{"error": {"code": "invalid_argument", "message": "…"}}`.

use std::{future::Future, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Request, State, rejection::BytesRejection},
    http::{
        HeaderMap, HeaderValue, StatusCode, Uri,
        header::{CONNECTION, CONTENT_TYPE},
    },
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bitdex_proto::{Error, Result, query::OpaqueBytes};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::Instant;

use super::{
    json::{CountAnswer, DescribeAnswer, ExplainAnswer, FacetAnswer, FacetsOf, GetAnswer, Hits, SearchAnswer},
    service::{MAX_WAIT, Service},
    telemetry::{code_name, observe, render},
};
use crate::engine::Counted;

/// A filter of 100 000 values fits many times.
const MAX_BODY: usize = 8 << 20;
/// Milliseconds that a call may wait for what it demands.
const TIMEOUT_HEADER: &str = "x-timeout-ms";

#[derive(Debug, Clone)]
struct App {
    service: Arc<Service>,
    metrics: PrometheusHandle,
}

pub(super) fn router(service: Arc<Service>, metrics: PrometheusHandle) -> Router {
    Router::new()
        .route("/v1/search", post(search))
        .route("/v1/get", post(documents))
        .route("/v1/count", post(count))
        .route("/v1/facet", post(facet))
        .route("/v1/explain", post(explain))
        .route("/v1/describe", get(describe))
        .route("/metrics", get(prometheus))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .fallback(no_such_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn_with_state(Arc::clone(&service), leave_connections))
        .with_state(App { service, metrics })
}

/// While this process drains, each answer ends its connection, so that callers go elsewhere before it is closed under
/// a request of theirs.
async fn leave_connections(State(service): State<Arc<Service>>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    if service.is_draining() {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

type Body = Result<Bytes, BytesRejection>;

async fn search(State(app): State<App>, headers: HeaderMap, body: Body) -> Response {
    answer("Search", async {
        let deadline = deadline(&headers)?;
        let answer = app.service.search(parse(body)?, deadline).await?;
        let info = answer.info().into();
        let page = answer.value;
        let hits = Hits { schema: app.service.schema(), ids: &page.ids, fields: &page.fields, rows: &page.rows };
        to_json(&SearchAnswer {
            hits,
            next_cursor: page.next_cursor.map(OpaqueBytes),
            count: page.count.map(|counted| counted.count),
            count_is_lower_bound: page.count.is_some_and(|counted| counted.is_lower_bound),
            info,
        })
    })
    .await
}

async fn documents(State(app): State<App>, headers: HeaderMap, body: Body) -> Response {
    answer("Get", async {
        let deadline = deadline(&headers)?;
        let answer = app.service.get(parse(body)?, deadline).await?;
        let info = answer.info().into();
        let found = answer.value;
        let documents =
            Hits { schema: app.service.schema(), ids: &found.ids, fields: &found.fields, rows: &found.rows };
        to_json(&GetAnswer { documents, info })
    })
    .await
}

async fn count(State(app): State<App>, headers: HeaderMap, body: Body) -> Response {
    answer("Count", async {
        let deadline = deadline(&headers)?;
        let answer = app.service.count(parse(body)?, deadline).await?;
        let info = answer.info().into();
        let Counted { count, is_lower_bound } = answer.value;
        to_json(&CountAnswer { count, is_lower_bound, info })
    })
    .await
}

async fn facet(State(app): State<App>, headers: HeaderMap, body: Body) -> Response {
    answer("Facet", async {
        let deadline = deadline(&headers)?;
        let answer = app.service.facet(parse(body)?, deadline).await?;
        let info = answer.info().into();
        let facets = FacetsOf { schema: app.service.schema(), facets: &answer.value.facets };
        to_json(&FacetAnswer { facets, count: answer.value.count, info })
    })
    .await
}

async fn explain(State(app): State<App>, headers: HeaderMap, body: Body) -> Response {
    answer("Explain", async {
        let deadline = deadline(&headers)?;
        let answer = app.service.explain(parse(body)?, deadline).await?;
        let info = answer.info().into();
        to_json(&ExplainAnswer { explained: &answer.value, info })
    })
    .await
}

async fn describe(State(app): State<App>) -> Response {
    answer("Describe", async { to_json(&DescribeAnswer::from(app.service.describe()?)) }).await
}

async fn prometheus(State(app): State<App>) -> Response {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], render(&app.metrics, &app.service)).into_response()
}

async fn healthz(State(app): State<App>) -> (StatusCode, String) {
    match (app.service.dead(), app.service.problem()) {
        (None, Some(problem)) => (StatusCode::OK, format!("alive, but: {problem}\n")),
        (dead, _) => probe(dead),
    }
}

async fn readyz(State(app): State<App>) -> (StatusCode, String) {
    probe(app.service.unready())
}

fn probe(problem: Option<String>) -> (StatusCode, String) {
    match problem {
        None => (StatusCode::OK, "ok\n".into()),
        Some(problem) => (StatusCode::SERVICE_UNAVAILABLE, format!("{problem}\n")),
    }
}

async fn no_such_path(uri: Uri) -> Response {
    error_response(StatusCode::NOT_FOUND, "not_found", &format!("no such path: {}", uri.path()))
}

async fn wrong_method(uri: Uri) -> Response {
    let message =
        format!("{} takes another method: POST for search, get, count, facet and explain, else GET", uri.path());
    error_response(StatusCode::METHOD_NOT_ALLOWED, "invalid_argument", &message)
}

async fn answer(method: &'static str, call: impl Future<Output = Result<Vec<u8>>>) -> Response {
    match observe(method, "http", call).await {
        Ok(json) => ([(CONTENT_TYPE, "application/json")], json).into_response(),
        Err(error) => error_response(status(&error), code_name(&error), &error.to_string()),
    }
}

fn error_response(status: StatusCode, code: &str, message: &str) -> Response {
    let body = serde_json::json!({"error": {"code": code, "message": message}});
    (status, axum::Json(body)).into_response()
}

fn status(error: &Error) -> StatusCode {
    match error {
        Error::Invalid(_) => StatusCode::BAD_REQUEST,
        Error::NotFound(_) => StatusCode::NOT_FOUND,
        Error::Precondition(_) => StatusCode::PRECONDITION_FAILED,
        Error::Unavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
        Error::Deadline(_) => StatusCode::GATEWAY_TIMEOUT,
        Error::Exhausted(_) => StatusCode::TOO_MANY_REQUESTS,
        Error::DataLoss(_) | Error::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn parse<T: DeserializeOwned>(body: Body) -> Result<T> {
    let body = body.map_err(|rejection| {
        Error::invalid(format!("the request's body cannot be read (at most {MAX_BODY} bytes): {rejection}"))
    })?;
    serde_json::from_slice(&body).map_err(|error| Error::invalid(format!("the request cannot be read: {error}")))
}

fn to_json(answer: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(answer).map_err(|error| Error::Internal(format!("the answer cannot be written: {error}")))
}

fn deadline(headers: &HeaderMap) -> Result<Instant> {
    let Some(timeout) = headers.get(TIMEOUT_HEADER) else { return Ok(Instant::now() + MAX_WAIT) };
    let millis = timeout.to_str().ok().and_then(|millis| millis.parse().ok());
    let millis = millis.ok_or_else(|| Error::invalid(format!("{TIMEOUT_HEADER} takes a number of milliseconds")))?;
    Ok(Instant::now() + Duration::from_millis(millis).min(MAX_WAIT))
}
