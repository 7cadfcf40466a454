//! Queries, balanced over connections, retried within a deadline.

use std::{
    fmt,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until, timeout_at};
use tonic::{
    Request, Status,
    transport::{Channel, Endpoint},
};

use super::{endpoint, is_unavailable, lazy};
use crate::{
    Error, Result,
    wire::{self, query_client::QueryClient},
};

/// A page of 10 000 hits with long texts.
const MAX_ANSWER: usize = 256 << 20;
const DEFAULT_DEADLINE: Duration = Duration::from_secs(1);
/// So that "another connection" exists also where one address stands for several pods.
const LEAST_CONNECTIONS: usize = 2;
/// How long calls spare a connection that could not be used: so long after the first time, and twice as long each time
/// after that.
const REST_LEAST: Duration = Duration::from_millis(20);
const REST_MOST: Duration = Duration::from_secs(1);

/// Asks any of several servers. Clones share connections and counters.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    deadline: Duration,
}

struct Shared {
    connections: Vec<Connection>,
    next: AtomicUsize,
    retries: AtomicU64,
}

struct Connection {
    endpoint: Endpoint,
    link: Mutex<Link>,
}

struct Link {
    channel: Channel,
    /// Number of times that it was replaced.
    age: u64,
    /// How often in a row it could not be used.
    failures: u32,
    rests_until: Option<Instant>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("connections", &self.shared.connections.len())
            .field("deadline", &self.deadline)
            .finish()
    }
}

impl Client {
    /// A client of the servers at these addresses (`host:port`, or `unix:PATH` for a socket). Connections are made when
    /// calls need them; it must be called within a tokio runtime. Errors: no address, or one that cannot be read.
    pub fn connect(endpoints: Vec<String>) -> Result<Self> {
        if endpoints.is_empty() {
            return Err(Error::invalid("a client needs at least one address of bitdex-query"));
        }
        let endpoints = endpoints.iter().map(|address| endpoint(address)).collect::<Result<Vec<_>>>()?;
        let each = LEAST_CONNECTIONS.div_ceil(endpoints.len());
        let connections = (0..each).flat_map(|_| &endpoints).map(Connection::new).collect();
        let shared = Shared { connections, next: AtomicUsize::new(0), retries: AtomicU64::new(0) };
        Ok(Self { shared: Arc::new(shared), deadline: DEFAULT_DEADLINE })
    }

    /// The same client with another time for each call, retries included (1 s unless set).
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Calls repeated on another connection so far, by all clones together.
    pub fn retries(&self) -> u64 {
        self.shared.retries.load(Ordering::Relaxed)
    }

    pub async fn search(&self, request: impl Into<wire::SearchRequest>) -> Result<wire::SearchResponse> {
        self.call(request.into(), |mut client, request| async move { client.search(request).await }).await
    }

    pub async fn get(&self, request: impl Into<wire::GetRequest>) -> Result<wire::GetResponse> {
        self.call(request.into(), |mut client, request| async move { client.get(request).await }).await
    }

    pub async fn count(&self, request: impl Into<wire::CountRequest>) -> Result<wire::CountResponse> {
        self.call(request.into(), |mut client, request| async move { client.count(request).await }).await
    }

    pub async fn facet(&self, request: impl Into<wire::FacetRequest>) -> Result<wire::FacetResponse> {
        self.call(request.into(), |mut client, request| async move { client.facet(request).await }).await
    }

    /// How a search or a count is answered, and what that takes.
    pub async fn explain(&self, request: impl Into<wire::ExplainRequest>) -> Result<wire::ExplainResponse> {
        self.call(request.into(), |mut client, request| async move { client.explain(request).await }).await
    }

    pub async fn describe(&self, index: impl Into<String>) -> Result<wire::DescribeResponse> {
        let request = wire::DescribeRequest { index: index.into() };
        self.call(request, |mut client, request| async move { client.describe(request).await }).await
    }

    async fn call<M: Clone, R, F>(
        &self,
        message: M,
        method: impl Fn(QueryClient<Channel>, Request<M>) -> F,
    ) -> Result<R>
    where
        F: Future<Output = Result<tonic::Response<R>, Status>>,
    {
        let deadline = Instant::now() + self.deadline;
        let shared = &*self.shared;
        let first = shared.next.fetch_add(1, Ordering::Relaxed);
        let mut backoff = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(5))
            .with_max_delay(Duration::from_millis(100))
            .without_max_times()
            .with_jitter()
            .build();
        let mut last: Option<Status> = None;
        for attempt in 0.. {
            let connection = shared.pick(first.wrapping_add(attempt));
            let (age, channel) = connection.channel();
            let mut request = Request::new(message.clone());
            request.set_timeout(deadline.saturating_duration_since(Instant::now()));
            let client = QueryClient::new(channel).max_decoding_message_size(MAX_ANSWER);
            match timeout_at(deadline, method(client, request)).await {
                Ok(Err(status)) if is_unavailable(&status) => {
                    connection.failed(age);
                    last = Some(status);
                }
                Ok(answer) => {
                    connection.answered(age);
                    return Ok(answer?.into_inner());
                }
                Err(_) => return Err(late(self.deadline, last)),
            }
            // Every connection is tried at once before the first pause.
            if attempt + 1 >= shared.connections.len() {
                let pause = Instant::now() + backoff.next().unwrap_or_default();
                if pause >= deadline {
                    return Err(last.map_or_else(|| late(self.deadline, None), Error::from));
                }
                sleep_until(pause).await;
            }
            shared.retries.fetch_add(1, Ordering::Relaxed);
        }
        Err(late(self.deadline, last))
    }
}

impl Shared {
    /// The n-th connection or, if that one rests, the next one that does not. (All are tried where all rest.)
    fn pick(&self, n: usize) -> &Connection {
        let count = self.connections.len();
        let mut from = (0..count).map(|ahead| &self.connections[n.wrapping_add(ahead) % count]);
        let now = Instant::now();
        from.find(|connection| !connection.rests(now)).unwrap_or(&self.connections[n % count])
    }
}

impl Connection {
    fn new(endpoint: &Endpoint) -> Self {
        let link = Link { channel: lazy(endpoint), age: 0, failures: 0, rests_until: None };
        Self { endpoint: endpoint.clone(), link: Mutex::new(link) }
    }

    fn channel(&self) -> (u64, Channel) {
        let link = self.link.lock();
        (link.age, link.channel.clone())
    }

    fn rests(&self, now: Instant) -> bool {
        self.link.lock().rests_until.is_some_and(|until| until > now)
    }

    fn answered(&self, age: u64) {
        let mut link = self.link.lock();
        if link.age == age {
            (link.failures, link.rests_until) = (0, None);
        }
    }

    /// Leaves the channel to the calls that are on it, and makes a new one for later calls, which a Service's address may
    /// lead to another pod.
    fn failed(&self, age: u64) {
        let mut link = self.link.lock();
        if link.age == age {
            let rest = REST_LEAST.saturating_mul(2_u32.saturating_pow(link.failures)).min(REST_MOST);
            *link = Link {
                channel: lazy(&self.endpoint),
                age: age + 1,
                failures: link.failures.saturating_add(1),
                rests_until: Some(Instant::now() + rest),
            };
        }
    }
}

fn late(deadline: Duration, last: Option<Status>) -> Error {
    let before = last.map(|status| format!("; before that: {}", status.message())).unwrap_or_default();
    Error::Deadline(format!("no answer within {} ms{before}", deadline.as_millis()))
}
