//! Idle sessions, measured by a real metrics server and by the traffic that the kubelet reports.

use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, ResourceExt};
use serde_json::json;
use sokovan::api::*;

use crate::common::{eventually, patience, reason_is};
use crate::machine::start_metrics_server;
use crate::{FOREVER, kernel, session, sessions};

/// Waits for a connection, and reads what it brings.
const RECEIVES: &str = "while :; do tail -f /dev/null | nc -l -p 9000 >/dev/null; done";

/// Sends 20 kB a second, which costs almost no CPU.
fn sends_to(address: &str) -> String {
    format!("while :; do while sleep 1; do head -c 20000 /dev/zero || break; done | nc {address} 9000; done")
}

#[tokio::test]
async fn a_session_that_sleeps_is_ended_and_those_that_compute_or_transfer_stay() {
    start_metrics_server();
    let space = sessions().await;
    let create = async |name: &str, command: &str| {
        let mut kernel = kernel("main", 1, command);
        kernel["resources"]["cpu"] = "200m".into();
        let limit = json!({"idleTimeoutSeconds": 60, "kernels": [kernel]});
        space.create(session(name, "", limit)).await.expect("the session is accepted");
        space.until_phase(name, SessionPhase::Running).await;
    };
    create("idle-receives", RECEIVES).await;
    let receiver = space.pods("idle-receives").await.remove(0).status.and_then(|status| status.pod_ip).expect("an address");
    create("idle-sends", &sends_to(&receiver)).await;
    create("idle-computes", "while :; do :; done").await;
    create("idle-sleeps", FOREVER).await;
    let kind = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("metrics.k8s.io", "v1beta1", "PodMetrics"), "pods");
    let metrics: Api<DynamicObject> = Api::namespaced_with(space.client.clone(), &space.namespace, &kind);
    let pod = space.pods("idle-sleeps").await.remove(0).name_any();
    eventually("the metrics of the pod", || async { metrics.get(&pod).await.map(|_| ()).map_err(|error| error.to_string()) })
        .await;
    // The operator measures once a minute, knows the rate of the traffic a minute later, and announces the end half a minute after that.
    space.until_within(patience() * 2, "idle-sleeps", "measured", reason_is("Idle")).await;
    let ended = space.until_phase("idle-sleeps", SessionPhase::Terminated).await.status.unwrap();
    assert_eq!((ended.reason, ended.result), (Some(Reason::IdleTimeout), Some(SessionResult::Failure)));
    for name in ["idle-receives", "idle-sends", "idle-computes"] {
        let used = space.api::<Session>().get(name).await.unwrap();
        assert_eq!(used.phase(), SessionPhase::Running, "{name}");
        assert!(used.status.is_some_and(|status| status.idle.is_none()), "{name}");
    }
    for name in ["idle-receives", "idle-sends", "idle-computes", "idle-sleeps"] {
        space.delete(name).await;
        space.until_gone::<Session>(name).await;
    }
}
