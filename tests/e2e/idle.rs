//! Idle sessions, measured by a real metrics server.

use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, ResourceExt};
use serde_json::json;
use sokovan::api::*;

use crate::common::{eventually, reason_is};
use crate::machine::start_metrics_server;
use crate::{FOREVER, kernel, session, sessions};

/// Sends about 20 KiB a second to its gang, with hardly any CPU.
const SERVES: &str = "trap 'exit 0' TERM; cd /tmp; dd if=/dev/zero of=file bs=1k count=40; httpd -f -p 8080 & wait";
const DOWNLOADS: &str = "trap 'exit 0' TERM; while :; do wget -qO /dev/null http://main1:8080/file; sleep 2 & wait $!; done";

#[tokio::test]
async fn a_session_that_sleeps_is_announced_and_ended_and_those_that_compute_or_download_stay() {
    start_metrics_server();
    let space = sessions().await;
    let limit = || json!({"idleTimeoutSeconds": 60});
    space.create(session("idle-sleeps", FOREVER, limit())).await.expect("the session is accepted");
    space.create(session("idle-computes", "while :; do :; done", limit())).await.expect("the session is accepted");
    let kernels = json!([kernel("main", 1, SERVES), kernel("sub", 1, DOWNLOADS)]);
    let gang = json!({"clusterMode": "MultiNode", "kernels": kernels, "idleTimeoutSeconds": 60});
    space.create(session("idle-downloads", FOREVER, gang)).await.expect("the session is accepted");
    for name in ["idle-sleeps", "idle-computes", "idle-downloads"] {
        space.until_phase(name, SessionPhase::Running).await;
    }
    let kind = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("metrics.k8s.io", "v1beta1", "PodMetrics"), "pods");
    let metrics: Api<DynamicObject> = Api::namespaced_with(space.client.clone(), &space.namespace, &kind);
    let pod = space.pods("idle-sleeps").await.remove(0).name_any();
    eventually("the metrics of the pod", || async { metrics.get(&pod).await.map(|_| ()).map_err(|error| error.to_string()) })
        .await;
    // The operator measures once a minute, and announces the end half a minute later.
    space.until("idle-sleeps", "measured", reason_is("Idle")).await;
    let ended = space.until_phase("idle-sleeps", SessionPhase::Terminated).await.status.unwrap();
    assert_eq!((ended.reason, ended.result), (Some(Reason::IdleTimeout), Some(SessionResult::Failure)));
    for name in ["idle-computes", "idle-downloads"] {
        let used = space.api::<Session>().get(name).await.unwrap();
        assert_eq!(used.phase(), SessionPhase::Running, "{name}");
        assert!(used.status.is_some_and(|status| status.idle.is_none()), "{name}");
    }
    for name in ["idle-sleeps", "idle-computes", "idle-downloads"] {
        space.delete(name).await;
        space.until_gone::<Session>(name).await;
    }
}
