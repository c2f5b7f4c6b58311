//! Failures on a real node: each session ends with the right state and reason, and leaves nothing behind.

use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use sokovan::api::*;

use crate::common::{self, eventually};
use crate::machine::{node_name, signal_operators, start_kubelet, stop_kubelet};
use crate::{FOREVER, kernel, session, sessions};

async fn group(spec: serde_json::Value) {
    let groups: Api<ScalingGroup> = Api::all(common::client().await);
    let patch = Patch::Merge(json!({ "spec": spec }));
    groups.patch("default", &PatchParams::default(), &patch).await.unwrap();
}

async fn nothing_left(space: &common::Space, name: &str) {
    space.delete(name).await;
    space.until_gone::<Session>(name).await;
    assert!(space.pods(name).await.is_empty(), "pods of {name} are left");
    eventually("its kernels to be garbage-collected", || async {
        let left = space.kernels(name).await.len();
        if left == 0 { Ok(()) } else { Err(format!("{left} left")) }
    })
    .await;
}

#[tokio::test]
async fn a_missing_image_cancels_the_session() {
    let space = sessions().await;
    group(json!({"retry": {"imagePullTimeoutSeconds": 5}})).await;
    let name = common::unique("noimage");
    let mut missing = kernel("main", 1, FOREVER);
    missing["image"] = json!("no/such-image:1");
    space.create(session(&name, "", json!({"kernels": [missing]}))).await.unwrap();
    let status = space.until_phase(&name, SessionPhase::Cancelled).await.status.unwrap();
    assert_eq!(
        (status.reason.map(|reason| reason.as_str()), status.result),
        (Some("ImagePullFailed"), Some(SessionResult::Error))
    );
    assert!(status.progress.message.unwrap().contains("no/such-image:1"));
    group(json!({"retry": {"imagePullTimeoutSeconds": 120}})).await;
    nothing_left(&space, &name).await;
}

#[tokio::test]
async fn a_command_that_fails_at_once_ends_the_session() {
    let space = sessions().await;
    let name = common::unique("fails");
    // The termination message is longer than a kernel's status keeps.
    let command = "head -c 4000 /dev/zero | tr '\\0' x > /dev/termination-log; exit 3";
    space.create(session(&name, command, json!({}))).await.unwrap();
    let status = space.until_phase(&name, SessionPhase::Terminated).await.status.unwrap();
    assert_eq!((status.reason.map(|reason| reason.as_str()), status.exit_code), (Some("AbnormalTermination"), Some(3)));
    eventually("its end to be recorded", || async {
        let status = space.kernel_status(&name).await;
        let has_message =
            status.message.clone().is_some_and(|message| message.starts_with("exited with 3: xxx") && message.len() > 1000);
        let recorded = (status.phase, status.exit_code, has_message) == (KernelPhase::Terminated, Some(3), true);
        if recorded { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
    nothing_left(&space, &name).await;
}

#[tokio::test]
async fn a_missing_secret_is_reported_with_the_kubelets_message() {
    let space = sessions().await;
    let name = common::unique("nosecret");
    let mut main = kernel("main", 1, FOREVER);
    main["env"] = json!([{"name": "TOKEN", "secretKeyRef": {"name": "no-such-secret", "key": "token"}}]);
    space.create(session(&name, "", json!({"kernels": [main]}))).await.unwrap();
    let status = space.until(&name, "waiting for its container", common::reason_is("ContainerNotStarted")).await.status.unwrap();
    let message = status.progress.message.unwrap();
    assert!(message.contains("main1") && message.contains("no-such-secret"), "{message}");
    eventually("its kernel to show the reason", || async {
        let status = space.kernel_status(&name).await;
        let reported = (status.phase, status.reason.as_deref()) == (KernelPhase::Pulling, Some("CreateContainerConfigError"));
        if reported { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
    nothing_left(&space, &name).await;
}

#[tokio::test]
async fn a_program_missing_from_the_image_ends_the_session() {
    let space = sessions().await;
    let name = common::unique("noprog");
    let mut wrong = kernel("main", 1, "");
    wrong["command"] = json!(["/no/such/program"]);
    space.create(session(&name, "", json!({"kernels": [wrong]}))).await.unwrap();
    let status = space.until_phase(&name, SessionPhase::Terminated).await.status.unwrap();
    assert_eq!(status.result, Some(SessionResult::Error));
    assert!(status.progress.message.unwrap().contains("/no/such/program"));
    nothing_left(&space, &name).await;
}

#[tokio::test]
async fn a_pod_deleted_by_someone_else_ends_the_session() {
    let space = sessions().await;
    let name = common::unique("behind");
    space.create(session(&name, FOREVER, json!({}))).await.unwrap();
    space.until_phase(&name, SessionPhase::Running).await;
    let pod = space.pods(&name).await.remove(0).name_any();
    space.api::<Pod>().delete(&pod, &DeleteParams::default().grace_period(0)).await.unwrap();
    let status = space.until_phase(&name, SessionPhase::Terminated).await.status.unwrap();
    assert_eq!((status.reason.map(|reason| reason.as_str()), status.result), (Some("PodDeleted"), Some(SessionResult::Error)));
    nothing_left(&space, &name).await;
}

#[tokio::test]
async fn a_request_that_fits_no_node_waits_or_is_cancelled() {
    let space = sessions().await;
    let name = common::unique("huge");
    let mut huge = kernel("main", 1, FOREVER);
    huge["resources"] = json!({"cpu": 1000, "memory": "16Mi"});
    space.create(session(&name, "", json!({"priority": 0, "kernels": [huge]}))).await.unwrap();
    let status = space.until(&name, "on hold", common::reason_is("NoAvailableNode")).await.status.unwrap();
    let message = status.message.clone().unwrap();
    assert!(message.contains("of 1k needed") || message.contains("of 1000 needed"), "{message}");
    let last = status.history.last().unwrap();
    assert_eq!((status.phase, last.cause), (SessionPhase::Pending, Some(Cause::Hold)));
    group(json!({"failUnfit": true})).await;
    let status = space.until_phase(&name, SessionPhase::Cancelled).await.status.unwrap();
    assert_eq!(status.reason.map(|reason| reason.as_str()), Some("LowestPriority"));
    group(json!({"failUnfit": null})).await;
    nothing_left(&space, &name).await;
}

#[tokio::test]
async fn a_gang_survives_operators_killed_in_each_phase() {
    let space = sessions().await;
    let name = common::unique("killed");
    let kernels = [kernel("main", 1, FOREVER), kernel("sub", 2, FOREVER)];
    space.create(session(&name, "", json!({"clusterMode": "MultiNode", "kernels": kernels}))).await.unwrap();
    for phase in [SessionPhase::Scheduled, SessionPhase::Creating, SessionPhase::Running] {
        space.until(&name, phase.as_str(), move |s| s.status.is_some() && s.phase() >= phase).await;
        // Kills both replicas: the leader and the standby.
        eventually("an operator to be killed", || async {
            if signal_operators("KILL") >= 1 { Ok(()) } else { Err("no operator runs".into()) }
        })
        .await;
    }
    let status = space.until_phase(&name, SessionPhase::Running).await.status.unwrap();
    assert_eq!((status.allocation_generation, space.pods(&name).await.len()), (1, 3));
    space.patch_spec(&name, json!({"desiredState": "Terminated"})).await.unwrap();
    space.until(&name, "ending", |session| session.phase() >= SessionPhase::Terminating).await;
    signal_operators("KILL");
    let status = space.until_phase(&name, SessionPhase::Terminated).await.status.unwrap();
    assert_eq!(status.result, Some(SessionResult::UserCancelled));
    nothing_left(&space, &name).await;
}

#[tokio::test]
async fn a_running_session_ends_when_its_kubelet_stops() {
    let space = sessions().await;
    group(json!({"lostAfterSeconds": 3})).await;
    let name = common::unique("lost");
    space.create(session(&name, FOREVER, json!({}))).await.unwrap();
    space.until_phase(&name, SessionPhase::Running).await;
    stop_kubelet();
    let status = space.until_phase(&name, SessionPhase::Terminated).await.status.unwrap();
    assert_eq!((status.reason.map(|reason| reason.as_str()), status.result), (Some("NodeLost"), Some(SessionResult::Error)));
    assert!(status.progress.message.unwrap().contains(&node_name()));
    assert_eq!(space.pods(&name).await.len(), 1, "its container may still run, so its pod stays");
    start_kubelet().await;
    space.until_no_pods(&name).await;
    group(json!({"lostAfterSeconds": 60})).await;
    nothing_left(&space, &name).await;
}

#[tokio::test]
async fn a_terminating_session_ends_when_its_kubelet_stops() {
    let space = sessions().await;
    group(json!({"lostAfterSeconds": 3})).await;
    let name = common::unique("lostend");
    space.create(session(&name, FOREVER, json!({}))).await.unwrap();
    space.until_phase(&name, SessionPhase::Running).await;
    stop_kubelet();
    space.patch_spec(&name, json!({"desiredState": "Terminated"})).await.unwrap();
    space.until_phase(&name, SessionPhase::Terminating).await;
    let status = space.until_phase(&name, SessionPhase::Terminated).await.status.unwrap();
    assert_eq!(
        (status.reason.map(|reason| reason.as_str()), status.result),
        (Some("UserRequested"), Some(SessionResult::UserCancelled))
    );
    start_kubelet().await;
    group(json!({"lostAfterSeconds": 60})).await;
    nothing_left(&space, &name).await;
}
