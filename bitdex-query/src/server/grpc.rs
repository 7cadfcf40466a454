//! The gRPC front end of the query calls: wire → domain → [`Service`] → wire.

use std::{sync::Arc, time::Duration};

use bitdex_proto::{
    query::GetRequest,
    schema::{FieldId, Schema},
    value::{FieldValue, Value},
    wire::{self, query_server},
};
use tokio::time::Instant;
use tonic::{Request, Response, Status, metadata::MetadataMap};

use super::{
    service::{MAX_WAIT, Service},
    telemetry::observe,
};
use crate::engine::{Counted, Explained, ExplainedRun, ExplainedStep, FacetValues};

/// The share of a call's time that is left for the answer's way back.
const WAY_BACK: u32 = 10;

#[derive(Debug)]
pub(super) struct Queries {
    pub(super) service: Arc<Service>,
}

#[tonic::async_trait]
impl query_server::Query for Queries {
    async fn search(&self, request: Request<wire::SearchRequest>) -> Result<Response<wire::SearchResponse>, Status> {
        observe("Search", "grpc", async {
            let deadline = deadline(request.metadata());
            let answer = self.service.search(request.into_inner().try_into()?, deadline).await?;
            let info = Some(answer.info());
            let schema = self.service.schema();
            let page = answer.value;
            Ok(wire::SearchResponse {
                hits: hits(schema, &page.ids, &page.fields, &page.rows),
                fields: names(schema, &page.fields),
                next_cursor: page.next_cursor.unwrap_or_default(),
                count: page.count.map(|counted| counted.count),
                count_is_lower_bound: page.count.is_some_and(|counted| counted.is_lower_bound),
                info,
            })
        })
        .await
        .map(Response::new)
        .map_err(Status::from)
    }

    async fn get(&self, request: Request<wire::GetRequest>) -> Result<Response<wire::GetResponse>, Status> {
        observe("Get", "grpc", async {
            let deadline = deadline(request.metadata());
            let request = GetRequest::try_from(request.into_inner())?;
            let answer = self.service.get(request, deadline).await?;
            let info = Some(answer.info());
            let schema = self.service.schema();
            let documents = answer.value;
            Ok(wire::GetResponse {
                documents: hits(schema, &documents.ids, &documents.fields, &documents.rows),
                fields: names(schema, &documents.fields),
                info,
            })
        })
        .await
        .map(Response::new)
        .map_err(Status::from)
    }

    async fn count(&self, request: Request<wire::CountRequest>) -> Result<Response<wire::CountResponse>, Status> {
        observe("Count", "grpc", async {
            let deadline = deadline(request.metadata());
            let answer = self.service.count(request.into_inner().try_into()?, deadline).await?;
            let Counted { count, is_lower_bound } = answer.value;
            Ok(wire::CountResponse { count, is_lower_bound, info: Some(answer.info()) })
        })
        .await
        .map(Response::new)
        .map_err(Status::from)
    }

    async fn facet(&self, request: Request<wire::FacetRequest>) -> Result<Response<wire::FacetResponse>, Status> {
        observe("Facet", "grpc", async {
            let deadline = deadline(request.metadata());
            let answer = self.service.facet(request.into_inner().try_into()?, deadline).await?;
            let info = Some(answer.info());
            let schema = self.service.schema();
            let facets = answer.value.facets.into_iter().map(|facet| facet_result(schema, facet)).collect();
            Ok(wire::FacetResponse { facets, count: answer.value.count, info })
        })
        .await
        .map(Response::new)
        .map_err(Status::from)
    }

    async fn explain(&self, request: Request<wire::ExplainRequest>) -> Result<Response<wire::ExplainResponse>, Status> {
        observe("Explain", "grpc", async {
            let deadline = deadline(request.metadata());
            let answer = self.service.explain(request.into_inner().try_into()?, deadline).await?;
            let info = Some(answer.info());
            let Explained { total_us, rows, count, count_is_lower_bound, runs, more_runs, text, .. } = answer.value;
            let runs = runs.into_iter().map(explained_run).collect();
            Ok(wire::ExplainResponse { text, total_us, rows, count, runs, more_runs, info, count_is_lower_bound })
        })
        .await
        .map(Response::new)
        .map_err(Status::from)
    }

    async fn describe(
        &self,
        request: Request<wire::DescribeRequest>,
    ) -> Result<Response<wire::DescribeResponse>, Status> {
        observe("Describe", "grpc", async {
            self.service.check_index(&request.get_ref().index)?;
            self.service.describe()
        })
        .await
        .map(Response::new)
        .map_err(Status::from)
    }
}

/// Until when a call may wait: its `grpc-timeout`, less the answer's way back, and at most [`MAX_WAIT`].
fn deadline(metadata: &MetadataMap) -> Instant {
    let timeout = metadata.get("grpc-timeout").and_then(|timeout| timeout.to_str().ok()).and_then(parse_timeout);
    Instant::now() + timeout.map_or(MAX_WAIT, |timeout| (timeout - timeout / WAY_BACK).min(MAX_WAIT))
}

/// At most eight digits and a unit, as the gRPC protocol says.
fn parse_timeout(text: &str) -> Option<Duration> {
    let unit = text.chars().last()?;
    let number: u64 = text[..text.len() - unit.len_utf8()].parse().ok()?;
    Some(match unit {
        'H' => Duration::from_secs(number.checked_mul(3600)?),
        'M' => Duration::from_secs(number.checked_mul(60)?),
        'S' => Duration::from_secs(number),
        'm' => Duration::from_millis(number),
        'u' => Duration::from_micros(number),
        'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

fn facet_result(schema: &Schema, facet: FacetValues) -> wire::FacetResult {
    let field = &schema.fields[facet.field];
    let value = |(value, count): (Value, u64)| wire::FacetValue { value: Some(value.to_wire(field.ty)), count };
    wire::FacetResult {
        field: field.name.clone(),
        values: facet.values.into_iter().map(value).collect(),
        nulls: facet.nulls,
    }
}

fn explained_run(run: ExplainedRun) -> wire::ExplainedRun {
    let considered = run.considered.into_iter();
    wire::ExplainedRun {
        plan: run.plan,
        considered: considered
            .map(|it| wire::ConsideredPlan { plan: it.plan, estimated_us: it.estimated_us })
            .collect(),
        estimated_matches: run.estimated_matches,
        blocks: run.blocks,
        candidate_blocks: run.candidate_blocks,
        evaluated_blocks: run.evaluated_blocks,
        walked: run.walked,
        hidden: run.hidden.unwrap_or_default(),
        rows: run.rows,
        planning_us: run.planning_us,
        run_us: run.run_us,
        steps: run.steps.into_iter().map(explained_step).collect(),
    }
}

fn explained_step(step: ExplainedStep) -> wire::ExplainedStep {
    wire::ExplainedStep {
        what: step.what,
        how: step.how.into(),
        excludes: step.excludes,
        estimated_rows: step.estimated_rows,
        blocks: step.blocks,
        rows_in: step.rows_in,
        rows: step.rows,
        tested: step.tested,
        passed: step.passed,
        time_us: step.time_us,
        parts: step.parts.into_iter().map(explained_step).collect(),
    }
}

fn names(schema: &Schema, fields: &[FieldId]) -> Vec<String> {
    fields.iter().map(|field| schema.fields[*field].name.clone()).collect()
}

fn hits(schema: &Schema, ids: &[u32], fields: &[FieldId], rows: &[Vec<FieldValue>]) -> Vec<wire::Hit> {
    let values = |row: &Vec<FieldValue>| {
        fields.iter().zip(row).map(|(field, value)| value.to_wire(schema.fields[*field].ty)).collect()
    };
    ids.iter()
        .enumerate()
        .map(|(i, id)| wire::Hit { id: *id, values: rows.get(i).map(values).unwrap_or_default() })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_grpc_timeouts() {
        for (text, timeout) in [
            ("1S", Some(Duration::from_secs(1))),
            ("250m", Some(Duration::from_millis(250))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("7u", Some(Duration::from_micros(7))),
            ("", None),
            ("5", None),
            ("-1S", None),
            ("1é", None),
        ] {
            assert_eq!(parse_timeout(text), timeout, "{text}");
        }
    }
}
