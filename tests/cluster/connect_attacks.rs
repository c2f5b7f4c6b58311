//! Attempts to reach other pods than kernels with the role sokovan-connect. The nodes are simulated, so a request that passes ends with
//! the kubelet's absence.

use k8s_openapi::api::core::v1::{Pod, Secret};
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::{ListParams, PostParams};
use serde_json::{Value, json};

use crate::attempts::{accepted, lift, outcome, refused_soon, restore, try_to_make};
use crate::common::{Space, unique};
use crate::scene::Scene;

/// The name of a pod as kernels have it.
const KERNEL: &str = "train-main1-0123abcd";
const FOREIGN: &str = "postgres-0";
const CONNECTIONS: [&str; 2] = ["exec?container=c&stdout=true&command=true", "portforward?ports=80"];

/// Asks for a connection. Once it is admitted, the API server looks for the pod's node.
async fn connect(space: &Space, pod: &str, how: &str) -> Result<(), String> {
    let path = format!("/api/v1/namespaces/{}/pods/{pod}/{how}", space.namespace);
    let request = http::Request::post(path).body(vec![]).expect("a request");
    match outcome(space.client.request::<Value>(request).await) {
        Err(message) if message.contains("does not have a host assigned") => Ok(()),
        other => other,
    }
}

async fn pod(scene: &Scene, name: &str) {
    let spec = json!({"nodeSelector": {"no": "node"}, "containers": [{"name": "c", "image": "i"}]});
    scene.make_here::<Pod>(json!({"metadata": {"name": name}, "spec": spec})).await;
}

/// A user with the role in the scene's namespace.
async fn connected(scene: &Scene) -> (String, Space) {
    let user = unique("user");
    scene
        .make_here::<RoleBinding>(json!({
            "metadata": {"name": unique("connect")},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "sokovan-connect"},
            "subjects": [{"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"}],
        }))
        .await;
    let theirs = scene.as_user(&user).await;
    (user, theirs)
}

#[tokio::test]
async fn the_role_to_connect_reaches_kernels_and_no_other_pod() {
    let scene = Scene::with("connect", 0, json!({})).await;
    pod(&scene, KERNEL).await;
    pod(&scene, FOREIGN).await;
    let (user, theirs) = connected(&scene).await;
    for how in CONNECTIONS {
        accepted("a kernel", || connect(&theirs, KERNEL, how)).await;
        refused_soon("a foreign pod", || connect(&theirs, FOREIGN, how), "may connect only to kernels of sessions").await;
    }
    lift(&scene, "connect").await;
    for how in CONNECTIONS {
        accepted("a foreign pod without the policy", || connect(&theirs, FOREIGN, how)).await;
    }
    restore(&scene, "connect").await;
    refused_soon("a foreign pod again", || connect(&theirs, FOREIGN, CONNECTIONS[0]), "only to kernels").await;
    scene.grant(&user, json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["create"]}])).await;
    accepted("a foreign pod for somebody who may create pods", || connect(&theirs, FOREIGN, CONNECTIONS[0])).await;
}

#[tokio::test]
async fn rights_to_connect_that_are_not_from_the_role_stay_as_they_are() {
    let scene = Scene::with("connects", 0, json!({})).await;
    pod(&scene, FOREIGN).await;
    let user = unique("backup");
    let verbs = json!(["get", "create"]);
    scene.grant(&user, json!([{"apiGroups": [""], "resources": ["pods/exec"], "verbs": verbs}])).await;
    let theirs = scene.as_user(&user).await;
    accepted("a tool that runs programs in pods", || connect(&theirs, FOREIGN, CONNECTIONS[0])).await;
}

#[tokio::test]
async fn the_role_to_connect_gives_no_other_right() {
    let scene = Scene::with("connect", 0, json!({})).await;
    let other = Scene::with("other", 0, json!({})).await;
    pod(&scene, KERNEL).await;
    pod(&other, KERNEL).await;
    let (user, theirs) = connected(&scene).await;
    accepted("a kernel", || connect(&theirs, KERNEL, CONNECTIONS[0])).await;
    let there = other.as_user(&user).await;
    refused_soon("another tenant's kernel", || connect(&there, KERNEL, CONNECTIONS[0]), "pods/exec").await;
    refused_soon("to attach", || connect(&theirs, KERNEL, "attach?container=c&stdout=true"), "pods/attach").await;
    let new = json!({"spec": {"containers": [{"name": "c", "image": "i"}]}});
    refused_soon("a new pod", || try_to_make::<Pod>(&theirs, &new), "cannot create resource \"pods\"").await;
    let secrets = || async { outcome(theirs.api::<Secret>().list(&ListParams::default()).await) };
    refused_soon("secrets", secrets, "cannot list resource \"secrets\"").await;
    let token = || async {
        let path = format!("/api/v1/namespaces/{}/serviceaccounts/default/token", theirs.namespace);
        let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": []}});
        let request = http::Request::post(path).body(serde_json::to_vec(&body).expect("JSON")).expect("a request");
        outcome(theirs.client.request::<Value>(request).await)
    };
    refused_soon("a token", token, "serviceaccounts/token").await;
    scene.grant(&user, json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["create"]}])).await;
    let created = || async {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": unique("x")}, "spec": new["spec"]})).expect("a pod");
        outcome(theirs.api::<Pod>().create(&PostParams::default(), &pod).await)
    };
    accepted("a new pod with that right", created).await;
}
