//! What tests of deployments share: they create one, change it, and wait for what becomes of it.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use sokovan::api::*;

use crate::common::eventually;
use crate::scene::{Scene, kernel};

/// A deployment of this scene: replicas of one core that serve on port 8080. `spec` overrides these defaults.
pub async fn deploy(scene: &Scene, name: &str, spec: Value) -> Deployment {
    let template = json!({
        "type": "Inference", "accessKey": scene.name, "scalingGroup": scene.name,
        "kernels": [kernel("main", 1, &[])],
    });
    let mut full = json!({"template": template, "model": {"port": 8080}, "drain": {"delaySeconds": 30, "timeoutSeconds": 1}});
    crate::scene::merge(&mut full, spec);
    let object = json!({
        "apiVersion": "sokovan.dev/v1alpha1", "kind": "Deployment",
        "metadata": {"name": name, "namespace": scene.name}, "spec": full,
    });
    let deployment: Deployment = serde_json::from_value(object).expect("a deployment");
    scene.api::<Deployment>().create(&Default::default(), &deployment).await.expect("the deployment is accepted")
}

pub async fn change(scene: &Scene, name: &str, spec: Value) {
    let patch = Patch::Merge(json!({"spec": spec}));
    scene.api::<Deployment>().patch(name, &PatchParams::default(), &patch).await.expect("the spec can be changed");
}

pub fn image(tag: &str) -> Value {
    let mut main = kernel("main", 1, &[]);
    main["image"] = json!(format!("busybox:{tag}"));
    json!({"template": {"kernels": [main]}})
}

pub async fn until(scene: &Scene, name: &str, what: &str, holds: impl Fn(&Deployment) -> bool) -> DeploymentStatus {
    eventually(&format!("deployment {name} to be {what}"), || async {
        let deployment = scene.api::<Deployment>().get(name).await.map_err(|error| error.to_string())?;
        match holds(&deployment) {
            true => Ok(deployment.status.unwrap_or_default()),
            false => Err(described(&deployment)),
        }
    })
    .await
}

pub fn described(deployment: &Deployment) -> String {
    let Some(status) = &deployment.status else { return "no status".into() };
    let reason = status.reason.map_or("", Reason::as_str);
    let numbers = (status.replicas, status.ready, status.available, status.updated);
    let revisions = (status.current_revision, status.deploying_revision, status.failed_revision);
    let message = status.message.clone().unwrap_or_default();
    let history: Vec<String> =
        status.history.iter().rev().take(6).map(|e| format!("{} {:?} {}", e.handler, e.result, e.message)).collect();
    format!("{} {reason}: {message} {numbers:?} {revisions:?} {history:#?}", status.phase)
}

/// Ready, with the numbers of its spec, and settled.
pub fn is_ready(deployment: &Deployment) -> bool {
    deployment.status.as_ref().is_some_and(|status| {
        status.phase == DeploymentPhase::Ready
            && status.available == deployment.spec.replicas
            && status.deploying_revision.is_none()
            && Some(status.observed_generation) == deployment.metadata.generation
    })
}

pub async fn until_ready(scene: &Scene, name: &str) -> DeploymentStatus {
    until(scene, name, "ready", is_ready).await
}

pub async fn routes(scene: &Scene, name: &str) -> Vec<Route> {
    let all = scene.api::<Route>().list(&ListParams::default().labels(&format!("{LABEL_DEPLOYMENT}={name}"))).await;
    all.expect("routes can be listed").items
}

pub async fn live_routes(scene: &Scene, name: &str) -> Vec<Route> {
    routes(scene, name)
        .await
        .into_iter()
        .filter(|route| !route.phase().is_ending() && route.metadata.deletion_timestamp.is_none())
        .collect()
}

/// The names of the pods that the Service of a deployment sends requests to.
pub async fn endpoints(scene: &Scene, name: &str) -> Vec<String> {
    let slices = scene.api::<EndpointSlice>().list(&ListParams::default().labels(&format!("{LABEL_SERVICE}={name}"))).await;
    let endpoints = slices.expect("slices can be listed").items.into_iter().flat_map(|slice| slice.endpoints.unwrap_or_default());
    let ready =
        endpoints.filter(|endpoint| endpoint.conditions.as_ref().is_none_or(|conditions| conditions.ready != Some(false)));
    ready.filter_map(|endpoint| endpoint.target_ref?.name).collect()
}

/// Makes the kubelet of a replica report its health check as passing or failing.
pub async fn set_health(scene: &Scene, session: &str, healthy: bool) {
    let status = if healthy { "True" } else { "False" };
    let now = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
    let condition = |type_: &str| json!({"type": type_, "status": status, "lastTransitionTime": now});
    let patch = Patch::Strategic(json!({"status": {"conditions": [condition("Ready"), condition("ContainersReady")]}}));
    for pod in scene.pods(session).await {
        let patched = scene.api::<Pod>().patch_status(&pod.name_any(), &PatchParams::default(), &patch).await;
        patched.expect("the pod's status can be written");
    }
}
