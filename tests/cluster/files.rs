//! A session gets only files and credentials that its author may read.

use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use sokovan::api::*;

use crate::attempts::{accepted, lift, outcome, refused, refused_soon, right, try_to_make};
use crate::claims::author;
use crate::scene::{Scene, kernel};

/// Two kernels with the same files from so many ConfigMaps. Each object counts once.
fn with_maps(count: usize) -> Value {
    let file = |n: usize| json!({"path": format!("/work/{n}"), "configMapKeyRef": {"name": format!("map-{n}"), "key": "k"}});
    let files: Vec<Value> = (0..count).map(file).collect();
    let mut kernels = [kernel("main", 1, &[]), kernel("sub", 1, &[])];
    for kernel in &mut kernels {
        kernel["files"] = json!(files);
    }
    json!({"kernels": kernels})
}

fn with_secret() -> Value {
    let mut main = kernel("main", 1, &[]);
    main["files"] = json!([{"path": "/work/token", "secretKeyRef": {"name": "token", "key": "k"}}]);
    json!({"kernels": [main]})
}

fn session(scene: &Scene, spec: &Value) -> Value {
    let mut session = scene.session("x", spec.clone());
    session["metadata"]["name"] = Value::Null;
    session
}

fn deployment(scene: &Scene, spec: &Value) -> Value {
    let mut template = scene.session("x", spec.clone())["spec"].take();
    template["type"] = json!("Inference");
    json!({"metadata": {}, "spec": {"template": template}})
}

#[tokio::test]
async fn a_file_needs_the_right_to_read_its_source() {
    let scene = Scene::with("files", 0, json!({})).await;
    let names: Vec<String> = (0..11).map(|n| format!("map-{n}")).collect();
    let eleven: Vec<&str> = names.iter().map(String::as_str).collect();
    let maps = |names: &[&str]| json!(right("", "configmaps", "get", names));
    let secrets = |names: &[&str]| json!(right("", "secrets", "get", names));
    let all = json!([{"apiGroups": [""], "resources": ["configmaps", "secrets"], "verbs": ["get"]}]);
    let pulls = json!({"imagePullSecrets": ["registry"]});
    // Columns: the attempt, its spec, the rights granted before, the words of the refusal, the right that admits it.
    let cases = [
        ("a ConfigMap", with_maps(1), maps(&["other"]), "may not read map-0", maps(&["map-0"])),
        ("a Secret", with_secret(), maps(&["token"]), "verb get on secrets of that name", secrets(&["token"])),
        ("a registry's credentials", pulls, secrets(&["other"]), "may not read registry", secrets(&["registry"])),
        ("the last of twelve", with_maps(12), maps(&eleven), "may not read map-11", maps(&["map-11"])),
        ("more than are checked one by one", with_maps(13), maps(&eleven), "may not name 13 ConfigMaps and Secrets", all),
    ];
    let nothing = json!({});
    for (what, spec, before, words, needed) in &cases {
        let (user, theirs) = author(&scene).await;
        scene.grant(&user, before.clone()).await;
        accepted("a session without files", || async { try_to_make::<Session>(&theirs, &session(&scene, &nothing)).await }).await;
        refused_soon(what, || async { try_to_make::<Session>(&theirs, &session(&scene, spec)).await }, words).await;
        refused(&format!("a deployment with {what}"), try_to_make::<Deployment>(&theirs, &deployment(&scene, spec)).await, words);
        scene.grant(&user, needed.clone()).await;
        accepted(what, || async { try_to_make::<Session>(&theirs, &session(&scene, spec)).await }).await;
        let deployed = || async { try_to_make::<Deployment>(&theirs, &deployment(&scene, spec)).await };
        accepted(&format!("a deployment with {what}"), deployed).await;
    }
    let (_, theirs) = author(&scene).await;
    let mut own = deployment(&scene, &nothing);
    own["metadata"]["name"] = json!("own");
    accepted("a deployment without files", || try_to_make::<Deployment>(&theirs, &own)).await;
    let add = || async {
        let patch = Patch::Merge(json!({"spec": {"template": {"kernels": with_secret()["kernels"]}}}));
        outcome(theirs.api::<Deployment>().patch("own", &PatchParams::default(), &patch).await)
    };
    refused("a file added to a deployment later", add().await, "may not read token");
    let mut others = deployment(&scene, &with_secret());
    others["metadata"]["name"] = json!("others");
    try_to_make::<Deployment>(&scene.space, &others).await.expect("a deployment of somebody who may read the Secret");
    let spy = || async {
        let patch = Patch::Merge(json!({"spec": {"model": {"startCommand": ["cat", "/work/token"]}}}));
        outcome(theirs.api::<Deployment>().patch("others", &PatchParams::default(), &patch).await)
    };
    refused("another command for a file", spy().await, "may not read token");
    lift(&scene, "use-files").await;
    accepted("another command for a file", spy).await;
    accepted("a file added to a deployment later", add).await;
    accepted("a Secret as a file", || async { try_to_make::<Session>(&theirs, &session(&scene, &with_secret())).await }).await;
}

#[tokio::test]
async fn files_and_scratch_are_plain_paths_with_one_source() {
    let scene = Scene::with("paths", 0, json!({})).await;
    let made = async |field: &str, entry: Value| {
        let mut main = kernel("main", 1, &[]);
        main[field] = json!([entry]);
        try_to_make::<Session>(&scene.space, &session(&scene, &json!({"kernels": [main]}))).await
    };
    let map = json!({"name": "code", "key": "k"});
    made("files", json!({"path": "/work/run.sh", "configMapKeyRef": map, "executable": true})).await.expect("a file");
    made("scratch", json!({"mountPath": "/scratch", "size": "1Gi"})).await.expect("a scratch directory");
    let both = json!({"path": "/work/a", "configMapKeyRef": map, "secretKeyRef": map});
    refused("two sources", made("files", both).await, "give configMapKeyRef or secretKeyRef");
    refused("no source", made("files", json!({"path": "/work/a"})).await, "give configMapKeyRef or secretKeyRef");
    for path in ["work/a", "/work/../etc/passwd", "/etc", "/opt/sokovan/ssh/config"] {
        let file = json!({"path": path, "configMapKeyRef": map});
        refused(path, made("files", file).await, "path");
        refused(path, made("scratch", json!({"mountPath": path, "size": "1Gi"})).await, "mountPath");
    }
    let twice = json!({"kernels": [{"image": "i", "resources": {"cpu": 1, "memory": "1Gi"},
        "files": [{"path": "/work/a", "configMapKeyRef": map}], "scratch": [{"mountPath": "/work/a", "size": "1Gi"}]}]});
    let twice = try_to_make::<Session>(&scene.space, &session(&scene, &twice)).await;
    refused("a path twice", twice, "/work/a is there twice");
    let key = json!({"path": "/work/a", "configMapKeyRef": {"name": "code", "key": "../k"}});
    refused("a key with a path", made("files", key).await, "key");
    refused(
        "no size",
        made("scratch", json!({"mountPath": "/scratch", "size": "much"})).await,
        "a size must be a quantity greater than zero",
    );
}
