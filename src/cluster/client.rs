//! Clients for the API server: one for the work, one for the lease alone.

use std::net::IpAddr;
use std::time::Duration;

use http::Method;
use kube::client::ClientBuilder;
use kube::config::KubeConfigOptions;
use kube::{Client, Config};
use tower::util::MapRequestLayer;

/// A client whose requests are not repeated behind our back, and end.
pub fn client(mut config: Config, request: Duration) -> kube::Result<Client> {
    config.default_retry = false;
    config.connect_timeout = Some(request);
    config.write_timeout = Some(request);
    // Watches are read for minutes; writes have a deadline of their own.
    config.read_timeout = Some(WATCH_READ);
    Ok(ClientBuilder::try_from(config)?.with_layer(&MapRequestLayer::new(mark_write)).build())
}

/// Says who writes, and spares the API server a search for unknown fields: what we write comes from the types of `api`.
fn mark_write<B>(mut request: http::Request<B>) -> http::Request<B> {
    if matches!(*request.method(), Method::POST | Method::PUT | Method::PATCH) {
        let path = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
        let more = if path.contains('?') { '&' } else { '?' };
        let marked = format!("{path}{more}fieldManager=sokovan&fieldValidation=Ignore");
        if let Ok(uri) = marked.parse() {
            *request.uri_mut() = uri;
        }
    }
    request
}

/// A watch that says nothing for this long, not even a bookmark, is dead.
const WATCH_READ: Duration = Duration::from_secs(300);

/// The DNS server that the operator itself is given, if it runs in a pod.
pub fn own_dns_server() -> Option<IpAddr> {
    std::env::var_os("KUBERNETES_SERVICE_HOST")?;
    first_server(&std::fs::read_to_string("/etc/resolv.conf").ok()?)
}

fn first_server(resolv_conf: &str) -> Option<IpAddr> {
    resolv_conf.lines().find_map(|line| line.trim().strip_prefix("nameserver")?.trim().parse().ok())
}

/// The configuration: in the cluster, or by kubeconfig.
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
