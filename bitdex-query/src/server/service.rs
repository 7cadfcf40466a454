//! The query calls on domain types: what gRPC and HTTP both serve.
//!
//! Each call fixes one version of the state and answers from that alone.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bitdex_proto::{
    Error, Result,
    query::{Consistency, CountRequest, Fields, GetRequest, SearchRequest},
    schema::{Origin, Schema},
    token::Token,
    wire,
};
use bytes::Bytes;
use tokio::time::Instant;

use crate::{
    engine::{self, Documents, Page},
    node::{Health, Node},
    state::State,
};

/// The longest that a call waits for a version that it demands, whatever its own deadline.
pub(super) const MAX_WAIT: Duration = Duration::from_secs(10);
/// From here on a query may take long enough that its thread's other tasks must not wait for it.
const LARGE_INDEX: u64 = 100_000;
/// The session source whose cursor tokens carry.
pub(super) const POSTGRES: &str = "postgres";

/// What every call works on.
#[derive(Debug)]
pub(super) struct Service {
    schema: Arc<Schema>,
    /// Empty while the store is being opened.
    node: OnceLock<Arc<Node>>,
    draining: AtomicBool,
}

/// An answer, and the version and clock that it is true for.
#[derive(Debug)]
pub(super) struct Answer<T> {
    pub(super) state: Arc<State>,
    pub(super) now_us: i64,
    pub(super) value: T,
}

impl<T> Answer<T> {
    pub(super) fn info(&self) -> wire::AnswerInfo {
        wire::AnswerInfo {
            token: token(&self.state, self.now_us),
            sequence: self.state.sequence(),
            now_us: self.now_us,
            catching_up: self.state.catching_up(),
        }
    }
}

impl Service {
    pub(super) fn new(schema: Arc<Schema>) -> Self {
        Self { schema, node: OnceLock::new(), draining: AtomicBool::new(false) }
    }

    pub(super) fn schema(&self) -> &Schema {
        &self.schema
    }

    /// The store is open: calls may come.
    pub(super) fn opened(&self, node: Arc<Node>) {
        // Only the one task that opens the store calls this, once.
        let _ = self.node.set(node);
    }

    pub(super) fn node(&self) -> Result<&Arc<Node>> {
        self.node.get().ok_or_else(|| Error::unavailable("the store is being opened"))
    }

    /// From now on this process asks not to be sent new calls, which it still answers.
    pub(super) fn start_draining(&self) {
        self.draining.store(true, Ordering::Release);
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Why calls should not be sent here now; `None` where they should.
    pub(super) fn unready(&self) -> Option<String> {
        if self.is_draining() {
            return Some("draining".into());
        }
        let node = match self.node() {
            Ok(node) => node,
            Err(error) => return Some(error.to_string()),
        };
        if node.serving().readiness().ready { self.dead() } else { Some(node.current().readiness().progress) }
    }

    /// Why this process should be restarted; one that is opening its store or loading is alive.
    pub(super) fn dead(&self) -> Option<String> {
        let Health { problem, stale, fatal, .. } = self.node.get()?.health();
        // What hinders only writing (a full disk) does not go away by a restart, and queries are well.
        problem.filter(|_| fatal || stale)
    }

    /// What does not work in this process, be it as little as writing.
    pub(super) fn problem(&self) -> Option<String> {
        self.node.get().and_then(|node| node.health().problem)
    }

    pub(super) fn check_index(&self, index: &str) -> Result<()> {
        if index == self.schema.index {
            return Ok(());
        }
        Err(Error::NotFound(format!("index {index:?} is not here: this process serves {:?}", self.schema.index)))
    }

    pub(super) async fn search(&self, request: SearchRequest, deadline: Instant) -> Result<Answer<Page>> {
        self.check_index(&request.index)?;
        request.validate()?;
        let node = self.node()?;
        let demanded =
            if request.cursor.is_some() { engine::cursor_sequence(&node.serving(), &request)? } else { None };
        let state = node.wait_for(request.consistency.as_ref(), demanded.unwrap_or_default(), deadline).await?;
        let now_us = clock(request.now_us, request.consistency.as_ref())?;
        let page = compute(&state, || engine::search(&state, &request, now_us))?;
        Ok(Answer { now_us: page.now_us, value: page, state })
    }

    pub(super) async fn get(&self, mut request: GetRequest, deadline: Instant) -> Result<Answer<Documents>> {
        self.check_index(&request.index)?;
        request.validate()?;
        // Who asks for documents wants to see them; only lists default to ids alone.
        if request.fields == Fields::None {
            request.fields = Fields::All;
        }
        let state = self.node()?.wait_for(request.consistency.as_ref(), 0, deadline).await?;
        let now_us = clock(request.now_us, request.consistency.as_ref())?;
        let value = engine::get(&state, &request, now_us)?;
        Ok(Answer { state, now_us, value })
    }

    pub(super) async fn count(&self, request: CountRequest, deadline: Instant) -> Result<Answer<u64>> {
        self.check_index(&request.index)?;
        request.validate()?;
        let state = self.node()?.wait_for(request.consistency.as_ref(), 0, deadline).await?;
        let now_us = clock(request.now_us, request.consistency.as_ref())?;
        let value = compute(&state, || engine::count(&state, &request, now_us))?;
        Ok(Answer { state, now_us, value })
    }

    /// What the index holds, also while it is not ready.
    pub(super) fn describe(&self) -> Result<wire::DescribeResponse> {
        let node = self.node()?;
        let state = node.current();
        let readiness = state.readiness();
        let cursors =
            state.cursors().into_iter().map(|(source, cursor)| wire::SourceCursor { source, cursor }).collect();
        let answer = Answer { now_us: system_clock(), value: (), state };
        Ok(wire::DescribeResponse {
            index: self.schema.index.clone(),
            definition_hash: self.schema.hash.clone(),
            fields: describe_fields(&self.schema),
            store: answer.state.store().into(),
            generation: answer.state.generation(),
            epoch: node.epoch(),
            sequence: answer.state.sequence(),
            documents: answer.state.documents(),
            role: node.role().as_str().into(),
            writer: node.writer_address().unwrap_or_default(),
            ready: readiness.ready,
            progress: readiness.progress,
            cursors,
            state_hash: format!("{:032x}", answer.state.hash()),
            info: Some(answer.info()),
        })
    }
}

/// Runs a query where it does not hold up other calls.
fn compute<T>(state: &State, query: impl FnOnce() -> T) -> T {
    if state.documents() >= LARGE_INDEX { tokio::task::block_in_place(query) } else { query() }
}

/// The clock of an answer: the request's own, else this machine's, never behind that of a token that it demands.
fn clock(requested: Option<i64>, consistency: Option<&Consistency>) -> Result<i64> {
    match (requested, consistency) {
        (Some(now_us), _) => Ok(now_us),
        (None, Some(Consistency::Token(token))) => Ok(system_clock().max(Token::from_bytes(&token.0)?.now_us)),
        (None, _) => Ok(system_clock()),
    }
}

pub(super) fn system_clock() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

fn token(state: &State, now_us: i64) -> Bytes {
    Token {
        store: state.store().into(),
        generation: state.generation(),
        sequence: state.sequence(),
        postgres_cursor: state.cursor(POSTGRES),
        now_us,
    }
    .to_bytes()
}

fn describe_fields(schema: &Schema) -> Vec<wire::FieldDescription> {
    let name = |source: usize| &schema.sources[source].name;
    let origin = |origin: &Origin| match origin {
        Origin::Key | Origin::Document { .. } => "document".into(),
        Origin::Lookup { path, .. } => {
            format!("lookup {}", name(path.hops.last().map_or(path.first, |hop| hop.source)))
        }
        Origin::Members { .. } | Origin::Through { .. } => "members".into(),
        Origin::Derived { .. } => "derived".into(),
        Origin::Metric { source, .. } => format!("metrics {}", name(*source)),
        Origin::External => "external".into(),
    };
    schema
        .fields
        .iter()
        .map(|field| wire::FieldDescription {
            name: field.name.clone(),
            r#type: field.ty.to_string(),
            many: field.many,
            filter: field.filter,
            sort: field.sort,
            origin: origin(&field.origin),
        })
        .collect()
}
