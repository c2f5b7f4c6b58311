//! The kubelet's warnings about a pod without progress appear in its session.

use k8s_openapi::api::core::v1::Event;
use kube::ResourceExt;
use serde_json::json;
use sokovan::api::*;

use crate::common::eventually;
use crate::scene::{Scene, kernel, unhurried};

#[tokio::test]
async fn kubelet_warnings_of_a_stuck_pod_appear_in_its_session() {
    let scene = Scene::with("silent", 1, unhurried()).await;
    let operator = scene.operator().await;
    scene.submit("stuck", json!({"kernels": [kernel("main", 1, &["sim", "never"])]})).await;
    let pod = eventually("its pod to be on its node", || async {
        let pod = scene.pods("stuck").await.into_iter().next().ok_or("no pod")?;
        if pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some()) { Ok(pod) } else { Err("not bound".to_owned()) }
    })
    .await;
    scene
        .make_here::<Event>(json!({
            "metadata": {"name": "failed-mount"}, "type": "Warning", "reason": "FailedMount",
            "message": "MountVolume.SetUp failed for volume \"data\": hostPath type check failed: /no/such is not a directory",
            "involvedObject": {"apiVersion": "v1", "kind": "Pod", "name": pod.name_any(), "namespace": scene.name, "uid": pod.uid()},
            "lastTimestamp": "2026-01-01T00:00:00Z",
        }))
        .await;
    let says = |session: &Session| {
        let message = session.status.as_ref().and_then(|status| status.message.clone()).unwrap_or_default();
        message.contains("FailedMount") && message.contains("/no/such is not a directory")
    };
    scene.until("stuck", "showing the kubelet's warning", says).await;
    eventually("the kernel's status to show the warning", || async {
        let status = scene.kernels("stuck").await.pop().and_then(|kernel| kernel.status).unwrap_or_default();
        if status.reason.as_deref() == Some("FailedMount") { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
    scene.end(operator).await;
}
