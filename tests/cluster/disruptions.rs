//! Disruptions: a disrupted session neither succeeds nor fails by its program. One that has not started yet starts again.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::api::{EvictParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use sokovan::api::*;
use sokovan::operator::Ended;

use crate::common::eventually;
use crate::scene::{Scene, gang, kernel, node_of};

fn batch(command: &[&str]) -> Value {
    json!({"type": "Batch", "kernels": [kernel("main", 1, command)]})
}

async fn pod_of(scene: &Scene, session: &str) -> Pod {
    scene.pods(session).await.into_iter().next().expect("a pod")
}

/// Writes a pod's status as its kubelet would.
async fn report(scene: &Scene, pod: &str, status: Value) {
    let patch = Patch::Strategic(json!({"status": status}));
    scene.api::<Pod>().patch_status(pod, &PatchParams::default(), &patch).await.expect("the status can be written");
}

/// The status of a main container that has just ended.
fn ended(exit_code: i32, reason: &str) -> Value {
    let (start, end) = ("2026-01-01T00:00:00Z", Timestamp::now().to_string());
    json!([{
        "name": "main", "image": "busybox:1", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"terminated": {"exitCode": exit_code, "reason": reason, "startedAt": start, "finishedAt": end}},
    }])
}

fn disrupted(reason: &str, message: &str) -> Value {
    json!([{"type": "DisruptionTarget", "status": "True", "reason": reason, "message": message}])
}

/// A batch session is evicted and exits with 0, either while an operator runs or while none does.
async fn evicted_batch(prefix: &str, while_no_operator_runs: bool) {
    let scene = Scene::new(prefix).await;
    let mut operator = scene.operator().await;
    scene.submit("early", batch(&["sim", "alone"])).await;
    scene.submit("next", json!({"dependsOn": ["early"]})).await;
    scene.until_phase("early", SessionPhase::Running).await;
    let pod = pod_of(&scene, "early").await.name_any();
    let evict_and_end = async || {
        scene.api::<Pod>().evict(&pod, &EvictParams::default()).await.expect("the pod can be evicted");
        report(&scene, &pod, json!({"phase": "Succeeded", "containerStatuses": ended(0, "Completed")})).await;
    };
    if while_no_operator_runs {
        assert_eq!(operator.stop().await, Ended::Stopped);
        evict_and_end().await;
        operator = scene.operator().await;
    } else {
        evict_and_end().await;
    }
    let status = scene.until_phase("early", SessionPhase::Terminated).await.status.unwrap();
    assert_eq!((status.result, status.reason.map(|reason| reason.as_str())), (Some(SessionResult::Error), Some("Drained")));
    assert!(status.message.as_deref().unwrap().contains("Eviction API"), "{:?}", status.message);
    scene.until("next", "not started", crate::common::reason_is("DependencyFailed")).await;
    scene.end(operator).await;
}

#[tokio::test]
async fn an_evicted_batch_session_that_exits_with_0_does_not_succeed() {
    evicted_batch("evicted", false).await;
}

#[tokio::test]
async fn a_batch_session_evicted_while_no_operator_runs_does_not_succeed() {
    evicted_batch("found-later", true).await;
}

#[tokio::test]
async fn a_batch_session_starts_again_after_a_disruption_as_often_as_its_spec_says() {
    let scene = Scene::new("again").await;
    let operator = scene.operator().await;
    let mut spec = batch(&["sim", "alone"]);
    spec["retry"] = json!({"onDisruption": 1});
    scene.submit("train", spec).await;
    let drain = async || {
        let pod = scene
            .pods("train")
            .await
            .into_iter()
            .find(|pod| pod.metadata.deletion_timestamp.is_none())
            .expect("a pod")
            .name_any();
        scene.api::<Pod>().evict(&pod, &EvictParams::default()).await.expect("the pod can be evicted");
        report(&scene, &pod, json!({"phase": "Failed", "containerStatuses": ended(143, "Error")})).await;
    };
    scene.until_phase("train", SessionPhase::Running).await;
    drain().await;
    let again = |session: &Session| {
        session.phase() == SessionPhase::Running && session.status.as_ref().is_some_and(|status| status.restarts == 1)
    };
    let status = scene.until("train", "running again", again).await.status.unwrap();
    assert_eq!((status.result, status.exit_code, status.allocation_generation), (None, None, 2));
    assert!(
        crate::common::path(&status).windows(2).any(|pair| pair == ["Terminating", "Pending"]),
        "{:?}",
        crate::common::path(&status)
    );
    drain().await;
    let status = scene.until_phase("train", SessionPhase::Terminated).await.status.unwrap();
    assert_eq!((status.result, status.reason.map(|reason| reason.as_str())), (Some(SessionResult::Error), Some("Drained")));
    scene.end(operator).await;
}

#[tokio::test]
async fn a_policy_that_is_set_later_ends_a_session_after_its_lifetime() {
    let scene = Scene::new("lifetime").await;
    let operator = scene.operator().await;
    scene.submit("forgotten", json!({})).await;
    scene.until_phase("forgotten", SessionPhase::Running).await;
    scene
        .make::<ResourcePolicy>(json!({"apiVersion": "sokovan.dev/v1alpha1", "kind": "ResourcePolicy",
        "metadata": {"name": scene.name}, "spec": {"unspecified": "Unlimited", "maxLifetimeSeconds": 1}}))
        .await;
    let named = Patch::Merge(json!({"spec": {"resourcePolicy": scene.name}}));
    scene.all::<Keypair>().patch(&scene.name, &PatchParams::default(), &named).await.expect("the keypair can be changed");
    let status = scene.until_phase("forgotten", SessionPhase::Terminated).await.status.unwrap();
    assert_eq!(
        (status.result, status.reason.map(|reason| reason.as_str())),
        (Some(SessionResult::Failure), Some("LifetimeExceeded"))
    );
    let message = status.history.iter().find(|entry| entry.to == "Terminating").map(|entry| entry.message.clone());
    assert!(message.as_deref().is_some_and(|message| message.contains("of keypair")), "{message:?}");
    scene.end(operator).await;
}

#[tokio::test]
async fn a_batch_session_that_ended_before_its_pod_was_deleted_succeeds() {
    let scene = Scene::new("done-first").await;
    let operator = scene.operator().await;
    scene.submit("done", batch(&["sim", "alone"])).await;
    scene.until_phase("done", SessionPhase::Running).await;
    assert_eq!(operator.stop().await, Ended::Stopped);
    let pod = pod_of(&scene, "done").await.name_any();
    // The report of a kubelet that has not yet seen the deletion.
    let status = json!({"phase": "Succeeded", "observedGeneration": 1, "containerStatuses": ended(0, "Completed")});
    report(&scene, &pod, status).await;
    scene.api::<Pod>().evict(&pod, &EvictParams::default()).await.expect("the pod can be evicted");
    let operator = scene.operator().await;
    let status = scene.until_phase("done", SessionPhase::Terminated).await.status.unwrap();
    // Kubernetes 1.33 keeps no observed generation of pods, so the deletion may have come first.
    let minor = scene.client.apiserver_version().await.expect("a version").minor;
    let expected = if minor.as_str() == "33" { SessionResult::Error } else { SessionResult::Success };
    assert_eq!((status.result, status.exit_code), (Some(expected), Some(0)));
    scene.end(operator).await;
}

#[tokio::test]
async fn every_end_has_its_reason_in_the_session_and_the_kernel() {
    let scene = Scene::new("cause").await;
    let operator = scene.operator().await;
    let evicted = json!({
        "phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory.",
        "containerStatuses": ended(137, "Error"), "conditions": disrupted("TerminationByKubelet", "low on memory"),
    });
    let preempted = json!({
        "phase": "Failed", "containerStatuses": ended(143, "Error"),
        "conditions": disrupted("PreemptionByScheduler", "default-scheduler: preempting to accommodate a higher priority pod"),
    });
    let failed = |exit_code, reason| json!({"phase": "Failed", "containerStatuses": ended(exit_code, reason)});
    let cases = [
        ("evicted", evicted, "Evicted", "low on resource", SessionResult::Error),
        ("preempted", preempted, "Preempted", "higher priority pod", SessionResult::Error),
        ("oom", failed(137, "OOMKilled"), "OutOfMemory", "OOMKilled", SessionResult::Failure),
        ("exits", failed(3, "Error"), "ExitCode", "main1 exited with 3", SessionResult::Failure),
    ];
    for (name, status, reason, words, result) in cases {
        scene.submit(name, batch(&["sim", "alone"])).await;
        scene.until_phase(name, SessionPhase::Running).await;
        report(&scene, &pod_of(&scene, name).await.name_any(), status).await;
        let ended = scene.until_phase(name, SessionPhase::Terminated).await.status.unwrap();
        assert_eq!((ended.result, ended.reason.map(|reason| reason.as_str())), (Some(result), Some(reason)), "{name}");
        assert!(ended.message.as_deref().unwrap().contains(words), "{name}: {:?}", ended.message);
        until_kernel_ended_for(&scene, name, reason).await;
    }
    scene.submit("stopped", json!({})).await;
    scene.until_phase("stopped", SessionPhase::Running).await;
    scene.patch_spec("stopped", json!({"desiredState": "Terminated"})).await.unwrap();
    scene.until_phase("stopped", SessionPhase::Terminated).await;
    until_kernel_ended_for(&scene, "stopped", "UserRequested").await;
    scene.end(operator).await;
}

async fn until_kernel_ended_for(scene: &Scene, session: &str, reason: &str) {
    eventually(&format!("the kernel of {session} to name its cause"), || async {
        let status = scene.kernel_status(session).await;
        if status.reason.as_deref() == Some(reason) { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
}

#[tokio::test]
async fn a_session_restarts_elsewhere_when_its_pod_is_rejected_or_drained_before_it_starts() {
    let scene = Scene::new("again").await;
    let operator = scene.operator().await;
    let refused = json!({"phase": "Failed", "reason": "OutOfcpu", "message": "Node didn't have enough resource: cpu"});
    for name in ["refused", "drained"] {
        let mut spec = batch(&["sim", "never"]);
        if name == "drained" {
            spec = json!({"clusterMode": "MultiNode", "kernels": [kernel("main", 1, &["sim", "never"]), kernel("sub", 1, &["sim", "no-image"])]});
        }
        scene.submit(name, spec).await;
        eventually("its pods to be on their nodes", || async {
            let pods = scene.pods(name).await;
            let bound = pods.iter().filter(|pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some())).count();
            if bound > 0 && bound == pods.len() { Ok(()) } else { Err(format!("{bound} of {}", pods.len())) }
        })
        .await;
        let first = scene.status(name).await;
        let pod = pod_of(&scene, name).await;
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap();
        if name == "refused" {
            report(&scene, &pod.name_any(), refused.clone()).await;
        } else {
            scene.api::<Pod>().evict(&pod.name_any(), &EvictParams::default()).await.expect("the pod can be evicted");
        }
        let reallocated = scene.until(name, "allocated again", |session| {
            let status = session.status.clone().unwrap_or_default();
            status.allocation_generation > first.allocation_generation && !status.allocation.is_empty()
        });
        let status = reallocated.await.status.unwrap();
        assert_eq!((status.disruptions, status.resets, status.attempts), (1, 0, 0), "{name}");
        assert_eq!(status.result, None);
        assert!(status.failed_nodes.iter().any(|failed| failed.node.as_str() == node), "{name}: {:?}", status.failed_nodes);
        assert_ne!(node_of(&status, "main1"), node, "{name}");
        scene.delete(name).await;
        scene.until_gone::<Session>(name).await;
    }
    scene.end(operator).await;
}

#[tokio::test]
async fn foreign_finalizers_are_reported_and_do_not_replace_the_reason_of_an_end() {
    let scene = Scene::new("keepers").await;
    let operator = scene.operator().await;
    scene.submit("kept", gang()).await;
    scene.until_phase("kept", SessionPhase::Running).await;
    let keep = |finalizer: &str| Patch::Merge(json!({"metadata": {"finalizers": [finalizer, FINALIZER_POD]}}));
    let pods = scene.api::<Pod>();
    let pod = pod_of(&scene, "kept").await.name_any();
    pods.patch(&pod, &PatchParams::default(), &keep("other.test/pod")).await.expect("a foreign finalizer");
    let sessions = scene.api::<Session>();
    let both = Patch::Merge(json!({"metadata": {"finalizers": ["other.test/session", FINALIZER_SESSION]}}));
    sessions.patch_metadata("kept", &PatchParams::default(), &both).await.expect("a foreign finalizer");
    scene.delete("kept").await;
    let says = |words: &'static str| {
        move |session: &Session| {
            let status = session.status.clone().unwrap_or_default();
            status.history.iter().any(|entry| entry.message.contains(words))
        }
    };
    let held = scene.until("kept", "reporting the pod's finalizer", says("is kept by the finalizer other.test/pod")).await;
    assert_eq!(
        held.status.as_ref().and_then(|status| status.reason.map(|reason| reason.as_str())),
        Some("Deleted"),
        "the end keeps its reason"
    );
    pods.patch(&pod, &PatchParams::default(), &Patch::Merge(json!({"metadata": {"finalizers": null}})))
        .await
        .expect("the finalizer can be removed");
    scene
        .until("kept", "reporting the session's finalizer", says("the session is kept by the finalizer other.test/session"))
        .await;
    eventually("an Event that names the finalizer", || async {
        let about = ListParams::default().fields("regarding.name=kept,reason=DeletionHeld");
        let events = scene.api::<Event>().list(&about).await.map_err(|error| error.to_string())?;
        if events.items.is_empty() { Err("none yet".to_owned()) } else { Ok(()) }
    })
    .await;
    let none = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    sessions.patch_metadata("kept", &PatchParams::default(), &none).await.expect("the finalizer can be removed");
    scene.until_gone::<Session>("kept").await;
    scene.end(operator).await;
}
