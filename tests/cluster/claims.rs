//! A session mounts only volume claims that its author may use.

use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use sokovan::api::*;

use crate::attempts::{accepted, lift, outcome, refused, refused_soon, right, try_to_make};
use crate::common::{Space, unique};
use crate::scene::{Scene, kernel};

/// A user who may create sessions and deployments with the scene's keypair and scaling group.
pub async fn author(scene: &Scene) -> (String, Space) {
    let user = unique("user");
    let name = scene.name.as_str();
    let make = json!([{"apiGroups": ["sokovan.dev"], "resources": ["sessions", "deployments"], "verbs": ["create", "patch"]}]);
    let used = [right("sokovan.dev", "keypairs", "use", &[name]), right("sokovan.dev", "scalinggroups", "use", &[name])];
    scene.grant(&user, make).await;
    scene.grant(&user, json!(used.concat())).await;
    let theirs = scene.as_user(&user).await;
    (user, theirs)
}

/// Two kernels that mount the same claims. Each claim counts once.
fn mounting(count: usize) -> Value {
    let volumes: Vec<Value> =
        (0..count).map(|n| json!({"claimName": format!("claim-{n}"), "mountPath": format!("/data/{n}")})).collect();
    let mut kernels = [kernel("main", 1, &[]), kernel("sub", 1, &[])];
    for kernel in &mut kernels {
        kernel["volumes"] = json!(volumes);
    }
    json!(kernels)
}

fn session(scene: &Scene, count: usize) -> Value {
    let mut session = scene.session("x", json!({"kernels": mounting(count)}));
    session["metadata"]["name"] = Value::Null;
    session
}

fn deployment(scene: &Scene, count: usize) -> Value {
    let template = scene.session("x", json!({"type": "Inference", "kernels": mounting(count)}));
    json!({"metadata": {}, "spec": {"template": template["spec"]}})
}

#[tokio::test]
async fn a_volume_claim_needs_the_right_to_use_it() {
    let scene = Scene::with("claims", 0, json!({})).await;
    let names: Vec<String> = (0..11).map(|n| format!("claim-{n}")).collect();
    let eleven: Vec<&str> = names.iter().map(String::as_str).collect();
    let claims = |verb: &str, names: &[&str]| json!(right("", "persistentvolumeclaims", verb, names));
    let all = |verb: &str| json!([{"apiGroups": [""], "resources": ["persistentvolumeclaims"], "verbs": [verb]}]);
    let last = "may not mount volume claim claim-11: that needs the verb use or get";
    // Columns: the attempt, its number of claims, the rights granted before, the words of the refusal, the right that admits it.
    let cases = [
        ("a claim, by use", 1, claims("use", &["other"]), "may not mount volume claim claim-0", claims("use", &["claim-0"])),
        ("a claim, by get", 1, claims("get", &["other"]), "may not mount volume claim claim-0", claims("get", &["claim-0"])),
        ("the last of twelve claims", 12, claims("get", &eleven), last, claims("get", &["claim-11"])),
        ("more claims than are checked one by one", 13, claims("use", &eleven), "may not mount 13 volume claims", all("use")),
        ("any claim, by get", 13, claims("use", &eleven), "more than 12 need the verb use or get on all", all("get")),
    ];
    for (what, count, before, words, needed) in cases {
        let (user, theirs) = author(&scene).await;
        scene.grant(&user, before).await;
        accepted("a session without claims", || async { try_to_make::<Session>(&theirs, &session(&scene, 0)).await }).await;
        refused_soon(what, || async { try_to_make::<Session>(&theirs, &session(&scene, count)).await }, words).await;
        let tried = try_to_make::<Deployment>(&theirs, &deployment(&scene, count)).await;
        refused(&format!("a deployment with {what}"), tried, words);
        scene.grant(&user, needed).await;
        accepted(what, || async { try_to_make::<Session>(&theirs, &session(&scene, count)).await }).await;
        accepted(&format!("a deployment with {what}"), || async {
            try_to_make::<Deployment>(&theirs, &deployment(&scene, count)).await
        })
        .await;
    }
    let (_, theirs) = author(&scene).await;
    let mut own = deployment(&scene, 0);
    own["metadata"]["name"] = json!("own");
    accepted("a deployment without claims", || try_to_make::<Deployment>(&theirs, &own)).await;
    let mount = || async {
        let patch = Patch::Merge(json!({"spec": {"template": {"kernels": mounting(1)}}}));
        let done = theirs.api::<Deployment>().patch("own", &PatchParams::default(), &patch).await;
        outcome(done)
    };
    refused("a claim added to a deployment later", mount().await, "may not mount volume claim claim-0");
    lift(&scene, "use-claims").await;
    accepted("a claim added to a deployment later", mount).await;
    accepted("a claim", || async { try_to_make::<Session>(&theirs, &session(&scene, 1)).await }).await;
}
