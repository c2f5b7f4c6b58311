//! Waiting sessions: their order, their reasons, and what ends their wait.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams, PostParams, WatchEvent, WatchParams};
use serde_json::json;
use sokovan::api::*;
use sokovan::lifecycle::Timing;
use sokovan::operator::Options;

use crate::common::{eventually, patience, reason_is};
use crate::permissions::OPERATOR;
use crate::scene::{Scene, fast, kernel};

#[tokio::test]
async fn a_session_waits_for_capacity_and_gets_it_when_another_ends() {
    let scene = Scene::with("capacity", 1, json!({})).await;
    let operator = scene.operator().await;
    let four = json!({"kernels": [{"role": "main", "image": "busybox:1", "resources": {"cpu": 4, "memory": "1Gi"}}]});
    scene.submit("first", four.clone()).await;
    scene.until_phase("first", SessionPhase::Running).await;
    scene.submit("second", four).await;
    let waiting = scene.until("second", "waiting", reason_is("NoAvailableNode")).await.status.unwrap();
    assert_eq!(waiting.phase, SessionPhase::Pending);
    let message = waiting.message.clone().unwrap();
    assert!(message.contains("cpu 0 of 4 needed"), "{message}");
    assert_eq!(waiting.history.last().unwrap().cause, Some(Cause::Capacity));
    scene.patch_spec("first", json!({"desiredState": "Terminated"})).await.unwrap();
    scene.until_phase("second", SessionPhase::Running).await;
    scene.end(operator).await;
}

#[tokio::test]
async fn sessions_that_fit_are_committed_before_waiting_reasons() {
    let scene = Scene::new("first").await;
    // More than are processed at once, so that the last one would have to wait for some of them.
    let late = (0..50).map(|number| format!("a-{number}"));
    for name in late.clone() {
        scene.submit(&name, json!({"startsAt": "2100-01-01T00:00:00Z"})).await;
    }
    scene.submit("z-fits", json!({})).await;
    let all = scene.api::<Session>();
    let since = all.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    let mut changes = all.watch(&WatchParams::default(), &since).await.unwrap().boxed();
    let operator = scene.operator().await;
    let first = tokio::time::timeout(patience(), async {
        loop {
            match changes.try_next().await.expect("the watch works").expect("the watch does not end") {
                WatchEvent::Modified(session) if session.status.is_some() => break session,
                _ => {}
            }
        }
    });
    let first = first.await.expect("a status in time");
    assert_eq!((first.name_any().as_str(), first.phase()), ("z-fits", SessionPhase::Scheduled));
    for name in late {
        scene.until(&name, "waiting", reason_is("NotYetDue")).await;
    }
    scene.end(operator).await;
}

/// Blocks the statuses of sessions with the label, such as `session`, by an unreachable webhook.
async fn block_statuses(scene: &Scene, session: &str) {
    let webhook = json!({
        "metadata": {"name": scene.name},
        "webhooks": [{
            "name": "blocked.sokovan.test", "admissionReviewVersions": ["v1"], "sideEffects": "None", "failurePolicy": "Fail",
            "timeoutSeconds": 1, "clientConfig": {"url": "https://127.0.0.1:1/"},
            "objectSelector": {"matchLabels": {"blocked": scene.name}},
            "rules": [{"apiGroups": ["sokovan.dev"], "apiVersions": ["*"], "operations": ["UPDATE"], "resources": ["sessions/status"]}],
        }],
    });
    let webhook = serde_json::from_value(webhook).unwrap();
    scene.all::<ValidatingWebhookConfiguration>().create(&PostParams::default(), &webhook).await.unwrap();
    let operator = scene.as_user(OPERATOR).await;
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    let mut blocked = scene.get(session).await;
    blocked.status = Some(SessionStatus::default());
    eventually("the webhook to take effect", || async {
        match operator.api::<Session>().replace_status(session, &dry, &blocked).await {
            Err(error) if error.to_string().contains("failed calling webhook") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

#[tokio::test]
async fn unanswered_writes_do_not_delay_other_sessions() {
    let scene = Scene::new("stuck").await;
    let small = json!({"kernels": [{"role": "main", "image": "busybox:1", "resources": {"cpu": "100m", "memory": "1Mi"}}]});
    // More than are processed at once.
    let blocked: Vec<String> = (0..40).map(|number| format!("a-blocked-{number}")).collect();
    for name in &blocked {
        let mut session = scene.session(name, small.clone());
        session["metadata"]["labels"] = json!({"blocked": scene.name});
        scene.create(session).await.unwrap();
    }
    block_statuses(&scene, &blocked[0]).await;
    scene.submit("later", json!({"startsAt": "2100-01-01T00:00:00Z"})).await;
    scene.submit("z-fits", small).await;
    let timing = Timing { lock_lifetime: Duration::from_secs(2), ..fast() };
    let operator = scene.operator_with(Options { timing, ..scene.options("stuck") }).await;
    scene.until("later", "waiting", reason_is("NotYetDue")).await;
    scene.until_phase("z-fits", SessionPhase::Running).await;
    for name in &blocked {
        assert_eq!(scene.get(name).await.status, None, "{name} is blocked");
    }
    scene.all::<ValidatingWebhookConfiguration>().delete(&scene.name, &DeleteParams::default()).await.unwrap();
    for name in &blocked {
        scene.until_phase(name, SessionPhase::Running).await;
    }
    scene.end(operator).await;
}

#[tokio::test]
async fn sessions_that_depend_on_each_other_get_the_reason_dependency_circular() {
    let scene = Scene::new("circle").await;
    let operator = scene.operator().await;
    for (name, next) in [("one", "two"), ("two", "three"), ("three", "one")] {
        scene.submit(name, json!({"dependsOn": [next]})).await;
    }
    for name in ["one", "two", "three"] {
        scene.until_phase(name, SessionPhase::Cancelled).await;
    }
    let history = scene.get("three").await.status.unwrap().progress.history;
    let entry = history
        .iter()
        .find(|entry| entry.error_code.map(|reason| reason.as_str()) == Some("DependencyCircular"))
        .expect("the circle is reported");
    assert_eq!(entry.message, "this session depends on session one, which waits for this session");
    assert_eq!(entry.cause, Some(Cause::Fault));
    scene.end(operator).await;
}

#[tokio::test]
async fn a_session_without_nodes_gets_its_reason_once_and_no_further_writes() {
    let scene = Scene::with("no-nodes", 0, json!({})).await;
    let often = Duration::from_millis(100);
    let hour = Duration::from_secs(3600);
    let timing = Timing { wait_backoff: hour, wait_backoff_max: hour, long_cycle: often, long_cycle_initial: often, ..fast() };
    let operator = scene.operator_with(Options { timing, ..scene.options("patient") }).await;
    scene.submit("one", json!({})).await;
    let first = scene.until("one", "waiting", reason_is("NoAvailableNode")).await;
    for other in ["two", "three"] {
        scene.submit(other, json!({})).await;
        scene.until(other, "waiting", reason_is("NoAvailableNode")).await;
    }
    let later = scene.get("one").await;
    assert_eq!(later.metadata.resource_version, first.metadata.resource_version, "{:#?}", later.status);
    scene.end(operator).await;
}

#[tokio::test]
async fn a_raised_priority_takes_effect_while_waiting() {
    let scene = Scene::with("raised", 1, json!({})).await;
    let operator = scene.operator().await;
    let four = json!({"kernels": [{"role": "main", "image": "busybox:1", "resources": {"cpu": 4, "memory": "1Gi"}}]});
    scene.submit("first", four.clone()).await;
    scene.until_phase("first", SessionPhase::Running).await;
    for name in ["second", "third"] {
        scene.submit(name, four.clone()).await;
        scene.until(name, "waiting", reason_is("NoAvailableNode")).await;
    }
    scene.patch_spec("third", json!({"priority": 60})).await.unwrap();
    let raised = |session: &Session| session.status.as_ref().is_some_and(|status| status.effective_priority == Some(60));
    scene.until("third", "raised", raised).await;
    scene.patch_spec("first", json!({"desiredState": "Terminated"})).await.unwrap();
    scene.until_phase("third", SessionPhase::Running).await;
    assert_eq!(scene.status("second").await.phase, SessionPhase::Pending);
    scene.end(operator).await;
}

#[tokio::test]
async fn foreign_pods_count_as_used_and_nodes_are_not_overcommitted() {
    let scene = Scene::with("foreign", 1, json!({})).await;
    let foreign: Pod = serde_json::from_value(json!({
        "metadata": {"name": "foreign"},
        "spec": {"nodeName": scene.node_name(1), "containers": [
            {"name": "c", "image": "busybox:1", "resources": {"requests": {"cpu": "3"}}}
        ]},
    }))
    .unwrap();
    scene.api::<Pod>().create(&PostParams::default(), &foreign).await.unwrap();
    let operator = scene.operator().await;
    for name in ["a", "b"] {
        scene.submit(name, json!({})).await;
    }
    let running = |session: &Session| session.phase() == SessionPhase::Running;
    let waiting = reason_is("NoAvailableNode");
    let settled = |session: &Session| running(session) || waiting(session);
    let (a, b) = (scene.until("a", "settled", settled).await, scene.until("b", "settled", settled).await);
    assert_ne!(running(&a), running(&b), "one core is left, so one of the two runs");
    scene.api::<Pod>().delete("foreign", &Default::default()).await.unwrap();
    scene.until_phase("a", SessionPhase::Running).await;
    scene.until_phase("b", SessionPhase::Running).await;
    scene.end(operator).await;
}

#[tokio::test]
async fn ss_008_the_higher_priority_is_placed_first() {
    let scene = Scene::with("prio", 1, json!({})).await;
    let four = |priority| json!({"priority": priority, "kernels": [{"role": "main", "image": "busybox:1", "resources": {"cpu": 4, "memory": "1Gi"}}]});
    scene.submit("low", four(5)).await;
    scene.submit("high", four(50)).await;
    let operator = scene.operator().await;
    scene.until_phase("high", SessionPhase::Running).await;
    assert_eq!(scene.get("low").await.phase(), SessionPhase::Pending);
    scene.end(operator).await;
}

#[tokio::test]
async fn ss_009_a_session_with_a_start_time_waits_until_then() {
    let scene = Scene::new("later").await;
    let operator = scene.operator().await;
    scene.submit("first", json!({})).await;
    scene.until_phase("first", SessionPhase::Running).await; // the operator leads
    let due = chrono::Utc::now() + chrono::TimeDelta::seconds(10);
    scene.submit("later", json!({"startsAt": due})).await;
    let waiting = scene.until("later", "waiting", reason_is("NotYetDue")).await.status.unwrap();
    assert_eq!((waiting.phase, waiting.attempts), (SessionPhase::Pending, 0));
    let status = scene.until_phase("later", SessionPhase::Running).await.status.unwrap();
    assert!(status.history.iter().find(|entry| entry.to == "Scheduled").unwrap().created_at >= due);
    scene.end(operator).await;
}

#[tokio::test]
async fn a_dependent_session_waits_for_the_success_of_another() {
    let scene = Scene::new("depend").await;
    let operator = scene.operator().await;
    scene.submit("after", json!({"dependsOn": ["before"]})).await;
    scene.until("after", "waiting", reason_is("DependencyMissing")).await;
    scene.submit("before", json!({"type": "Batch", "kernels": [kernel("main", 1, &["sim", "run", "200ms"])]})).await;
    scene.until_phase("after", SessionPhase::Running).await;
    assert_eq!(scene.get("before").await.phase(), SessionPhase::Terminated);
    scene.end(operator).await;
}

#[tokio::test]
async fn ss_010_a_private_session_has_its_node_to_itself() {
    let scene = Scene::with("private", 1, json!({})).await;
    let operator = scene.operator().await;
    scene.submit("alone", json!({"private": true})).await;
    scene.until_phase("alone", SessionPhase::Running).await;
    scene.submit("other", json!({})).await;
    let waiting = scene.until("other", "waiting", reason_is("NoAvailableNode")).await.status.unwrap();
    assert!(waiting.progress.message.unwrap().contains("occupied by a private session"));
    scene.end(operator).await;
}

#[tokio::test]
async fn ss_004_ss_005_a_session_runs_only_on_its_designated_nodes() {
    let scene = Scene::new("designated").await;
    let operator = scene.operator().await;
    let on = |node: String| {
        json!({"kernels": [{
            "role": "main", "image": "busybox:1", "designatedNodes": [node], "resources": {"cpu": 1, "memory": "1Gi"},
        }]})
    };
    scene.submit("here", on(scene.node_name(3))).await;
    let status = scene.until_phase("here", SessionPhase::Running).await.status.unwrap();
    assert_eq!(status.nodes, Some(scene.node_name(3)));
    scene.submit("nowhere", on("no-such-node".into())).await;
    let status = scene.until("nowhere", "waiting", reason_is("DesignatedNodeNotFound")).await.status.unwrap();
    assert_eq!((status.phase, status.history[0].cause), (SessionPhase::Pending, Some(Cause::Hold)));
    scene.end(operator).await;
}

#[tokio::test]
async fn an_unknown_keypair_is_reported_at_once() {
    let scene = Scene::new("unknown").await;
    let operator = scene.operator().await;
    scene.submit("unowned", json!({"accessKey": "no-such-key"})).await;
    let status = scene.until("unowned", "waiting", reason_is("KeypairNotFound")).await.status.unwrap();
    let first = &status.history[0];
    assert_eq!((first.cause, first.message.as_str()), (Some(Cause::Hold), "keypair no-such-key does not exist"));
    scene.end(operator).await;
}
