//! Idle sessions, measured by a real metrics server.

use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, ResourceExt};
use serde_json::json;
use sokovan::api::*;

use crate::common::{eventually, reason_is};
use crate::machine::start_metrics_server;
use crate::{FOREVER, session, sessions};

#[tokio::test]
async fn a_session_that_sleeps_is_announced_and_ended_and_one_that_computes_stays() {
    start_metrics_server();
    let space = sessions().await;
    let limit = || json!({"idleTimeoutSeconds": 60});
    space.create(session("idle-sleeps", FOREVER, limit())).await.expect("the session is accepted");
    space.create(session("idle-computes", "while :; do :; done", limit())).await.expect("the session is accepted");
    for name in ["idle-sleeps", "idle-computes"] {
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
    let computes = space.api::<Session>().get("idle-computes").await.unwrap();
    assert_eq!(computes.phase(), SessionPhase::Running);
    assert!(computes.status.is_some_and(|status| status.idle.is_none()));
    for name in ["idle-sleeps", "idle-computes"] {
        space.delete(name).await;
        space.until_gone::<Session>(name).await;
    }
}
