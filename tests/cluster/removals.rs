//! What is removed from outside of every cycle: a namespace, a kernel, a session in the foreground, a scaling group.

use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use kube::api::{DeleteParams, Patch, PatchParams, PropagationPolicy};
use serde_json::json;
use sokovan::api::*;
use sokovan::operator::{Ended, Options};

use crate::scene::{Scene, gang};

#[tokio::test]
async fn a_namespace_that_is_deleted_takes_its_sessions_along() {
    let scene = Scene::new("namespace").await;
    // Its lease would go with the namespace.
    let elsewhere = Options { lease_namespace: "default".into(), lease_name: scene.name.clone(), ..scene.options("operator") };
    let operator = scene.operator_with(elsewhere).await;
    scene.submit("gang", gang()).await;
    scene.until_phase("gang", SessionPhase::Running).await;
    let namespaces = scene.all::<Namespace>();
    scene.submit("waits", json!({"dependsOn": ["gang"]})).await;
    scene.until("waits", "told why", crate::common::reason_is("DependencyPending")).await;
    namespaces.delete(&scene.name, &DeleteParams::default()).await.unwrap();
    for session in ["gang", "waits"] {
        scene.until_gone::<Session>(session).await;
    }
    crate::common::eventually("the namespace to be gone", || async {
        match namespaces.get_opt(&scene.name).await {
            Ok(None) => Ok(()),
            other => Err(format!("{:?}", other.map(|namespace| namespace.and_then(|namespace| namespace.status)))),
        }
    })
    .await;
    scene.end(operator).await;
}

#[tokio::test]
async fn a_session_deleted_in_the_foreground_goes_after_all_it_had() {
    let scene = Scene::new("foreground").await;
    let operator = scene.operator().await;
    scene.submit("gang", gang()).await;
    scene.until_phase("gang", SessionPhase::Running).await;
    let foreground = DeleteParams { propagation_policy: Some(PropagationPolicy::Foreground), ..DeleteParams::default() };
    scene.api::<Session>().delete("gang", &foreground).await.unwrap();
    scene.until_gone::<Session>("gang").await;
    assert_eq!(scene.kernels("gang").await, []);
    assert_eq!(scene.pods("gang").await, []);
    let services = scene.api::<Service>().list(&kube::api::ListParams::default()).await.unwrap();
    assert_eq!(services.items.len(), 0);
    scene.end(operator).await;
}

#[tokio::test]
async fn a_kernel_object_deleted_by_hand_ends_its_session_and_leaves_nothing() {
    let scene = Scene::new("by-hand").await;
    let operator = scene.operator().await;
    scene.submit("one", json!({})).await;
    scene.until_phase("one", SessionPhase::Running).await;
    let kernel = scene.kernels("one").await.remove(0).metadata.name.unwrap();
    scene.api::<Kernel>().delete(&kernel, &DeleteParams::default()).await.unwrap();
    // Its pod goes with it: the session has lost what it ran on, and says so.
    let status = scene.until_phase("one", SessionPhase::Terminated).await.status.unwrap();
    assert_eq!((status.result, status.reason.map(|reason| reason.as_str())), (Some(SessionResult::Error), Some("PodDeleted")));
    scene.until_gone::<Pod>(&kernel).await;
    scene.delete("one").await;
    scene.until_gone::<Session>("one").await;
    scene.end(operator).await;
}

#[tokio::test]
async fn a_removed_scaling_group_ends_nothing_and_starts_nothing() {
    let scene = Scene::new("no-group").await;
    let operator = scene.operator().await;
    scene.submit("runs", json!({})).await;
    scene.until_phase("runs", SessionPhase::Running).await;
    let groups = scene.all::<ScalingGroup>();
    let group = groups.get(&scene.name).await.unwrap();
    groups.delete(&scene.name, &DeleteParams::default()).await.unwrap();
    scene.submit("waits", json!({"priority": 100})).await; // so high that it is tried for longer than this takes
    scene.until("waits", "told why", crate::common::reason_is("ScalingGroupNotFound")).await;
    assert_eq!(scene.get("runs").await.phase(), SessionPhase::Running);
    scene.patch_spec("runs", json!({"desiredState": "Terminated"})).await.unwrap();
    scene.until_phase("runs", SessionPhase::Terminated).await;
    // Made again, it takes who waits.
    scene.make::<ScalingGroup>(json!({"metadata": {"name": scene.name}, "spec": group.spec})).await;
    scene.until_phase("waits", SessionPhase::Running).await;
    scene.end(operator).await;
}

#[tokio::test]
async fn what_still_runs_of_a_released_session_is_removed() {
    let scene = Scene::new("release").await;
    let operator = scene.operator().await;
    scene.submit("x", json!({})).await;
    scene.until_phase("x", SessionPhase::Running).await;
    assert_eq!(operator.stop().await, Ended::Stopped);
    let sessions = scene.api::<Session>();
    sessions.delete("x", &DeleteParams::default()).await.expect("it is deleted");
    let released = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    sessions.patch_metadata("x", &PatchParams::default(), &released).await.expect("an admin may release it");
    scene.until_gone::<Session>("x").await;
    assert!(!scene.pods("x").await.is_empty(), "its pod runs on");
    let operator = scene.operator().await;
    scene.until_no_pods("x").await;
    scene.end(operator).await;
}
