//! Amounts of resources that admission refuses.

use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicyBinding;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DynamicObject};
use serde_json::{Value, json};
use sokovan::api::*;

use crate::attempts::{accepted, lift, only_the_policy_refuses, outcome, refused, try_to_make};
use crate::common::unique;
use crate::scene::{Scene, kernel};

#[tokio::test]
async fn huge_pages_are_multiples_of_the_page_size() {
    let scene = Scene::with("pages", 0, json!({})).await;
    let session = |name: &str, amount: Value| {
        let mut main = kernel("main", 1, &[]);
        main["resources"][name] = amount;
        let mut session = scene.session("x", json!({"type": "Inference", "kernels": [main]}));
        session["metadata"]["name"] = Value::Null;
        session
    };
    for (name, amount) in [("hugepages-2Mi", json!("4Mi")), ("hugepages-2Mi", json!(2_097_152)), ("hugepages-1Gi", json!("1Ti"))]
    {
        try_to_make::<Session>(&scene.space, &session(name, amount)).await.expect("whole pages");
    }
    let cases = [
        (
            "a page and a half",
            session("hugepages-2Mi", json!("3Mi")),
            "kernel main has hugepages-2Mi 3Mi, which is not a multiple of the page size 2Mi",
        ),
        ("less than a page", session("hugepages-1Gi", json!("0.5Gi")), "which is not a multiple of the page size 1Gi"),
        ("an invalid page size", session("hugepages-x", json!("1Gi")), "kernel main has hugepages-x: a resource is cpu, memory"),
        ("a page size of zero", session("hugepages-0", json!("1Gi")), "kernel main has hugepages-0: a resource is cpu, memory"),
    ];
    let deployment = json!({"metadata": {}, "spec": {"template": cases[0].1["spec"]}});
    let deploy = || try_to_make::<Deployment>(&scene.space, &deployment);
    refused("a deployment with a page and a half", deploy().await, "not a multiple of the page size 2Mi");
    only_the_policy_refuses::<Session>(&scene, &scene.space, "quantities", &cases).await;
    accepted("a deployment with a page and a half", deploy).await;
    scene.clear().await;
}

#[tokio::test]
async fn amounts_are_positive_numbers_or_quantity_strings() {
    let scene = Scene::with("amounts", 0, json!({})).await;
    let resource = ApiResource::erase::<Session>(&());
    let sessions: Api<DynamicObject> = Api::namespaced_with(scene.client.clone(), &scene.namespace, &resource);
    let sessions = &sessions;
    let try_main = |field: &str, value: Value| {
        let mut main = kernel("main", 1, &[]);
        main[field] = value;
        let mut session = scene.session("x", json!({"kernels": [main]}));
        session["metadata"]["name"] = json!(unique("x"));
        async move {
            let session: DynamicObject = serde_json::from_value(session).expect("a valid object");
            outcome(sessions.create(&PostParams { dry_run: true, ..PostParams::default() }, &session).await)
        }
    };
    let amount = |name: &str, value: &Value| {
        let mut resources = json!({"cpu": 1, "memory": "1Gi"});
        resources[name] = value.clone();
        ("resources", resources)
    };
    let good =
        [("cpu", json!(0.5)), ("cpu", json!("0.5")), ("cpu", json!(1.0)), ("memory", json!(1e9)), ("nvidia.com/gpu", json!(2.0))];
    for (name, value) in &good {
        let (field, resources) = amount(name, value);
        try_main(field, resources).await.unwrap_or_else(|message| panic!("{name} {value}: {message}"));
    }
    try_main("sharedMemory", json!(1.5e8)).await.expect("a number of bytes");
    let quantity = "every resource must be a quantity greater than zero and less than 9P";
    let whole = "an extended resource must be a whole number";
    let cases = [
        (amount("cpu", &json!(0)), format!("kernel main has cpu 0: {quantity}")),
        (amount("cpu", &json!(-0.5)), format!("kernel main has cpu -0.5: {quantity}")),
        (amount("cpu", &json!("x")), format!("kernel main has cpu x: {quantity}")),
        (amount("cpu", &json!(true)), format!("kernel main has cpu of another type: {quantity}")),
        (amount("memory", &json!("9P")), format!("kernel main has memory 9P: {quantity}")),
        (amount("memory", &json!("1".repeat(33))), quantity.to_owned()),
        (amount("nvidia.com/gpu", &json!(0.5)), format!("kernel main has nvidia.com/gpu 0.5: {whole}")),
        (amount("gpu", &json!(1)), "kernel main has gpu: a resource is cpu, memory, ephemeral-storage".to_owned()),
        (("resources", json!({"cpu": 1})), "kernel main: resources must include cpu and memory".to_owned()),
        (("sharedMemory", json!(0)), "kernel main has sharedMemory 0: a size must be a quantity".to_owned()),
    ];
    for ((field, value), words) in &cases {
        refused(&value.to_string(), try_main(field, value.clone()).await, words);
    }
    lift(&scene, "quantities").await;
    for ((field, value), _) in &cases {
        accepted(&value.to_string(), || try_main(field, value.clone())).await;
    }
    scene.clear().await;
}

#[tokio::test]
async fn limits_are_quantities_of_zero_or_more() {
    let scene = Scene::with("limits", 0, json!({})).await;
    let resource = ApiResource::erase::<ResourcePolicy>(&());
    let policies: Api<DynamicObject> = Api::all_with(scene.client.clone(), &resource);
    let make = async |labels: Value, spec: Value| {
        let policy = json!({"apiVersion": "sokovan.dev/v1alpha1", "kind": "ResourcePolicy",
                            "metadata": {"name": scene.name, "labels": labels}, "spec": spec});
        let policy: DynamicObject = serde_json::from_value(policy).expect("a valid object");
        outcome(policies.create(&PostParams { dry_run: true, ..PostParams::default() }, &policy).await)
    };
    for good in [json!(0), json!(0.5), json!("1")] {
        make(json!({}), json!({"limits": {"cpu": good}, "maxPendingResources": {"cpu": good}})).await.expect("a limit");
    }
    let bad = [json!(-1), json!("-1m"), json!("x"), json!(true)];
    let cases: Vec<Value> = ["limits", "maxPendingResources"]
        .iter()
        .flat_map(|field| bad.iter().map(move |bad| json!({*field: {"cpu": bad}})))
        .collect();
    for spec in &cases {
        let words = "every limit must be a quantity of zero or more";
        refused(&spec.to_string(), make(json!({}), spec.clone()).await, words);
    }
    let excluded = json!({"matchExpressions": [{"key": "lifted.test/limits", "operator": "DoesNotExist"}]});
    let patch = Patch::Merge(json!({"spec": {"matchResources": {"objectSelector": excluded}}}));
    let bindings = scene.all::<ValidatingAdmissionPolicyBinding>();
    bindings.patch("sokovan-quantities", &PatchParams::default(), &patch).await.expect("the binding can be changed");
    for spec in &cases {
        accepted(&spec.to_string(), || make(json!({"lifted.test/limits": "yes"}), spec.clone())).await;
    }
    scene.clear().await;
}
