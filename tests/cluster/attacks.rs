//! Attempts of users to exceed their rights. Each test also proves which mechanism refuses an attempt: the same attempt
//! succeeds once the right is granted, or once the policy is lifted from the namespace.

use k8s_openapi::api::core::v1::{Endpoints, Pod, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use sokovan::api::*;

use crate::attempts::{accepted, changed, lift, only_the_policy_refuses, outcome, refused, refused_soon, right, try_to_make};
use crate::common::{Space, eventually, unique};
use crate::scene::{Scene, forged_kernel};

/// A user who may create sessions and deployments, but use no keypair or scaling group.
async fn stranger(scene: &Scene) -> (String, Space) {
    let user = unique("user");
    let rules =
        json!([{"apiGroups": ["sokovan.dev"], "resources": ["sessions", "deployments"], "verbs": ["create", "get", "patch"]}]);
    scene.grant(&user, rules).await;
    let theirs = scene.as_user(&user).await;
    (user, theirs)
}

#[tokio::test]
async fn a_session_needs_the_right_to_use_each_object_it_names() {
    let scene = Scene::with("use", 0, json!({})).await;
    let name = scene.name.as_str();
    scene.make_here::<Secret>(json!({"metadata": {"name": "token"}, "stringData": {"key": "value"}})).await;
    let kernel = |extra: Value| {
        let mut kernel = json!({"image": "i", "resources": {"cpu": 1, "memory": "1Gi"}});
        kernel.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        json!([kernel])
    };
    let secret = kernel(json!({"env": [{"name": "T", "secretKeyRef": {"name": "token", "key": "key"}}]}));
    let nodes = kernel(json!({"designatedNodes": ["node-x"]}));
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
    // Columns: the attempt, its spec, the rights granted before, the words of the refusal, the right that admits it.
    let cases = [
        (
            "someone else's keypair",
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
            "no scaling group named",
            json!({"scalingGroup": null}),
            right("sokovan.dev", "keypairs", "use", &[name]),
            "must name a scalingGroup",
            all_groups,
        ),
        (
            "a designated node",
            json!({"kernels": nodes}),
            both(),
            "may not designate these nodes",
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
            "an unreadable secret",
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
            "more secrets than are checked one by one",
            json!({"kernels": secrets(13)}),
            [both(), right("", "secrets", "get", &eleven)].concat(),
            "may not name more than 12 secrets",
            all_secrets,
        ),
        (
            "more nodes than are checked one by one",
            json!({"kernels": kernel(json!({"designatedNodes": (0..9).map(|n| format!("node-{n}")).collect::<Vec<_>>()}))}),
            both(),
            "may not designate more than 8 nodes",
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
        // Waits until the rights granted before take effect, since something else refuses until then.
        eventually("the first rights to take effect", || async {
            match try_to_make::<Session>(&theirs, &session).await {
                Err(message) if message.contains(words) => Ok(()),
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
async fn raising_a_priority_needs_the_right_and_lowering_it_does_not() {
    let scene = Scene::with("raise", 0, json!({})).await;
    let (user, theirs) = stranger(&scene).await;
    scene.submit("own", json!({})).await;
    accepted("a lower priority", || raise(&theirs, 5)).await;
    refused("a higher priority", raise(&theirs, 60).await, "may not use priority 60");
    scene.grant(&user, json!(right("sokovan.dev", "priorities", "use", &["60"]))).await;
    accepted("a higher priority", || raise(&theirs, 60)).await;
    accepted("any lower priority", || raise(&theirs, 40)).await;
}

/// The labels by which sessions and deployments find their pods, Services and endpoints, each with its policy.
const FINDING_LABELS: [(&str, &str); 3] =
    [(LABEL_SESSION_UID, "session"), (LABEL_DEPLOYMENT_UID, "deployment-uid"), (LABEL_DEPLOYMENT, "deployment")];

#[tokio::test]
async fn users_cannot_create_or_relabel_pods_as_pods_of_a_session() {
    let scene = Scene::with("pass", 0, json!({})).await;
    let user = unique("user");
    scene.grant(&user, json!([{"apiGroups": [""], "resources": ["pods", "pods/status", "pods/binding"], "verbs": ["*"]}])).await;
    let theirs = scene.as_user(&user).await;
    // No scheduler takes this pod: the test binds it.
    let spec = json!({"schedulerName": "nobody", "containers": [{"name": "c", "image": "i"}]});
    let pod = json!({"metadata": {"labels": {}}, "spec": spec});
    accepted("an ordinary pod", || try_to_make::<Pod>(&theirs, &pod)).await;
    try_to_make::<Pod>(&theirs, &changed(&pod, "/metadata/name", json!("own"))).await.unwrap();
    let relabel = || async {
        let patch = Patch::Merge(json!({"metadata": {"labels": {LABEL_SESSION_UID: "u"}}}));
        let done = theirs.api::<Pod>().patch("own", &PatchParams::default(), &patch).await;
        outcome(done)
    };
    let relabel_by_status = || async {
        let patch = Patch::Merge(json!({"metadata": {"labels": {LABEL_DEPLOYMENT_UID: "u"}}}));
        let done = theirs.api::<Pod>().patch_status("own", &PatchParams::default(), &patch).await;
        outcome(done)
    };
    let words = "may not set labels of sokovan.dev on pods: only the Sokovan operator";
    refused("a pod relabelled", relabel().await, words);
    eventually("the right to take effect", || async {
        match relabel_by_status().await {
            Err(message) if message.contains(words) => Ok(()),
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
    refused("a pod relabelled by its binding", bind().await, words);
    let forged = |label: &str| changed(&pod, "/metadata/labels", json!({label: "x"}));
    // The other labels mean nothing without one of these.
    for (label, policy) in FINDING_LABELS {
        let cases = [(label, forged(label), words)];
        only_the_policy_refuses::<Pod>(&scene, &theirs, &format!("pod-labels-{policy}"), &cases).await;
    }
    accepted("a pod relabelled", relabel).await;
    accepted("a pod relabelled by its status", relabel_by_status).await;
    accepted("a pod relabelled by its binding", bind).await;
}

#[tokio::test]
async fn only_the_operator_writes_kernels_and_statuses() {
    let scene = Scene::with("forge", 0, json!({})).await;
    let user = unique("user");
    scene.grant(&user, json!([{"apiGroups": ["sokovan.dev"], "resources": ["*"], "verbs": ["*"]}])).await;
    let theirs = scene.as_user(&user).await;
    scene.submit("x", json!({})).await;
    let kernel = forged_kernel();
    eventually("the right to take effect", || async {
        match try_to_make::<Kernel>(&theirs, &kernel).await {
            Err(message) if message.contains("may not write kernels: only the Sokovan operator") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let forge = || async {
        let patch = Patch::Merge(json!({"status": {"phase": "Running", "history": []}}));
        let done = theirs.api::<Session>().patch_status("x", &PatchParams::default(), &patch).await;
        outcome(done)
    };
    refused("a forged status", forge().await, "may not write the status of sessions: only the Sokovan operator");
    let session = scene.session("d", json!({"type": "Inference"}));
    scene.make_here::<Deployment>(json!({"metadata": {"name": "d"}, "spec": {"template": session["spec"]}})).await;
    let forge_deployment = || async {
        let patch = Patch::Merge(json!({"status": {"readyReplicas": 3}}));
        let done = theirs.api::<Deployment>().patch_status("d", &PatchParams::default(), &patch).await;
        outcome(done)
    };
    let words = "may not write the status of deployments: only the Sokovan operator";
    refused("a deployment's forged status", forge_deployment().await, words);
    lift(&scene, "operator-only").await;
    accepted("a forged kernel", || try_to_make::<Kernel>(&theirs, &kernel)).await;
    accepted("a forged status", forge).await;
    accepted("a deployment's forged status", forge_deployment).await;
}

#[tokio::test]
async fn a_session_is_immutable_until_the_policy_is_lifted() {
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
    // A default that is spelled out or omitted changes nothing.
    let bare = json!([{"role": "main", "image": "busybox:1", "resources": {"cpu": "1", "memory": "1Gi"}}]);
    let mut full = bare.clone();
    let defaults = json!({"replicas": 1, "imagePullPolicy": "IfNotPresent", "sharedMemory": "64Mi", "command": [], "args": []});
    full[0].as_object_mut().unwrap().extend(defaults.as_object().unwrap().clone());
    for (priority, kernels) in [(1, &bare), (2, &full), (3, &bare)] {
        change(&json!({"kernels": kernels, "priority": priority})).await.expect("the same kernels");
    }
    lift(&scene, "immutable").await;
    for (spec, _) in &cases {
        accepted(&spec.to_string(), || change(spec)).await;
    }
}

#[tokio::test]
async fn removing_the_operators_finalizer_needs_the_right_to_release() {
    let scene = Scene::with("slip", 0, json!({})).await;
    let (user, theirs) = holder(&scene).await;
    let mut held = scene.session("x", json!({}));
    held["metadata"]["finalizers"] = json!([FINALIZER_SESSION, "example.org/other"]);
    scene.make_here::<Session>(held).await;
    let put = async |finalizers: Value| {
        let patch = Patch::Merge(json!({"metadata": {"finalizers": finalizers}}));
        let done = theirs.api::<Session>().patch("x", &PatchParams::default(), &patch).await;
        outcome(done)
    };
    accepted("removing someone else's finalizer", || put(json!([FINALIZER_SESSION]))).await;
    refused("removing the operator's finalizer", put(json!([])).await, "may not remove the finalizer sokovan.dev/session");
    scene.grant(&user, json!(right("sokovan.dev", "sessions", "release", &["x"]))).await;
    accepted("removing the operator's finalizer, with the right to release", || put(json!([]))).await;
    accepted("restoring the finalizer", || put(json!([FINALIZER_SESSION]))).await;
    let (_, unprivileged) = holder(&scene).await;
    let remove = async || {
        let patch = Patch::Merge(json!({"metadata": {"finalizers": []}}));
        let done = unprivileged.api::<Session>().patch("x", &PatchParams::default(), &patch).await;
        outcome(done)
    };
    refused_soon("removing the operator's finalizer, without the right", remove, "needs the verb release on the session").await;
    lift(&scene, "sound").await;
    accepted("removing the operator's finalizer", remove).await;
}

/// A user who may change sessions.
async fn holder(scene: &Scene) -> (String, Space) {
    let (user, theirs) = stranger(scene).await;
    scene.grant(&user, json!([{"apiGroups": ["sokovan.dev"], "resources": ["sessions"], "verbs": ["update"]}])).await;
    (user, theirs)
}

#[tokio::test]
async fn users_cannot_give_services_or_endpoints_the_labels_of_a_session() {
    let scene = Scene::with("names", 0, json!({})).await;
    let user = unique("user");
    scene
        .grant(
            &user,
            json!([
                {"apiGroups": [""], "resources": ["services", "services/status", "endpoints"], "verbs": ["*"]},
                {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["*"]},
            ]),
        )
        .await;
    let theirs = scene.as_user(&user).await;
    let service = json!({"metadata": {"labels": {"app": "x"}}, "spec": {"clusterIP": "None", "selector": {"app": "x"}}});
    let slice = json!({"metadata": {"labels": {}}, "addressType": "IPv4", "endpoints": [{"addresses": ["192.0.2.1"]}]});
    let endpoints = json!({"metadata": {"labels": {}}, "subsets": [{"addresses": [{"ip": "192.0.2.1"}]}]});
    let forged = |object: &Value, label: &str| changed(object, "/metadata/labels", json!({label: "x"}));
    accepted("an ordinary service", || async {
        try_to_make::<Service>(&theirs, &changed(&service, "/metadata/name", json!("own"))).await
    })
    .await;
    accepted("an ordinary endpoint slice", || try_to_make::<EndpointSlice>(&theirs, &slice)).await;
    accepted("ordinary endpoints", || try_to_make::<Endpoints>(&theirs, &endpoints)).await;
    let relabel = || async {
        let patch = Patch::Merge(json!({"metadata": {"labels": {LABEL_SESSION_UID: "u"}}}));
        let done = theirs.api::<Service>().patch("own", &PatchParams::default(), &patch).await;
        outcome(done)
    };
    let relabel_by_status = || async {
        let patch = Patch::Merge(json!({"metadata": {"labels": {LABEL_DEPLOYMENT_UID: "u"}}}));
        let done = theirs.api::<Service>().patch_status("own", &PatchParams::default(), &patch).await;
        outcome(done)
    };
    let forge_slice = || async { try_to_make::<EndpointSlice>(&theirs, &forged(&slice, LABEL_SESSION_UID)).await };
    let forge_endpoints = || async { try_to_make::<Endpoints>(&theirs, &forged(&endpoints, LABEL_DEPLOYMENT)).await };
    refused("a service relabelled", relabel().await, "may not set labels of sokovan.dev on services: only the Sokovan operator");
    refused("a service relabelled by its status", relabel_by_status().await, "labels of sokovan.dev on services");
    refused("a session's endpoint slice", forge_slice().await, "labels of sokovan.dev on endpointslices");
    refused("a session's endpoints", forge_endpoints().await, "labels of sokovan.dev on endpoints");
    // The cluster's controller copies the labels of a session's own Service to its endpoint slice.
    let own = json!({"metadata": {"name": "ses-x", "labels": {LABEL_SESSION_UID: "u"}},
                     "spec": {"clusterIP": "None", "selector": {LABEL_SESSION_UID: "u"}}});
    scene.make_here::<Service>(own).await;
    eventually("the session's endpoint slice", || async {
        let labelled = ListParams::default().labels(LABEL_SESSION_UID);
        let slices = scene.api::<EndpointSlice>().list(&labelled).await.map_err(|error| error.to_string())?;
        if slices.items.is_empty() { Err("there is none".to_owned()) } else { Ok(()) }
    })
    .await;
    let words = "labels of sokovan.dev on services";
    for (label, policy) in FINDING_LABELS {
        let cases = [(label, forged(&service, label), words)];
        only_the_policy_refuses::<Service>(&scene, &theirs, &format!("service-labels-{policy}"), &cases).await;
    }
    accepted("a service relabelled", relabel).await;
    accepted("a service relabelled by its status", relabel_by_status).await;
    accepted("a session's endpoint slice", forge_slice).await;
    accepted("a session's endpoints", forge_endpoints).await;
}
