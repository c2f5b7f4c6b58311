//! Clients for the API server: one for the work, one for the lease alone.

use std::time::Duration;

use kube::config::KubeConfigOptions;
use kube::{Client, Config};

/// A client whose requests are not repeated behind our back, and end.
pub fn client(mut config: Config, request: Duration) -> kube::Result<Client> {
    config.default_retry = false;
    config.connect_timeout = Some(request);
    config.write_timeout = Some(request);
    // Watches are read for minutes; writes have a deadline of their own.
    config.read_timeout = Some(WATCH_READ);
    Client::try_from(config)
}

/// A watch that says nothing for this long, not even a bookmark, is dead.
const WATCH_READ: Duration = Duration::from_secs(300);

/// The configuration: in the cluster, or by kubeconfig.
pub async fn config() -> anyhow::Result<Config> {
    match Config::incluster() {
        Ok(config) => Ok(config),
        Err(_) => Ok(Config::from_kubeconfig(&KubeConfigOptions::default()).await?),
    }
}
