//! The standard gRPC health service: SERVING exactly while calls should be sent here.

use std::{sync::Arc, time::Duration};

use tonic_health::{ServingStatus, server::HealthReporter};

use super::service::Service;

/// Names under which the query service is asked for: the whole server, and the service itself.
const SERVICES: [&str; 2] = ["", "bitdex.v1.Query"];
/// How late a change may be reported.
const PERIOD: Duration = Duration::from_millis(20);

/// Reports until the server ends.
pub(super) async fn report(reporter: HealthReporter, service: Arc<Service>) {
    let mut ticks = tokio::time::interval(PERIOD);
    let mut last = None;
    loop {
        ticks.tick().await;
        let unready = service.unready();
        let status = if unready.is_none() { ServingStatus::Serving } else { ServingStatus::NotServing };
        if last == Some(status) {
            continue;
        }
        match unready {
            None => tracing::info!("ready"),
            Some(reason) => tracing::info!(reason, "not ready"),
        }
        for name in SERVICES {
            reporter.set_service_status(name, status).await;
        }
        last = Some(status);
    }
}
