//! Gangs: they start with all kernels or none, through the gate.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Pod, Secret, Service};
use serde_json::json;
use sokovan::api::*;

use crate::common::{path, reason_is};
use crate::scene::{Scene, gang, kernel};

fn environment(pod: &Pod) -> std::collections::BTreeMap<String, String> {
    let env = pod.spec.clone().unwrap().containers.remove(0).env.unwrap();
    env.into_iter().filter_map(|variable| Some((variable.name, variable.value?))).collect()
}

#[tokio::test]
async fn pp_004_ss_006_a_gang_starts_together_with_names_keys_and_environment() {
    let scene = Scene::new("gang").await;
    let operator = scene.operator().await;
    scene.submit("three", gang()).await;
    let status = scene.until_phase("three", SessionPhase::Running).await.status.unwrap();
    assert!(path(&status).ends_with(&["Prepared".into(), "Creating".into(), "Running".into()]), "{:?}", path(&status));
    let hosts: Vec<_> = status.allocation.iter().map(|allocation| allocation.kernel.as_str()).collect();
    assert_eq!(hosts, ["main1", "sub1", "sub2"]);
    assert_eq!(status.kernels_ready.as_deref(), Some("3/3"));
    let pods = scene.pods("three").await;
    assert_eq!(pods.len(), 3);
    for pod in &pods {
        let spec = pod.spec.clone().unwrap();
        let gates: Vec<_> = spec.init_containers.unwrap().into_iter().map(|container| container.name).collect();
        assert_eq!(gates, ["gate-copy", "gate"]);
        assert_eq!(pod.metadata.annotations.as_ref().unwrap().get(ANNOTATION_GATE).map(String::as_str), Some(GATE_OPEN));
        assert_eq!(spec.subdomain.as_deref(), Some("ses-three"));
        let env = environment(pod);
        assert_eq!(env["BACKENDAI_CLUSTER_SIZE"], "3");
        assert_eq!(env["BACKENDAI_CLUSTER_REPLICAS"], "main:1,sub:2");
        assert_eq!(env["BACKENDAI_CLUSTER_HOSTS"], "main1,sub1,sub2");
        assert_eq!(Some(&env["BACKENDAI_CLUSTER_HOST"]), spec.hostname.as_ref());
    }
    let ranks: BTreeSet<_> = pods.iter().map(|pod| environment(pod)["BACKENDAI_CLUSTER_LOCAL_RANK"].clone()).collect();
    assert_eq!(ranks, ["0", "1", "2"].map(String::from).into());
    let service = scene.api::<Service>().get("ses-three").await.expect("a service").spec.unwrap();
    assert_eq!(service.cluster_ip.as_deref(), Some("None"));
    let secrets = scene.api::<Secret>().list(&Default::default()).await.unwrap();
    let keys = secrets.items.iter().find(|secret| secret.metadata.name.as_ref().unwrap().starts_with("ses-three-ssh-"));
    assert!(keys.expect("a key pair").data.as_ref().unwrap().contains_key("id_cluster"));
    scene.end(operator).await;
}

#[tokio::test]
async fn a_gang_with_a_missing_image_starts_no_kernel_and_names_the_blocking_one() {
    let scene =
        Scene::with("missing", 3, json!({"retry": {"imagePullTimeoutSeconds": 600, "pullingTimeoutSeconds": 86_400}})).await;
    let operator = scene.operator().await;
    let spec = json!({"clusterMode": "MultiNode", "kernels": [kernel("main", 1, &[]), kernel("sub", 1, &["sim", "no-image"])]});
    scene.submit("two", spec).await;
    let status = scene.until_phase("two", SessionPhase::Terminated).await.status.unwrap();
    assert_eq!(status.reason.map(|reason| reason.as_str()), Some("ImagePullFailed"));
    assert_eq!(status.result, Some(SessionResult::Error));
    let reported =
        status.history.iter().any(|entry| entry.message.contains("sub1 on") && entry.message.contains("no such image"));
    assert!(reported, "{:#?}", status.history);
    let reached = path(&status);
    assert!(!reached.contains(&"Creating".into()) && !reached.contains(&"Running".into()), "{reached:?}");
    scene.end(operator).await;
}

#[tokio::test]
async fn a_single_node_session_has_all_its_kernels_on_one_node() {
    let scene = Scene::new("single").await;
    let operator = scene.operator().await;
    let kernels = [kernel("main", 1, &[]), kernel("sub", 3, &[])];
    scene.submit("four", json!({"clusterMode": "SingleNode", "kernels": kernels})).await;
    let status = scene.until_phase("four", SessionPhase::Running).await.status.unwrap();
    let nodes: BTreeSet<_> = status.allocation.iter().map(|allocation| &allocation.node).collect();
    assert_eq!((status.allocation.len(), nodes.len()), (4, 1));
    scene.end(operator).await;
}

#[tokio::test]
async fn a_gang_that_does_not_fit_as_a_whole_gets_no_nodes() {
    let scene = Scene::new("whole").await;
    let operator = scene.operator().await;
    let kernels = |subs| json!({"clusterMode": "MultiNode", "kernels": [kernel("main", 1, &[]), kernel("sub", subs, &[])]});
    scene.submit("one", json!({})).await;
    scene.until_phase("one", SessionPhase::Running).await;
    scene.submit("twelve", kernels(11)).await;
    let waiting = scene.until("twelve", "refused", reason_is("NoAvailableNode")).await.status.unwrap();
    assert_eq!(waiting.history.last().and_then(|entry| entry.cause), Some(Cause::Capacity));
    assert!(waiting.allocation.is_empty() && scene.pods("twelve").await.is_empty());
    scene.submit("eleven", kernels(10)).await;
    scene.until_phase("eleven", SessionPhase::Running).await;
    scene.end(operator).await;
}
