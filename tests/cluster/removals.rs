//! Removals by others: of a namespace, a kernel object, a scaling group, or a session in the foreground.

use k8s_openapi::api::core::v1::{Namespace, Service};
use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams, PropagationPolicy};
use serde_json::json;
use sokovan::api::*;
use sokovan::operator::{Ended, Options};

use crate::common::eventually;
use crate::scene::{Scene, gang};

#[tokio::test]
async fn deleting_a_namespace_removes_its_sessions() {
    let scene = Scene::new("namespace").await;
    // In the scene's namespace the lease would be deleted, too.
    let elsewhere = Options { lease_namespace: "default".into(), lease_name: scene.name.clone(), ..scene.options("operator") };
    let operator = scene.operator_with(elsewhere).await;
    scene.submit("gang", gang()).await;
    scene.until_phase("gang", SessionPhase::Running).await;
    let namespaces = scene.all::<Namespace>();
    scene.submit("waits", json!({"dependsOn": ["gang"]})).await;
    scene.until("waits", "waiting", crate::common::reason_is("DependencyPending")).await;
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
async fn a_session_deleted_in_the_foreground_is_removed_after_its_dependents() {
    let scene = Scene::new("foreground").await;
    let operator = scene.operator().await;
    scene.submit("gang", gang()).await;
    scene.until_phase("gang", SessionPhase::Running).await;
    let foreground = DeleteParams { propagation_policy: Some(PropagationPolicy::Foreground), ..DeleteParams::default() };
    scene.api::<Session>().delete("gang", &foreground).await.unwrap();
    scene.until_gone::<Session>("gang").await;
    // A record that was written as the session was deleted is collected a moment after it.
    crate::common::eventually("its records to be gone", || async {
        let left = scene.kernels("gang").await;
        if left.is_empty() { Ok(()) } else { Err(format!("{} are left", left.len())) }
    })
    .await;
    assert_eq!(scene.pods("gang").await, []);
    let services = scene.api::<Service>().list(&kube::api::ListParams::default()).await.unwrap();
    assert_eq!(services.items.len(), 0);
    scene.end(operator).await;
}

#[tokio::test]
async fn a_kernel_object_deleted_by_hand_is_written_again_and_its_session_goes_on() {
    let scene = Scene::new("by-hand").await;
    let operator = scene.operator().await;
    scene.submit("one", json!({})).await;
    scene.until_phase("one", SessionPhase::Running).await;
    let recorded = |not: Option<String>| {
        let scene = scene.clone();
        async move {
            let kernel = scene.kernels("one").await.pop().filter(|kernel| kernel.metadata.uid != not).ok_or("no record")?;
            let phase = kernel.status.as_ref().map(|status| status.phase);
            if phase == Some(KernelPhase::Running) { Ok(kernel) } else { Err(format!("{phase:?}")) }
        }
    };
    let kernel = eventually("the kernel to be recorded", || recorded(None)).await;
    scene.api::<Kernel>().delete(&kernel.name_any(), &DeleteParams::default()).await.unwrap();
    let again = eventually("the kernel to be recorded again", || recorded(kernel.metadata.uid.clone())).await;
    assert_eq!(again.status, kernel.status);
    assert_eq!(scene.until_phase("one", SessionPhase::Running).await.status.unwrap().resets, 0);
    scene.delete("one").await;
    scene.until_gone::<Session>("one").await;
    scene.end(operator).await;
}

#[tokio::test]
async fn deleting_a_scaling_group_neither_ends_nor_starts_a_session() {
    let scene = Scene::new("no-group").await;
    let operator = scene.operator().await;
    scene.submit("runs", json!({})).await;
    scene.until_phase("runs", SessionPhase::Running).await;
    let groups = scene.all::<ScalingGroup>();
    let group = groups.get(&scene.name).await.unwrap();
    groups.delete(&scene.name, &DeleteParams::default()).await.unwrap();
    scene.submit("waits", json!({"priority": 100})).await; // high enough to be retried for longer than this test takes
    scene.until("waits", "waiting", crate::common::reason_is("ScalingGroupNotFound")).await;
    assert_eq!(scene.get("runs").await.phase(), SessionPhase::Running);
    scene.patch_spec("runs", json!({"desiredState": "Terminated"})).await.unwrap();
    scene.until_phase("runs", SessionPhase::Terminated).await;
    // A new scaling group of that name accepts the waiting session.
    scene.make::<ScalingGroup>(json!({"metadata": {"name": scene.name}, "spec": group.spec})).await;
    scene.until_phase("waits", SessionPhase::Running).await;
    scene.end(operator).await;
}

#[tokio::test]
async fn pods_of_a_released_session_are_removed() {
    let scene = Scene::new("release").await;
    let operator = scene.operator().await;
    scene.submit("x", json!({})).await;
    scene.until_phase("x", SessionPhase::Running).await;
    assert_eq!(operator.stop().await, Ended::Stopped);
    let sessions = scene.api::<Session>();
    sessions.delete("x", &DeleteParams::default()).await.expect("the session can be deleted");
    let released = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    sessions.patch_metadata("x", &PatchParams::default(), &released).await.expect("an admin may release it");
    scene.until_gone::<Session>("x").await;
    assert!(!scene.pods("x").await.is_empty(), "the pod still runs");
    let operator = scene.operator().await;
    scene.until_no_pods("x").await;
    scene.end(operator).await;
}
