//! Idle sessions end, and sessions in use do not. The metrics API is a custom resource that the tests write.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use sokovan::api::*;

use crate::common::{Space, eventually, reason_is};
use crate::scene::Scene;

/// Makes the API server serve `metrics.k8s.io`.
async fn serve_metrics(scene: &Scene) {
    let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let version = json!({"name": "v1beta1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}});
    let crd = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "pods.metrics.k8s.io", "annotations": {"api-approved.kubernetes.io": "unapproved, for tests"}},
        "spec": {"group": "metrics.k8s.io", "scope": "Namespaced", "versions": [version],
            "names": {"plural": "pods", "singular": "pod", "kind": "PodMetrics", "listKind": "PodMetricsList"}},
    });
    let crds = scene.all::<CustomResourceDefinition>();
    crds.patch("pods.metrics.k8s.io", &PatchParams::apply("test").force(), &Patch::Apply(crd)).await.expect("the CRD");
    eventually("the metrics API", || async {
        metrics(&scene.space).list(&ListParams::default()).await.map(|_| ()).map_err(|error| error.to_string())
    })
    .await;
}

fn metrics(space: &Space) -> Api<DynamicObject> {
    let kind = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("metrics.k8s.io", "v1beta1", "PodMetrics"), "pods");
    Api::namespaced_with(space.client.clone(), &space.namespace, &kind)
}

/// Reports the use of a session's only pod again and again, as metrics-server does.
async fn report(scene: Arc<Scene>, session: &'static str, cpu: &'static str) {
    loop {
        for pod in scene.pods(session).await {
            let name = pod.name_any();
            let object = json!({
                "apiVersion": "metrics.k8s.io/v1beta1", "kind": "PodMetrics",
                "metadata": {"name": name, "labels": {LABEL_SESSION_UID: pod.labels()[LABEL_SESSION_UID]}},
                "timestamp": Timestamp::now().to_string(), "window": "15s",
                "containers": [{"name": "main", "usage": {"cpu": cpu, "memory": "100Mi"}}],
            });
            // The pod may be gone with its namespace at the end of the test.
            _ = metrics(&scene).patch(&name, &PatchParams::apply("test").force(), &Patch::Apply(object)).await;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test]
async fn an_idle_session_is_warned_and_ends_and_one_in_use_or_without_metrics_stays() {
    let scene = Arc::new(Scene::new("idle").await);
    serve_metrics(&scene).await;
    let operator = scene.operator().await;
    let limited = json!({"idleTimeoutSeconds": 240}); // four seconds here
    for name in ["sleeps", "computes", "unmeasured", "kept"] {
        let mut session = scene.session(name, limited.clone());
        if name == "kept" {
            session["metadata"]["annotations"] = json!({ANNOTATION_KEEP_UNTIL: "2999-01-01T00:00:00Z"});
        }
        scene.create(session).await.expect("the session is accepted");
    }
    let mut reports = tokio::task::JoinSet::new();
    for (name, cpu) in [("sleeps", "1m"), ("computes", "400m"), ("kept", "0")] {
        reports.spawn(report(scene.clone(), name, cpu));
    }
    let idle = scene.until("sleeps", "idle", |session| session.status.as_ref().is_some_and(|status| status.idle.is_some())).await;
    let status = idle.status.expect("a status");
    assert_eq!((status.phase, status.reason), (SessionPhase::Running, Some(Reason::Idle)));
    let countdown = status.idle.expect("a countdown");
    assert!(countdown.ends_at - countdown.since >= chrono::TimeDelta::seconds(4), "{countdown:?}");
    let ended = scene.until_phase("sleeps", SessionPhase::Terminated).await.status.expect("a status");
    assert_eq!((ended.reason, ended.result), (Some(Reason::IdleTimeout), Some(SessionResult::Failure)));
    assert!(ended.message.as_deref().expect("a message").contains("for more than 240 s: the idleTimeoutSeconds of the session"));
    for name in ["computes", "unmeasured", "kept"] {
        let session = scene.api::<Session>().get(name).await.expect("the session");
        assert_eq!(session.phase(), SessionPhase::Running, "{name}");
        assert!(session.status.expect("a status").idle.is_none(), "{name}");
    }
    let events = scene.api::<Event>();
    eventually("the warning", || async {
        let events = events.list(&ListParams::default()).await.map_err(|error| error.to_string())?.items;
        let is_warning = |event: &&Event| event.reason.as_deref() == Some("Idle") && event.type_.as_deref() == Some("Warning");
        let warned: Vec<_> = events.iter().filter(is_warning).filter_map(|event| event.regarding.clone()?.name).collect();
        if warned == ["sleeps"] { Ok(()) } else { Err(format!("{warned:?}")) }
    })
    .await;
    // Without the annotation, it ends too.
    let patch = Patch::Merge(json!({"metadata": {"annotations": {ANNOTATION_KEEP_UNTIL: null}}}));
    scene.api::<Session>().patch("kept", &PatchParams::default(), &patch).await.expect("the annotation is removed");
    scene.until("kept", "ended", reason_is("IdleTimeout")).await;
    reports.shutdown().await;
    Arc::into_inner(scene).expect("the only owner").end(operator).await;
}

#[tokio::test]
async fn keep_until_must_be_a_time() {
    let scene = Scene::with("keep", 0, json!({})).await;
    let mut session = scene.session("x", json!({}));
    session["metadata"]["annotations"] = json!({ANNOTATION_KEEP_UNTIL: "tomorrow"});
    let tried = crate::attempts::try_to_make::<Session>(&scene.space, &session).await;
    crate::attempts::refused("tomorrow", tried, "must be a time such as 2026-01-31T09:00:00Z");
    scene.clear().await;
}
