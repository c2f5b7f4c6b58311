//! Helpers for attempts to exceed one's rights: making them, checking their refusal, and lifting the policy that refuses.

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicyBinding;
use k8s_openapi::api::core::v1::Namespace;
use kube::Resource;
use kube::api::{Patch, PatchParams, PostParams};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::common::{Space, eventually, unique};
use crate::scene::Scene;

pub fn right(group: &str, resource: &str, verb: &str, names: &[&str]) -> Vec<Value> {
    vec![json!({"apiGroups": [group], "resources": [resource], "verbs": [verb], "resourceNames": names})]
}

pub async fn try_to_make<K>(space: &Space, object: &Value) -> Result<(), String>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Serialize + DeserializeOwned + Clone + std::fmt::Debug,
{
    let mut object = object.clone();
    object["metadata"]["name"] = json!(object["metadata"]["name"].as_str().map_or_else(|| unique("x"), str::to_owned));
    let object: K = serde_json::from_value(object).expect("a valid object");
    outcome(space.api::<K>().create(&PostParams::default(), &object).await)
}

/// Returns the error message of a request that failed.
pub fn outcome<T>(done: Result<T, kube::Error>) -> Result<(), String> {
    done.map(|_| ()).map_err(|error| error.to_string())
}

pub fn refused(what: &str, tried: Result<(), String>, words: &str) {
    let message = tried.expect_err(&format!("{what} was accepted"));
    assert!(message.contains(words), "{what}: {message}\n  does not contain: {words}");
}

/// Waits until an attempt succeeds: rights and policies take a moment to take effect.
pub async fn accepted<F: Future<Output = Result<(), String>>>(what: &str, attempt: impl Fn() -> F) {
    eventually(&format!("{what} to be accepted"), attempt).await;
}

/// Lifts a policy of the chart from the scene's namespace only.
pub async fn lift(scene: &Scene, policy: &str) {
    let label = format!("lifted.test/{policy}");
    let bindings = scene.all::<ValidatingAdmissionPolicyBinding>();
    let excluded = json!({"matchExpressions": [{"key": label, "operator": "DoesNotExist"}]});
    let patch = json!({"spec": {"matchResources": {"namespaceSelector": excluded}}});
    bindings.patch(&format!("sokovan-{policy}"), &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    let namespaces = scene.all::<Namespace>();
    let patch = json!({"metadata": {"labels": {label: "yes"}}});
    namespaces.patch(&scene.name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
}

/// Applies a lifted policy of the chart to the namespace again.
pub async fn restore(scene: &Scene, policy: &str) {
    let patch = json!({"metadata": {"labels": {format!("lifted.test/{policy}"): null}}});
    scene.all::<Namespace>().patch(&scene.name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
}

/// Waits until an attempt is refused with these words: rights and policies take a moment to take effect.
pub async fn refused_soon<F: Future<Output = Result<(), String>>>(what: &str, attempt: impl Fn() -> F, words: &str) {
    eventually(&format!("{what} to be refused"), || async {
        match attempt().await {
            Err(message) if message.contains(words) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

/// Checks that each case is refused with its words, and accepted once the policy is lifted.
pub async fn only_the_policy_refuses<K>(scene: &Scene, space: &Space, policy: &str, cases: &[(&str, Value, &str)])
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Serialize + DeserializeOwned + Clone + std::fmt::Debug,
{
    for (what, object, words) in cases {
        refused(what, try_to_make::<K>(space, object).await, words);
    }
    lift(scene, policy).await;
    for (what, object, _) in cases {
        accepted(what, || try_to_make::<K>(space, object)).await;
    }
}

pub fn changed(base: &Value, pointer: &str, value: Value) -> Value {
    let mut object = base.clone();
    let (parent, field) = pointer.rsplit_once('/').expect("a pointer with a slash");
    object.pointer_mut(parent).expect("the field's parent")[field] = value;
    object
}
