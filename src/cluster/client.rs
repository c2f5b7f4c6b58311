//! Builds the clients for the API server: one for all work, one for the lease alone.

use std::net::IpAddr;
use std::time::Duration;

use http::Method;
use kube::client::ClientBuilder;
use kube::config::KubeConfigOptions;
use kube::{Client, Config};
use tower::util::MapRequestLayer;

/// Returns a client whose requests time out and are not retried by the library.
pub fn client(mut config: Config, request: Duration) -> kube::Result<Client> {
    config.default_retry = false;
    config.connect_timeout = Some(request);
    config.write_timeout = Some(request);
    // A watch may be silent for minutes. Writes have a deadline of their own.
    config.read_timeout = Some(WATCH_READ);
    Ok(ClientBuilder::try_from(config)?.with_layer(&MapRequestLayer::new(mark_write)).build())
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
    use super::*;

    #[test]
    fn the_first_dns_server_of_a_resolv_conf_is_found() {
        let text =
            "search ns.svc.cluster.local\n# nameserver 1.1.1.1\nnameserver 10.96.0.10\nnameserver fd00::1\noptions ndots:5\n";
        assert_eq!(first_server(text), Some(IpAddr::from([10, 96, 0, 10])));
        assert_eq!(first_server("search x\n"), None);
    }
}
