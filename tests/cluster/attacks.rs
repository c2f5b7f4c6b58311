//! Who tries to get more than is theirs, which mechanism refuses it, and that it is this mechanism alone: each attempt
//! succeeds once the right is granted, or the policy is lifted from the namespace.

use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use sokovan::api::*;

use crate::attempts::{accepted, changed, lift, only_the_policy_refuses, outcome, refused, right, try_to_make};
use crate::common::{Space, eventually, unique};
use crate::scene::{Scene, forged_kernel};

/// A user who may make sessions and deployments, and use nothing.
async fn stranger(scene: &Scene) -> (String, Space) {
    let user = unique("user");
    let rules =
        json!([{"apiGroups": ["sokovan.dev"], "resources": ["sessions", "deployments"], "verbs": ["create", "get", "patch"]}]);
    scene.grant(&user, rules).await;
    let theirs = scene.of(&user).await;
    (user, theirs)
}

#[tokio::test]
async fn what_a_session_uses_needs_the_right_to_use_it() {
    let scene = Scene::with("use", 0, json!({})).await;
    let name = scene.name.as_str();
    scene.make_here::<Secret>(json!({"metadata": {"name": "token"}, "stringData": {"key": "value"}})).await;
    let kernel = |extra: Value| {
        let mut kernel = json!({"image": "i", "resources": {"cpu": 1, "memory": "1Gi"}});
        kernel.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        json!([kernel])
    };
    let secret = kernel(json!({"env": [{"name": "T", "secretKeyRef": {"name": "token", "key": "key"}}]}));
    let agents = kernel(json!({"designatedAgents": ["node-x"]}));
    let token = |n: usize| json!({"name": format!("T{n}"), "secretKeyRef": {"name": format!("token-{n}"), "key": "key"}});
    let secrets = |count: usize| kernel(json!({"env": (0..count).map(token).collect::<Vec<_>>()}));
    let names: Vec<String> = (0..11).map(|n| format!("token-{n}")).collect();
    let eleven: Vec<&str> = names.iter().map(String::as_str).collect();
    let both =
        || [right("sokovan.dev", "keypairs", "use", &[name]), right("sokovan.dev", "scalinggroups", "use", &[name])].concat();
    let all =
        |group: &str, resource: &str, verb: &str| vec![json!({"apiGroups": [group], "resources": [resource], "verbs": [verb]})];
    let all_groups = all("sokovan.dev", "scalinggroups", "use");
    let (all_secrets, all_nodes) = (all("", "secrets", "get"), all("", "nodes", "use"));
    // What is tried, what is granted before, what refuses it, and the one right that lets it through.
    let cases = [
        (
            "another's keypair",
            json!({}),
            right("sokovan.dev", "scalinggroups", "use", &[name]),
            "may not use keypair",
            right("sokovan.dev", "keypairs", "use", &[name]),
        ),
        (
            "a right on another keypair",
            json!({}),
            [right("sokovan.dev", "scalinggroups", "use", &[name]), right("sokovan.dev", "keypairs", "use", &["other"])].concat(),
            "may not use keypair",
            right("sokovan.dev", "keypairs", "use", &[name]),
        ),
        (
            "a scaling group",
            json!({}),
            right("sokovan.dev", "keypairs", "use", &[name]),
            "may not use scaling group",
            right("sokovan.dev", "scalinggroups", "use", &[name]),
        ),
        (
            "whichever scaling group",
            json!({"scalingGroup": null}),
            right("sokovan.dev", "keypairs", "use", &[name]),
            "must name a scalingGroup",
            all_groups,
        ),
        (
            "a node of one's choice",
            json!({"kernels": agents}),
            both(),
            "may not designate these agents",
            right("", "nodes", "use", &["node-x"]),
        ),
        (
            "a high priority",
            json!({"priority": 50}),
            both(),
            "may not use priority 50",
            right("sokovan.dev", "priorities", "use", &["50"]),
        ),
        (
            "a secret one may not read",
            json!({"kernels": secret}),
            both(),
            "may not read a secret",
            right("", "secrets", "get", &["token"]),
        ),
        (
            "the last of twelve secrets",
            json!({"kernels": secrets(12)}),
            [both(), right("", "secrets", "get", &eleven)].concat(),
            "may not read a secret",
            right("", "secrets", "get", &["token-11"]),
        ),
        (
            "more secrets than are looked at one by one",
            json!({"kernels": secrets(13)}),
            [both(), right("", "secrets", "get", &eleven)].concat(),
            "may not name more than 12 secrets",
            all_secrets,
        ),
        (
            "more nodes than are looked at one by one",
            json!({"kernels": kernel(json!({"designatedAgents": (0..9).map(|n| format!("node-{n}")).collect::<Vec<_>>()}))}),
            both(),
            "may not designate more than 8 agents",
            all_nodes,
        ),
    ];
    for (what, spec, before, words, needed) in cases {
        let (user, theirs) = stranger(&scene).await;
        scene.grant(&user, json!(before)).await;
        let mut session = scene.session("x", spec);
        session["metadata"]["name"] = Value::Null;
        let deployment = json!({"metadata": {}, "spec": {"template": {
            "type": "Inference", "accessKey": session["spec"]["accessKey"], "scalingGroup": session["spec"]["scalingGroup"],
            "priority": session["spec"]["priority"].as_i64().unwrap_or(10), "kernels": session["spec"]["kernels"],
        }}});
        // The right granted before must be known, or something else would refuse.
        eventually("the first rights to be known", || async {
            match try_to_make::<Session>(&theirs, &session).await {
                Err(said) if said.contains(words) => Ok(()),
                other => Err(format!("{what}: {other:?}")),
            }
        })
        .await;
        refused(&format!("a deployment with {what}"), try_to_make::<Deployment>(&theirs, &deployment).await, words);
        scene.grant(&user, json!(needed)).await;
        accepted(what, || try_to_make::<Session>(&theirs, &session)).await;
        accepted(&format!("a deployment with {what}"), || try_to_make::<Deployment>(&theirs, &deployment)).await;
    }
}

async fn raise(theirs: &Space, priority: i32) -> Result<(), String> {
    outcome(theirs.patch_spec("own", json!({"priority": priority})).await)
}

#[tokio::test]
async fn a_priority_raised_later_needs_the_right_too_and_a_lowered_one_does_not() {
    let scene = Scene::with("raise", 0, json!({})).await;
    let (user, theirs) = stranger(&scene).await;
    scene.submit("own", json!({})).await;
    accepted("a lower priority", || raise(&theirs, 5)).await;
    refused("a higher priority", raise(&theirs, 60).await, "may not use priority 60");
    scene.grant(&user, json!(right("sokovan.dev", "priorities", "use", &["60"]))).await;
    accepted("a higher priority", || raise(&theirs, 60)).await;
    accepted("any up to that", || raise(&theirs, 40)).await;
}

#[tokio::test]
async fn nobody_makes_pods_that_pass_for_a_sessions() {
    let scene = Scene::with("pass", 0, json!({})).await;
    let user = unique("user");
    scene.grant(&user, json!([{"apiGroups": [""], "resources": ["pods", "pods/status", "pods/binding"], "verbs": ["*"]}])).await;
    let theirs = scene.of(&user).await;
    let pod = json!({"metadata": {"labels": {}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    accepted("a pod of one's own", || try_to_make::<Pod>(&theirs, &pod)).await;
    try_to_make::<Pod>(&theirs, &changed(&pod, "/metadata/name", json!("own"))).await.unwrap();
    let relabel = || async {
        let patch = Patch::Merge(json!({"metadata": {"labels": {LABEL_SESSION_UID: "u"}}}));
        let done = theirs.api::<Pod>().patch("own", &PatchParams::default(), &patch).await;
        outcome(done)
    };
    let relabel_by_status = || async {
        let patch = Patch::Merge(json!({"metadata": {"labels": {LABEL_KERNEL: "main1"}}}));
        let done = theirs.api::<Pod>().patch_status("own", &PatchParams::default(), &patch).await;
        outcome(done)
    };
    let words = "labels of sokovan.dev on pods are set by the Sokovan operator alone";
    refused("a pod relabelled", relabel().await, words);
    eventually("the right to be known", || async {
        match relabel_by_status().await {
            Err(said) if said.contains(words) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let bind = || async {
        let binding = json!({"apiVersion": "v1", "kind": "Binding", "target": {"kind": "Node", "name": "nowhere"},
                             "metadata": {"name": "own", "labels": {LABEL_SESSION_UID: "u"}}});
        let pods = theirs.api::<Pod>();
        let done = pods.create_subresource::<Value, Value>("binding", "own", &PostParams::default(), &binding).await;
        outcome(done)
    };
    refused("a pod relabelled as it is bound", bind().await, words);
    let forged = |label: &str| changed(&pod, "/metadata/labels", json!({label: "x"}));
    let cases = [
        ("a pod of a session", forged(LABEL_SESSION_UID), words),
        ("a pod of a kernel", forged(LABEL_KERNEL), words),
        ("a pod of a scaling group", forged(LABEL_GROUP), words),
        ("a pod of an allocation", forged(LABEL_GENERATION), words),
    ];
    only_the_policy_refuses::<Pod>(&scene, &theirs, "pod-labels", &cases).await;
    accepted("a pod relabelled", relabel).await;
    accepted("a pod relabelled by its status", relabel_by_status).await;
    accepted("a pod relabelled as it is bound", bind).await;
}

#[tokio::test]
async fn nobody_but_the_operator_writes_kernels_and_statuses() {
    let scene = Scene::with("forge", 0, json!({})).await;
    let user = unique("user");
    scene.grant(&user, json!([{"apiGroups": ["sokovan.dev"], "resources": ["*"], "verbs": ["*"]}])).await;
    let theirs = scene.of(&user).await;
    scene.submit("x", json!({})).await;
    let kernel = forged_kernel();
    eventually("the right to be known", || async {
        match try_to_make::<Kernel>(&theirs, &kernel).await {
            Err(said) if said.contains("kernels are written by the Sokovan operator alone") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let forge = || async {
        let patch = Patch::Merge(json!({"status": {"phase": "Running", "history": []}}));
        let done = theirs.api::<Session>().patch_status("x", &PatchParams::default(), &patch).await;
        outcome(done)
    };
    refused("a forged status", forge().await, "the status of sessions is written by the Sokovan operator alone");
    let session = scene.session("d", json!({"type": "Inference"}));
    scene.make_here::<Deployment>(json!({"metadata": {"name": "d"}, "spec": {"template": session["spec"]}})).await;
    let forge_deployment = || async {
        let patch = Patch::Merge(json!({"status": {"readyReplicas": 3}}));
        let done = theirs.api::<Deployment>().patch_status("d", &PatchParams::default(), &patch).await;
        outcome(done)
    };
    let words = "the status of deployments is written by the Sokovan operator alone";
    refused("a deployment's forged status", forge_deployment().await, words);
    lift(&scene, "operator-only").await;
    accepted("a forged kernel", || try_to_make::<Kernel>(&theirs, &kernel)).await;
    accepted("a forged status", forge).await;
    accepted("a deployment's forged status", forge_deployment).await;
}

#[tokio::test]
async fn a_session_stays_what_it_was_made_as() {
    let scene = Scene::with("stay", 0, json!({})).await;
    scene.submit("x", json!({})).await;
    let change = async |spec: &Value| outcome(scene.patch_spec("x", spec.clone()).await);
    let kernels = json!([{"role": "main", "image": "other:1", "resources": {"cpu": 1, "memory": "1Gi"}}]);
    let cases = [
        (json!({"accessKey": "another"}), "the owner (accessKey) cannot be changed"),
        (json!({"scalingGroup": "another"}), "scalingGroup cannot be changed"),
        (json!({"kernels": kernels}), "cannot be changed after creation"),
        (json!({"private": true}), "private cannot be changed"),
    ];
    for (spec, words) in &cases {
        refused(&spec.to_string(), change(spec).await, words);
    }
    lift(&scene, "immutable").await;
    for (spec, _) in &cases {
        accepted(&spec.to_string(), || change(spec)).await;
    }
}

#[tokio::test]
async fn nobody_takes_a_session_off_the_operators_hands() {
    let scene = Scene::with("slip", 0, json!({})).await;
    let (user, theirs) = stranger(&scene).await;
    scene.grant(&user, json!([{"apiGroups": ["sokovan.dev"], "resources": ["sessions"], "verbs": ["update"]}])).await;
    let mut held = scene.session("x", json!({}));
    held["metadata"]["finalizers"] = json!([FINALIZER_SESSION, "example.org/other"]);
    scene.make_here::<Session>(held).await;
    let put = async |finalizers: Value| {
        let patch = Patch::Merge(json!({"metadata": {"finalizers": finalizers}}));
        let done = theirs.api::<Session>().patch("x", &PatchParams::default(), &patch).await;
        outcome(done)
    };
    accepted("another's finalizer", || put(json!([FINALIZER_SESSION]))).await;
    refused("the operator's finalizer", put(json!([])).await, "takes its finalizer off a session");
    let mut wordy = scene.session("wordy", json!({}));
    wordy["spec"]["kernels"][0]["args"] = json!(vec!["x".repeat(16_384); 17]);
    refused("a session too large to keep a record", try_to_make::<Session>(&scene.space, &wordy).await, "at most 262144");
    lift(&scene, "sound").await;
    accepted("the operator's finalizer", || put(json!([]))).await;
    accepted("a large session", || try_to_make::<Session>(&scene.space, &wordy)).await;
}
