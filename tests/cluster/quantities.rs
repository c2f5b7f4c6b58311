//! Amounts of resources that no node could give.

use serde_json::{Value, json};
use sokovan::api::*;

use crate::attempts::{accepted, only_the_policy_refuses, refused, try_to_make};
use crate::scene::{Scene, kernel};

#[tokio::test]
async fn huge_pages_are_given_as_whole_pages() {
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
        (
            "a page size that is none",
            session("hugepages-x", json!("1Gi")),
            "kernel main has hugepages-x: a resource is cpu, memory",
        ),
        (
            "a page size of nothing",
            session("hugepages-0", json!("1Gi")),
            "kernel main has hugepages-0: a resource is cpu, memory",
        ),
    ];
    let deployment = json!({"metadata": {}, "spec": {"template": cases[0].1["spec"]}});
    let deploy = || try_to_make::<Deployment>(&scene.space, &deployment);
    refused("a deployment with a page and a half", deploy().await, "not a multiple of the page size 2Mi");
    only_the_policy_refuses::<Session>(&scene, &scene.space, "quantities", &cases).await;
    accepted("a deployment with a page and a half", deploy).await;
    scene.clear().await;
}
