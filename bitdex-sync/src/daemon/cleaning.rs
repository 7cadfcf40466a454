//! Deletes old ops now and then. Failing to is reported, but harms nobody for a while.

use tokio_util::sync::CancellationToken;

use super::health::{Phase, Reporter};
use crate::{
    capture::{Cleaned, Cleanup},
    postgres::{Database, Purpose},
};

pub(super) async fn run(database: Database, cleanup: Cleanup, reporter: Reporter, stop: CancellationToken) {
    // Between rounds there is nothing to say, so silence is no sign of trouble.
    reporter.phase(Phase::Standby);
    loop {
        let round = async {
            let mut connection = database.connect(Purpose::Admin).await?;
            cleanup.round(&mut connection).await
        };
        let outcome = tokio::select! {
            outcome = round => outcome,
            () = stop.cancelled() => break,
        };
        match outcome {
            Ok(Cleaned { ops, external_ops }) => {
                metrics::counter!("bitdex_sync_cleaned_ops_total").increment(ops + external_ops);
                reporter.succeeded();
            }
            Err(error) => {
                reporter.failed(format!("{error:#}"));
                tracing::warn!(error = format!("{error:#}"), "old ops were not deleted");
            }
        }
        tokio::select! {
            () = tokio::time::sleep(cleanup.period()) => {}
            () = stop.cancelled() => break,
        }
    }
    reporter.phase(Phase::Stopped);
}
