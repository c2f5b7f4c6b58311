//! Claims that are created for a session, and the ServiceAccount of its pods: what they do, and the rights that they need.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{DeleteParams, PostParams};
use serde_json::{Value, json};
use sokovan::api::*;

use crate::attempts::{accepted, lift, only_the_policy_refuses, outcome, refused, refused_soon, right, try_to_make};
use crate::claims::author;
use crate::common::{reason_is, unique};
use crate::permissions::OPERATOR;
use crate::scene::{Scene, kernel};

/// A session with two claims of its own, one of which is kept.
fn with_claims(class: &str) -> Value {
    let claim =
        |name: &str, retention: &str| json!({"name": name, "size": "1Gi", "storageClassName": class, "retention": retention});
    let mut main = kernel("main", 1, &[]);
    main["volumes"] = json!([{"claimName": "work", "mountPath": "/work"}, {"claimName": "out", "mountPath": "/out"}]);
    json!({"claims": [claim("work", "Delete"), claim("out", "Keep")], "kernels": [main]})
}

#[tokio::test]
async fn claims_are_created_for_a_session_and_deleted_with_it_or_kept() {
    let scene = Scene::new("own-claims").await;
    let operator = scene.operator().await;
    let class = json!({"metadata": {"name": scene.name}, "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "WaitForFirstConsumer"});
    scene.make::<StorageClass>(class).await;
    for number in 0..3 {
        let anywhere = json!({"matchExpressions": [{"key": "scene", "operator": "In", "values": [scene.name]}]});
        scene
            .make::<PersistentVolume>(json!({"metadata": {"name": format!("{}-{number}", scene.name)}, "spec": {
                "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "local": {"path": "/data"},
                "persistentVolumeReclaimPolicy": "Retain", "storageClassName": scene.name,
                "nodeAffinity": {"required": {"nodeSelectorTerms": [anywhere]}},
            }}))
            .await;
    }
    scene.submit("early", with_claims(&scene.name)).await;
    scene.until_phase("early", SessionPhase::Running).await;
    let claims = scene.api::<PersistentVolumeClaim>();
    let mut names: Vec<String> =
        claims.list(&Default::default()).await.expect("a list").items.into_iter().filter_map(|it| it.metadata.name).collect();
    names.sort_unstable();
    assert_eq!(names, ["early-out", "early-work"]);
    scene.delete("early").await;
    scene.until_gone::<Session>("early").await;
    scene.until_gone::<PersistentVolumeClaim>("early-work").await;
    let kept = claims.get("early-out").await.expect("the claim is kept");
    assert!(kept.metadata.deletion_timestamp.is_none() && kept.metadata.owner_references.is_none());
    // Another session of the same name does not get what the first one kept.
    scene.submit("early", with_claims(&scene.name)).await;
    let waiting = scene.until("early", "waiting", reason_is("VolumeClaimExists")).await.status.expect("a status");
    let words = "volume claim early-out exists already, and was not created for this session";
    assert_eq!(waiting.message.as_deref(), Some(words));
    claims.delete("early-out", &DeleteParams::default()).await.expect("the claim is deleted");
    scene.until("early", "placed", |session| session.phase() > SessionPhase::Pending).await;
    scene.delete("early").await;
    scene.until_gone::<Session>("early").await;
    for number in 0..3 {
        let volumes = scene.all::<PersistentVolume>();
        volumes.delete(&format!("{}-{number}", scene.name), &DeleteParams::default()).await.expect("the volume is deleted");
    }
    scene.remove::<StorageClass>().await;
    scene.end(operator).await;
}

#[tokio::test]
async fn own_claims_and_service_accounts_need_rights() {
    let scene = Scene::with("own-rights", 0, json!({})).await;
    let named = |spec: &Value| {
        let mut session = scene.session("x", spec.clone());
        session["metadata"]["name"] = Value::Null;
        session
    };
    let account = json!({"serviceAccountName": "robot"});
    let all = json!([{"apiGroups": [""], "resources": ["persistentvolumeclaims"], "verbs": ["create"]}]);
    let cases = [
        ("claims of its own", with_claims("any"), "that needs the verb create on persistentvolumeclaims", all),
        (
            "a ServiceAccount",
            account.clone(),
            "may not use ServiceAccount robot",
            json!(right("", "serviceaccounts", "use", &["robot"])),
        ),
    ];
    for (what, spec, words, needed) in &cases {
        let (user, theirs) = author(&scene).await;
        scene.grant(&user, json!(right("", "serviceaccounts", "use", &["other"]))).await;
        accepted("a plain session", || async { try_to_make::<Session>(&theirs, &named(&json!({}))).await }).await;
        refused_soon(what, || async { try_to_make::<Session>(&theirs, &named(spec)).await }, words).await;
        scene.grant(&user, needed.clone()).await;
        accepted(what, || async { try_to_make::<Session>(&theirs, &named(spec)).await }).await;
    }
    let (_, theirs) = author(&scene).await;
    accepted("a plain session", || async { try_to_make::<Session>(&theirs, &named(&json!({}))).await }).await;
    let mut bad = with_claims("any");
    bad["claims"][0]["size"] = json!("much");
    refused("no size", try_to_make::<Session>(&scene.space, &named(&bad)).await, "claim work has size much");
    lift(&scene, "use-files").await;
    for (what, spec, ..) in &cases {
        accepted(what, || async { try_to_make::<Session>(&theirs, &named(spec)).await }).await;
    }
    scene.clear().await;
}

#[tokio::test]
async fn a_scaling_group_lists_the_service_accounts_that_it_allows() {
    let scene = Scene::with("accounts", 1, json!({"pod": {"serviceAccounts": ["default"]}})).await;
    let operator = scene.operator().await;
    scene.submit("allowed", json!({"serviceAccountName": "default"})).await;
    scene.submit("early", json!({"serviceAccountName": "robot"})).await;
    let waiting = scene.until("early", "waiting", reason_is("ServiceAccountNotAllowed")).await.status.expect("a status");
    let words = format!("scaling group {} does not allow ServiceAccount robot; it allows default", scene.name);
    assert_eq!(waiting.message, Some(words));
    scene.until_phase("allowed", SessionPhase::Running).await;
    let spec = scene.pods("allowed").await.remove(0).spec.expect("a spec");
    assert_eq!((spec.service_account_name.as_deref(), spec.automount_service_account_token), (Some("default"), Some(false)));
    scene.end(operator).await;
}

#[tokio::test]
async fn the_operator_creates_only_the_claims_of_sessions() {
    let scene = Scene::with("claims-only", 0, json!({})).await;
    let operator = scene.as_user(OPERATOR).await;
    let claim = |name: &str, labels: Value, more: Value| {
        let mut spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
        crate::scene::merge(&mut spec, more);
        json!({"metadata": {"name": name, "labels": labels}, "spec": spec})
    };
    let ours = || json!({LABEL_SESSION: "s", LABEL_SESSION_UID: "u"});
    let words = "only volume claims with the labels of a session, named after it";
    let source = json!({"dataSource": {"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": "secret"}});
    try_to_make::<PersistentVolumeClaim>(&operator, &claim("s-work", ours(), json!({}))).await.expect("a claim of a session");
    let cases = [
        ("a claim of another name", claim("other", ours(), json!({})), words),
        ("a claim without labels", claim("s-none", json!({}), json!({})), words),
        ("the data of a snapshot", claim("s-copy", ours(), source), "name no volume and no source of data"),
        ("a volume", claim("s-volume", ours(), json!({"volumeName": "pv"})), "name no volume and no source of data"),
    ];
    only_the_policy_refuses::<PersistentVolumeClaim>(&scene, &operator, "operator-claims", &cases).await;
    let name = unique("x");
    let plain: PersistentVolumeClaim = serde_json::from_value(claim(&name, json!({}), json!({}))).expect("a claim");
    let elsewhere = kube::Api::<PersistentVolumeClaim>::namespaced(operator.client.clone(), "default");
    let tried = elsewhere.create(&PostParams { dry_run: true, ..PostParams::default() }, &plain).await;
    refused("a claim in a namespace without a project", outcome(tried), words);
    scene.clear().await;
}
