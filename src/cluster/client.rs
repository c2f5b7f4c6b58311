//! Builds the clients for the API server: one for all work, one for the lease alone.

use std::net::IpAddr;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Method, Request, Response, StatusCode};
use kube::client::ClientBuilder;
use kube::config::KubeConfigOptions;
use kube::{Client, Config};
use tower::Service;
use tower::layer::layer_fn;
use tower::util::MapRequestLayer;

use crate::metrics::{Code, Metrics, Verb};

/// Returns a client whose requests time out, are counted, and are not retried by the library.
pub fn client(mut config: Config, request: Duration, metrics: Metrics) -> kube::Result<Client> {
    config.default_retry = false;
    config.connect_timeout = Some(request);
    config.write_timeout = Some(request);
    // A watch may be silent for minutes. Writes have a deadline of their own.
    config.read_timeout = Some(WATCH_READ);
    let builder = ClientBuilder::try_from(config)?.with_layer(&MapRequestLayer::new(mark_write));
    Ok(builder.with_layer(&layer_fn(|inner| Counted { inner, metrics: metrics.clone() })).build())
}

/// Names our field manager, and turns off the API server's check for unknown fields: our writes come from the types of
/// `api`.
fn mark_write<B>(mut request: http::Request<B>) -> http::Request<B> {
    if matches!(*request.method(), Method::POST | Method::PUT | Method::PATCH) {
        let path = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
        let separator = if path.contains('?') { '&' } else { '?' };
        let marked = format!("{path}{separator}fieldManager=sokovan&fieldValidation=Ignore");
        if let Ok(uri) = marked.parse() {
            *request.uri_mut() = uri;
        }
    }
    request
}

/// Counts requests by what they do and how they were answered.
#[derive(Clone)]
struct Counted<S> {
    inner: S,
    metrics: Metrics,
}

/// A request on its way. Dropping it counts it, so that one that is given up counts, too.
struct Sent {
    metrics: Metrics,
    verb: Verb,
    code: Code,
}

impl Sent {
    fn answered(&mut self, status: Option<StatusCode>) {
        self.code = Code(status.map(|status| status.as_u16()));
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        self.metrics.requested(self.verb, self.code);
    }
}

impl<S, B, R> Service<Request<B>> for Counted<S>
where
    S: Service<Request<B>, Response = Response<R>, Future: Send + 'static>,
    S::Error: Send,
    R: Send,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let mut sent = Sent { metrics: self.metrics.clone(), verb: verb(&request), code: Code(None) };
        let answer = self.inner.call(request);
        async move {
            let answer = answer.await;
            sent.answered(answer.as_ref().ok().map(Response::status));
            answer
        }
        .boxed()
    }
}

fn verb<B>(request: &Request<B>) -> Verb {
    match *request.method() {
        Method::POST => Verb::Create,
        Method::PUT => Verb::Update,
        Method::PATCH => Verb::Patch,
        Method::DELETE => Verb::Delete,
        _ if request.uri().query().is_some_and(|query| query.contains("watch=true")) => Verb::Watch,
        _ => Verb::Read,
    }
}

/// A watch that sends nothing for this long, not even a bookmark, is dead.
const WATCH_READ: Duration = Duration::from_secs(300);

/// Returns the operator's own DNS server, if it runs in a pod.
pub fn own_dns_server() -> Option<IpAddr> {
    std::env::var_os("KUBERNETES_SERVICE_HOST")?;
    first_server(&std::fs::read_to_string("/etc/resolv.conf").ok()?)
}

fn first_server(resolv_conf: &str) -> Option<IpAddr> {
    resolv_conf.lines().find_map(|line| line.trim().strip_prefix("nameserver")?.trim().parse().ok())
}

/// Returns the configuration of the pod's service account, or of the kubeconfig outside a cluster.
pub async fn config() -> anyhow::Result<Config> {
    match Config::incluster() {
        Ok(config) => Ok(config),
        Err(_) => Ok(Config::from_kubeconfig(&KubeConfigOptions::default()).await?),
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    #[tokio::test]
    async fn a_request_is_counted_once_it_is_answered_or_given_up() {
        let metrics = Metrics::default();
        let answering = tower::service_fn(async |_: Request<()>| Ok::<_, Infallible>(Response::new(())));
        let silent = tower::service_fn(async |_: Request<()>| std::future::pending::<Result<Response<()>, Infallible>>().await);
        let request = |uri: &str| Request::get(uri).body(()).expect("a request");
        let answer = Counted { inner: answering, metrics: metrics.clone() }.call(request("/api/v1/pods?watch=true")).await;
        assert!(answer.is_ok());
        drop(Counted { inner: silent, metrics: metrics.clone() }.call(request("/api/v1/pods")));
        let text = metrics.text();
        assert!(text.contains("sokovan_api_requests_total{verb=\"watch\",code=\"200\"} 1\n"), "{text}");
        assert!(text.contains("sokovan_api_requests_total{verb=\"read\",code=\"none\"} 1\n"), "{text}");
    }

    #[test]
    fn the_first_dns_server_of_a_resolv_conf_is_found() {
        let text =
            "search ns.svc.cluster.local\n# nameserver 1.1.1.1\nnameserver 10.96.0.10\nnameserver fd00::1\noptions ndots:5\n";
        assert_eq!(first_server(text), Some(IpAddr::from([10, 96, 0, 10])));
        assert_eq!(first_server("search x\n"), None);
    }
}
