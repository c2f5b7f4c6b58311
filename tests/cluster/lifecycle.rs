//! A session of one kernel, from its creation to its end.

use serde_json::json;
use sokovan::api::*;

use crate::common::{eventually, path};
use crate::scene::{Scene, kernel};

#[tokio::test]
async fn st_004_a_session_runs_through_every_phase_to_running() {
    let scene = Scene::new("life").await;
    let operator = scene.operator().await;
    scene.submit("one", json!({})).await;
    let session = scene.until_phase("one", SessionPhase::Running).await;
    let status = session.status.unwrap();
    let expected = ["Pending", "Scheduled", "Preparing", "Prepared", "Creating", "Running"];
    assert_eq!(path(&status), expected, "a cached image needs no Pulling");
    assert_eq!(status.kernels_ready.as_deref(), Some("1/1"));
    assert_eq!(status.allocation.len(), 1);
    assert!(status.nodes.as_ref().unwrap().starts_with(&scene.name));
    assert_eq!(status.occupied.get("cpu").map(Quantity::amount), Some(Amount::from_units(1)));
    assert!(session.metadata.finalizers.unwrap().contains(&FINALIZER_SESSION.to_owned()));
    let running = status.conditions.iter().find(|condition| condition.type_ == "Running").unwrap();
    assert_eq!(running.status, ConditionStatus::True);
    scene.end(operator).await;
}

#[tokio::test]
async fn a_pod_has_its_node_its_limits_and_no_privileges() {
    let scene = Scene::new("pod").await;
    let operator = scene.operator().await;
    scene.submit("one", json!({})).await;
    let session = scene.until_phase("one", SessionPhase::Running).await;
    let pods = scene.pods("one").await;
    assert_eq!(pods.len(), 1);
    let spec = pods[0].spec.clone().unwrap();
    assert_eq!(spec.node_name, session.status.unwrap().nodes);
    assert_eq!(spec.restart_policy.as_deref(), Some("Never"));
    assert_eq!(spec.automount_service_account_token, Some(false));
    let resources = spec.containers[0].resources.clone().unwrap();
    assert_eq!(resources.requests, resources.limits);
    assert!(spec.host_network.is_none() && spec.host_pid.is_none() && spec.host_ipc.is_none());
    assert!(spec.init_containers.is_none(), "a single kernel needs no gate");
    let owner = &pods[0].metadata.owner_references.clone().unwrap()[0];
    assert_eq!((owner.kind.as_str(), Some(&owner.uid)), ("Session", session.metadata.uid.as_ref()));
    scene.end(operator).await;
}

#[tokio::test]
async fn batch_sessions_end_with_their_commands_exit_code() {
    let scene = Scene::new("batch").await;
    let operator = scene.operator().await;
    for (name, what) in [("good", "run"), ("bad", "fail")] {
        scene.submit(name, json!({"type": "Batch", "kernels": [kernel("main", 1, &["sim", what, "300ms"])]})).await;
    }
    let good = scene.until_phase("good", SessionPhase::Terminated).await.status.unwrap();
    assert_eq!((good.result, good.exit_code), (Some(SessionResult::Success), Some(0)));
    let bad = scene.until_phase("bad", SessionPhase::Terminated).await.status.unwrap();
    assert_eq!((bad.result, bad.exit_code), (Some(SessionResult::Failure), Some(1)));
    assert_eq!(bad.reason.map(|reason| reason.as_str()), Some("ExitCode"));
    assert_eq!(scene.pods("bad").await.len(), 1, "a finished pod stays for its logs");
    eventually("the code to be recorded", || async {
        let code = scene.kernel_status("bad").await.exit_code;
        if code == Some(1) { Ok(()) } else { Err(format!("{code:?}")) }
    })
    .await;
    scene.end(operator).await;
}

#[tokio::test]
async fn a_finished_session_is_removed_after_its_time_to_live() {
    let scene = Scene::new("ttl").await;
    let operator = scene.operator().await;
    let spec = json!({
        "type": "Batch", "ttlSecondsAfterFinished": 60, "kernels": [kernel("main", 1, &["sim", "run", "100ms"])],
    });
    scene.submit("short", spec).await;
    scene.until_gone::<Session>("short").await;
    assert!(scene.pods("short").await.is_empty());
    scene.end(operator).await;
}

#[tokio::test]
async fn an_idle_operator_writes_nothing_to_running_sessions() {
    let scene = Scene::new("idle").await;
    let operator = scene.operator().await;
    scene.submit("one", json!({})).await;
    scene.until_phase("one", SessionPhase::Running).await;
    let kernel = || async { scene.kernels("one").await.remove(0) };
    eventually("the kernel to be recorded", || async {
        let phase = scene.kernel_status("one").await.phase;
        if phase == KernelPhase::Running { Ok(()) } else { Err(format!("{phase:?}")) }
    })
    .await;
    let versions = || async {
        let pod = scene.pods("one").await.remove(0);
        (
            scene.get("one").await.metadata.resource_version,
            kernel().await.metadata.resource_version,
            pod.metadata.resource_version,
        )
    };
    let before = versions().await;
    // The other session takes several long cycles to run to its end.
    scene.submit("other", json!({"type": "Batch", "kernels": [self::kernel("main", 1, &["sim", "run", "5s"])]})).await;
    scene.until_phase("other", SessionPhase::Terminated).await;
    assert_eq!(versions().await, before);
    scene.end(operator).await;
}

#[tokio::test]
async fn a_spec_change_without_effect_is_observed_while_running_and_after_the_end() {
    let scene = Scene::with("observed", 1, json!({})).await;
    let operator = scene.operator().await;
    let observed = |session: &Session| {
        let generation = session.metadata.generation.unwrap();
        let status = session.status.clone().unwrap_or_default();
        status.observed_generation == generation && status.conditions.iter().all(|c| c.observed_generation == generation)
    };
    scene.submit("one", json!({})).await;
    scene.until_phase("one", SessionPhase::Running).await;
    let edited = scene.patch_spec("one", json!({"ttlSecondsAfterFinished": 86_400})).await.expect("the spec can be changed");
    assert!(!observed(&edited));
    let history = scene.until("one", "observed", observed).await.status.unwrap().progress.history;
    assert_eq!(history, edited.status.unwrap().history, "no handler has run");
    scene.patch_spec("one", json!({"desiredState": "Terminated"})).await.expect("the change is accepted");
    scene.until_phase("one", SessionPhase::Terminated).await;
    let edited = scene.patch_spec("one", json!({"ttlSecondsAfterFinished": 43_200})).await.expect("the spec can be changed");
    assert!(!observed(&edited));
    scene.until("one", "observed", observed).await;
    scene.end(operator).await;
}
