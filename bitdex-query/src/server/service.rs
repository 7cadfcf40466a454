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
    query::{
        Consistency, CountRequest, ExplainRequest, FacetRequest, Fields, FilterForm, GetRequest, SearchRequest,
        SortForm,
    },
    schema::{Origin, Schema},
    token::Token,
    wire,
};
use bytes::Bytes;
use metrics::counter;
use tokio::{sync::Semaphore, time::Instant};

use crate::{
    engine::{self, Counted, Documents, Explained, Facets, Page, Watch, watched},
    node::{Health, Node},
    state::State,
};

/// The longest that a call waits for a version that it demands, whatever its own deadline.
pub(super) const MAX_WAIT: Duration = Duration::from_secs(10);
/// A query that takes longer is begun anew where it holds up no other call, and where it ends with its call. Nearly all
/// take a small part of this, and to hand a thread's other tasks over would cost more than they do.
const AT_ONCE: Duration = Duration::from_millis(10);
/// The session source whose cursor tokens carry.
pub(super) const POSTGRES: &str = "postgres";

/// What every call works on.
#[derive(Debug)]
pub(super) struct Service {
    schema: Arc<Schema>,
    /// Blocks that a query may look at.
    max_blocks: Option<u64>,
    /// Of the queries that take longer, so many run at a time.
    long: Arc<Semaphore>,
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
    pub(super) fn new(schema: Arc<Schema>, max_blocks: Option<u64>) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let long = Arc::new(Semaphore::new(cores));
        Self { schema, max_blocks, long, node: OnceLock::new(), draining: AtomicBool::new(false) }
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

    pub(super) async fn search(
        &self,
        request: SearchRequest<FilterForm, SortForm>,
        deadline: Instant,
    ) -> Result<Answer<Page>> {
        self.check_index(&request.index)?;
        let request = request.resolve(&self.schema)?;
        let node = self.node()?;
        let demanded =
            if request.cursor.is_some() { engine::cursor_sequence(&node.serving(), &request)? } else { None };
        let state = node.wait_for(request.consistency.as_ref(), demanded.unwrap_or_default(), deadline).await?;
        let now_us = clock(request.now_us, request.consistency.as_ref())?;
        let query = move |state: &State| engine::search(state, &request, now_us);
        let page = self.compute(&state, deadline, query).await?;
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

    pub(super) async fn count(&self, request: CountRequest<FilterForm>, deadline: Instant) -> Result<Answer<Counted>> {
        self.check_index(&request.index)?;
        let request = request.resolve(&self.schema)?;
        let state = self.node()?.wait_for(request.consistency.as_ref(), 0, deadline).await?;
        let now_us = clock(request.now_us, request.consistency.as_ref())?;
        let query = move |state: &State| engine::count(state, &request, now_us);
        let value = self.compute(&state, deadline, query).await?;
        Ok(Answer { state, now_us, value })
    }

    pub(super) async fn facet(&self, request: FacetRequest<FilterForm>, deadline: Instant) -> Result<Answer<Facets>> {
        self.check_index(&request.index)?;
        let request = request.resolve(&self.schema)?;
        let state = self.node()?.wait_for(request.consistency.as_ref(), 0, deadline).await?;
        let now_us = clock(request.now_us, request.consistency.as_ref())?;
        let query = move |state: &State| engine::facet(state, &request, now_us);
        let value = self.compute(&state, deadline, query).await?;
        Ok(Answer { state, now_us, value })
    }

    pub(super) async fn explain(
        &self,
        request: ExplainRequest<FilterForm, SortForm>,
        deadline: Instant,
    ) -> Result<Answer<Explained>> {
        self.check_index(request.index())?;
        let request = request.resolve(&self.schema)?;
        let node = self.node()?;
        let demanded = match &request {
            ExplainRequest::Search(search) if search.cursor.is_some() => {
                engine::cursor_sequence(&node.serving(), search)?.unwrap_or_default()
            }
            _ => 0,
        };
        let state = node.wait_for(request.consistency(), demanded, deadline).await?;
        let now_us = clock(request.now_us(), request.consistency())?;
        let query = move |state: &State| engine::explain(state, &request, now_us);
        let value = self.compute(&state, deadline, query).await?;
        Ok(Answer { now_us: value.now_us, value, state })
    }

    /// Runs a query, at most until the deadline, and no longer than its caller waits for it.
    async fn compute<T: Send + 'static>(
        &self,
        state: &Arc<State>,
        deadline: Instant,
        query: impl Fn(&State) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let max_blocks = self.max_blocks;
        let until = Some(deadline.min(Instant::now() + AT_ONCE).into_std());
        let answer = watched(Watch { until, cancelled: None, max_blocks }, || query(state));
        if !matches!(answer, Err(Error::Deadline(_))) || Instant::now() >= deadline {
            return stopped(answer);
        }

        let permit = tokio::time::timeout_at(deadline, Arc::clone(&self.long).acquire_owned()).await;
        let Ok(Ok(permit)) = permit else {
            let message = "the query's time was over before its turn came: too many long queries are running";
            return stopped(Err(Error::Deadline(message.into())));
        };
        let end = EndWithCall(Arc::default());
        let watch = Watch { until: Some(deadline.into_std()), cancelled: Some(Arc::clone(&end.0)), max_blocks };
        let state = Arc::clone(state);
        let long = tokio::task::spawn_blocking(move || {
            let answer = stopped(watched(watch, || query(&state)));
            drop(permit);
            answer
        });
        long.await.unwrap_or_else(|error| Err(Error::Internal(format!("a query ended without an answer: {error}"))))
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
            filters: self
                .schema
                .filters
                .iter()
                .map(|filter| wire::NamedFilter { name: filter.name.clone(), text: filter.text.clone() })
                .collect(),
        })
    }
}

/// Tells a query that its call has ended: the call's future holds it.
struct EndWithCall(Arc<AtomicBool>);

impl Drop for EndWithCall {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Counts a query that ended before its answer.
fn stopped<T>(answer: Result<T>) -> Result<T> {
    match &answer {
        Err(Error::Deadline(_)) => counter!("bitdex_queries_stopped_total", "reason" => "time").increment(1),
        Err(Error::Exhausted(_)) => counter!("bitdex_queries_stopped_total", "reason" => "blocks").increment(1),
        _ => {}
    }
    answer
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use bitdex_proto::ops::Op;

    use super::*;
    use crate::state::tests::{batch, genesis, model, record};

    #[tokio::test(flavor = "multi_thread")]
    async fn a_long_query_ends_with_its_time_and_with_its_call() {
        let schema = Arc::new(model::schema());
        let mut state = State::new(schema.clone());
        state.apply(1, &genesis(&schema)).unwrap();
        let op = Op::Upsert { source: 0, key: 1, row: Some(model::row(vec![None; 7])) };
        state.apply(2, &record(batch(&schema, POSTGRES, "", "a", &[op]))).unwrap();
        let (service, state) = (Arc::new(Service::new(schema, None)), Arc::new(state));

        // Ends only where it is ended.
        let ended = Arc::new(AtomicUsize::new(0));
        let query = {
            let ended = Arc::clone(&ended);
            move |state: &State| -> Result<()> {
                loop {
                    if let Err(error) = engine::count(state, &CountRequest::new("things"), 0) {
                        ended.fetch_add(1, Ordering::Relaxed);
                        return Err(error);
                    }
                }
            }
        };
        let start = Instant::now();
        let error = service.compute(&state, start + Duration::from_millis(50), query.clone()).await.unwrap_err();
        assert!(matches!(&error, Error::Deadline(message) if message.contains("longer than its deadline")), "{error}");
        assert!(start.elapsed() >= Duration::from_millis(50));
        assert_eq!(ended.load(Ordering::Relaxed), 2, "at once, and again as a long one");

        let eventually = async |what: &str, reached: &dyn Fn() -> bool| {
            let start = Instant::now();
            while !reached() {
                assert!(start.elapsed() < Duration::from_secs(30), "waited in vain for: {what}");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let all = service.long.available_permits();
        let call = tokio::spawn({
            let (service, state) = (Arc::clone(&service), Arc::clone(&state));
            async move { service.compute(&state, Instant::now() + Duration::from_secs(3600), query).await }
        });
        eventually("the long query", &|| service.long.available_permits() < all).await;
        assert_eq!(ended.load(Ordering::Relaxed), 3);
        call.abort();
        eventually("its end", &|| ended.load(Ordering::Relaxed) == 4).await;
        eventually("its place", &|| service.long.available_permits() == all).await;

        let cheap = |state: &State| engine::count(state, &CountRequest::new("things"), 0);
        let limited = Service::new(Arc::new(model::schema()), Some(1));
        assert_eq!(limited.compute(&state, Instant::now() + MAX_WAIT, cheap).await.unwrap().count, 1);
        let costly = move |state: &State| (0..1_000).try_for_each(|_| cheap(state).map(|_| ()));
        let error = limited.compute(&state, Instant::now() + MAX_WAIT, costly).await.unwrap_err();
        assert!(matches!(&error, Error::Exhausted(message) if message.contains("--max-query-blocks")), "{error}");
    }
}
