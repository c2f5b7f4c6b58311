//! A kubelet that no longer renews its lease while its node still counts as ready.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use sokovan::api::*;
use sokovan::lifecycle::Timing;
use sokovan::operator::Options;
use sokovan::views::extract;

use crate::scene::{Scene, fast, kernel, unhurried};

/// The kubelet compares a lease with its own clock and does not take back one renewed at this time. The operator does not
/// compare.
const FAR_AHEAD: &str = "2200-01-01T00:00:00.000000Z";
/// A lease renewed at this time is taken back at once.
const LONG_GONE: &str = "2020-01-01T00:00:00.000000Z";

/// The operator checks the leases several times a second, and a kubelet is stale after one second.
fn watchful() -> Timing {
    Timing { stale: Duration::from_secs(1), long_cycle: Duration::from_millis(300), ..fast() }
}

/// Gives the lease of a node to a holder that does not renew it.
async fn leave_lease(scene: &Scene, node: &str, renewed: &str, lasts: i32) {
    let leases: Api<Lease> = Api::namespaced(scene.client.clone(), "kube-node-lease");
    let left = json!({"spec": {"holderIdentity": "nobody", "renewTime": renewed, "leaseDurationSeconds": lasts}});
    leases.patch(node, &PatchParams::default(), &Patch::Merge(left)).await.expect("a lease may change hands");
}

#[tokio::test]
async fn sk_001_a_kernel_is_terminating_when_its_kubelets_lease_expires_on_a_ready_node() {
    let scene = Scene::with("stale", 1, unhurried()).await;
    let node = scene.node_name(1);
    let operator = scene.operator_with(Options { timing: watchful(), ..scene.options("watchful") }).await;
    scene.submit("one", json!({"kernels": [kernel("main", 1, &["sim", "alone"])]})).await;
    scene.until_phase("one", SessionPhase::Running).await;
    leave_lease(&scene, &node, FAR_AHEAD, 1).await;
    let status = scene.until("one", "ending", |session| session.phase() > SessionPhase::Running).await.status.unwrap();
    let why = status.history.last().map(|entry| entry.message.as_str()).unwrap_or_default();
    assert!(why.contains("StaleKernel") && why.contains(&node), "{:#?}", status.history);
    let seen = scene.all::<Node>().get(&node).await.unwrap();
    assert!(extract::node(&seen).ready, "the node still counts as ready");
    let status = scene.until_phase("one", SessionPhase::Terminated).await.status.unwrap();
    assert_eq!(status.result, Some(SessionResult::Error));
    let kernel = scene.kernel_status("one").await;
    assert_eq!(kernel.reason.as_deref(), Some("StaleKernel"));
    assert_eq!(scene.pods("one").await.len(), 1, "the pod may still run there and counts as used");

    scene.submit("two", json!({})).await;
    let explained = |session: &Session| session.status.as_ref().is_some_and(|status| status.message.is_some());
    let status = scene.until("two", "waiting with a message", explained).await.status.unwrap();
    assert!(status.message.as_deref().is_some_and(|message| message.contains("not ready")), "{:?}", status.message);

    leave_lease(&scene, &node, LONG_GONE, 3600).await;
    scene.kill_pods("one").await;
    scene.until_phase("two", SessionPhase::Running).await;
    scene.end(operator).await;
}
