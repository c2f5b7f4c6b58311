//! Reads how much the pods of sessions send and receive, from the kubelets of their nodes. The token that kubelets get can read
//! statistics of nodes and nothing else, so that a node cannot use it for more.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use http_body_util::{BodyExt, Limited};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Node, ServiceAccount};
use kube::api::{ListParams, PostParams};
use kube::client::Body;
use kube::{Api, Client, Config};
use serde::Deserialize;

use crate::api::NodeName;
use crate::cluster::store::table::Key;

/// How long a token is valid, in seconds: the shortest that the API server grants.
const TOKEN_SECONDS: i64 = 600;
/// How long a token is used.
const TOKEN_USE: Duration = Duration::from_secs(400);
/// Most kubelets that are asked at once.
const CONCURRENCY: usize = 8;

/// The longest answer of a kubelet, in bytes: a thousand pods take about a megabyte.
const MAX_ANSWER: usize = 8 << 20;

/// The report of the kubelets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Traffic {
    /// The bytes that each pod has sent and received since it started. A pod in its node's network has none of its own.
    pub bytes: HashMap<Key, u64>,
    /// The nodes whose kubelets answered.
    pub answered: BTreeSet<NodeName>,
}

/// The kubelets, and the ServiceAccount whose tokens they get.
pub struct Kubelets {
    client: Client,
    accounts: Api<ServiceAccount>,
    account: String,
    token: Option<(String, Instant)>,
    /// The cluster's own certificate authorities. Without any, the client would look for those of the system, and the operator's image
    /// has none.
    authorities: Option<Vec<Vec<u8>>>,
    timeout: Duration,
}

/// The statistics of a node, as its kubelet reports them.
#[derive(Deserialize)]
struct Summary {
    #[serde(default)]
    pods: Vec<PodStatistics>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodStatistics {
    pod_ref: PodReference,
    network: Option<Network>,
}

#[derive(Deserialize)]
struct PodReference {
    name: String,
    namespace: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Network {
    rx_bytes: Option<u64>,
    tx_bytes: Option<u64>,
}

impl Kubelets {
    /// `own` is the operator's own configuration for the API server.
    pub fn new(client: Client, own: &Config, namespace: &str, account: &str, timeout: Duration) -> Self {
        let accounts = Api::namespaced(client.clone(), namespace);
        Self { client, accounts, account: account.into(), token: None, authorities: own.root_cert.clone(), timeout }
    }

    /// Reads the traffic of all pods on these nodes.
    pub async fn read(&mut self, nodes: BTreeSet<NodeName>) -> Traffic {
        let token = match self.token().await {
            Ok(token) => token,
            Err(error) => {
                tracing::warn!(account = %self.account, "the traffic of sessions is not measured: no token for the kubelets: {error}");
                return Traffic::default();
            }
        };
        let (kubelets, timeout) = (&*self, self.timeout);
        let read = |node: NodeName| {
            let token = token.clone();
            async move {
                let read = tokio::time::timeout(timeout, kubelets.summary(&node, token)).await;
                let read = read.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer within {timeout:?}")));
                if let Err(error) = &read {
                    tracing::warn!(%node, "its kubelet does not report the traffic of pods: {error}");
                }
                read.ok().map(|summary| (node, bytes(summary)))
            }
        };
        let mut traffic = Traffic::default();
        let mut reads = stream::iter(nodes).map(read).buffer_unordered(CONCURRENCY);
        while let Some(read) = reads.next().await {
            if let Some((node, bytes)) = read {
                traffic.answered.insert(node);
                traffic.bytes.extend(bytes);
            }
        }
        traffic
    }

    async fn token(&mut self) -> kube::Result<String> {
        if let Some((token, since)) = &self.token
            && since.elapsed() < TOKEN_USE
        {
            return Ok(token.clone());
        }
        let spec = TokenRequestSpec { expiration_seconds: Some(TOKEN_SECONDS), ..TokenRequestSpec::default() };
        let request = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
        let granted = self.accounts.create_token_request(&self.account, &PostParams::default(), &request).await?;
        let token = granted.status.and_then(|status| status.token).unwrap_or_default();
        self.token = Some((token.clone(), Instant::now()));
        Ok(token)
    }

    async fn summary(&self, node: &NodeName, token: String) -> anyhow::Result<Summary> {
        let named = ListParams::default().fields(&format!("metadata.name={node}"));
        let found = Api::<Node>::all(self.client.clone()).list(&named).await?.items;
        let address = found.first().and_then(kubelet_address).ok_or_else(|| anyhow::anyhow!("the node has no address"))?;
        let mut config = Config::new(address.parse()?);
        // Many kubelets sign their own certificates. A false one gets a token for statistics, and can claim traffic.
        config.accept_invalid_certs = true;
        config.default_retry = false;
        (config.connect_timeout, config.read_timeout) = (Some(self.timeout), Some(self.timeout));
        config.root_cert.clone_from(&self.authorities);
        config.auth_info.token = Some(token.into());
        let request = http::Request::get("/stats/summary").body(Body::empty())?;
        let answer = Client::try_from(config)?.send(request).await?;
        anyhow::ensure!(answer.status().is_success(), "it answers with {}", answer.status());
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await.map_err(|error| anyhow::anyhow!("{error}"))?;
        Ok(serde_json::from_slice(&body.to_bytes())?)
    }
}

/// Returns the address of the kubelet's API.
fn kubelet_address(node: &Node) -> Option<String> {
    let status = node.status.as_ref()?;
    let internal = status.addresses.iter().flatten().find(|address| address.type_ == "InternalIP")?;
    let port = status.daemon_endpoints.as_ref()?.kubelet_endpoint.as_ref()?.port;
    let host = if internal.address.contains(':') { format!("[{}]", internal.address) } else { internal.address.clone() };
    Some(format!("https://{host}:{port}"))
}

fn bytes(summary: Summary) -> HashMap<Key, u64> {
    let both = |network: Network| Some(network.rx_bytes?.saturating_add(network.tx_bytes?));
    let of_pod = |pod: PodStatistics| Some(((pod.pod_ref.namespace, pod.pod_ref.name), both(pod.network?)?));
    summary.pods.into_iter().filter_map(of_pod).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_traffic_of_pods_is_read_from_a_summary() {
        let summary = json!({"node": {"nodeName": "n"}, "pods": [
            {"podRef": {"name": "a", "namespace": "ns", "uid": "u"}, "network": {"name": "eth0", "rxBytes": 40, "txBytes": 2}},
            {"podRef": {"name": "host-network", "namespace": "ns", "uid": "v"}},
        ]});
        let found = bytes(serde_json::from_value(summary).expect("a summary"));
        assert_eq!(found, HashMap::from([(("ns".into(), "a".into()), 42)]));
    }

    #[test]
    fn a_kubelet_is_asked_at_the_nodes_internal_address() {
        let node = |address: &str| -> Node {
            serde_json::from_value(json!({"status": {
                "addresses": [{"type": "Hostname", "address": "n"}, {"type": "InternalIP", "address": address}],
                "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
            }}))
            .expect("a node")
        };
        assert_eq!(kubelet_address(&node("10.0.0.1")).as_deref(), Some("https://10.0.0.1:10250"));
        assert_eq!(kubelet_address(&node("fd00::1")).as_deref(), Some("https://[fd00::1]:10250"));
        assert_eq!(kubelet_address(&Node::default()), None);
    }
}
