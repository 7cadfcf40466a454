//! The front ends of one process: gRPC, HTTP, health, and the way down.
//!
//! Both listen from the start, so that probes and callers hear why there is no answer yet. On the way down nothing that
//! arrives is turned away until callers had time to learn that this process is going.

mod grpc;
mod health;
mod http;
mod ingest;
mod json;
mod service;
mod socket;
mod telemetry;

use std::{
    future::Future,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use axum::serve::ListenerExt as _;
use bitdex_proto::{
    schema::Schema,
    wire::{DESCRIPTORS, ingest_server::IngestServer, query_server::QueryServer},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::oneshot,
    task::JoinHandle,
};
use tokio_stream::{Stream, wrappers::UnixListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::{
    Code,
    service::Routes,
    transport::{
        Server as GrpcServer,
        server::{Connected, TcpIncoming},
    },
};

use crate::{
    cli::Serve,
    node::{Node, NodeOptions},
};
use grpc::Queries;
use ingest::Writes;
use service::Service;
use socket::Socket;

/// One frame of a stream of ops or rows.
const MAX_INGEST_MESSAGE: usize = 64 << 20;
/// A filter of 100 000 values fits many times.
const MAX_QUERY_MESSAGE: usize = 8 << 20;
/// What one stream, and one connection, may send ahead of what is read.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// A client that answers no ping for this long has gone, and its session ends.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// For so long at most a process reads files before it takes calls.
const WARMING: Duration = Duration::from_millis(100);
/// Time for calls under way to end, once no new ones are taken.
const LAST_CALLS: Duration = Duration::from_secs(10);

/// A process that serves one index.
#[derive(Debug)]
pub struct Server {
    options: NodeOptions,
    lame_duck: Duration,
    service: Arc<Service>,
    node: Option<Arc<Node>>,
    /// Cancelled when no new calls are taken.
    closing: CancellationToken,
    fronts: Vec<(&'static str, JoinHandle<anyhow::Result<()>>)>,
    /// Removed with it.
    _sockets: Vec<Socket>,
}

impl Server {
    /// Listens, and answers that the store is being opened.
    pub async fn bind(schema: Arc<Schema>, options: &Serve) -> anyhow::Result<Self> {
        let metrics = telemetry::install().context("metrics cannot be set up")?;
        let grpc = listen(options.grpc_listen).await?;
        let http = listen(options.http_listen).await?;
        let (grpc_address, http_address) = (grpc.local_addr()?, http.local_addr()?);
        let advertise = options.advertise.clone().unwrap_or_else(|| reachable(grpc_address));
        let mut sockets = Vec::new();
        let mut socket = |path: &Option<PathBuf>| {
            let Some(path) = path else { return Ok::<_, anyhow::Error>(None) };
            let (listener, socket) = socket::listen(path)?;
            sockets.push(socket);
            tracing::info!(path = %path.display(), "listening on a socket");
            Ok(Some(listener))
        };
        let (grpc_socket, http_socket) = (socket(&options.grpc_socket)?, socket(&options.http_socket)?);
        tracing::info!(grpc = %grpc_address, http = %http_address, advertise, "listening");

        let service = Arc::new(Service::new(Arc::clone(&schema), options.max_query_blocks));
        let closing = CancellationToken::new();
        let routes = grpc_routes(&service, &closing)?;
        let grpc = TcpIncoming::from(grpc).with_nodelay(Some(true));
        let http = http.tap_io(|stream| {
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "TCP_NODELAY");
            }
        });
        let router = http::router(Arc::clone(&service), metrics);
        let mut fronts = Vec::new();
        if let Some(listener) = grpc_socket {
            let grpc = serve_grpc(UnixListenerStream::new(listener), routes.clone(), closing.clone());
            fronts.push(("gRPC on its socket", tokio::spawn(grpc)));
        }
        if let Some(listener) = http_socket {
            let http = serve_http(listener, router.clone(), closing.clone());
            fronts.push(("HTTP on its socket", tokio::spawn(http)));
        }
        fronts.push(("gRPC", tokio::spawn(serve_grpc(grpc, routes, closing.clone()))));
        fronts.push(("HTTP", tokio::spawn(serve_http(http, router, closing.clone()))));
        let defaults = NodeOptions::new(schema, &options.data);
        let node = NodeOptions {
            advertise: Some(advertise),
            reader_only: options.reader_only,
            flush: options.flush(),
            build_memory: options.build_memory(),
            build_threads: options.build_threads.map_or(defaults.build_threads, usize::from),
            newest_format: options.newest_format,
            queue_bytes: options.queue_bytes(),
            ..defaults
        };
        let lame_duck = options.lame_duck();
        Ok(Self { options: node, lame_duck, service, node: None, closing, fronts, _sockets: sockets })
    }

    /// Opens the store and serves it until `stop`, whose value it returns. An error means that this process cannot go
    /// on: the store cannot be opened, the node has failed for good, a front end broke.
    pub async fn run_until<T>(&mut self, stop: impl Future<Output = T>) -> anyhow::Result<T> {
        let mut stop = std::pin::pin!(stop);
        let node = tokio::select! {
            node = Node::open(self.options.clone()) => node?,
            reason = &mut stop => return Ok(reason),
        };
        warm(&node).await;
        self.service.opened(Arc::clone(&node));
        let state = node.current();
        tracing::info!(
            role = node.role().as_str(),
            sequence = state.sequence(),
            documents = state.documents(),
            progress = state.readiness().progress,
            "store opened"
        );
        self.node = Some(Arc::clone(&node));
        let ends = self.fronts.iter_mut().map(|(name, front)| Box::pin(async move { front_ended(name, front.await) }));
        tokio::select! {
            reason = stop => Ok(reason),
            problem = node.failed() => Err(anyhow!("{problem}")),
            (error, _, _) = futures::future::select_all(ends) => Err(error),
        }
    }

    /// Hands the index over, goes on answering for the lame-duck time, lets calls under way end.
    pub async fn drain(self) {
        self.service.start_draining();
        if let Some(node) = &self.node {
            node.drain().await;
            tracing::info!("handed over");
        }
        tokio::time::sleep(self.lame_duck).await;
        self.closing.cancel();
        for (name, front) in self.fronts {
            match tokio::time::timeout(LAST_CALLS, front).await {
                Ok(Ok(Ok(()))) => {}
                Ok(ended) => tracing::warn!("{:#}", front_ended(name, ended)),
                Err(_) => tracing::warn!("{name}: calls under way did not end within {} s", LAST_CALLS.as_secs()),
            }
        }
        tracing::info!("ended");
    }
}

async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
}

/// The address under which this machine reaches a listener.
fn reachable(address: SocketAddr) -> String {
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => IpAddr::from([127, 0, 0, 1]),
        IpAddr::V6(_) => IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]),
    };
    SocketAddr::new(ip, address.port()).to_string()
}

/// Reads files that the first queries would read and verify: those come all at once, and would wait for each other.
async fn warm(node: &Arc<Node>) {
    let (done, warmed) = oneshot::channel();
    let reading = std::thread::Builder::new().name("bitdex-warm".into()).spawn({
        let node = Arc::clone(node);
        move || {
            node.warm(WARMING);
            // Nobody waits any more where the process ends meanwhile.
            let _ = done.send(());
        }
    });
    // Without the thread the first queries are slower, no more.
    if reading.is_ok() {
        let _ = warmed.await;
    }
}

fn front_ended(name: &str, ended: Result<anyhow::Result<()>, tokio::task::JoinError>) -> anyhow::Error {
    match ended {
        Ok(Ok(())) => anyhow!("{name} ended by itself"),
        Ok(Err(error)) => error.context(format!("{name} ended")),
        Err(error) => anyhow!("{name} ended: {error}"),
    }
}

fn grpc_routes(service: &Arc<Service>, closing: &CancellationToken) -> anyhow::Result<Routes> {
    let (reporter, health) = tonic_health::server::health_reporter();
    tokio::spawn(closing.clone().run_until_cancelled_owned(health::report(reporter, Arc::clone(service))));
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let queries = Queries { service: Arc::clone(service) };
    let writes = Writes { service: Arc::clone(service) };
    let routes = Routes::new(QueryServer::new(queries).max_decoding_message_size(MAX_QUERY_MESSAGE))
        .add_service(IngestServer::new(writes).max_decoding_message_size(MAX_INGEST_MESSAGE))
        .add_service(health)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?);
    Ok(Routes::from(routes.into_axum_router().layer(axum::middleware::map_response(blame_undecodable))))
}

async fn serve_grpc<I, C>(incoming: I, routes: Routes, closing: CancellationToken) -> anyhow::Result<()>
where
    I: Stream<Item = std::io::Result<C>>,
    C: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let served = GrpcServer::builder()
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming, closing.cancelled_owned())
        .await;
    Ok(served?)
}

/// A request that is no valid message, or is nested too deep to read, is its sender's fault, not the server's.
async fn blame_undecodable(mut response: axum::response::Response) -> axum::response::Response {
    let headers = response.headers_mut();
    let undecodable = headers.get(tonic::Status::GRPC_STATUS).is_some_and(|code| code == "13")
        && headers
            .get(tonic::Status::GRPC_MESSAGE)
            .is_some_and(|message| message.as_bytes().starts_with(b"failed%20to%20decode%20Protobuf"));
    if undecodable {
        headers.insert(tonic::Status::GRPC_STATUS, (Code::InvalidArgument as i32).into());
    }
    response
}

async fn serve_http<L>(listener: L, router: axum::Router, closing: CancellationToken) -> anyhow::Result<()>
where
    L: axum::serve::Listener,
    L::Addr: std::fmt::Debug,
{
    axum::serve(listener, router).with_graceful_shutdown(closing.cancelled_owned()).await.context("the listener failed")
}
