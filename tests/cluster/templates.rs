//! SessionTemplates: sessions take their kernels from them, within the bounds of their parameters.

use kube::Api;
use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use sokovan::api::*;

use crate::attempts::{outcome, refused, try_to_make};
use crate::common::{eventually, patience, reason_is, unique};
use crate::scene::{Scene, kernel};

fn template(name: &str, image: &str) -> Value {
    let mut main = kernel("main", 1, &[]);
    main["image"] = json!(image);
    main["env"] = json!([{"name": "MODE", "value": "notebook"}]);
    let worker = kernel("worker", 1, &[]);
    json!({"metadata": {"name": name}, "spec": {
        "clusterMode": "MultiNode", "kernels": [main, worker],
        "parameters": [
            {"name": "cores", "sets": "Resource", "key": "cpu", "role": "main", "minimum": 1, "maximum": 2},
            {"name": "workers", "sets": "Replicas", "role": "worker", "maximum": 2},
            {"name": "mode", "sets": "Env", "key": "MODE", "allowed": ["notebook", "train"]},
        ],
    }})
}

/// A session of the scene with a template, and without kernels of its own.
fn of_template(scene: &Scene, name: &str, template: &str, parameters: &Value) -> Value {
    let mut session = scene.session(name, json!({}));
    session["spec"]["kernels"] = json!([]);
    session["spec"]["template"] = json!({"name": template, "parameters": parameters});
    session
}

fn templates(scene: &Scene) -> Api<SessionTemplate> {
    scene.all()
}

/// The only session in the scene's queue, as `kubectl sokovan queue` shows it.
async fn queued(scene: &Scene) -> Value {
    let config = std::env::var("SOKOVAN_TEST_KUBECONFIG").expect("SOKOVAN_TEST_KUBECONFIG");
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_kubectl-sokovan"));
    command.args(["--kubeconfig", &config, "--namespace", &scene.name, "queue", &scene.name, "-o", "json"]);
    let output = tokio::time::timeout(patience(), command.output()).await.expect("an answer").expect("the plugin starts");
    let queues: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    queues[0]["visible"][0].clone()
}

#[tokio::test]
async fn a_session_runs_the_kernels_of_its_template_as_they_were_when_it_got_its_nodes() {
    let scene = Scene::new("template").await;
    let operator = scene.operator().await;
    scene.make::<SessionTemplate>(template(&scene.name, "first:1")).await;
    let mut session = of_template(&scene, "early", &scene.name, &json!({"cores": "2", "workers": "2", "mode": "train"}));
    session["spec"]["kernels"] = json!([{"args": ["sim", "alone"], "env": [{"name": "EPOCHS", "value": "3"}]}]);
    scene.create(session).await.expect("the session is accepted");
    let running = scene.until_phase("early", SessionPhase::Running).await;
    let status = running.status.expect("a status");
    assert_eq!((status.kernels_ready.as_deref(), status.occupied["cpu"].0.as_str()), (Some("3/3"), "4"));
    let pods = scene.pods("early").await;
    let main = pods.iter().find(|pod| pod.labels()[LABEL_KERNEL] == "main1").and_then(|pod| pod.spec.clone()).expect("main1");
    let main = &main.containers[0];
    assert_eq!(main.image.as_deref(), Some("first:1"));
    let value = |name: &str| main.env.iter().flatten().find(|variable| variable.name == name).and_then(|it| it.value.clone());
    assert_eq!((value("MODE").as_deref(), value("EPOCHS").as_deref()), (Some("train"), Some("3")));
    templates(&scene).delete(&scene.name, &DeleteParams::default()).await.expect("the template is deleted");
    // The operator that takes over knows the kernels from the session's status.
    operator.stop().await;
    let operator = scene.operator().await;
    scene.kill_pods("early").await;
    let ended = scene.until_phase("early", SessionPhase::Terminated).await;
    assert_eq!(ended.status.expect("a status").template.expect("a template").kernels[0].image, "first:1");
    scene.end(operator).await;
}

#[tokio::test]
async fn a_session_waits_for_its_template_and_takes_its_newest_version() {
    let scene = Scene::new("late-template").await;
    let operator = scene.operator().await;
    scene.create(of_template(&scene, "early", &scene.name, &json!({}))).await.expect("the session is accepted");
    let waiting = scene.until("early", "waiting", reason_is("TemplateNotFound")).await.status.expect("a status");
    assert_eq!(waiting.message, Some(format!("SessionTemplate {} does not exist", scene.name)));
    scene.patch_spec("early", json!({"suspend": true})).await.expect("the session can be suspended");
    scene.make::<SessionTemplate>(template(&scene.name, "first:1")).await;
    scene.until("early", "suspended", reason_is("Suspended")).await;
    assert_eq!(queued(&scene).await["requests"][0], json!(["cpu", "2"]), "the plugin counts the kernels of the template");
    let newer = Patch::Merge(json!({"spec": template(&scene.name, "second:1")["spec"]}));
    templates(&scene).patch(&scene.name, &PatchParams::default(), &newer).await.expect("the template changes");
    scene.patch_spec("early", json!({"suspend": false})).await.expect("the session can be resumed");
    scene.until_phase("early", SessionPhase::Running).await;
    let images: Vec<_> =
        scene.pods("early").await.iter().filter_map(|pod| pod.spec.clone()?.containers[0].image.clone()).collect();
    assert!(images.contains(&"second:1".to_owned()), "{images:?}");
    templates(&scene).delete(&scene.name, &DeleteParams::default()).await.expect("the template is deleted");
    scene.end(operator).await;
}

#[tokio::test]
async fn the_api_refuses_a_session_that_does_not_fit_its_template() {
    let scene = Scene::with("misfit", 0, json!({})).await;
    scene.make::<SessionTemplate>(template(&scene.name, "first:1")).await;
    let with = |parameters: Value| of_template(&scene, &unique("x"), &scene.name, &parameters);
    let cases = [
        (with(json!({"tpus": "1"})), "has no parameter tpus; its parameters: cores, workers, mode"),
        (with(json!({"cores": "3"})), "does not allow that cores is 3"),
        (with(json!({"cores": "100m"})), "does not allow that cores is 100m"),
        (with(json!({"workers": "many"})), "does not allow that workers is many"),
        (with(json!({"mode": "other"})), "does not allow that mode is other"),
    ];
    for (session, words) in &cases {
        // The API server learns of the template in a moment.
        crate::attempts::refused_soon(words, || try_to_make::<Session>(&scene.space, session), words).await;
    }
    let with_kernels = |kernels: Value| {
        let mut session = with(json!({}));
        session["spec"]["kernels"] = kernels;
        session
    };
    let own = try_to_make::<Session>(&scene.space, &with_kernels(json!([{"image": "other:1"}]))).await;
    refused("an image of its own", own, "are the template's: set its parameters instead");
    let own = try_to_make::<Session>(&scene.space, &with_kernels(json!([{"resources": {"cpu": 64, "memory": "1Gi"}}]))).await;
    refused("resources of its own", own, "resources are the template's");
    let other = try_to_make::<Session>(&scene.space, &with_kernels(json!([{"role": "ps", "args": ["x"]}]))).await;
    refused("a role that the template lacks", other, "has the roles main, worker");
    let mut bare = scene.session(&unique("x"), json!({}));
    bare["spec"]["kernels"] = json!([{"args": ["x"]}]);
    refused("no image", try_to_make::<Session>(&scene.space, &bare).await, "each kernel has an image");
    bare["spec"]["kernels"] = json!([]);
    refused("no kernels", try_to_make::<Session>(&scene.space, &bare).await, "exactly one entry has the role main");
    try_to_make::<Session>(&scene.space, &with(json!({"cores": "2"}))).await.expect("a session that fits");
    templates(&scene).delete(&scene.name, &DeleteParams::default()).await.expect("the template is deleted");
    scene.clear().await;
}

#[tokio::test]
async fn a_template_carries_nothing_that_needs_the_rights_of_a_sessions_author() {
    let scene = Scene::with("carried", 0, json!({})).await;
    let attempt = async |field: &str, value: Value| {
        let mut object = template(&unique("x"), "first:1");
        object["spec"]["kernels"][0][field] = value;
        let object: SessionTemplate = serde_json::from_value(object).expect("a valid object");
        outcome(templates(&scene).create(&PostParams { dry_run: true, ..PostParams::default() }, &object).await)
    };
    attempt("scratch", json!([{"mountPath": "/scratch", "size": "1Gi"}])).await.expect("a scratch directory");
    let key = json!({"name": "token", "key": "k"});
    let cases = [
        ("volumes", json!([{"claimName": "data", "mountPath": "/data"}])),
        ("files", json!([{"path": "/work/token", "secretKeyRef": key}])),
        ("env", json!([{"name": "TOKEN", "secretKeyRef": key}])),
        ("designatedNodes", json!(["node-1"])),
    ];
    for (field, value) in cases {
        refused(field, attempt(field, value).await, "belong to the session, not to its template");
    }
    // Volumes that the session adds to its template are checked as in any session.
    let (user, theirs) = crate::claims::author(&scene).await;
    let mut session = of_template(&scene, "x", "absent", &json!({}));
    session["metadata"]["name"] = Value::Null;
    session["spec"]["kernels"] = json!([{"volumes": [{"claimName": "data", "mountPath": "/data"}]}]);
    let plain = of_template(&scene, &unique("y"), "absent", &json!({}));
    eventually("the rights to be known", || try_to_make::<Session>(&theirs, &plain)).await;
    refused("a claim", try_to_make::<Session>(&theirs, &session).await, "may not mount volume claim data");
    let make = Api::<SessionTemplate>::all(theirs.client.clone());
    let object: SessionTemplate = serde_json::from_value(template(&unique("x"), "first:1")).expect("a valid object");
    refused(
        &format!("a template of {user}"),
        outcome(make.create(&PostParams::default(), &object).await),
        "cannot create resource",
    );
    scene.clear().await;
}
