//! Metrics of the front ends, and their Prometheus text.

use std::{future::Future, time::Duration};

use bitdex_proto::{Error, Result};
use metrics::{counter, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::time::Instant;

use super::service::Service;
use crate::{
    node::Role,
    segment::{cells, orders},
};

/// How often observations are folded into their histograms where nobody scrapes.
const UPKEEP: Duration = Duration::from_secs(5);

/// From 50 µs to 10 s.
const SECONDS: [f64; 17] =
    [0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];

/// Of records that became durable together.
const RECORDS: [f64; 11] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 1024.0, 4096.0];

/// Installs the process's recorder. Call it once, within a tokio runtime.
pub(super) fn install() -> Result<PrometheusHandle, BuildError> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("_records".into()), &RECORDS)?
        .install_recorder()?;
    let upkeep = handle.clone();
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(UPKEEP);
        loop {
            ticks.tick().await;
            upkeep.run_upkeep();
        }
    });
    Ok(handle)
}

/// Runs a call, and counts it by method, front end and code, with its time.
pub(super) async fn observe<T>(
    method: &'static str,
    front: &'static str,
    call: impl Future<Output = Result<T>>,
) -> Result<T> {
    let start = Instant::now();
    let result = call.await;
    let code = result.as_ref().map_or_else(code_name, |_| "ok");
    counter!("bitdex_requests_total", "method" => method, "front" => front, "code" => code).increment(1);
    histogram!("bitdex_request_seconds", "method" => method, "front" => front).record(start.elapsed().as_secs_f64());
    if let Err(error) = &result {
        count_error(error);
    }
    result
}

/// Counts an error, and logs those that are the server's own fault.
pub(super) fn count_error(error: &Error) {
    counter!("bitdex_errors_total", "code" => code_name(error)).increment(1);
    if matches!(error, Error::Internal(_) | Error::DataLoss(_)) {
        tracing::error!(code = code_name(error), %error, "a call failed");
    }
}

/// The code's name in metrics, logs and JSON.
pub(super) fn code_name(error: &Error) -> &'static str {
    match error {
        Error::Invalid(_) => "invalid_argument",
        Error::NotFound(_) => "not_found",
        Error::Precondition(_) => "failed_precondition",
        Error::Unavailable { .. } => "unavailable",
        Error::Deadline(_) => "deadline_exceeded",
        Error::Exhausted(_) => "resource_exhausted",
        Error::DataLoss(_) => "data_loss",
        Error::Internal(_) => "internal",
    }
}

/// The text of `/metrics`.
pub(super) fn render(handle: &PrometheusHandle, service: &Service) -> String {
    let flag = |flag: bool| f64::from(u8::from(flag));
    gauge!("bitdex_ready").set(flag(service.unready().is_none()));
    gauge!("bitdex_healthy").set(flag(service.problem().is_none()));
    if let Ok(node) = service.node() {
        let state = node.current();
        gauge!("bitdex_writer").set(flag(node.role() == Role::Writer));
        gauge!("bitdex_epoch").set(node.epoch() as f64);
        gauge!("bitdex_generation").set(state.generation() as f64);
        gauge!("bitdex_sequence").set(state.sequence() as f64);
        gauge!("bitdex_documents").set(state.documents() as f64);
        gauge!("bitdex_catching_up").set(flag(state.catching_up()));
        gauge!("bitdex_cell_bytes").set(cells::held() as f64);
        gauge!("bitdex_order_bytes").set(orders::held() as f64);
        gauge!("bitdex_named_filter_bytes").set(state.files().filter_sets().bytes() as f64);
        if let Some(bytes) = node.pinned_bytes() {
            gauge!("bitdex_pinned_bytes").set(bytes as f64);
        }
    }
    handle.render()
}
