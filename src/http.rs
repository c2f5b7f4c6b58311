//! Health and metrics over HTTP. The port has no authentication, so connections are bounded in number, time and memory.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

use crate::metrics::Metrics;

/// Far more than the kubelet's probes and a few Prometheus servers open together.
const MAX_CONNECTIONS: usize = 64;
/// A probe sends its header at once; 5 s allow for a slow network.
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(5);
/// Prometheus gives up on a scrape after 10 s by default.
const CONNECTION_LIFETIME: Duration = Duration::from_secs(10);
/// Probes and scrapes send fewer than ten headers.
const MAX_HEADERS: usize = 32;
/// The smallest buffer that hyper accepts. A request header that does not fit is answered with 431.
const BUFFER_BYTES: usize = 8 * 1024;
/// Pause after an accept that failed for lack of file descriptors or memory: it would fail again at once.
const ACCEPT_RETRY: Duration = Duration::from_secs(1);

/// Limits for clients of the port. Tests use shorter times.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// Connections at once. One more closes the oldest, so that a probe still gets an answer during a flood.
    connections: usize,
    /// Time for the whole request header to arrive.
    header_read: Duration,
    /// Time from accepting a connection to closing it.
    lifetime: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: MAX_CONNECTIONS, header_read: HEADER_READ_TIMEOUT, lifetime: CONNECTION_LIFETIME }
    }
}

/// Returns the replicas that serve as JSON, or None while they are not known.
pub type Discovery = Arc<dyn Fn() -> Option<String> + Send + Sync>;

/// The format of the metrics, which Prometheus learns from the answer.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Serves /healthz, /readyz, /metrics and /http_sd until the returned set is dropped. A replica of the operator is ready when
/// it could lead.
pub async fn serve(
    listen: Option<SocketAddr>,
    ready: Arc<AtomicBool>,
    metrics: Metrics,
    discovery: Discovery,
) -> std::io::Result<JoinSet<()>> {
    let mut tasks = JoinSet::new();
    let Some(address) = listen else { return Ok(tasks) };
    let listener = TcpListener::bind(address).await?;
    tasks.spawn(accept(listener, router(ready, metrics, discovery), Limits::default()));
    Ok(tasks)
}

fn router(ready: Arc<AtomicBool>, metrics: Metrics, discovery: Discovery) -> Router {
    let ready = move || {
        let ready = ready.load(Ordering::Relaxed);
        async move { if ready { (StatusCode::OK, "ok") } else { (StatusCode::SERVICE_UNAVAILABLE, "cannot list every kind") } }
    };
    Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(move || async move { ([(CONTENT_TYPE, OPEN_METRICS)], metrics.text()) }))
        .route("/http_sd", get(move || async move { targets(discovery()) }))
}

/// An empty list would remove every target from Prometheus, so a replica that does not know them answers with an error.
fn targets(known: Option<String>) -> Response {
    match known {
        Some(targets) => ([(CONTENT_TYPE, "application/json")], targets).into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, "this replica does not lead, or has not listed every kind yet").into_response(),
    }
}

async fn accept(listener: TcpListener, router: Router, limits: Limits) {
    let mut connections = Connections::default();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                connections.shrink_below(limits.connections).await;
                connections.add(serve_connection(stream, router.clone(), limits));
            }
            Err(error) if is_client_abort(error.kind()) => {}
            Err(error) => {
                tracing::warn!("the health port cannot accept a connection: {error}");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

/// Returns true when the client closed its connection before it was accepted.
fn is_client_abort(error: ErrorKind) -> bool {
    matches!(error, ErrorKind::ConnectionAborted | ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset)
}

/// The open connections; dropping them closes them.
#[derive(Default)]
struct Connections {
    tasks: JoinSet<()>,
    oldest_first: VecDeque<AbortHandle>,
}

impl Connections {
    /// Closes the oldest connections until fewer than `limit` are open. Waiting for their end also lets the tasks of younger
    /// connections run, even on a single worker thread: a probe in the queue is answered before a flood can push it out.
    async fn shrink_below(&mut self, limit: usize) {
        while self.tasks.try_join_next().is_some() {}
        self.oldest_first.retain(|connection| !connection.is_finished());
        while self.tasks.len() >= limit {
            if let Some(oldest) = self.oldest_first.pop_front() {
                oldest.abort();
            }
            self.tasks.join_next().await;
        }
    }

    fn add(&mut self, connection: impl Future<Output = ()> + Send + 'static) {
        self.oldest_first.push_back(self.tasks.spawn(connection));
    }
}

/// Answers one request. Its body is never read: no route takes one, and hyper reads a body only on demand.
async fn serve_connection(stream: TcpStream, router: Router, limits: Limits) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_read)
        .keep_alive(false)
        .max_headers(MAX_HEADERS)
        .max_buf_size(BUFFER_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    match tokio::time::timeout(limits.lifetime, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!("a connection to the health port failed: {error}"),
        Err(_) => tracing::debug!("a connection to the health port was closed after {:?}", limits.lifetime),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Never reached in a test.
    const HOUR: Duration = Duration::from_secs(3600);
    /// Bounds every wait, so that a failing test ends.
    const PATIENCE: Duration = Duration::from_secs(20);

    async fn start(limits: Limits) -> (SocketAddr, JoinSet<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, router(Arc::default(), Metrics::default(), Arc::new(|| None)), limits));
        (address, tasks)
    }

    async fn connect(address: SocketAddr) -> TcpStream {
        TcpStream::connect(address).await.expect("a connection")
    }

    /// Everything the server sends until it closes the connection.
    async fn until_closed(stream: &mut TcpStream) -> String {
        let mut answer = vec![];
        // A reset closes a connection, too.
        _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the server closes the connection");
        String::from_utf8(answer).expect("text")
    }

    async fn send(stream: &mut TcpStream, request: &str) -> String {
        stream.write_all(request.as_bytes()).await.expect("the connection is open");
        until_closed(stream).await
    }

    async fn get(address: SocketAddr, path: &str) -> String {
        send(&mut connect(address).await, &format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n")).await
    }

    #[tokio::test]
    async fn a_flood_of_idle_connections_closes_the_oldest_and_probes_still_get_an_answer() {
        let (address, _server) = start(Limits { header_read: HOUR, lifetime: HOUR, ..Limits::default() }).await;
        let mut idle = vec![];
        for _ in 0..300 {
            idle.push(connect(address).await);
        }
        for path in ["/healthz", "/metrics"] {
            let answer = get(address, path).await;
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{path}: {answer}");
        }
        // The first probe closed one more.
        let mut youngest = idle.split_off(300 - (MAX_CONNECTIONS - 1));
        for connection in &mut idle {
            assert_eq!(until_closed(connection).await, "", "an old connection gets no answer");
        }
        for connection in &mut youngest {
            let answer = send(connection, "GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n").await;
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "a young connection is still open: {answer}");
        }
    }

    #[tokio::test]
    async fn a_connection_that_never_completes_its_header_is_closed() {
        let (address, _server) =
            start(Limits { header_read: Duration::from_millis(50), lifetime: HOUR, ..Limits::default() }).await;
        assert_eq!(until_closed(&mut connect(address).await).await, "", "it sent nothing");
        send(&mut connect(address).await, "GET /healthz HTTP/1.1\r\nHost: ").await;
    }

    #[tokio::test]
    async fn a_connection_is_closed_when_its_lifetime_ends() {
        let (address, _server) =
            start(Limits { header_read: HOUR, lifetime: Duration::from_millis(50), ..Limits::default() }).await;
        assert_eq!(until_closed(&mut connect(address).await).await, "");
    }

    #[tokio::test]
    async fn a_request_is_answered_without_reading_its_body() {
        let (address, _server) = start(Limits { header_read: HOUR, lifetime: HOUR, ..Limits::default() }).await;
        let answer =
            send(&mut connect(address).await, "GET /healthz HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nok"), "{answer}");
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 503 "), "no kind has been listed");
    }

    #[tokio::test]
    async fn a_header_beyond_the_limits_is_refused() {
        let (address, _server) = start(Limits { header_read: HOUR, lifetime: HOUR, ..Limits::default() }).await;
        let many = "A: b\r\n".repeat(MAX_HEADERS + 1);
        let large = format!("A: {}\r\n", "b".repeat(BUFFER_BYTES));
        for headers in [many, large] {
            let answer = send(&mut connect(address).await, &format!("GET /healthz HTTP/1.1\r\n{headers}\r\n")).await;
            assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
        }
    }
}
