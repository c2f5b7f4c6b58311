//! The limits of the operator's rights, which hold even if its token is stolen, and the rights of the chart's roles.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicyBinding;
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use k8s_openapi::api::core::v1::{Namespace, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, Subject};
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use sokovan::api::*;

use crate::attempts::{accepted, changed, lift, only_the_policy_refuses, outcome, refused, right, try_to_make};
use crate::common::eventually;
use crate::scene::Scene;

/// The operator's account, as the chart names it.
pub const OPERATOR: &str = "system:serviceaccount:sokovan-system:sokovan-operator";

#[tokio::test]
async fn policies_restrict_the_pods_and_secrets_that_the_operator_creates() {
    let scene = Scene::with("bound", 0, json!({})).await;
    let operator = scene.as_user(OPERATOR).await;
    let owner = |kind: &str| json!([{"apiVersion": "sokovan.dev/v1alpha1", "kind": kind, "name": "o", "uid": "u"}]);
    let pod = json!({
        "metadata": {"ownerReferences": owner("Session"), "labels": {LABEL_SESSION: "own"}},
        "spec": {"automountServiceAccountToken": false, "containers": [{"name": "c", "image": "i"}]},
    });
    try_to_make::<Pod>(&operator, &pod).await.expect("a pod as the operator creates it");
    let main = |path: &str| {
        let variable = json!({"name": "X", "valueFrom": {"fieldRef": {"fieldPath": path}}});
        changed(&pod, "/spec/containers", json!([{"name": "main", "image": "i", "env": [variable]}]))
    };
    try_to_make::<Pod>(&operator, &main("metadata.uid")).await.expect("a pod that knows its own uid");
    let volume = |volume: Value| changed(&pod, "/spec/volumes", json!([volume]));
    let key = json!({"name": "v", "secret": {"secretName": "token", "items": [{"key": "k", "path": "k"}]}});
    try_to_make::<Pod>(&operator, &volume(key)).await.expect("a pod with a single key of a secret");
    let container = |more: Value| {
        let mut container = json!({"name": "c", "image": "i"});
        container.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        changed(&pod, "/spec/containers", json!([container]))
    };
    let cases = [
        (
            "a token",
            changed(&pod, "/spec/automountServiceAccountToken", json!(true)),
            "must set automountServiceAccountToken to false",
        ),
        ("another field of the pod", main("spec.nodeName"), "only their own uid"),
        ("the host's network", changed(&pod, "/spec/hostNetwork", json!(true)), "must not use hostNetwork, hostPID or hostIPC"),
        ("the host's processes", changed(&pod, "/spec/hostPID", json!(true)), "must not use hostNetwork, hostPID or hostIPC"),
        ("the host's shared memory", changed(&pod, "/spec/hostIPC", json!(true)), "must not use hostNetwork, hostPID or hostIPC"),
        ("the host's files", volume(json!({"name": "v", "hostPath": {"path": "/"}})), "scratch space"),
        ("a secret", volume(json!({"name": "v", "secret": {"secretName": "token"}})), "their session's own secret"),
        (
            "another session's key",
            volume(json!({"name": "v", "secret": {"secretName": "ses-other-ssh-01234567"}})),
            "their session's own secret",
        ),
        (
            "another session's key, as a single key",
            volume(
                json!({"name": "v", "secret": {"secretName": "ses-other-ssh-01234567", "items": [{"key": "id_cluster", "path": "k"}]}}),
            ),
            "their session's own secret",
        ),
        ("a whole ConfigMap", volume(json!({"name": "v", "configMap": {"name": "code"}})), "single keys"),
        (
            "a privileged container",
            container(json!({"securityContext": {"privileged": true}})),
            "must not have privileged containers",
        ),
        (
            "/proc unmasked",
            changed(
                &container(json!({"securityContext": {"procMount": "Unmasked"}})),
                "/spec/hostUsers",
                json!(false), // otherwise the API server itself refuses the pod
            ),
            "nor unmask /proc",
        ),
        ("a port of the host", container(json!({"ports": [{"containerPort": 80, "hostPort": 80}]})), "host ports"),
        (
            "a capability",
            container(json!({"securityContext": {"capabilities": {"add": ["SYS_MODULE"]}}})),
            "must not add capabilities beyond the baseline",
        ),
        (
            "an unconfined container",
            container(json!({"securityContext": {"seccompProfile": {"type": "Unconfined"}}})),
            "must not set seccomp or AppArmor to Unconfined",
        ),
        (
            "an unconfined pod",
            changed(&pod, "/spec/securityContext", json!({"appArmorProfile": {"type": "Unconfined"}})),
            "must not set seccomp or AppArmor to Unconfined",
        ),
        ("a whole secret", container(json!({"envFrom": [{"secretRef": {"name": "token"}}]})), "never a whole secret"),
        ("a pod of no session", changed(&pod, "/metadata/ownerReferences", json!([])), "must be owned by a session"),
    ];
    only_the_policy_refuses::<Pod>(&scene, &operator, "operator-pods", &cases).await;
    let secret = json!({
        "metadata": {"name": "ses-x-ssh-01234567", "ownerReferences": owner("Session")}, "stringData": {"id_cluster": "k"},
    });
    try_to_make::<Secret>(&operator, &secret).await.expect("a secret as the operator creates it");
    let named = |name: &str| changed(&secret, "/metadata/name", json!(name));
    let words = "may create only secrets with the SSH key pair of a session";
    let secrets = [
        ("a secret of another name", named("token"), words),
        ("a secret of another type", changed(&named("ses-y-ssh-01234567"), "/type", json!("other")), words),
        ("a secret of no session", changed(&named("ses-z-ssh-01234567"), "/metadata/ownerReferences", json!([])), words),
    ];
    only_the_policy_refuses::<Secret>(&scene, &operator, "operator-secrets", &secrets).await;
    let read = || async { outcome(operator.api::<Secret>().get("ses-z-ssh-01234567").await) };
    refused("reading a secret", read().await, "cannot get resource");
    scene.grant(OPERATOR, json!(right("", "secrets", "get", &["ses-z-ssh-01234567"]))).await;
    accepted("reading a secret", read).await;
}

#[tokio::test]
async fn the_operator_deletes_only_the_ssh_key_secrets_of_sessions() {
    let scene = Scene::with("keys", 0, json!({})).await;
    let operator = scene.as_user(OPERATOR).await;
    let ours = json!({LABEL_SESSION_UID: "u"});
    for (name, labels) in [("ses-x-ssh-01234567", ours.clone()), ("token", ours), ("ses-y-ssh-01234567", json!({}))] {
        scene.make_here::<Secret>(json!({"metadata": {"name": name, "labels": labels}})).await;
    }
    let delete = async |name: &str| outcome(operator.api::<Secret>().delete(name, &DeleteParams::default()).await);
    delete("ses-x-ssh-01234567").await.expect("a session's keys");
    let cases = [("a secret of another name", "token"), ("a secret of no session", "ses-y-ssh-01234567")];
    for (what, name) in cases {
        refused(what, delete(name).await, "may delete only secrets with the SSH key pair of a session");
    }
    lift(&scene, "operator-secrets").await;
    for (what, name) in cases {
        accepted(what, || delete(name)).await;
    }
}

#[tokio::test]
async fn the_operator_writes_only_pods_and_services_of_sessions() {
    let scene = Scene::with("touch", 0, json!({})).await;
    let operator = scene.as_user(OPERATOR).await;
    let container = |image: &str| json!({"spec": {"containers": [{"name": "c", "image": image}]}});
    let mut pod = container("i");
    for (name, labels) in [("foreign", json!({})), ("ours", json!({LABEL_SESSION_UID: "u"}))] {
        pod["metadata"] = json!({"name": name, "labels": labels});
        scene.make_here::<Pod>(pod.clone()).await;
    }
    let patch = async |name: &str, patch: Value| {
        let done = operator.api::<Pod>().patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await;
        outcome(done)
    };
    let noted = || json!({"metadata": {"annotations": {ANNOTATION_GATE: GATE_OPEN}}});
    patch("ours", noted()).await.expect("a gate is opened");
    let foreign = "may write only pods with the label";
    refused("a foreign pod", patch("foreign", noted()).await, foreign);
    refused("a pod's spec", patch("ours", container("other")).await, "may not change the spec of a pod");
    let delete_pod = || async {
        let done = operator.api::<Pod>().delete("foreign", &DeleteParams::default()).await;
        outcome(done)
    };
    refused("deleting a foreign pod", delete_pod().await, foreign);
    let service = |name: &str, more: Value| {
        let mut service = json!({"metadata": {"name": name, "labels": {LABEL_SESSION_UID: "u"}},
                                 "spec": {"clusterIP": "None", "selector": {LABEL_SESSION_UID: "u"}, "ports": [{"port": 80}]}});
        service["spec"].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        service
    };
    try_to_make::<Service>(&operator, &service("ses-own", json!({}))).await.expect("a service as the operator creates it");
    scene.make_here::<Service>(json!({"metadata": {"name": "theirs"}, "spec": {"ports": [{"port": 80}]}})).await;
    let delete_service = || async {
        let done = operator.api::<Service>().delete("theirs", &DeleteParams::default()).await;
        outcome(done)
    };
    refused("deleting a foreign service", delete_service().await, "may write only services with the label");
    let cases = [
        ("a service of any name", service("kubernetes", json!({})), "must have names that begin with ses-"),
        ("a service for all pods", service("ses-all", json!({"selector": {"app": "x"}})), "must be headless"),
        ("a service with an address", service("ses-ip", json!({"externalIPs": ["192.0.2.1"]})), "must be headless"),
    ];
    only_the_policy_refuses::<Service>(&scene, &operator, "operator-touches", &cases).await;
    accepted("a foreign pod", || patch("foreign", noted())).await;
    accepted("a pod's spec", || patch("ours", container("other"))).await;
    accepted("deleting a foreign pod", delete_pod).await;
    accepted("deleting a foreign service", delete_service).await;
}

#[tokio::test]
async fn the_operator_creates_pods_only_in_namespaces_of_projects() {
    let scene = Scene::with("nopro", 0, json!({})).await;
    let operator = scene.as_user(OPERATOR).await;
    let namespaces = scene.all::<Namespace>();
    let bare = Patch::Merge(json!({"metadata": {"labels": {LABEL_PROJECT: null}}}));
    namespaces.patch(&scene.name, &PatchParams::default(), &bare).await.unwrap();
    let pod = json!({
        "metadata": {"ownerReferences": [{"apiVersion": "sokovan.dev/v1alpha1", "kind": "Session", "name": "o", "uid": "u"}]},
        "spec": {"automountServiceAccountToken": false, "containers": [{"name": "c", "image": "i"}]},
    });
    let attempt = || async { try_to_make::<Pod>(&operator, &pod).await };
    eventually("the removal of the label to take effect", || async {
        match attempt().await {
            Err(message) if message.contains("only in namespaces with the label sokovan.dev/project") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    lift(&scene, "operator-pods").await;
    accepted("a pod outside of projects", attempt).await;
}

/// Returns one line for each resource, such as `sokovan.dev/sessions: delete get list patch watch`.
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

/// Returns the roles that are bound to the operator in any namespace, except the ones that scenes grant it temporarily.
async fn roles_of_the_operator() -> BTreeSet<String> {
    let client = crate::common::client().await;
    let all = ListParams::default().labels("!scene");
    let cluster_wide = Api::<ClusterRoleBinding>::all(client.clone()).list(&all).await.unwrap().items;
    let namespaced = Api::<RoleBinding>::all(client).list(&all).await.unwrap().items;
    let bound = cluster_wide.into_iter().map(|binding| (binding.role_ref, binding.subjects));
    let bound = bound.chain(namespaced.into_iter().map(|binding| (binding.role_ref, binding.subjects)));
    let includes_operator = |subjects: &Option<Vec<Subject>>| {
        let is_account = |s: &Subject| s.name == "sokovan-operator" && s.namespace.as_deref() == Some("sokovan-system");
        subjects.iter().flatten().any(|subject| is_account(subject) || subject.name == OPERATOR)
    };
    bound.filter(|(_, subjects)| includes_operator(subjects)).map(|(role, _)| role.name).collect()
}

#[tokio::test]
async fn the_operator_has_exactly_the_listed_permissions() {
    let client = crate::common::client().await;
    let all: Api<ClusterRole> = Api::all(client.clone());
    let own: Api<Role> = Api::namespaced(client.clone(), "sokovan-system");
    let of_nodes: Api<Role> = Api::namespaced(client, "kube-node-lease");
    let role = all.get("sokovan-operator").await.unwrap().rules.unwrap_or_default();
    let lease = own.get("sokovan-lease").await.unwrap().rules.unwrap_or_default();
    let leases = of_nodes.get("sokovan-node-leases").await.unwrap().rules.unwrap_or_default();
    let tokens = own.get("sokovan-statistics").await.unwrap().rules.unwrap_or_default();
    let roles = ["sokovan-lease", "sokovan-node-leases", "sokovan-operator", "sokovan-statistics"];
    assert_eq!(roles_of_the_operator().await, roles.map(str::to_owned).into());
    let found = [permissions(role), permissions(lease), permissions(leases), permissions(tokens)].concat();
    let golden: Vec<&str> = include_str!("operator-permissions.txt").lines().collect();
    assert_eq!(found, golden, "changed permissions need a reason, and a change of operator-permissions.txt");
    for line in &found {
        let (what, verbs) = line.split_once(": ").expect("a line");
        assert!(!line.contains('*'), "{line}");
        assert!(!["escalate", "bind", "impersonate"].iter().any(|verb| verbs.split(' ').any(|own| own == *verb)), "{line}");
        assert!(what != "/secrets" || verbs == "create delete", "{line}");
    }
}

/// A node that keeps the token it is asked with can read statistics of nodes, and nothing else.
#[tokio::test]
async fn the_operator_gets_tokens_of_the_statistics_account_alone_and_they_open_nothing_else() {
    let account = |name: &str| format!("system:serviceaccount:sokovan-system:{name}");
    let client = crate::common::client_as(&account("sokovan-operator")).await;
    let token = async |namespace: &str, name: &str| {
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
        accounts.create_token_request(name, &PostParams::default(), &TokenRequest::default()).await.map(|_| ())
    };
    token("sokovan-system", "sokovan-statistics").await.expect("the operator may have this token");
    for (namespace, name) in [("sokovan-system", "default"), ("sokovan-system", "sokovan-operator"), ("kube-system", "default")] {
        let error = token(namespace, name).await.expect_err("the operator may have no other token");
        assert!(matches!(&error, kube::Error::Api(status) if status.code == 403), "{name}: {error}");
    }
    let reviewer = crate::common::client().await;
    let may = async |verb: &str, resource: &str, subresource: &str| {
        let review: SubjectAccessReview = serde_json::from_value(json!({"spec": {
            "user": account("sokovan-statistics"), "groups": ["system:serviceaccounts", "system:authenticated"],
            "resourceAttributes": {"verb": verb, "resource": resource, "subresource": subresource},
        }}))
        .unwrap();
        let reviews: Api<SubjectAccessReview> = Api::all(reviewer.clone());
        reviews.create(&PostParams::default(), &review).await.unwrap().status.is_some_and(|status| status.allowed)
    };
    assert!(may("get", "nodes", "stats").await);
    for (verb, resource, subresource) in [
        ("get", "nodes", ""),
        ("get", "nodes", "proxy"),
        ("create", "nodes", "proxy"),
        ("list", "pods", ""),
        ("get", "secrets", ""),
    ] {
        assert!(!may(verb, resource, subresource).await, "{verb} {resource}/{subresource}");
    }
}

#[tokio::test]
async fn roles_aggregate_the_roles_of_each_kind() {
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
        ("sokovan-sessions-admin", "sessions", "create delete deletecollection get list patch release update watch"),
        ("sokovan-admin", "keypairs", "create delete deletecollection get list patch update use watch"),
        ("sokovan-admin", "priorities", "use"),
        ("sokovan-admin", "kernels", read),
        ("sokovan-keypairs-view", "keypairs", read),
    ] {
        let line = format!("sokovan.dev/{what}: {verbs}");
        eventually(&format!("{role} to be aggregated"), || holds(role, &line)).await;
    }
    let view = permissions(roles.get("sokovan-view").await.unwrap().rules.unwrap_or_default());
    assert!(!view.iter().any(|line| line.contains("keypairs") || line.contains("create")), "{view:#?}");
}

#[tokio::test]
async fn a_scaling_group_accepts_only_pod_settings_that_the_operator_may_use() {
    let scene = Scene::with("no-caps", 0, json!({})).await;
    let groups = scene.all::<ScalingGroup>();
    let try_pod = async |pod: Value| {
        let patch = Patch::Merge(json!({"spec": {"pod": pod}}));
        let dry = PatchParams { dry_run: true, ..PatchParams::default() };
        groups.patch(&scene.name, &dry, &patch).await.err().map(|error| error.to_string())
    };
    let container = |more: Value| json!({"containerSecurityContext": more});
    let capability = |name: &str| container(json!({"capabilities": {"add": [name]}}));
    let seccomp = |kind: &str| json!({"securityContext": {"seccompProfile": {"type": kind}}});
    let confined = "must not set seccomp or AppArmor to Unconfined";
    let cases = [
        (capability("SYS_ADMIN"), "must not add capabilities beyond the baseline and IPC_LOCK"),
        (container(json!({"procMount": "Unmasked"})), "must not add capabilities beyond the baseline and IPC_LOCK"),
        (seccomp("Unconfined"), confined),
        (container(json!({"appArmorProfile": {"type": "Unconfined"}})), confined),
    ];
    for (attempt, words) in &cases {
        let message = try_pod(attempt.clone()).await.unwrap_or_else(|| panic!("{attempt} was accepted"));
        assert!(message.contains(words), "{attempt}: {message}");
    }
    for harmless in [capability("IPC_LOCK"), seccomp("RuntimeDefault")] {
        assert_eq!(try_pod(harmless).await, None);
    }
    lift_from_group(&scene, "group-pods").await;
    for (attempt, _) in cases {
        accepted("what the policy refused", || async { try_pod(attempt.clone()).await.map_or(Ok(()), Err) }).await;
    }
}

/// Lifts a policy of the chart from the scene's scaling group.
async fn lift_from_group(scene: &Scene, policy: &str) {
    let bindings = scene.all::<ValidatingAdmissionPolicyBinding>();
    let excluded = json!({"matchExpressions": [{"key": "lifted.test/group", "operator": "DoesNotExist"}]});
    let patch = Patch::Merge(json!({"spec": {"matchResources": {"objectSelector": excluded}}}));
    bindings.patch(&format!("sokovan-{policy}"), &PatchParams::default(), &patch).await.unwrap();
    let label = Patch::Merge(json!({"metadata": {"labels": {"lifted.test/group": "yes"}}}));
    scene.all::<ScalingGroup>().patch(&scene.name, &PatchParams::default(), &label).await.unwrap();
}
