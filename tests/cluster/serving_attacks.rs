//! Attempts to exceed one's rights through deployments and routes. Each test also proves which mechanism refuses an attempt.

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use sokovan::api::*;

use crate::attempts::{accepted, changed, lift, only_the_policy_refuses, outcome, refused, restore, right, try_to_make};
use crate::common::unique;
use crate::permissions::OPERATOR;
use crate::scene::{Scene, kernel};

fn route() -> Value {
    json!({"metadata": {}, "spec": {"deployment": "web", "session": "web-1", "revision": 1, "ordinal": 0}})
}

fn budget(labels: Value) -> Value {
    json!({"metadata": {"labels": labels}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "x"}}}})
}

fn revision(labels: Value) -> Value {
    json!({"metadata": {"labels": labels}, "revision": 1, "data": {"template": {}}})
}

#[tokio::test]
async fn a_deployment_needs_the_right_to_use_what_its_sessions_name() {
    let scene = Scene::with("duse", 0, json!({})).await;
    let user = unique("user");
    let rules = json!([{"apiGroups": ["sokovan.dev"], "resources": ["deployments"], "verbs": ["create", "get", "patch"]}]);
    scene.grant(&user, rules).await;
    let theirs = scene.as_user(&user).await;
    let template = json!({
        "type": "Inference", "accessKey": scene.name, "scalingGroup": scene.name, "kernels": [kernel("main", 1, &[])],
    });
    let deployment = json!({"metadata": {}, "spec": {"template": template, "model": {"port": 80}}});
    let attempt = || async { try_to_make::<Deployment>(&theirs, &deployment).await };
    let name = scene.name.as_str();
    scene.grant(&user, json!(right("sokovan.dev", "scalinggroups", "use", &[name]))).await;
    refused("a deployment in somebody else's name", attempt().await, "may not use keypair");
    lift(&scene, "use").await;
    accepted("a deployment in somebody else's name", attempt).await;
    restore(&scene, "use").await;
    scene.grant(&user, json!(right("sokovan.dev", "keypairs", "use", &[name]))).await;
    accepted("a deployment in one's own name", attempt).await;
}

#[tokio::test]
async fn only_the_operator_creates_routes_and_users_change_only_their_weight() {
    let scene = Scene::with("routes", 0, json!({})).await;
    let user = unique("user");
    let verbs = ["get", "create", "update", "patch", "delete"];
    scene.grant(&user, json!([{"apiGroups": ["sokovan.dev"], "resources": ["routes"], "verbs": verbs}])).await;
    let theirs = scene.as_user(&user).await;
    let mut own = route();
    own["metadata"] = json!({"name": "web-1", "finalizers": [FINALIZER_ROUTE]});
    scene.make_here::<Route>(own).await;
    let patch = |patch: Value| {
        let theirs = &theirs;
        async move { outcome(theirs.api::<Route>().patch("web-1", &PatchParams::default(), &Patch::Merge(patch)).await) }
    };
    accepted("a weight", || patch(json!({"spec": {"weight": 5}}))).await;
    refused("another session", patch(json!({"spec": {"session": "other"}})).await, "only weight can be changed");
    refused("another revision", patch(json!({"spec": {"revision": 2}})).await, "only weight can be changed");
    let label = || patch(json!({"metadata": {"labels": {LABEL_DEPLOYMENT_UID: "u"}}}));
    refused("another deployment", label().await, "labels of sokovan.dev on routes");
    let release = || patch(json!({"metadata": {"finalizers": null}}));
    refused("the finalizer", release().await, "needs the verb release on the route");
    let cases = [("a route", route(), "may not create routes: create a deployment")];
    only_the_policy_refuses::<Route>(&scene, &theirs, "routes", &cases).await;
    accepted("the finalizer", release).await;
    lift(&scene, "serving-labels").await;
    accepted("another deployment", label).await;
}

#[tokio::test]
async fn users_cannot_forge_what_a_deployment_consists_of() {
    let scene = Scene::with("forge", 0, json!({})).await;
    let user = unique("user");
    let rules = json!([
        {"apiGroups": ["apps"], "resources": ["controllerrevisions"], "verbs": ["*"]},
        {"apiGroups": ["policy"], "resources": ["poddisruptionbudgets"], "verbs": ["*"]},
        {"apiGroups": [""], "resources": ["pods", "services"], "verbs": ["*"]},
        {"apiGroups": ["sokovan.dev"], "resources": ["sessions"], "verbs": ["*"]},
        right("sokovan.dev", "keypairs", "use", &[&scene.name])[0],
        right("sokovan.dev", "scalinggroups", "use", &[&scene.name])[0],
    ]);
    scene.grant(&user, rules).await;
    let theirs = scene.as_user(&user).await;
    let forged = || json!({LABEL_DEPLOYMENT_UID: "u"});
    accepted("a revision of one's own", || async { try_to_make::<ControllerRevision>(&theirs, &revision(json!({}))).await })
        .await;
    let forged_budget = || async { try_to_make::<PodDisruptionBudget>(&theirs, &budget(forged())).await };
    refused("a deployment's budget", forged_budget().await, "labels of sokovan.dev on poddisruptionbudgets");
    let session =
        changed(&scene.session("x", json!({})), "/metadata/labels", json!({LABEL_DEPLOYMENT_UID: "u", LABEL_TRAFFIC: "on"}));
    let session = changed(&session, "/metadata/name", Value::Null);
    let forged_session = || async { try_to_make::<Session>(&theirs, &session).await };
    refused("a session in a deployment's traffic", forged_session().await, "labels of sokovan.dev on sessions");
    let pod = json!({"metadata": {"labels": {LABEL_TRAFFIC: "on", LABEL_DEPLOYMENT: "web"}},
                     "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let forged_pod = || async { try_to_make::<Pod>(&theirs, &pod).await };
    refused("a pod in a deployment's traffic", forged_pod().await, "labels of sokovan.dev on pods");
    let service = json!({"metadata": {"labels": forged()}, "spec": {"ports": [{"port": 80}]}});
    let forged_service = || async { try_to_make::<Service>(&theirs, &service).await };
    refused("a deployment's service", forged_service().await, "labels of sokovan.dev on services");
    let cases = [("a deployment's revision", revision(forged()), "labels of sokovan.dev on controllerrevisions")];
    only_the_policy_refuses::<ControllerRevision>(&scene, &theirs, "serving-labels", &cases).await;
    accepted("a deployment's budget", forged_budget).await;
    accepted("a session in a deployment's traffic", forged_session).await;
    lift(&scene, "pod-labels-deployment").await;
    accepted("a pod in a deployment's traffic", forged_pod).await;
    lift(&scene, "service-labels-deployment-uid").await;
    accepted("a deployment's service", forged_service).await;
}

#[tokio::test]
async fn the_operator_creates_for_deployments_only_what_belongs_to_one() {
    let scene = Scene::with("oserve", 0, json!({})).await;
    let operator = scene.as_user(OPERATOR).await;
    // The garbage collector removes what belongs to an object that does not exist.
    let template = json!({
        "type": "Inference", "accessKey": scene.name, "scalingGroup": scene.name, "kernels": [kernel("main", 1, &[])],
    });
    scene.make_here::<Deployment>(json!({"metadata": {"name": "web"}, "spec": {"template": template}})).await;
    scene.make_here::<Route>(changed(&route(), "/metadata/name", json!("web"))).await;
    let deployment = scene.api::<Deployment>().get("web").await.unwrap().metadata.uid;
    let route = scene.api::<Route>().get("web").await.unwrap().metadata.uid;
    let owner = |kind: &str| {
        let uid = if kind == "Route" { &route } else { &deployment };
        json!([{"apiVersion": "sokovan.dev/v1alpha1", "kind": kind, "name": "web", "uid": uid}])
    };
    let labels = || json!({LABEL_DEPLOYMENT: "web", LABEL_DEPLOYMENT_UID: "u"});
    let spec = json!({"type": "Inference", "serving": {"port": 80}});
    let session = |owners: Value, labels: Value| {
        let mut session = scene.session("x", spec.clone());
        session["metadata"] = json!({"labels": labels, "ownerReferences": owners, "namespace": scene.name});
        session
    };
    try_to_make::<Session>(&operator, &session(owner("Route"), labels())).await.expect("a session as the operator creates it");
    let service = |more: Value| {
        let mut service = json!({
            "metadata": {"name": "web", "labels": labels(), "ownerReferences": owner("Deployment")},
            "spec": {"ports": [{"port": 80}], "selector": {LABEL_DEPLOYMENT: "web", LABEL_TRAFFIC: "on"}},
        });
        service["spec"].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        service
    };
    try_to_make::<Service>(&operator, &service(json!({}))).await.expect("a service as the operator creates it");
    let elsewhere =
        async |more: Value| try_to_make::<Service>(&operator, &changed(&service(more), "/metadata/name", json!("api"))).await;
    let limits = "must be internal, belong to their deployment, and select its replicas";
    refused("a service of another name", elsewhere(json!({})).await, limits);
    let selects = json!({"selector": {"app": "x"}});
    refused("a service for other pods", try_to_make::<Service>(&operator, &service(selects)).await, limits);
    refused("a public service", try_to_make::<Service>(&operator, &service(json!({"type": "LoadBalancer"}))).await, limits);
    let redirect = json!({"spec": {"selector": {LABEL_DEPLOYMENT: null, LABEL_TRAFFIC: null, "app": "x"}}});
    let redirected =
        || async { outcome(operator.api::<Service>().patch("web", &PatchParams::default(), &Patch::Merge(&redirect)).await) };
    refused("a service redirected", redirected().await, limits);
    lift(&scene, "operator-touches").await;
    accepted("a service redirected", redirected).await;
    restore(&scene, "operator-touches").await;
    let owned = |mut object: Value| {
        object["metadata"]["ownerReferences"] = owner("Deployment");
        object
    };
    try_to_make::<PodDisruptionBudget>(&operator, &owned(budget(labels()))).await.expect("a budget");
    refused(
        "a foreign budget",
        try_to_make::<PodDisruptionBudget>(&operator, &budget(json!({}))).await,
        "that belong to a deployment",
    );
    scene.make_here::<PodDisruptionBudget>(changed(&budget(json!({})), "/metadata/name", json!("theirs"))).await;
    let deleted = operator.api::<PodDisruptionBudget>().delete("theirs", &DeleteParams::default()).await;
    refused("deleting a foreign budget", outcome(deleted), "that belong to a deployment");
    let foreign = try_to_make::<ControllerRevision>(&operator, &revision(json!({}))).await;
    refused("a foreign revision", foreign, "that belong to a deployment");
    let batch = {
        let mut batch = session(owner("Route"), labels());
        batch["spec"]["type"] = json!("Batch");
        batch["spec"].as_object_mut().unwrap().remove("serving");
        batch
    };
    let cases = [
        ("a session of nobody's", session(json!([]), labels()), "that belong to a deployment"),
        ("a session without the labels", session(owner("Route"), json!({})), "that belong to a deployment"),
        ("a batch session", batch, "only sessions of type Inference"),
    ];
    only_the_policy_refuses::<Session>(&scene, &operator, "operator-serving", &cases).await;
}
