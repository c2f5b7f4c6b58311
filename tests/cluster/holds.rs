//! Holds: a session that waits for a temporary state keeps its place and priority, and starts as soon as the state ends.

use k8s_openapi::api::core::v1::{LimitRange, Node, PersistentVolume, PersistentVolumeClaim, ResourceQuota};
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use sokovan::api::*;
use sokovan::operator::Options;

use crate::common::{eventually, reason_is};
use crate::scene::{Operator, Scene, gang, kernel, node_of, patient};

/// An operator that evaluates sessions only after a change, so that progress proves that the change was noticed.
async fn patient_operator(scene: &Scene) -> Operator {
    scene.operator_with(Options { timing: patient(), ..scene.options("operator") }).await
}

async fn set<K>(scene: &Scene, name: &str, spec: Value)
where
    K: kube::Resource<DynamicType = ()> + serde::de::DeserializeOwned + Clone + std::fmt::Debug,
{
    let patch = Patch::Merge(json!({"spec": spec}));
    scene.all::<K>().patch(name, &PatchParams::default(), &patch).await.expect("the object can be changed");
}

/// Waits until the session is on hold for this reason, and checks that it has lost no priority.
async fn on_hold(scene: &Scene, name: &str, reason: &'static str) {
    let status = scene.until(name, "on hold", reason_is(reason)).await.status.unwrap();
    assert_eq!(status.phase, SessionPhase::Pending, "{name}");
    assert_eq!(status.history.last().unwrap().cause, Some(Cause::Hold), "{name}");
    assert_eq!(status.priority_lost, 0, "{name}");
    let blocker = &status.waiting.as_ref().unwrap().blockers[0];
    assert!(!blocker.needs.is_empty(), "{name} names the change that would help");
}

#[tokio::test]
async fn ss_003_a_request_that_fits_no_node_waits_until_a_node_fits() {
    let scene = Scene::with("unfit", 1, json!({})).await;
    let operator = patient_operator(&scene).await;
    let wants_gpu = json!({"image": "busybox:1", "resources": {"cpu": 1, "memory": "1Gi", "gpu.test/x": 1}});
    scene.submit("gpu", json!({"kernels": [wants_gpu]})).await;
    on_hold(&scene, "gpu", "NoAvailableNode").await;
    let status = scene.status("gpu").await;
    assert!(
        status.message.as_deref().unwrap().contains("fits no node of the scaling group, even an empty one"),
        "{:?}",
        status.message
    );
    let devices =
        |count: &str| Patch::Merge(json!({"status": {"allocatable": {"gpu.test/x": count}, "capacity": {"gpu.test/x": count}}}));
    let (nodes, params) = (scene.all::<Node>(), PatchParams::default());
    nodes.patch_status(&scene.node_name(1), &params, &devices("1")).await.expect("the node's devices come back");
    scene.until_phase("gpu", SessionPhase::Running).await;
    // The node's device disappears for a while: the running session keeps running, the waiting one keeps waiting.
    nodes.patch_status(&scene.node_name(1), &params, &devices("0")).await.expect("the node's devices vanish");
    let wants_gpu = json!({"image": "busybox:1", "resources": {"cpu": 1, "memory": "1Gi", "gpu.test/x": 1}});
    scene.submit("next", json!({"kernels": [wants_gpu]})).await;
    on_hold(&scene, "next", "NoAvailableNode").await;
    assert_eq!(scene.get("gpu").await.phase(), SessionPhase::Running);
    scene.end(operator).await;
}

#[tokio::test]
async fn a_scaling_group_may_treat_a_request_that_fits_no_node_as_a_fault() {
    let scene = Scene::with("fail-unfit", 1, json!({"failUnfit": true})).await;
    let operator = scene.operator().await;
    let huge = json!({"kernels": [{"image": "busybox:1", "resources": {"cpu": "64.0000000000000000000", "memory": "1Gi"}}]});
    scene.submit("huge", huge).await;
    let status = scene.until_phase("huge", SessionPhase::Cancelled).await.status.unwrap();
    let first = &status.history[0];
    assert_eq!((first.error_code.map(|reason| reason.as_str()), first.cause), (Some("NoAvailableNode"), Some(Cause::Fault)));
    assert!(first.message.contains("1 of 1: cpu 4 of 64 needed"), "{}", first.message);
    assert_eq!((status.result, status.effective_priority), (Some(SessionResult::Error), Some(0)));
    let tries =
        status.history.iter().filter(|entry| entry.handler == "schedule-sessions").map(|entry| (entry.result, entry.attempts));
    let round = [(HistoryResult::NeedRetry, 5), (HistoryResult::GiveUp, 1)];
    assert_eq!(tries.collect::<Vec<_>>(), [round, round].concat());
    scene.end(operator).await;
}

#[tokio::test]
async fn an_inactive_scaling_group_or_keypair_and_an_absent_designated_node_cancel_no_session() {
    let scene = Scene::with("paused", 1, json!({})).await;
    let operator = patient_operator(&scene).await;
    let name = scene.name.clone();
    set::<ScalingGroup>(&scene, &name, json!({"active": false})).await;
    scene.submit("group", json!({})).await;
    on_hold(&scene, "group", "ScalingGroupInactive").await;
    set::<ScalingGroup>(&scene, &name, json!({"active": true})).await;
    scene.until_phase("group", SessionPhase::Running).await;
    set::<Keypair>(&scene, &name, json!({"active": false})).await;
    scene.submit("keypair", json!({})).await;
    on_hold(&scene, "keypair", "KeypairInactive").await;
    set::<Keypair>(&scene, &name, json!({"active": true})).await;
    scene.until_phase("keypair", SessionPhase::Running).await;
    let mut main = kernel("main", 1, &[]);
    main["designatedNodes"] = json!([scene.node_name(2)]);
    scene.submit("designated", json!({"kernels": [main]})).await;
    on_hold(&scene, "designated", "DesignatedNodeNotFound").await;
    scene.node(2).await;
    let status = scene.until_phase("designated", SessionPhase::Running).await.status.unwrap();
    assert_eq!(node_of(&status, "main1"), scene.node_name(2));
    scene.end(operator).await;
}

#[tokio::test]
async fn a_fault_is_retried_as_soon_as_its_cause_is_fixed() {
    let scene = Scene::with("fixed", 1, json!({})).await;
    let operator = patient_operator(&scene).await;
    let name = scene.name.clone();
    set::<Keypair>(&scene, &name, json!({"maxPriority": 5})).await;
    scene.submit("high", json!({})).await;
    let failed = scene.until("high", "failed", reason_is("PriorityTooHigh")).await.status.unwrap();
    assert_eq!(failed.history.last().unwrap().cause, Some(Cause::Fault));
    set::<Keypair>(&scene, &name, json!({"maxPriority": null})).await;
    scene.until_phase("high", SessionPhase::Running).await;
    scene.end(operator).await;
}

#[tokio::test]
async fn raising_a_resource_quota_admits_at_once_the_sessions_that_fit() {
    let scene = Scene::new("quota").await;
    let operator = patient_operator(&scene).await;
    scene.make_here::<ResourceQuota>(json!({"metadata": {"name": "pods"}, "spec": {"hard": {"pods": "0"}}})).await;
    // A session pauses only after the second refusal. Before that it retries at once, and would take any free quota.
    let refused_twice = |session: &Session| session.status.as_ref().is_some_and(|status| status.refusals > 1);
    for name in ["one", "two"] {
        scene.submit(name, json!({})).await;
        scene.until(name, "refused", reason_is("NamespaceQuota")).await;
        scene.until(name, "refused twice", refused_twice).await;
    }
    let quotas = scene.api::<ResourceQuota>();
    let hard = |pods: &str| Patch::Merge(json!({"spec": {"hard": {"pods": pods}}}));
    quotas.patch("pods", &PatchParams::default(), &hard("1")).await.expect("the quota can be raised");
    scene.until_phase("one", SessionPhase::Running).await;
    let before = scene.status("two").await.allocation_generation;
    quotas.patch("pods", &PatchParams::default(), &hard("9")).await.expect("the quota can be raised");
    let status = scene.until_phase("two", SessionPhase::Running).await.status.unwrap();
    assert!(status.allocation_generation <= before + 1, "a session is not retried while the ResourceQuota is full");
    scene.end(operator).await;
}

#[tokio::test]
async fn a_session_with_an_unbound_volume_is_placed_where_the_storage_class_allows() {
    let scene = Scene::with("topology", 6, json!({})).await;
    let operator = scene.operator().await;
    let label =
        |number: usize, zone: &str| (scene.node_name(number), Patch::Merge(json!({"metadata": {"labels": {"zone.test": zone}}})));
    for number in 1..=6 {
        let (node, patch) = label(number, if number == 5 { "far" } else { "near" });
        scene.all::<Node>().patch(&node, &PatchParams::default(), &patch).await.expect("the node can be labelled");
    }
    let class = |provisioner: &str, topologies: Value| {
        json!({
            "metadata": {"name": scene.name}, "provisioner": provisioner, "volumeBindingMode": "WaitForFirstConsumer",
            "allowedTopologies": topologies,
        })
    };
    let far = json!([{"matchLabelExpressions": [{"key": "zone.test", "values": ["far"]}]}]);
    scene.make::<StorageClass>(class("dynamic.test", far)).await;
    let claim = json!({"metadata": {"name": "data"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "storageClassName": scene.name, "resources": {"requests": {"storage": "1Gi"}},
    }});
    scene.make_here::<PersistentVolumeClaim>(claim).await;
    let mut main = kernel("main", 1, &[]);
    main["volumes"] = json!([{"claimName": "data", "mountPath": "/data"}]);
    scene.submit("mounts", json!({"kernels": [main]})).await;
    let placed =
        scene.until("mounts", "placed", |session| session.status.as_ref().is_some_and(|s| !s.allocation.is_empty())).await;
    let status = placed.status.unwrap();
    assert_eq!((node_of(&status, "main1"), status.allocation_generation), (scene.node_name(5), 1));
    scene.remove::<StorageClass>().await;
    scene.end(operator).await;
}

#[tokio::test]
async fn a_session_waits_for_an_unbound_claim_and_for_a_single_pod_claim_in_use() {
    let scene = Scene::with("one-pod", 2, json!({})).await;
    let operator = patient_operator(&scene).await;
    scene
        .make_here::<PersistentVolumeClaim>(json!({"metadata": {"name": "solo"}, "spec": {
            "accessModes": ["ReadWriteOncePod"], "storageClassName": "", "resources": {"requests": {"storage": "1Gi"}},
        }}))
        .await;
    let mounting = || {
        let mut main = kernel("main", 1, &[]);
        main["volumes"] = json!([{"claimName": "solo", "mountPath": "/data"}]);
        json!({"kernels": [main]})
    };
    scene.submit("first", mounting()).await;
    on_hold(&scene, "first", "VolumeClaimNotBound").await;
    scene
        .make::<PersistentVolume>(json!({"metadata": {"name": scene.name}, "spec": {
            "accessModes": ["ReadWriteOncePod"], "storageClassName": "", "capacity": {"storage": "1Gi"},
            "hostPath": {"path": "/tmp"}, "claimRef": {"namespace": scene.name, "name": "solo"},
        }}))
        .await;
    scene.until_phase("first", SessionPhase::Running).await;
    scene.submit("second", mounting()).await;
    on_hold(&scene, "second", "VolumeClaimInUse").await;
    assert_eq!(scene.status("second").await.allocation_generation, 0);
    scene.patch_spec("first", json!({"desiredState": "Terminated"})).await.unwrap();
    scene.until_phase("second", SessionPhase::Running).await;
    scene.remove::<PersistentVolume>().await;
    scene.end(operator).await;
}

#[tokio::test]
async fn the_overhead_of_a_runtime_class_counts_before_there_is_a_pod() {
    let scene = Scene::with("overhead", 1, json!({"pod": {"runtimeClassName": "none-yet"}})).await;
    let operator = patient_operator(&scene).await;
    let name = scene.name.clone();
    set::<ScalingGroup>(&scene, &name, json!({"pod": {"runtimeClassName": name}})).await;
    scene.submit("early", json!({})).await;
    on_hold(&scene, "early", "RuntimeClassNotFound").await;
    let overhead = json!({"podFixed": {"cpu": "1"}});
    scene.make::<RuntimeClass>(json!({"metadata": {"name": name}, "handler": "runc", "overhead": overhead})).await;
    scene.until_phase("early", SessionPhase::Running).await;
    for name in ["fits", "waits"] {
        scene.submit(name, json!({})).await;
    }
    // Each needs two cores with the overhead, on a node of four where one runs already. One waits, and never gets the node.
    eventually("one of two to run and one to wait", || async {
        let (fits, waits) = (scene.status("fits").await, scene.status("waits").await);
        let mut seen = [(fits.phase, fits.allocation_generation), (waits.phase, waits.allocation_generation)];
        seen.sort();
        if seen == [(SessionPhase::Pending, 0), (SessionPhase::Running, 1)] { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
    let mut large = kernel("main", 1, &[]);
    large["resources"]["cpu"] = json!("3500m");
    scene.submit("large", json!({"kernels": [large]})).await;
    on_hold(&scene, "large", "NoAvailableNode").await;
    let message = scene.status("large").await.progress.message.unwrap();
    assert!(message.contains("with the overhead of RuntimeClass") && message.contains("4500m needed"), "{message}");
    scene.remove::<RuntimeClass>().await;
    scene.end(operator).await;
}

#[tokio::test]
async fn a_dependency_that_succeeded_may_be_removed() {
    let scene = Scene::with("chain", 1, json!({})).await;
    let operator = scene.operator().await;
    let quick = json!({"type": "Batch", "ttlSecondsAfterFinished": 0, "kernels": [kernel("main", 1, &["sim", "run", "100ms"])]});
    scene.submit("last", json!({"dependsOn": ["first", "second"]})).await;
    scene.submit("first", quick.clone()).await;
    scene.until_gone::<Session>("first").await;
    let met = scene.status("last").await.met_dependencies;
    assert_eq!(met, ["first"], "the dependency was recorded before that session was removed");
    scene.submit("second", quick).await;
    scene.until_phase("last", SessionPhase::Running).await;
    scene.end(operator).await;
}

#[tokio::test]
async fn a_gang_passes_a_limit_range_that_its_kernels_pass() {
    let scene = Scene::new("limit-range").await;
    let operator = scene.operator().await;
    let least = json!({"type": "Container", "min": {"cpu": "500m", "memory": "512Mi"}});
    scene.make_here::<LimitRange>(json!({"metadata": {"name": "least"}, "spec": {"limits": [least]}})).await;
    scene.submit("gang", gang()).await;
    scene.until_phase("gang", SessionPhase::Running).await;
    let _ = scene.api::<LimitRange>().delete("least", &DeleteParams::default()).await;
    scene.end(operator).await;
}

#[tokio::test]
async fn a_suspended_session_waits_at_its_priority_until_its_user_resumes_it() {
    let scene = Scene::with("suspended", 1, json!({"topPriorityOnly": true})).await;
    let operator = scene.operator().await;
    scene.submit("held", json!({"suspend": true, "priority": 50})).await;
    let status = scene.until("held", "suspended", reason_is("Suspended")).await.status.expect("a status");
    assert_eq!((status.phase, status.history.last().and_then(|entry| entry.cause)), (SessionPhase::Pending, Some(Cause::Hold)));
    // It holds back nobody of a lower priority.
    scene.submit("other", json!({"priority": 10})).await;
    scene.until_phase("other", SessionPhase::Running).await;
    scene.patch_spec("held", json!({"suspend": false})).await.expect("it can be resumed");
    scene.until_phase("held", SessionPhase::Running).await;
    // A session that has its nodes goes on.
    scene.patch_spec("other", json!({"suspend": true})).await.expect("the change is accepted");
    scene
        .until("other", "observed", |session| {
            session
                .status
                .as_ref()
                .is_some_and(|status| status.observed_generation == session.metadata.generation.unwrap_or_default())
        })
        .await;
    assert_eq!(scene.get("other").await.phase(), SessionPhase::Running);
    scene.end(operator).await;
}
