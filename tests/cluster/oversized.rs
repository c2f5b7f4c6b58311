//! Admission keeps sessions small enough for their status to be written.

use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use sokovan::api::*;

use crate::attempts::{accepted, lift, only_the_policy_refuses, outcome, refused, refused_soon, restore, try_to_make};
use crate::scene::{Scene, kernel};

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
const TOO_LARGE: &str = "bytes; at most 262144";
const LONG_ID: &str = "annotation sokovan.dev/creation-id has 129 characters; at most 128";

/// Returns a kernel with one more field.
fn with(field: &str, value: Value) -> Value {
    let mut main = kernel("main", 1, &[]);
    main[field] = value;
    main
}

fn arguments(count: usize, character: &str) -> Value {
    with("args", json!(vec![character.repeat(16_384); count]))
}

#[tokio::test]
async fn admission_limits_the_size_of_a_session() {
    let scene = Scene::with("large", 0, json!({})).await;
    let session = |kernels: Value| {
        let mut session = scene.session("x", json!({"clusterMode": "MultiNode", "kernels": kernels}));
        session["metadata"]["name"] = Value::Null;
        session
    };
    let noted = |metadata: Value| {
        let mut session = session(json!([kernel("main", 1, &[])]));
        session["metadata"] = metadata;
        session
    };
    let annotated = |name: &str, value: String| noted(json!({"annotations": {name: value}}));
    let gang = |replicas: i32| {
        let mut sub = kernel("sub", replicas, &[]);
        sub["args"] = json!(["x".repeat(2_570)]);
        session(json!([kernel("main", 1, &[]), sub]))
    };
    let long_paths: Vec<Value> = (0..16)
        .map(|n| json!({"claimName": "c", "mountPath": format!("/{n}{}", "\u{1F600}".repeat(500)), "subPath": "\u{1F600}".repeat(500)}))
        .collect();
    let mounting: Vec<Value> = ["main", "a", "b", "c", "d"]
        .iter()
        .map(|role| {
            let mut mounting = with("volumes", json!(long_paths));
            mounting["role"] = json!(role);
            mounting
        })
        .collect();
    let owner = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "x".repeat(270_000), "uid": "u"});
    let finalizers: Vec<String> = (0..4_000).map(|n| format!("example.org/{n}-{}", "x".repeat(56))).collect();
    for (what, largest) in [
        ("many arguments", session(json!([arguments(15, "x")]))),
        ("arguments of four bytes a character", session(json!([arguments(3, "\u{1F600}")]))),
        ("many replicas", gang(100)),
        ("a long annotation", annotated("pad", "x".repeat(250_000))),
        ("a long last-applied configuration", annotated(LAST_APPLIED, "\"".repeat(250_000))),
        ("a creation id", annotated("sokovan.dev/creation-id", "x".repeat(128))),
    ] {
        try_to_make::<Session>(&scene.space, &largest).await.unwrap_or_else(|message| panic!("{what}: {message}"));
    }
    let cases = [
        ("too many arguments", session(json!([arguments(17, "x")])), TOO_LARGE),
        ("too many bytes", session(json!([arguments(5, "\u{1F600}")])), TOO_LARGE),
        ("too many characters to be escaped", session(json!([arguments(3, "<")])), TOO_LARGE),
        ("too many quotes", session(json!([arguments(9, "\"")])), TOO_LARGE),
        ("too many replicas", gang(103), TOO_LARGE),
        ("too long paths", session(json!(mounting)), TOO_LARGE),
        ("too long an annotation", annotated("pad", "<".repeat(50_000)), TOO_LARGE),
        ("too many finalizers", noted(json!({"finalizers": finalizers})), TOO_LARGE),
        ("too long an owner", noted(json!({"ownerReferences": [owner]})), TOO_LARGE),
        ("too long a last-applied configuration", annotated(LAST_APPLIED, "<".repeat(90_000)), "bytes; at most 524288"),
        ("too long a creation id", annotated("sokovan.dev/creation-id", "x".repeat(129)), LONG_ID),
    ];
    let template = scene.session("x", json!({"type": "Inference", "kernels": [arguments(17, "x")]}));
    let deployment = json!({"metadata": {}, "spec": {"template": template["spec"]}});
    let deploy = || try_to_make::<Deployment>(&scene.space, &deployment);
    refused("a deployment with too many arguments", deploy().await, "deployment has 2");
    only_the_policy_refuses::<Session>(&scene, &scene.space, "sound", &cases).await;
    accepted("a deployment with too many arguments", deploy).await;
    scene.clear().await;
}

#[tokio::test]
async fn field_managers_cannot_fill_a_session() {
    let scene = Scene::with("managed", 0, json!({})).await;
    let apply = async |manager: &str, annotations: usize| {
        let key = |n: usize| format!("{}org/{}{n:04}", "x.".repeat(120), "x".repeat(56));
        let annotations: serde_json::Map<String, Value> = (0..annotations).map(|n| (key(n), json!(""))).collect();
        let mut session = scene.session("x", json!({}));
        session["metadata"]["annotations"] = json!(annotations);
        let params = PatchParams::apply(manager).force();
        outcome(scene.api::<Session>().patch("x", &params, &Patch::Apply(&session)).await)
    };
    for manager in ["first", "second"] {
        apply(manager, 700).await.expect("a manager");
    }
    refused("one manager too many", apply("third", 350).await, "bytes of managedFields; at most 524288");
    scene.patch_spec("x", json!({"desiredState": "Terminated"})).await.expect("it can be ended");
    lift(&scene, "sound").await;
    accepted("one manager too many", || apply("third", 350)).await;
    scene.clear().await;
}

#[tokio::test]
async fn an_oversized_session_from_before_the_policy_can_shrink_and_end() {
    let scene = Scene::with("shrink", 0, json!({})).await;
    lift(&scene, "sound").await;
    let mut large = scene.session("x", json!({"kernels": [arguments(17, "x")]}));
    large["metadata"]["annotations"] = json!({"pad": "x".repeat(1_000)});
    accepted("a session from before", || try_to_make::<Session>(&scene.space, &large)).await;
    restore(&scene, "sound").await;
    let annotate = async |length: usize| {
        let patch = Patch::Merge(json!({"metadata": {"annotations": {"pad": "x".repeat(length)}}}));
        outcome(scene.api::<Session>().patch("x", &PatchParams::default(), &patch).await)
    };
    // An attempt that succeeded before the policy was back has grown the session, so the next attempt must be larger.
    let length = std::sync::atomic::AtomicUsize::new(1_001);
    let grow = || annotate(length.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
    refused_soon("a session grown", grow, TOO_LARGE).await;
    annotate(900).await.expect("a session that shrinks");
    scene.patch_spec("x", json!({"desiredState": "Terminated"})).await.expect("a session that ends");
    scene.clear().await;
}
