//! The paths of deployments: what their users do, and the expected end.

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sokovan::api::*;

use crate::common::eventually;
use crate::paths::Path;
use crate::scene::{Scene, kernel, merge, unhurried};
use crate::serving::BY_HAND;

pub static PATHS: [Path; 11] = [
    Path { name: "deploy-scale", group: unhurried, run: |scene| Box::pin(scale_out(scene)) },
    Path { name: "deploy-roll", group: unhurried, run: |scene| Box::pin(roll(scene)) },
    Path { name: "deploy-revert", group: unhurried, run: |scene| Box::pin(revert(scene)) },
    Path { name: "deploy-third", group: unhurried, run: |scene| Box::pin(third(scene)) },
    Path {
        name: "deploy-rollback",
        group: || json!({"retry": {"imagePullTimeoutSeconds": 15}}),
        run: |scene| Box::pin(roll_back(scene)),
    },
    Path { name: "deploy-scale-in", group: unhurried, run: |scene| Box::pin(scale_in(scene)) },
    Path { name: "deploy-pod-lost", group: unhurried, run: |scene| Box::pin(pod_lost(scene)) },
    Path { name: "deploy-route-lost", group: unhurried, run: |scene| Box::pin(route_lost(scene)) },
    Path { name: "deploy-node-lost", group: unhurried, run: |scene| Box::pin(node_lost(scene)) },
    Path { name: "deploy-delete", group: unhurried, run: |scene| Box::pin(delete(scene)) },
    Path { name: "deploy-force", group: unhurried, run: |scene| Box::pin(force(scene)) },
];

/// The name of the deployment.
const NAME: &str = "web";

/// Creates a deployment of servers with one core each, and waits until they serve. `spec` overrides these defaults.
async fn deploy(scene: &Scene, spec: Value) {
    let template = json!({
        "type": "Inference", "accessKey": scene.name, "scalingGroup": scene.name,
        "kernels": [kernel("main", 1, &[])],
    });
    let mut full = json!({
        "template": template, "model": {"variant": "vllm"}, "strategy": {"rolling": {"maxSurge": 1}},
        "drain": {"delaySeconds": 60, "timeoutSeconds": 30},
    });
    merge(&mut full, spec);
    scene.make_here::<Deployment>(json!({"metadata": {"name": NAME, "namespace": scene.name}, "spec": full})).await;
    until_ready(scene, 1).await;
}

async fn change(scene: &Scene, spec: Value) {
    let patch = Patch::Merge(json!({ "spec": spec }));
    scene.api::<Deployment>().patch(NAME, &PatchParams::default(), &patch).await.expect("the spec can be changed");
}

/// The change of a spec that begins a rollout.
fn image(tag: &str) -> Value {
    let mut main = kernel("main", 1, &[]);
    main["image"] = json!(format!("busybox:{tag}"));
    json!({"template": {"kernels": [main]}})
}

async fn until(scene: &Scene, what: &str, holds: impl Fn(&Deployment, &DeploymentStatus) -> bool) {
    eventually(&format!("the deployment to be {what}"), || async {
        let deployment = scene.api::<Deployment>().get(NAME).await.map_err(|error| error.to_string())?;
        let status = deployment.status.clone().unwrap_or_default();
        if holds(&deployment, &status) { Ok(()) } else { Err(crate::serving::describe(&deployment)) }
    })
    .await;
}

/// Waits until every replica is available and of the revision.
async fn until_ready(scene: &Scene, revision: i64) {
    until(scene, "ready", |deployment, status| {
        status.phase == DeploymentPhase::Ready
            && status.available == deployment.spec.replicas
            && status.current_revision == Some(revision)
            && status.deploying_revision.is_none()
            && Some(status.observed_generation) == deployment.metadata.generation
    })
    .await;
}

/// The names of the replicas that are not ending.
async fn replicas(scene: &Scene) -> Vec<String> {
    let routes = eventually("the routes", || async {
        scene.api::<Route>().list(&ListParams::default()).await.map_err(|error| error.to_string())
    })
    .await;
    let live = routes.into_iter().filter(|route| !route.phase().is_ending() && route.metadata.deletion_timestamp.is_none());
    live.map(|route| route.name_any()).collect()
}

/// Tells the oracle that what happens to this object is not the operator's doing.
async fn mark_by_hand<K>(scene: &Scene, name: &str)
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let mark = Patch::Merge(json!({"metadata": {"annotations": {BY_HAND: "true"}}}));
    scene.api::<K>().patch_metadata(name, &PatchParams::default(), &mark).await.expect("the object can be annotated");
}

async fn delete_by_hand<K>(scene: &Scene, name: &str)
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    mark_by_hand::<K>(scene, name).await;
    scene.api::<K>().delete(name, &DeleteParams::default()).await.expect("the object can be deleted");
}

/// Waits until other replicas have replaced these, and all are available.
async fn until_replaced(scene: &Scene, names: &[String]) {
    eventually("the replica to be replaced", || async {
        let live = replicas(scene).await;
        if live.iter().any(|name| names.contains(name)) { Err(format!("{live:?}")) } else { Ok(()) }
    })
    .await;
    until_ready(scene, 1).await;
}

async fn scale_out(scene: &Scene) {
    deploy(scene, json!({"replicas": 1})).await;
    change(scene, json!({"replicas": 3})).await;
    until_ready(scene, 1).await;
}

async fn roll(scene: &Scene) {
    deploy(scene, json!({"replicas": 3})).await;
    change(scene, image("2")).await;
    until_ready(scene, 2).await;
}

/// Waits until the new revision has an available replica, and may have replaced the old one.
async fn until_rolling(scene: &Scene, revision: i64) {
    until(scene, "rolling", |_, status| {
        let rolls =
            status.deploying_revision == Some(revision) && status.rollout.as_ref().is_some_and(|rollout| rollout.best > 0);
        rolls || status.current_revision == Some(revision)
    })
    .await;
}

async fn revert(scene: &Scene) {
    deploy(scene, json!({"replicas": 3})).await;
    change(scene, image("2")).await;
    until_rolling(scene, 2).await;
    change(scene, image("1")).await;
    until_ready(scene, 1).await;
}

/// A third revision replaces one that is being deployed.
async fn third(scene: &Scene) {
    deploy(scene, json!({"replicas": 3})).await;
    change(scene, image("2")).await;
    until_rolling(scene, 2).await;
    change(scene, image("3")).await;
    until_ready(scene, 3).await;
}

/// A revision whose image does not exist: it is tried a few times, and then the current one is restored.
async fn roll_back(scene: &Scene) {
    deploy(scene, json!({"replicas": 2})).await;
    change(scene, json!({"template": {"kernels": [kernel("main", 1, &["sim", "no-image"])]}})).await;
    until(scene, "rolled back", |_, status| status.failed_revision == Some(2)).await;
    until_ready(scene, 1).await;
}

async fn scale_in(scene: &Scene) {
    deploy(scene, json!({"replicas": 3})).await;
    change(scene, json!({"replicas": 1})).await;
    until_ready(scene, 1).await;
}

/// Somebody deletes the pod of one replica and the session of another.
async fn pod_lost(scene: &Scene) {
    deploy(scene, json!({"replicas": 2})).await;
    let names = replicas(scene).await;
    let pod = scene.pods(&names[0]).await.remove(0).name_any();
    delete_by_hand::<Pod>(scene, &pod).await;
    delete_by_hand::<Session>(scene, &names[1]).await;
    until_replaced(scene, &names).await;
}

async fn route_lost(scene: &Scene) {
    deploy(scene, json!({"replicas": 2})).await;
    let name = replicas(scene).await.remove(0);
    delete_by_hand::<Route>(scene, &name).await;
    until_replaced(scene, &[name]).await;
}

async fn node_lost(scene: &Scene) {
    deploy(scene, json!({"replicas": 2, "spread": "Required"})).await;
    let name = replicas(scene).await.remove(0);
    let pod = scene.pods(&name).await.remove(0);
    mark_by_hand::<Pod>(scene, &pod.name_any()).await;
    scene.delete_node_named(&pod.spec.and_then(|spec| spec.node_name).expect("a node")).await;
    until_replaced(scene, &[name]).await;
}

async fn delete(scene: &Scene) {
    deploy(scene, json!({"replicas": 2})).await;
    scene.api::<Deployment>().delete(NAME, &DeleteParams::default()).await.expect("the deployment can be deleted");
    scene.until_gone::<Deployment>(NAME).await;
}

async fn force(scene: &Scene) {
    deploy(scene, json!({"replicas": 2, "drain": {"delaySeconds": 3600}})).await;
    change(scene, json!({"desiredState": "Destroyed", "force": true})).await;
    until(scene, "destroyed", |_, status| status.phase == DeploymentPhase::Destroyed).await;
}
