//! How sessions end: by their user, a kernel, an image or a node.

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;
use sokovan::api::*;
use sokovan::lifecycle::Timing;
use sokovan::operator::Options;

use crate::common::{eventually, reason_is};
use crate::scene::{LONG_AGO, Scene, fast, gang, kernel, node_of, patient, unhurried};

#[tokio::test]
async fn ts_001_a_user_ends_a_running_session_and_its_object_remains() {
    let scene = Scene::new("by-user").await;
    let operator = scene.operator().await;
    scene.submit("one", gang()).await;
    scene.until_phase("one", SessionPhase::Running).await;
    scene.patch_spec("one", json!({"desiredState": "Terminated"})).await.unwrap();
    let status = scene.until_phase("one", SessionPhase::Terminated).await.status.unwrap();
    assert_eq!(
        (status.result, status.reason.map(|reason| reason.as_str())),
        (Some(SessionResult::UserCancelled), Some("UserRequested"))
    );
    assert!(status.finished_at.is_some() && status.occupied.is_empty());
    eventually("all kernels to be recorded as ended", || async {
        let kernels = scene.kernels("one").await;
        let ended = kernels.iter().filter(|k| k.status.as_ref().is_some_and(|s| s.phase.is_terminal())).count();
        if ended == 3 { Ok(()) } else { Err(format!("{ended} of {}", kernels.len())) }
    })
    .await;
    scene.end(operator).await;
}

#[tokio::test]
async fn a_user_cancels_a_waiting_session() {
    let scene = Scene::with("cancel", 0, json!({})).await;
    let operator = scene.operator().await;
    scene.submit("one", json!({})).await;
    scene.until("one", "waiting", |session| session.status.is_some()).await;
    scene.patch_spec("one", json!({"desiredState": "Terminated"})).await.unwrap();
    let status = scene.until_phase("one", SessionPhase::Cancelled).await.status.unwrap();
    assert_eq!(status.result, Some(SessionResult::UserCancelled));
    scene.end(operator).await;
}

#[tokio::test]
async fn deleting_a_session_ends_and_removes_it_in_every_phase() {
    let scene = Scene::with("delete", 3, unhurried()).await;
    let operator = scene.operator().await;
    scene.submit("running", gang()).await;
    scene.until_phase("running", SessionPhase::Running).await;
    scene.submit("pulling", json!({"kernels": [kernel("main", 1, &["sim", "no-image"])]})).await;
    scene.until_phase("pulling", SessionPhase::Pulling).await;
    scene.submit("waiting", json!({"dependsOn": ["never"]})).await;
    scene.until("waiting", "waiting", |session| session.status.is_some()).await;
    scene.submit("creating", json!({"kernels": [kernel("main", 1, &[]), kernel("sub", 1, &["sim", "never"])]})).await;
    scene.until_phase("creating", SessionPhase::Creating).await;
    scene.submit("ended", json!({"type": "Batch", "kernels": [kernel("main", 1, &["sim", "run", "100ms"])]})).await;
    scene.until_phase("ended", SessionPhase::Terminated).await;
    let all = [
        ("running", SessionPhase::Running),
        ("pulling", SessionPhase::Pulling),
        ("waiting", SessionPhase::Pending),
        ("creating", SessionPhase::Creating),
        ("ended", SessionPhase::Terminated),
    ];
    for (name, phase) in all {
        assert_eq!(scene.get(name).await.phase(), phase);
        scene.delete(name).await;
    }
    for (name, _) in all {
        scene.until_gone::<Session>(name).await;
        assert!(scene.pods(name).await.is_empty(), "{name}");
    }
    eventually("the kernels to be garbage-collected", || async {
        let kernels = scene.api::<Kernel>().list(&Default::default()).await.map_err(|e| e.to_string())?;
        if kernels.items.is_empty() { Ok(()) } else { Err(format!("{} left", kernels.items.len())) }
    })
    .await;
    scene.end(operator).await;
}

#[tokio::test]
async fn a_missing_image_cancels_the_session_with_the_kubelets_message() {
    let scene = Scene::with("image", 1, json!({"retry": {"imagePullTimeoutSeconds": 120}})).await;
    let operator = scene.operator().await;
    scene.submit("one", json!({"kernels": [kernel("main", 1, &["sim", "no-image"])]})).await;
    let status = scene.until_phase("one", SessionPhase::Cancelled).await.status.unwrap();
    assert_eq!(
        (status.reason.map(|reason| reason.as_str()), status.result),
        (Some("ImagePullFailed"), Some(SessionResult::Error))
    );
    assert!(status.progress.message.unwrap().contains("no such image"));
    scene.until_no_pods("one").await;
    scene.end(operator).await;
}

#[tokio::test]
async fn a_pod_deleted_by_someone_else_ends_the_session() {
    let scene = Scene::new("behind").await;
    let operator = scene.operator().await;
    scene.submit("one", gang()).await;
    scene.until_phase("one", SessionPhase::Running).await;
    let victim = scene.pods("one").await.into_iter().find(|pod| pod.name_any().contains("-sub2-")).unwrap();
    scene.api::<Pod>().delete(&victim.name_any(), &DeleteParams::default()).await.unwrap();
    let status = scene.until_phase("one", SessionPhase::Terminated).await.status.unwrap();
    assert_eq!((status.reason.map(|reason| reason.as_str()), status.result), (Some("PodDeleted"), Some(SessionResult::Error)));
    assert!(status.progress.message.unwrap().contains("sub2"));
    scene.end(operator).await;
}

#[tokio::test]
async fn a_command_that_fails_at_once_ends_an_interactive_session() {
    let scene = Scene::new("fails").await;
    let operator = scene.operator().await;
    scene.submit("one", json!({"kernels": [kernel("main", 1, &["sim", "fail", "10ms"])]})).await;
    let status = scene.until_phase("one", SessionPhase::Terminated).await.status.unwrap();
    assert_eq!(
        (status.reason.map(|reason| reason.as_str()), status.result),
        (Some("AbnormalTermination"), Some(SessionResult::Error))
    );
    assert_eq!(status.exit_code, Some(1));
    scene.end(operator).await;
}

#[tokio::test]
async fn a_batch_session_ends_with_its_main_container_despite_a_running_sidecar() {
    let scene = Scene::new("sidecar").await;
    let operator = scene.operator().await;
    scene.submit("one", json!({"type": "Batch"})).await;
    scene.until_phase("one", SessionPhase::Running).await;
    let pod = scene.pods("one").await.remove(0);
    let mut status = serde_json::to_value(pod.status.clone().unwrap()).unwrap();
    let mut sidecar = status["containerStatuses"][0].clone();
    sidecar["name"] = json!("log-shipper");
    status["containerStatuses"][0]["state"] = json!({"terminated": {"exitCode": 3, "reason": "Error"}});
    status["containerStatuses"].as_array_mut().unwrap().push(sidecar);
    let pods = scene.api::<Pod>();
    let patch = Patch::Merge(json!({ "status": status }));
    pods.patch_status(&pod.name_any(), &PatchParams::default(), &patch).await.unwrap();
    let status = scene.until_phase("one", SessionPhase::Terminated).await.status.unwrap();
    assert_eq!((status.result, status.exit_code), (Some(SessionResult::Failure), Some(3)));
    scene.until_no_pods("one").await;
    scene.end(operator).await;
}

#[tokio::test]
async fn ts_002_deleting_a_node_ends_its_sessions_and_leaves_no_pods() {
    let scene = Scene::with("gone", 1, json!({})).await;
    let operator = scene.operator().await;
    scene.submit("one", json!({})).await;
    scene.until_phase("one", SessionPhase::Running).await;
    scene.delete_node(1).await;
    let status = scene.until_phase("one", SessionPhase::Terminated).await.status.unwrap();
    assert_eq!(status.result, Some(SessionResult::Error));
    scene.delete("one").await;
    scene.until_gone::<Session>("one").await;
    assert!(scene.pods("one").await.is_empty());
    scene.end(operator).await;
}

#[tokio::test]
async fn a_cordoned_node_gets_no_new_sessions_and_keeps_running_ones() {
    let scene = Scene::with("cordon", 1, json!({})).await;
    let operator = scene.operator().await;
    let nodes = scene.all::<Node>();
    let cordoned = async |cordoned: bool| {
        let patch = Patch::Merge(json!({"spec": {"unschedulable": cordoned}}));
        nodes.patch(&scene.node_name(1), &PatchParams::default(), &patch).await.unwrap();
    };
    scene.submit("one", json!({})).await;
    scene.until_phase("one", SessionPhase::Running).await;
    cordoned(true).await;
    scene.submit("two", json!({})).await;
    let message = scene.until("two", "waiting", reason_is("NoAvailableNode")).await.status.unwrap().progress.message.unwrap();
    assert!(message.contains("1 of 1: cordoned"), "{message}");
    assert_eq!(scene.get("one").await.phase(), SessionPhase::Running, "a session on a cordoned node keeps running");
    cordoned(false).await;
    scene.until_phase("two", SessionPhase::Running).await;
    scene.end(operator).await;
}

#[tokio::test]
async fn forced_termination_ends_at_once_and_removes_the_pods() {
    let scene = Scene::new("forced").await;
    let operator = scene.operator().await;
    scene.submit("one", json!({"termination": {"mode": "Forced", "gracePeriodSeconds": 0}})).await;
    scene.until_phase("one", SessionPhase::Running).await;
    scene.patch_spec("one", json!({"desiredState": "Terminated"})).await.unwrap();
    let status = scene.until_phase("one", SessionPhase::Terminated).await.status.unwrap();
    let last = status.history.last().unwrap();
    assert_eq!((last.from.as_str(), last.to.as_str()), ("Running", "Terminated"));
    scene.until_no_pods("one").await;
    scene.end(operator).await;
}

#[tokio::test]
async fn a_gang_that_loses_a_node_before_it_starts_is_reset_to_other_nodes() {
    let scene = Scene::with("lostpull", 3, unhurried()).await;
    let operator = scene.operator().await;
    let mut main = kernel("main", 1, &[]);
    main["resources"]["cpu"] = json!(3);
    let mut sub = kernel("sub", 1, &["sim", "no-image"]);
    sub["resources"]["cpu"] = json!(3);
    scene.submit("two", json!({"clusterMode": "MultiNode", "kernels": [main, sub]})).await;
    let status = scene.until_phase("two", SessionPhase::Pulling).await.status.unwrap();
    let lost = node_of(&status, "main1");
    scene.lose_node(&lost, LONG_AGO).await;
    let reset = |session: &Session| {
        session.status.as_ref().is_some_and(|status| status.resets == 1 && status.phase == SessionPhase::Pulling)
    };
    let status = scene.until("two", "reset and pulling again", reset).await.status.unwrap();
    assert_ne!(node_of(&status, "main1"), lost);
    assert!(status.failed_nodes.iter().any(|node| node.node.0 == lost), "{:?}", status.failed_nodes);
    assert!(status.history.iter().any(|entry| entry.error_code.map(|reason| reason.as_str()) == Some("NodeLost")));
    scene.end(operator).await;
}

#[tokio::test]
async fn a_gang_that_loses_a_node_while_it_starts_ends_without_a_reset() {
    let scene = Scene::with("lostcreate", 3, unhurried()).await;
    let operator = scene.operator().await;
    let kernels = [kernel("main", 1, &[]), kernel("sub", 1, &["sim", "never"])];
    scene.submit("two", json!({"clusterMode": "MultiNode", "kernels": kernels})).await;
    let status = scene.until_phase("two", SessionPhase::Creating).await.status.unwrap();
    scene.lose_node(&node_of(&status, "sub1"), LONG_AGO).await;
    let status = scene.until_phase("two", SessionPhase::Terminated).await.status.unwrap();
    assert_eq!((status.result, status.resets), (Some(SessionResult::Error), 0));
    assert!(status.history.iter().any(|entry| entry.message.contains("NodeLost")), "{:#?}", status.history);
    scene.end(operator).await;
}

#[tokio::test]
async fn a_session_that_loses_its_node_in_preparing_ends_because_it_may_have_started() {
    let scene = Scene::with("lostprepare", 2, unhurried()).await;
    let operator = scene.operator().await;
    scene.submit("one", json!({"kernels": [kernel("main", 1, &["sim", "never"])]})).await;
    let status = scene.until_phase("one", SessionPhase::Preparing).await.status.unwrap();
    let node = node_of(&status, "main1");
    eventually("its pod to be bound", || async {
        let bound = scene.pods("one").await.pop().and_then(|pod| pod.spec?.node_name);
        if bound.as_ref() == Some(&node) { Ok(()) } else { Err(format!("{bound:?}")) }
    })
    .await;
    scene.lose_node(&node, LONG_AGO).await;
    let status = scene.until_phase("one", SessionPhase::Terminated).await.status.unwrap();
    assert_eq!((status.result, status.resets), (Some(SessionResult::Error), 0));
    assert!(status.message.as_deref().is_some_and(|message| message.contains(&node)), "{:?}", status.message);
    scene.end(operator).await;
}

#[tokio::test]
async fn a_terminating_session_on_a_lost_node_ends_and_its_kernel_is_recorded_when_the_node_returns() {
    let scene = Scene::with("lostend", 1, json!({})).await;
    let node = scene.node_name(1);
    let operator = scene.operator().await;
    scene.submit("one", json!({"kernels": [kernel("main", 1, &["sim", "alone"])]})).await;
    scene.until_phase("one", SessionPhase::Running).await;
    scene.patch_spec("one", json!({"desiredState": "Terminated"})).await.expect("the change is accepted");
    scene.until_phase("one", SessionPhase::Terminating).await;
    scene.lose_node(&node, LONG_AGO).await;
    let status = scene.until_phase("one", SessionPhase::Terminated).await.status.unwrap();
    assert_eq!(status.result, Some(SessionResult::UserCancelled));
    assert_eq!(scene.pods("one").await.len(), 1, "the pod may still run there and counts as used");
    scene.bring_back_node(&node).await;
    scene.kill_pods("one").await;
    eventually("the kernel's end to be recorded and its pod to be removed", || async {
        let code = scene.kernel_status("one").await.exit_code;
        let pods = scene.pods("one").await.len();
        if (code, pods) == (Some(137), 0) { Ok(()) } else { Err(format!("{code:?}, {pods} pods")) }
    })
    .await;
    scene.end(operator).await;
}

#[tokio::test]
async fn ts_004_a_pod_that_cannot_be_deleted_is_retried_and_does_not_delay_the_others() {
    let often = json!({"retry": {"handlers": [{"handler": "terminate-sessions", "maxAttempts": 100}]}});
    let scene = Scene::with("partial", 3, often).await;
    let operator = scene.operator().await;
    scene.submit("three", gang()).await;
    scene.until_phase("three", SessionPhase::Running).await;
    let kept = scene.pods("three").await.into_iter().map(|pod| pod.name_any()).find(|name| name.contains("-main1-")).unwrap();
    scene.forbid_deletion(&kept).await;
    scene.patch_spec("three", json!({"desiredState": "Terminated"})).await.expect("the change is accepted");
    let failed = |session: &Session| {
        let last = session.status.as_ref().and_then(|status| status.history.last());
        last.is_some_and(|last| {
            last.error_code.map(|reason| reason.as_str()) == Some("EffectFailed") && last.message.contains(&kept)
        })
    };
    let status = scene.until("three", "reporting the pod that stays", failed).await.status.unwrap();
    assert_eq!((status.phase, status.reason.map(|reason| reason.as_str())), (SessionPhase::Terminating, Some("UserRequested")));
    let condition = status.conditions.iter().find(|condition| condition.type_ == "Terminated").expect("a condition");
    assert!(condition.reason == "EffectFailed" && condition.message.contains(&kept), "{condition:?}");
    eventually("the others to end", || async {
        let left = scene.pods("three").await.into_iter().map(|pod| pod.name_any()).collect::<Vec<_>>();
        if left == [kept.clone()] { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
    scene.allow().await;
    let status = scene.until_phase("three", SessionPhase::Terminated).await.status.unwrap();
    assert_eq!(status.result, Some(SessionResult::UserCancelled));
    scene.end(operator).await;
}

#[tokio::test]
async fn a_lost_node_is_detected_on_time_without_a_long_cycle() {
    let scene = Scene::with("lostdue", 1, json!({"lostAfterSeconds": 900})).await;
    let operator = scene.operator_with(Options { timing: patient(), ..scene.options("patient") }).await;
    scene.submit("one", json!({})).await;
    let status = scene.until_phase("one", SessionPhase::Running).await.status.unwrap();
    let now = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
    scene.lose_node(&node_of(&status, "main1"), &now).await;
    let status = scene.until_phase("one", SessionPhase::Terminated).await.status.unwrap();
    assert_eq!(status.result, Some(SessionResult::Error));
    scene.end(operator).await;
}

#[tokio::test]
async fn a_session_deleted_during_a_deferred_commit_ends_at_once() {
    let scene = Scene::with("lingers", 1, unhurried()).await;
    let timing = Timing { deferral: std::time::Duration::from_secs(3600), ..fast() };
    let operator = scene.operator_with(Options { timing, ..scene.options("patient") }).await;
    scene.submit("one", json!({"kernels": [kernel("main", 1, &["sim", "never"])]})).await;
    eventually("its pod to be created", || async {
        if scene.pods("one").await.is_empty() { Err("none".to_owned()) } else { Ok(()) }
    })
    .await;
    scene.delete("one").await;
    scene.until_gone::<Session>("one").await;
    scene.end(operator).await;
}
