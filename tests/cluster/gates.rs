//! What holds the kernels of a gang back until they may start: missing images, names, or nothing.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use kube::api::ListParams;
use serde_json::{Value, json};
use sokovan::api::*;

use crate::common::{eventually, reason_is};
use crate::scene::{Scene, gang, kernel, merge};

/// An image that every simulated node reports (kit/stages.yaml).
const PRESENT: &str = "sim.test/present:1";

/// A gang whose images are on all nodes.
fn present(more: Value) -> Value {
    let mut spec = gang();
    for kernel in spec["kernels"].as_array_mut().expect("kernels") {
        kernel["image"] = PRESENT.into();
    }
    merge(&mut spec, more);
    spec
}

/// The names of a pod's init containers.
fn init_containers(pod: &Pod) -> Vec<&str> {
    let spec = pod.spec.as_ref().expect("a spec");
    spec.init_containers.iter().flatten().map(|container| container.name.as_str()).collect()
}

/// Succeeds when the Service of a gang of three publishes all names.
async fn published(scene: &Scene, session: &str) -> Result<(), String> {
    let labelled = ListParams::default().labels(&format!("{LABEL_SESSION}={session}"));
    let slices = scene.api::<EndpointSlice>().list(&labelled).await.map_err(|error| error.to_string())?;
    let endpoints = slices.items.into_iter().flat_map(|slice| slice.endpoints.unwrap_or_default());
    let mut names: Vec<String> = endpoints.filter_map(|endpoint| endpoint.hostname).collect();
    names.sort();
    if names == ["main1", "sub1", "sub2"] { Ok(()) } else { Err(format!("{names:?}")) }
}

#[tokio::test]
async fn a_gang_has_only_the_gate_that_it_needs() {
    let scene = Scene::with("gates", 2, json!({})).await;
    let operator = scene.operator().await;
    let cases: [(&str, Value, &[&str]); 3] = [
        ("pulls", gang(), &["gate-copy", "gate"]),
        ("names", present(json!({})), &["gate"]),
        ("alone", present(json!({"startTogether": false})), &[]),
    ];
    for (name, spec, gates) in cases {
        scene.submit(name, spec).await;
        let status = scene.until_phase(name, SessionPhase::Running).await.status.expect("a status");
        let pods = scene.pods(name).await;
        assert_eq!(pods.len(), 3);
        for pod in &pods {
            assert_eq!(init_containers(pod), gates, "{name}");
        }
        assert_eq!(status.kernels_ready.as_deref(), Some("3/3"));
        eventually("the names of all its kernels", || published(&scene, name)).await;
        scene.delete(name).await;
        scene.until_gone::<Session>(name).await;
    }
    scene.end(operator).await;
}

#[tokio::test]
async fn a_kernel_whose_kubelet_missed_that_its_gate_opened_starts_when_it_is_reminded() {
    let scene = Scene::with("missed", 2, json!({})).await;
    let operator = scene.operator().await;
    let kernels = [kernel("main", 1, &[]), kernel("sub", 1, &["sim", "misses"])];
    scene.submit("two", json!({"clusterMode": "MultiNode", "kernels": kernels})).await;
    let status = scene.until_phase("two", SessionPhase::Running).await.status.expect("a status");
    assert_eq!(status.resets, 0, "it waited for no timeout");
    let pods = scene.pods("two").await;
    let reminded: Vec<&str> = pods
        .iter()
        .filter(|pod| pod.annotations().contains_key(ANNOTATION_GATE_REMINDED))
        .map(|pod| pod.labels()[LABEL_KERNEL].as_str())
        .collect();
    assert!(reminded.contains(&"sub1"), "{reminded:?}");
    scene.end(operator).await;
}

#[tokio::test]
async fn an_image_that_was_removed_since_holds_up_its_kernel_and_the_session_says_so() {
    let scene = Scene::with("removed", 2, json!({"retry": {"imagePullTimeoutSeconds": 300}})).await;
    let operator = scene.operator().await;
    let mut late = kernel("sub", 1, &["sim", "no-image"]);
    late["image"] = PRESENT.into();
    let mut main = kernel("main", 1, &[]);
    main["image"] = PRESENT.into();
    scene.submit("two", json!({"clusterMode": "MultiNode", "startTogether": false, "kernels": [main, late]})).await;
    let session = scene.until("two", "pulling", reason_is("ImagePullFailed")).await;
    let status = session.status.expect("a status");
    assert_eq!(status.phase, SessionPhase::Pulling);
    assert!(status.message.as_ref().is_some_and(|message| message.contains("sub1")), "{:?}", status.message);
    eventually("the other kernel to run meanwhile", || async {
        let kernels = scene.kernels("two").await;
        let phases = kernels.iter().map(|kernel| (kernel.spec.hostname.clone(), kernel.status.clone().unwrap_or_default().phase));
        let mut phases: Vec<_> = phases.collect();
        phases.sort();
        let wanted = [("main1".to_owned(), KernelPhase::Running), ("sub1".to_owned(), KernelPhase::Pulling)];
        if phases == wanted { Ok(()) } else { Err(format!("{phases:?}")) }
    })
    .await;
    let ended = scene.until_phase("two", SessionPhase::Terminated).await.status.expect("a status");
    assert_eq!((ended.result, ended.reason), (Some(SessionResult::Error), Some(Reason::ImagePullFailed)), "they end together");
    scene.end(operator).await;
}
