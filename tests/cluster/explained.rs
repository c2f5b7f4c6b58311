//! How waiting is explained: blockers in the session's status, and the queue in the scaling group's status.

use serde_json::json;
use sokovan::api::*;
use sokovan::operator::Options;

use crate::common::{eventually, reason_is};
use crate::scene::{Scene, kernel, patient};

async fn limit(scene: &Scene, policy: serde_json::Value) {
    scene.make::<ResourcePolicy>(json!({"metadata": {"name": scene.name}, "spec": policy})).await;
    let keypairs = scene.all::<Keypair>();
    let limited = kube::api::Patch::Merge(json!({"spec": {"resourcePolicy": scene.name}}));
    keypairs.patch(&scene.name, &Default::default(), &limited).await.expect("the keypair can be limited");
}

#[tokio::test]
async fn a_quota_blocker_shows_requested_used_limit_and_what_would_help() {
    let scene = Scene::new("verdict").await;
    limit(&scene, json!({"limits": {"cpu": 1}})).await;
    let operator = scene.operator().await;
    scene.submit("first", json!({})).await;
    scene.until_phase("first", SessionPhase::Running).await;
    scene.submit("second", json!({})).await;
    let status = scene.until("second", "over quota", reason_is("QuotaExceeded")).await.status.unwrap();
    let blocker = &status.waiting.as_ref().expect("a waiting block").blockers[0];
    assert_eq!((blocker.check.as_str(), blocker.resource.as_deref()), ("quota", Some("cpu")));
    assert_eq!(blocker.object, Some(format!("keypair {}", scene.name)));
    let numbers = [&blocker.requested, &blocker.used, &blocker.limit].map(|number| number.as_ref().unwrap().0.clone());
    assert_eq!(numbers, ["1", "1", "1"]);
    assert!(blocker.needs.contains("1 cpu freed by other sessions of "), "{}", blocker.needs);
    assert!(status.next_attempt_at.is_some());
    scene.patch_spec("first", json!({"desiredState": "Terminated"})).await.unwrap();
    let status = scene.until_phase("second", SessionPhase::Running).await.status.unwrap();
    assert_eq!(status.waiting, None, "a running session does not wait");
    scene.end(operator).await;
}

#[tokio::test]
async fn missing_capacity_is_explained_by_node_and_the_scaling_group_counts_its_queue() {
    let scene = Scene::new("queue").await;
    let operator = scene.operator().await;
    let mut arm = kernel("main", 1, &[]);
    arm["architecture"] = json!("amd64");
    arm["resources"]["cpu"] = json!(4);
    for name in ["a", "b", "c", "d", "e"] {
        scene.submit(name, json!({"kernels": [arm.clone()]})).await;
    }
    scene.submit("later", json!({"startsAt": "2099-01-01T00:00:00Z", "priority": 30})).await;
    scene.until("later", "waiting for its time", reason_is("NotYetDue")).await;
    let groups = scene.all::<ScalingGroup>();
    let status = eventually("the scaling group to count its sessions", || async {
        let status = groups.get(&scene.name).await.unwrap().status.unwrap_or_default();
        let counts = (status.nodes_ready, status.sessions_running, status.sessions_pending);
        if counts == (3, 3, 3) { Ok(status) } else { Err(format!("{status:?}")) }
    })
    .await;
    let by_priority: Vec<_> = status.waiting_by_priority.iter().map(|w| (w.priority, w.sessions)).collect();
    assert_eq!(by_priority, [(30, 1), (10, 2)]);
    assert!(status.oldest_waiting_since.is_some());
    let waits = scene.api::<Session>().list(&Default::default()).await.unwrap();
    let waits = waits.items.iter().find(|session| reason_is("NoAvailableNode")(session)).expect("a session that does not fit");
    let nodes = waits.status.as_ref().unwrap().waiting.as_ref().unwrap().nodes.clone().expect("nodes");
    assert_eq!(nodes.total, 3);
    assert_eq!(nodes.reasons.iter().map(|reason| reason.nodes).sum::<i64>(), 3);
    scene.end(operator).await;
}

#[tokio::test]
async fn the_scaling_group_updates_its_waiting_reasons_when_only_they_change() {
    let scene = Scene::with("why", 1, json!({})).await;
    let operator = scene.operator().await;
    scene.submit("one", json!({"startsAt": "2099-01-01T00:00:00Z"})).await;
    let until_reason = |reason: &'static str| {
        let (groups, name) = (scene.all::<ScalingGroup>(), scene.name.clone());
        eventually(reason, move || {
            let (groups, name) = (groups.clone(), name.clone());
            async move {
                let status = groups.get(&name).await.unwrap().status.unwrap_or_default();
                let reasons: Vec<_> = status.waiting_by_reason.iter().map(|w| (w.reason.as_str(), w.sessions)).collect();
                if reasons == [(reason, 1)] { Ok(()) } else { Err(format!("{reasons:?}")) }
            }
        })
    };
    until_reason("NotYetDue").await;
    scene.patch_spec("one", json!({"startsAt": null, "dependsOn": ["nobody"]})).await.unwrap();
    until_reason("DependencyMissing").await;
    scene.end(operator).await;
}

/// Waits until new objects are created in a later second than this session, so that the order of creation is certain.
async fn a_second_after(scene: &Scene, name: &str) {
    let created = scene.get(name).await.metadata.creation_timestamp;
    eventually("the next second", || async {
        let now = scene.submit("probe", json!({"startsAt": "2099-01-01T00:00:00Z"})).await;
        scene.delete("probe").await;
        scene.until_gone::<Session>("probe").await;
        if now.metadata.creation_timestamp > created { Ok(()) } else { Err("the same second".into()) }
    })
    .await;
}

#[tokio::test]
async fn each_session_that_leaves_the_queue_frees_a_pending_slot_at_once() {
    let scene = Scene::with("turns", 2, json!({})).await;
    limit(&scene, json!({"maxPendingSessions": 1})).await;
    let names = ["a", "b", "c", "d", "e", "f"];
    for name in names {
        scene.submit(name, json!({})).await;
    }
    let operator = scene.operator_with(Options { timing: patient(), ..scene.options("patient") }).await;
    for name in names {
        scene.until_phase(name, SessionPhase::Running).await;
    }
    scene.submit("waits", json!({"dependsOn": ["nobody"]})).await;
    scene.until("waits", "waiting for its dependency", reason_is("DependencyMissing")).await;
    a_second_after(&scene, "waits").await;
    scene.submit("next", json!({})).await;
    scene.until("next", "refused", reason_is("PendingLimitExceeded")).await;
    scene.delete("waits").await;
    scene.until_phase("next", SessionPhase::Running).await;
    scene.end(operator).await;
}

#[tokio::test]
async fn a_waiting_reason_follows_a_dependency_that_appears_and_disappears() {
    let scene = Scene::with("appears", 1, json!({})).await;
    let operator = scene.operator_with(Options { timing: patient(), ..scene.options("patient") }).await;
    scene.submit("after", json!({"dependsOn": ["before"]})).await;
    scene.until("after", "waiting for a missing dependency", reason_is("DependencyMissing")).await;
    scene.submit("before", json!({})).await;
    let status = scene.until("after", "waiting for the dependency's end", reason_is("DependencyPending")).await.status.unwrap();
    assert_eq!(status.message.as_deref(), Some("waits for before to end with Success"));
    scene.delete("before").await;
    scene.until_gone::<Session>("before").await;
    scene.until("after", "waiting for the deleted dependency", reason_is("DependencyMissing")).await;
    scene.end(operator).await;
}

#[tokio::test]
async fn a_session_beyond_the_pending_limit_runs_once_earlier_sessions_are_gone() {
    let scene = Scene::with("pend", 1, json!({})).await;
    limit(&scene, json!({"maxPendingSessions": 1})).await;
    let operator = scene.operator().await;
    let mut main = kernel("main", 1, &[]);
    main["resources"]["cpu"] = json!(4);
    let whole_node = json!({"kernels": [main]});
    scene.submit("runs", whole_node.clone()).await;
    scene.until_phase("runs", SessionPhase::Running).await;
    scene.submit("waits", whole_node).await;
    scene.until("waits", "waiting for capacity", reason_is("NoAvailableNode")).await;
    a_second_after(&scene, "waits").await;
    scene.submit("beyond", json!({})).await;
    let status = scene.until("beyond", "refused", reason_is("PendingLimitExceeded")).await.status.unwrap();
    assert!(
        status.message.as_deref().unwrap().contains("1 of 1 sessions waiting, all older than this session"),
        "{:?}",
        status.message
    );
    scene.patch_spec("waits", json!({"desiredState": "Terminated"})).await.unwrap();
    scene.patch_spec("runs", json!({"desiredState": "Terminated"})).await.unwrap();
    scene.until_phase("beyond", SessionPhase::Running).await;
    scene.end(operator).await;
}
