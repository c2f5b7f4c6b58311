//! Who tries to get more than is theirs, which mechanism refuses it, and that it is this mechanism alone: each attempt
//! succeeds once the right is granted, or the policy is lifted from the namespace.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicyBinding;
use k8s_openapi::api::core::v1::{Namespace, Pod, Secret, Service};
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule, Role};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sokovan::api::*;

use crate::common::{Space, eventually, unique};
use crate::scene::{Scene, forged_kernel};

/// The operator's account, as the chart names it.
const OPERATOR: &str = "system:serviceaccount:sokovan-system:sokovan-operator";

fn right(group: &str, resource: &str, verb: &str, names: &[&str]) -> Vec<Value> {
    vec![json!({"apiGroups": [group], "resources": [resource], "verbs": [verb], "resourceNames": names})]
}

/// A user who may make sessions and deployments, and use nothing.
async fn stranger(scene: &Scene) -> (String, Space) {
    let user = unique("user");
    let rules =
        json!([{"apiGroups": ["sokovan.dev"], "resources": ["sessions", "deployments"], "verbs": ["create", "get", "patch"]}]);
    scene.grant(&user, rules).await;
    let theirs = scene.of(&user).await;
    (user, theirs)
}

async fn try_to_make<K>(space: &Space, object: &Value) -> Result<(), String>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Serialize + DeserializeOwned + Clone + std::fmt::Debug,
{
    let mut object = object.clone();
    object["metadata"]["name"] = json!(object["metadata"]["name"].as_str().map_or_else(|| unique("x"), str::to_owned));
    let object: K = serde_json::from_value(object).expect("an object in shape");
    space.api::<K>().create(&PostParams::default(), &object).await.map(|_| ()).map_err(|error| error.to_string())
}

fn refused(what: &str, tried: Result<(), String>, words: &str) {
    let said = tried.expect_err(&format!("{what} was let through"));
    assert!(said.contains(words), "{what}: {said}\n  does not say: {words}");
}

/// Rights and policies take a moment to be known everywhere.
async fn accepted<F: Future<Output = Result<(), String>>>(what: &str, attempt: impl Fn() -> F) {
    eventually(&format!("{what} to be let through"), attempt).await;
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
            right("sokovan.dev", "scalinggroups", "use", &[name]),
            "may not use keypair",
            right("sokovan.dev", "keypairs", "use", &[name, "other"]),
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
    theirs.patch_spec("own", json!({"priority": priority})).await.map(|_| ()).map_err(|error| error.to_string())
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

/// Lifts a policy of the chart from the namespace, and from no other.
async fn lift(scene: &Scene, policy: &str) {
    let label = format!("lifted.test/{policy}");
    let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(scene.client.clone());
    let but = json!({"matchExpressions": [{"key": label, "operator": "DoesNotExist"}]});
    let patch = json!({"spec": {"matchResources": {"namespaceSelector": but}}});
    bindings.patch(&format!("sokovan-{policy}"), &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    let namespaces: Api<Namespace> = Api::all(scene.client.clone());
    let patch = json!({"metadata": {"labels": {label: "yes"}}});
    namespaces.patch(&scene.name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
}

/// Each of these is refused in its words, and let through once the policy is lifted.
async fn only_the_policy_refuses<K>(scene: &Scene, who: &Space, policy: &str, cases: &[(&str, Value, &str)])
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Serialize + DeserializeOwned + Clone + std::fmt::Debug,
{
    for (what, object, words) in cases {
        refused(what, try_to_make::<K>(who, object).await, words);
    }
    lift(scene, policy).await;
    for (what, object, _) in cases {
        accepted(what, || try_to_make::<K>(who, object)).await;
    }
}

fn changed(base: &Value, pointer: &str, value: Value) -> Value {
    let mut object = base.clone();
    let (parent, field) = pointer.rsplit_once('/').expect("a path");
    object.pointer_mut(parent).expect("its parent")[field] = value;
    object
}

#[tokio::test]
async fn nobody_makes_pods_that_pass_for_a_sessions() {
    let scene = Scene::with("pass", 0, json!({})).await;
    let user = unique("user");
    scene.grant(&user, json!([{"apiGroups": [""], "resources": ["pods", "pods/status"], "verbs": ["*"]}])).await;
    let theirs = scene.of(&user).await;
    let pod = json!({"metadata": {"labels": {}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    accepted("a pod of one's own", || try_to_make::<Pod>(&theirs, &pod)).await;
    try_to_make::<Pod>(&theirs, &changed(&pod, "/metadata/name", json!("own"))).await.unwrap();
    let relabel = || async {
        let patch = Patch::Merge(json!({"metadata": {"labels": {LABEL_SESSION_UID: "u"}}}));
        let done = theirs.api::<Pod>().patch("own", &PatchParams::default(), &patch).await;
        done.map(|_| ()).map_err(|error| error.to_string())
    };
    let relabel_by_status = || async {
        let patch = Patch::Merge(json!({"metadata": {"labels": {LABEL_KERNEL: "main1"}}}));
        let done = theirs.api::<Pod>().patch_status("own", &PatchParams::default(), &patch).await;
        done.map(|_| ()).map_err(|error| error.to_string())
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
        done.map(|_| ()).map_err(|error| error.to_string())
    };
    refused("a forged status", forge().await, "the status of sessions is written by the Sokovan operator alone");
    lift(&scene, "operator-only").await;
    accepted("a forged kernel", || try_to_make::<Kernel>(&theirs, &kernel)).await;
    accepted("a forged status", forge).await;
}

#[tokio::test]
async fn a_session_stays_what_it_was_made_as() {
    let scene = Scene::with("stay", 0, json!({})).await;
    scene.submit("x", json!({})).await;
    let change = async |spec: &Value| scene.patch_spec("x", spec.clone()).await.map(|_| ()).map_err(|error| error.to_string());
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
async fn the_operator_itself_is_bound_to_what_it_needs() {
    let scene = Scene::with("bound", 0, json!({})).await;
    let operator = scene.of(OPERATOR).await;
    let owner = |kind: &str| json!([{"apiVersion": "sokovan.dev/v1alpha1", "kind": kind, "name": "o", "uid": "u"}]);
    let pod = json!({
        "metadata": {"ownerReferences": owner("Kernel"), "labels": {LABEL_SESSION: "mine"}},
        "spec": {"automountServiceAccountToken": false, "containers": [{"name": "c", "image": "i"}]},
    });
    try_to_make::<Pod>(&operator, &pod).await.expect("a pod as the operator makes them");
    let volume = |volume: Value| changed(&pod, "/spec/volumes", json!([volume]));
    let container = |more: Value| {
        let mut container = json!({"name": "c", "image": "i"});
        container.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        changed(&pod, "/spec/containers", json!([container]))
    };
    let cases = [
        ("a token", changed(&pod, "/spec/automountServiceAccountToken", json!(true)), "no service account token"),
        ("the host's network", changed(&pod, "/spec/hostNetwork", json!(true)), "share nothing with their host"),
        ("the host's processes", changed(&pod, "/spec/hostPID", json!(true)), "share nothing with their host"),
        ("the host's files", volume(json!({"name": "v", "hostPath": {"path": "/"}})), "scratch space"),
        ("a secret", volume(json!({"name": "v", "secret": {"secretName": "token"}})), "their session's own secret"),
        (
            "another session's key",
            volume(json!({"name": "v", "secret": {"secretName": "ses-other-ssh-01234567"}})),
            "their session's own secret",
        ),
        ("a privileged container", container(json!({"securityContext": {"privileged": true}})), "no privileged container"),
        ("a port of the host", container(json!({"ports": [{"containerPort": 80, "hostPort": 80}]})), "no port of the host"),
        ("a whole secret", container(json!({"envFrom": [{"secretRef": {"name": "token"}}]})), "nothing whole"),
        ("a pod of no kernel", changed(&pod, "/metadata/ownerReferences", json!([])), "belong to a kernel"),
    ];
    only_the_policy_refuses::<Pod>(&scene, &operator, "operator-pods", &cases).await;
    let secret = json!({
        "metadata": {"name": "ses-x-ssh-01234567", "ownerReferences": owner("Session")}, "stringData": {"id_cluster": "k"},
    });
    try_to_make::<Secret>(&operator, &secret).await.expect("a secret as the operator makes them");
    let named = |name: &str| changed(&secret, "/metadata/name", json!(name));
    let words = "SSH key pairs of sessions";
    let secrets = [
        ("a secret of another name", named("token"), words),
        ("a secret of another type", changed(&named("ses-y-ssh-01234567"), "/type", json!("other")), words),
        ("a secret of no session", changed(&named("ses-z-ssh-01234567"), "/metadata/ownerReferences", json!([])), words),
    ];
    only_the_policy_refuses::<Secret>(&scene, &operator, "operator-secrets", &secrets).await;
    let read =
        || async { operator.api::<Secret>().get("ses-z-ssh-01234567").await.map(|_| ()).map_err(|error| error.to_string()) };
    refused("reading a secret", read().await, "cannot get resource");
    scene.grant(OPERATOR, json!(right("", "secrets", "get", &["ses-z-ssh-01234567"]))).await;
    accepted("reading a secret", read).await;
}

#[tokio::test]
async fn the_operator_touches_nothing_that_is_not_a_sessions() {
    let scene = Scene::with("touch", 0, json!({})).await;
    let operator = scene.of(OPERATOR).await;
    let container = |image: &str| json!({"spec": {"containers": [{"name": "c", "image": image}]}});
    let mut pod = container("i");
    for (name, labels) in [("foreign", json!({})), ("ours", json!({LABEL_SESSION_UID: "u"}))] {
        pod["metadata"] = json!({"name": name, "labels": labels});
        scene.make_here::<Pod>(pod.clone()).await;
    }
    let patch = async |name: &str, patch: Value| {
        let done = operator.api::<Pod>().patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await;
        done.map(|_| ()).map_err(|error| error.to_string())
    };
    let noted = || json!({"metadata": {"annotations": {ANNOTATION_GATE: GATE_OPEN}}});
    patch("ours", noted()).await.expect("a gate is opened");
    let foreign = "touches pods of sessions alone";
    refused("a foreign pod", patch("foreign", noted()).await, foreign);
    refused("what a pod runs", patch("ours", container("other")).await, "does not change what a pod runs");
    let delete_pod = || async {
        let done = operator.api::<Pod>().delete("foreign", &DeleteParams::default()).await;
        done.map(|_| ()).map_err(|error| error.to_string())
    };
    refused("a foreign pod's end", delete_pod().await, foreign);
    let service = |name: &str, more: Value| {
        let mut service = json!({"metadata": {"name": name, "labels": {LABEL_SESSION_UID: "u"}},
                                 "spec": {"clusterIP": "None", "selector": {LABEL_SESSION_UID: "u"}, "ports": [{"port": 80}]}});
        service["spec"].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        service
    };
    try_to_make::<Service>(&operator, &service("ses-mine", json!({}))).await.expect("a service as the operator makes them");
    scene.make_here::<Service>(json!({"metadata": {"name": "theirs"}, "spec": {"ports": [{"port": 80}]}})).await;
    let delete_service = || async {
        let done = operator.api::<Service>().delete("theirs", &DeleteParams::default()).await;
        done.map(|_| ()).map_err(|error| error.to_string())
    };
    refused("a foreign service's end", delete_service().await, "touches services of sessions alone");
    let cases = [
        ("a service of any name", service("kubernetes", json!({})), "services are those of sessions"),
        ("a service for all pods", service("ses-all", json!({"selector": {"app": "x"}})), "and no more"),
        ("a service with an address", service("ses-ip", json!({"externalIPs": ["192.0.2.1"]})), "and no more"),
    ];
    only_the_policy_refuses::<Service>(&scene, &operator, "operator-touches", &cases).await;
    accepted("a foreign pod", || patch("foreign", noted())).await;
    accepted("what a pod runs", || patch("ours", container("other"))).await;
    accepted("a foreign pod's end", delete_pod).await;
    accepted("a foreign service's end", delete_service).await;
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
        done.map(|_| ()).map_err(|error| error.to_string())
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

#[tokio::test]
async fn the_operator_makes_nothing_outside_the_namespaces_of_projects() {
    let scene = Scene::with("nopro", 0, json!({})).await;
    let operator = scene.of(OPERATOR).await;
    let namespaces: Api<Namespace> = Api::all(scene.client.clone());
    let bare = Patch::Merge(json!({"metadata": {"labels": {LABEL_PROJECT: null}}}));
    namespaces.patch(&scene.name, &PatchParams::default(), &bare).await.unwrap();
    let pod = json!({
        "metadata": {"ownerReferences": [{"apiVersion": "sokovan.dev/v1alpha1", "kind": "Kernel", "name": "o", "uid": "u"}]},
        "spec": {"automountServiceAccountToken": false, "containers": [{"name": "c", "image": "i"}]},
    });
    let attempt = || async { try_to_make::<Pod>(&operator, &pod).await };
    eventually("the label to be gone everywhere", || async {
        match attempt().await {
            Err(said) if said.contains("in the namespaces of projects alone") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    lift(&scene, "operator-pods").await;
    accepted("a pod elsewhere", attempt).await;
}

/// `sokovan.dev/sessions: delete get list patch watch`, a line for each resource.
fn permissions(rules: Vec<PolicyRule>) -> Vec<String> {
    let mut verbs: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for rule in rules {
        for group in rule.api_groups.iter().flatten() {
            for resource in rule.resources.iter().flatten() {
                let names = rule.resource_names.as_ref().map_or(String::new(), |names| format!(" {}", names.join(",")));
                verbs.entry(format!("{group}/{resource}{names}")).or_default().extend(rule.verbs.clone());
            }
        }
    }
    verbs.into_iter().map(|(what, verbs)| format!("{what}: {}", verbs.into_iter().collect::<Vec<_>>().join(" "))).collect()
}

#[tokio::test]
async fn the_operators_permissions_are_these_and_no_others() {
    let client = crate::common::client().await;
    let all: Api<ClusterRole> = Api::all(client.clone());
    let own: Api<Role> = Api::namespaced(client, "sokovan-system");
    let role = all.get("sokovan-operator").await.unwrap().rules.unwrap_or_default();
    let lease = own.get("sokovan-lease").await.unwrap().rules.unwrap_or_default();
    let found = [permissions(role), permissions(lease)].concat();
    let golden: Vec<&str> = include_str!("operator-permissions.txt").lines().collect();
    assert_eq!(found, golden, "a change here wants a reason, and a change of operator-permissions.txt");
    for line in &found {
        let (what, verbs) = line.split_once(": ").expect("a line");
        assert!(!line.contains('*'), "{line}");
        assert!(!["escalate", "bind", "impersonate"].iter().any(|verb| verbs.split(' ').any(|own| own == *verb)), "{line}");
        assert!(what != "/secrets" || verbs == "create", "{line}");
    }
}

#[tokio::test]
async fn roles_are_made_up_of_those_for_each_kind() {
    let roles: Api<ClusterRole> = Api::all(crate::common::client().await);
    let holds = async |role: &str, line: &str| {
        let found = roles.get(role).await.map_err(|error| error.to_string())?.rules.unwrap_or_default();
        let found = permissions(found);
        if found.iter().any(|other| other == line) { Ok(()) } else { Err(format!("{found:#?}")) }
    };
    let read = "get list watch";
    let write = "create delete deletecollection get list patch update watch";
    for (role, what, verbs) in [
        ("sokovan-view", "sessions", read),
        ("sokovan-view", "scalinggroups", read),
        ("sokovan-edit", "sessions", write),
        ("sokovan-edit", "kernels", read),
        ("sokovan-admin", "keypairs", "create delete deletecollection get list patch update use watch"),
        ("sokovan-admin", "priorities", "use"),
        ("sokovan-admin", "kernels", read),
        ("sokovan-keypairs-view", "keypairs", read),
    ] {
        let line = format!("sokovan.dev/{what}: {verbs}");
        eventually(&format!("{role} to be made up"), || holds(role, &line)).await;
    }
    let view = permissions(roles.get("sokovan-view").await.unwrap().rules.unwrap_or_default());
    assert!(!view.iter().any(|line| line.contains("keypairs") || line.contains("create")), "{view:#?}");
}
