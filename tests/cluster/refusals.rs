//! Invalid sessions that the API server refuses with a clear message, each with a valid counterpart that it accepts.

use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::DynamicObject;
use serde_json::{Value, json};
use sokovan::api::*;

use crate::scene::{Scene, forged_kernel};

/// Returns the API server's message about a session, or None if it accepts the session.
async fn refusal(scene: &Scene, name: &str, spec: Value) -> Option<String> {
    let session = scene.session(name, spec);
    let dynamic: DynamicObject = serde_json::from_value(session).unwrap();
    let resource = kube::core::ApiResource::erase::<Session>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(scene.client.clone(), &scene.namespace, &resource);
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    match api.create(&dry, &dynamic).await {
        Ok(_) => None,
        Err(kube::Error::Api(status)) => Some(status.message.clone()),
        Err(error) => panic!("{error}"),
    }
}

async fn refused(scene: &Scene, spec: Value, words: &str) {
    let message = refusal(scene, "x", spec.clone()).await.unwrap_or_else(|| panic!("the spec was accepted: {spec}"));
    assert!(message.contains(words), "{message}\n  does not contain: {words}");
}

async fn accepted(scene: &Scene, spec: Value) {
    let message = refusal(scene, "x", spec).await;
    assert_eq!(message, None);
}

fn kernels(entries: Value) -> Value {
    json!({ "kernels": entries })
}

fn with(fields: Value) -> Value {
    let mut kernel = json!({"role": "main", "image": "busybox:1", "resources": {"cpu": 1, "memory": "1Gi"}});
    kernel.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    kernels(json!([kernel]))
}

#[tokio::test]
async fn resources_are_quantities_above_zero() {
    let scene = Scene::with("no-res", 0, json!({})).await;
    for bad in [json!(0), json!("0"), json!(-1), json!("-500m"), json!("x"), json!("9P")] {
        let resources = json!({"resources": {"cpu": bad, "memory": "1Gi"}});
        refused(&scene, with(resources), "every resource must be a quantity greater than zero").await;
    }
    refused(&scene, with(json!({"resources": {"cpu": 1}})), "resources must include cpu and memory").await;
    let more = |name: &str, amount: &str| with(json!({"resources": {"cpu": 1, "memory": "1Gi", name: amount}}));
    for amount in ["500m", "1.5"] {
        refused(&scene, more("nvidia.com/gpu", amount), "an extended resource must be a whole number").await;
    }
    for (name, amount) in [("ephemeral-storage", "1.5Gi"), ("hugepages-2Mi", "1.5Gi"), ("nvidia.com/mig-1g.5gb", "2")] {
        accepted(&scene, more(name, amount)).await;
    }
    for name in ["gpu", &format!("nvidia.com/{}", "g".repeat(250))] {
        refused(&scene, more(name, "1"), "a resource is cpu, memory, ephemeral-storage").await;
    }
    for good in [json!(1), json!("500m"), json!("1.5")] {
        accepted(&scene, with(json!({"resources": {"cpu": good, "memory": "1Gi", "nvidia.com/gpu": 1}}))).await;
    }
}

#[tokio::test]
async fn a_session_has_kernels_and_exactly_one_main_kernel() {
    let scene = Scene::with("no-main", 0, json!({})).await;
    let kernel = |role: &str, replicas: i32| json!({"role": role, "replicas": replicas, "image": "busybox:1", "resources": {"cpu": 1, "memory": "1Gi"}});
    refused(&scene, kernels(json!([])), "spec.kernels").await;
    refused(&scene, kernels(json!([kernel("main", 1), kernel("main", 1)])), "each role has one entry").await;
    refused(&scene, kernels(json!([kernel("main", 2)])), "the role main has one replica").await;
    refused(&scene, kernels(json!([kernel("sub", 1)])), "exactly one entry has the role main").await;
    refused(&scene, kernels(json!([kernel("main", 1), kernel("sub", 128)])), "at most 128 kernels").await;
    refused(&scene, kernels(json!([kernel("main", 1), kernel("sub2", 1)])), "should match").await;
    accepted(&scene, kernels(json!([kernel("main", 1), kernel("sub", 127)]))).await;
}

#[tokio::test]
async fn enums_and_bounds_are_enforced() {
    let scene = Scene::with("no-enum", 0, json!({})).await;
    refused(&scene, json!({"type": "Sleepy"}), "Unsupported value: \"Sleepy\"").await;
    accepted(&scene, json!({"type": "Batch"})).await;
    refused(&scene, json!({"priority": 101}), "less than or equal to 100").await;
    refused(&scene, json!({"priority": -1}), "greater than or equal to 0").await;
    accepted(&scene, json!({"priority": 100})).await;
    refused(&scene, json!({"batchTimeoutSeconds": 5}), "is for sessions of type Batch").await;
    accepted(&scene, json!({"type": "Batch", "batchTimeoutSeconds": 5})).await;
    refused(&scene, json!({"dependsOn": vec!["a"; 17]}), "must have at most 16 items").await;
    accepted(&scene, json!({"dependsOn": vec!["a"; 16]})).await;
    refused(&scene, json!({"dependsOn": ["a\nb"]}), "should match").await;
    refused(&scene, json!({"dependsOn": ["a", "x"]}), "a session cannot depend on itself").await;
    refused(&scene, with(json!({"volumes": [{"claimName": "\u{1b}[2J", "mountPath": "/v"}]})), "should match").await;
    refused(&scene, with(json!({"image": "i".repeat(513)})), "may not be more than 512").await;
    accepted(&scene, with(json!({"image": "i".repeat(512)}))).await;
}

#[tokio::test]
async fn times_are_valid_rfc_3339() {
    let scene = Scene::with("no-time", 0, json!({})).await;
    for bad in ["soon", "2026-01-01", "2026-01-01T00:00:00", "2026-01-01T00:00:00+99:99", "2026-01-01T00:00:00x5Z"] {
        refused(&scene, json!({"startsAt": bad}), "spec.startsAt").await;
    }
    for good in ["2026-01-01T00:00:00Z", "2026-01-01T00:00:00.123456789Z", "2026-01-01t09:30:59+05:30"] {
        accepted(&scene, json!({"startsAt": good})).await;
        assert!(chrono::DateTime::parse_from_rfc3339(good).is_ok(), "{good} can be read");
    }
}

#[tokio::test]
async fn the_operators_names_ports_and_paths_are_reserved() {
    let scene = Scene::with("no-env", 0, json!({})).await;
    let env = |name: &str| with(json!({"env": [{"name": name, "value": "v"}]}));
    refused(&scene, env("BACKENDAI_SESSION_ID"), "names that begin with BACKENDAI_ are reserved").await;
    accepted(&scene, env("MY_BACKENDAI_ID")).await;
    let port = |number: i32| with(json!({"ports": [{"name": "p", "containerPort": number}]}));
    refused(&scene, port(2200), "are reserved").await;
    accepted(&scene, port(8080)).await;
    let mount = |path: &str| with(json!({"volumes": [{"claimName": "c", "mountPath": path}]}));
    for path in ["/opt/sokovan/bin", "/dev/shm", "/etc", "/", "/./etc", "/etc/.", "/./opt/sokovan/ssh", "/data/"] {
        let message = refusal(&scene, "x", mount(path)).await;
        assert!(message.is_some(), "{path} was accepted");
    }
    refused(&scene, mount("/a/../etc"), "absolute and plain").await;
    for path in ["/data", "/data/.cache", "/data/v1..2"] {
        accepted(&scene, mount(path)).await;
    }
}

#[tokio::test]
async fn names_are_labels_of_at_most_40_characters() {
    let scene = Scene::with("no-name", 0, json!({})).await;
    let long = refusal(&scene, &"n".repeat(41), json!({})).await.expect("41 characters");
    assert!(long.contains("a session's name has at most 40 characters"), "{long}");
    let dotted = refusal(&scene, "a.b", json!({})).await.expect("a dot");
    assert!(dotted.contains("a session's name is a DNS label"), "{dotted}");
    assert_eq!(refusal(&scene, &"n".repeat(40), json!({})).await, None);
}

#[tokio::test]
async fn a_session_is_immutable_except_for_priority_and_desired_state() {
    let scene = Scene::with("no-change", 0, json!({})).await;
    scene.submit("x", json!({})).await;
    let kernel = |image: &str, cpu: i32| json!([{"role": "main", "image": image, "resources": {"cpu": cpu, "memory": "1Gi"}}]);
    for (spec, words) in [
        (json!({"kernels": kernel("other:1", 1)}), "kernels (image, resources, …) cannot be changed"),
        (json!({"kernels": kernel("busybox:1", 2)}), "kernels (image, resources, …) cannot be changed"),
        (json!({"accessKey": "other"}), "the owner (accessKey) cannot be changed"),
        (json!({"scalingGroup": "other"}), "scalingGroup cannot be changed"),
        (json!({"scalingGroup": null}), "scalingGroup cannot be changed"),
        (json!({"type": "Batch"}), "type cannot be changed"),
    ] {
        let message = scene.patch_spec("x", spec.clone()).await.expect_err(&format!("the spec was accepted: {spec}")).to_string();
        assert!(message.contains(words), "{message}\n  does not contain: {words}");
    }
    scene.patch_spec("x", json!({"priority": 20})).await.expect("a priority may change");
    scene.patch_spec("x", json!({"desiredState": "Terminated"})).await.expect("a session may be ended");
    let message = scene.patch_spec("x", json!({"desiredState": "Running"})).await.expect_err("the session is ending").to_string();
    assert!(message.contains("desiredState cannot be changed from Terminated to Running"), "{message}");
}

#[tokio::test]
async fn users_cannot_write_kernels_and_statuses() {
    let scene = Scene::with("no-forge", 0, json!({})).await;
    let user = format!("user-of-{}", scene.name);
    scene.grant(&user, json!([{"apiGroups": ["sokovan.dev"], "resources": ["*"], "verbs": ["*"]}])).await;
    let theirs = scene.as_user(&user).await;

    // RBAC allows the user everything, so only the policy can refuse.
    crate::attempts::accepted("a session", || async {
        crate::attempts::outcome(theirs.create(scene.session("x", json!({}))).await)
    })
    .await;
    let mut kernel = forged_kernel();
    kernel["metadata"]["name"] = json!("forged");
    let kernel: Kernel = serde_json::from_value(kernel).unwrap();
    let message = theirs.api::<Kernel>().create(&PostParams::default(), &kernel).await.expect_err("a forged kernel").to_string();
    assert!(message.contains("may not write kernels: only the Sokovan operator"), "{message}");
    let forged = Patch::Merge(json!({"status": {"phase": "Running"}}));
    let status = theirs.api::<Session>().patch_status("x", &PatchParams::default(), &forged).await;
    let message = status.expect_err("a forged status").to_string();
    assert!(message.contains("may not write the status of sessions: only the Sokovan operator"), "{message}");
    let both = Patch::Merge(json!({"spec": {"priority": 20}, "status": {"phase": "Running"}}));
    theirs.api::<Session>().patch("x", &PatchParams::default(), &both).await.expect("a user may change the spec");
    let session = scene.get("x").await;
    assert_eq!((session.spec.priority, session.status), (20, None), "a status in the main resource is ignored");
}
