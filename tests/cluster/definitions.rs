//! Model definitions in ConfigMaps: they complete a deployment, their changes roll out, and their errors stop nothing that runs.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use sokovan::api::*;

use crate::attempts::{accepted, lift, refused, restore, right, try_to_make};
use crate::common::unique;
use crate::scene::{Scene, kernel};
use crate::served::{change, deploy, is_ready, live_routes, until, until_ready};

/// Writes the files of the model definition `chat`.
async fn write(scene: &Scene, files: Value) {
    let object = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "chat", "labels": {LABEL_MODEL_DEFINITION: "true"}}, "data": files,
    });
    let apply = PatchParams::apply("author").force();
    scene.api::<ConfigMap>().patch("chat", &apply, &Patch::Apply(&object)).await.expect("the files can be written");
}

fn from_chat() -> Value {
    json!({"replicas": 2, "model": {"variant": "vllm", "port": null, "definitionFrom": {"configMap": "chat"}}})
}

async fn until_current(scene: &Scene, revision: i64) {
    until(scene, "web", &format!("of revision {revision}"), |deployment| {
        is_ready(deployment) && deployment.status.as_ref().is_some_and(|status| status.current_revision == Some(revision))
    })
    .await;
}

#[tokio::test]
async fn a_model_definition_completes_a_deployment_and_its_change_rolls_out() {
    let scene = Scene::with("define", 4, json!({})).await;
    let operator = scene.operator().await;
    deploy(&scene, "web", from_chat()).await;
    let failed = until(&scene, "web", "without its files", |deployment| deployment.phase() == DeploymentPhase::Failed).await;
    let message = failed.message.clone().unwrap_or_default();
    assert!(message.contains("there is no ConfigMap chat with the label sokovan.dev/model-definition"), "{message}");

    let config = "environ: {CACHE: /cache}\nvllm: {service: {port: 9000, health_check: {interval: 3}}}";
    let models = |path: &str| format!("models: [{{name: chat, model_path: {path}}}]");
    write(&scene, json!({"deployment-config.yaml": config, "model-definition.yaml": models("/models/a")})).await;
    until_current(&scene, 1).await;
    for route in live_routes(&scene, "web").await {
        let session = scene.get(&route.spec.session).await;
        let serving = session.spec.serving.expect("what it serves");
        assert_eq!((serving.port, serving.health_check.interval_seconds), (9000, 3));
        assert_eq!(serving.health_check.path, "/health", "the variant's");
        assert_eq!(session.spec.kernels[0].env[0].value.as_deref(), Some("/cache"));
    }

    write(&scene, json!({"deployment-config.yaml": config, "model-definition.yaml": models("/models/b")})).await;
    until_current(&scene, 2).await;
    write(&scene, json!({"deployment-config.yaml": config, "model-definition.yaml": "models: [{prot: 1}]"})).await;
    let invalid = until(&scene, "web", "told of the error", |deployment| {
        deployment.status.as_ref().is_some_and(|status| status.reason == Some(Reason::InvalidTemplate))
    })
    .await;
    let message = invalid.message.clone().unwrap_or_default();
    assert!(message.contains("ConfigMap chat, model-definition.yaml: models[0]: unknown field `prot`"), "{message}");
    // What runs goes on: it is scaled and replaced.
    let scaled = Patch::Merge(json!({"spec": {"replicas": 3}}));
    scene.api::<Deployment>().patch_scale("web", &PatchParams::default(), &scaled).await.expect("kubectl scale");
    until_ready(&scene, "web").await;
    assert!(live_routes(&scene, "web").await.iter().all(|route| route.spec.revision == 2));
    scene.api::<ConfigMap>().delete("chat", &DeleteParams::default()).await.expect("the files can be deleted");
    change(&scene, "web", json!({"model": {"definitionFrom": null, "modelPath": "/models/c"}})).await;
    until_current(&scene, 3).await;
    scene.end(operator).await;
}

#[tokio::test]
async fn a_deployment_needs_the_right_to_read_its_model_definition() {
    let scene = Scene::with("dfiles", 0, json!({})).await;
    let user = unique("user");
    let name = scene.name.as_str();
    let rules = json!([{"apiGroups": ["sokovan.dev"], "resources": ["deployments"], "verbs": ["create", "get", "patch"]}]);
    scene.grant(&user, rules).await;
    scene.grant(&user, json!(right("sokovan.dev", "scalinggroups", "use", &[name]))).await;
    scene.grant(&user, json!(right("sokovan.dev", "keypairs", "use", &[name]))).await;
    let theirs = scene.as_user(&user).await;
    let template = json!({"type": "Inference", "accessKey": name, "scalingGroup": name, "kernels": [kernel("main", 1, &[])]});
    let plain = json!({"metadata": {}, "spec": {"template": template, "model": {"port": 80}}});
    let mut reads = plain.clone();
    reads["spec"]["model"] = from_chat()["model"].clone();
    accepted("a deployment without files", || try_to_make::<Deployment>(&theirs, &plain)).await;
    let words = "may not read the ConfigMap chat that definitionFrom names";
    refused("a deployment with the files of others", try_to_make::<Deployment>(&theirs, &reads).await, words);
    lift(&scene, "use").await;
    accepted("the same without the policy", || try_to_make::<Deployment>(&theirs, &reads)).await;
    restore(&scene, "use").await;
    scene.grant(&user, json!(right("", "configmaps", "get", &["chat"]))).await;
    accepted("the same with the right", || try_to_make::<Deployment>(&theirs, &reads)).await;
    scene.clear().await;
}
