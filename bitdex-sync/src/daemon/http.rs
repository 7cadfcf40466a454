//! The daemon's HTTP: /metrics, /healthz, /readyz, /status.

use std::net::SocketAddr;

use anyhow::Context as _;
use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::health::Health;

#[derive(Debug, Clone)]
struct Shared {
    index: String,
    definition_hash: String,
    health: Health,
    metrics: Option<PrometheusHandle>,
}

/// Binds, and serves until `stop`. Gives the address, which may have been asked for with port 0.
pub(super) async fn serve(
    listen: SocketAddr,
    index: &str,
    definition_hash: &str,
    health: Health,
    metrics: Option<PrometheusHandle>,
    stop: CancellationToken,
) -> anyhow::Result<(SocketAddr, tokio::task::JoinHandle<()>)> {
    let listener = tokio::net::TcpListener::bind(listen).await.with_context(|| format!("--http-listen {listen}"))?;
    let address = listener.local_addr()?;
    let shared = Shared { index: index.into(), definition_hash: definition_hash.into(), health, metrics };
    let router = Router::new()
        .route("/metrics", get(metrics_text))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/status", get(status))
        .with_state(shared);
    let task = tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await {
            tracing::error!(%error, "the HTTP server has stopped");
        }
    });
    Ok((address, task))
}

async fn metrics_text(State(shared): State<Shared>) -> Response {
    let text = shared.metrics.map(|handle| handle.render()).unwrap_or_default();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

async fn healthz(State(shared): State<Shared>) -> Response {
    answer(&shared.health.complaints())
}

async fn readyz(State(shared): State<Shared>) -> Response {
    let mut complaints = shared.health.complaints();
    if complaints.is_empty() && !shared.health.is_ready() {
        complaints.extend(shared.health.status().iter().map(|(name, part)| format!("{name}: {:?}", part.phase)));
    }
    answer(&complaints)
}

fn answer(complaints: &[String]) -> Response {
    if complaints.is_empty() {
        (StatusCode::OK, "ok\n".to_owned()).into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, complaints.join("\n") + "\n").into_response()
    }
}

async fn status(State(shared): State<Shared>) -> Response {
    Json(json!({
        "index": shared.index,
        "definition_hash": shared.definition_hash,
        "healthy": shared.health.complaints().is_empty(),
        "ready": shared.health.is_ready(),
        "parts": shared.health.status(),
    }))
    .into_response()
}
