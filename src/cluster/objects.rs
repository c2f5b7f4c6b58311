//! Requests that all effects share: create an object of ours, find one, delete exactly one, change finalizers.

use k8s_openapi::NamespaceResourceScope;
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::store::identity::key_of;
use super::write::{WriteError, Writer};
use crate::api::{LABEL_DEPLOYMENT_UID, LABEL_SESSION_UID};
use crate::lifecycle::EffectError;

/// Most times that finalizers are changed again at once, because somebody else changed them.
const MAX_CONFLICTS: usize = 8;

/// A namespaced kind.
pub trait Namespaced:
    Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug
{
}

impl<K> Namespaced for K where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug
{
}

impl Writer {
    pub fn api<K: Namespaced>(&self, namespace: &str) -> Api<K> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Creates an object, or returns the existing object of this name if it belongs to `owner`.
    pub async fn create_ours<K: Namespaced + Serialize>(
        &self,
        operation: &'static str,
        namespace: &str,
        object: &K,
        owner: Option<&str>,
    ) -> Result<K, EffectError> {
        let api = self.api::<K>(namespace);
        match self.write(operation, api.create(&PostParams::default(), object)).await {
            Err(WriteError::AlreadyExists) => {
                let name = object.meta().name.clone().unwrap_or_default();
                let existing = self.read(api.get(&name)).await?;
                let kind = K::kind(&()).to_lowercase();
                ours(existing.meta(), owner, &kind, &name)?;
                if !has_the_labels_of(existing.meta(), object.meta()) {
                    return Err(EffectError::Wait(format!("the {kind} {name} exists, and the operator did not create it")));
                }
                Ok(existing)
            }
            answer => Ok(answer?),
        }
    }

    /// Returns the object of this name, if it exists.
    pub async fn find<K: Namespaced>(&self, namespace: &str, name: &str) -> Result<Option<K>, EffectError> {
        match self.read(self.api::<K>(namespace).get(name)).await {
            Err(WriteError::NotFound(_)) => Ok(None),
            read => Ok(Some(read?)),
        }
    }

    /// Deletes an object. If a finalizer holds it, returns the object, which is being deleted now.
    pub async fn delete<K: Namespaced>(
        &self,
        operation: &'static str,
        namespace: &str,
        name: &str,
        params: DeleteParams,
    ) -> Result<Option<K>, EffectError> {
        match self.write(operation, self.api::<K>(namespace).delete(name, &params)).await {
            Ok(answer) => Ok(answer.left().filter(|object| !object.finalizers().is_empty())),
            Err(error) => not_found_is_fine::<()>(Err(error)).map(|()| None),
        }
    }

    /// Adds our finalizer to an object. Returns its new metadata, or None if it had the finalizer.
    pub async fn hold<K: Namespaced>(
        &self,
        operation: &'static str,
        meta: &ObjectMeta,
        finalizer: &str,
    ) -> Result<Option<ObjectMeta>, EffectError> {
        let hold = |finalizers: &[String]| match finalizers {
            [] => vec![json!({"op": "add", "path": "/metadata/finalizers", "value": [finalizer]})],
            all if all.iter().any(|name| name == finalizer) => vec![],
            _ => vec![json!({"op": "add", "path": "/metadata/finalizers/-", "value": finalizer})],
        };
        if meta.finalizers.iter().flatten().any(|name| name == finalizer) {
            return Ok(None);
        }
        let held = self.change_finalizers::<K>(operation, meta, hold).await?;
        if held.generation != meta.generation {
            return Err(EffectError::Again("the object changed meanwhile".into()));
        }
        Ok(Some(held))
    }

    /// Removes our finalizer from an object.
    pub async fn release<K: Namespaced>(
        &self,
        operation: &'static str,
        meta: &ObjectMeta,
        finalizer: &str,
    ) -> Result<(), EffectError> {
        let release = |finalizers: &[String]| {
            let index = finalizers.iter().position(|name| name == finalizer);
            index.map(|index| json!({"op": "remove", "path": format!("/metadata/finalizers/{index}")})).into_iter().collect()
        };
        not_found_is_fine(self.change_finalizers::<K>(operation, meta, release).await)
    }

    /// Changes only the finalizers, so that it works for an unreadable object, and while others change its other fields.
    /// `patch` returns the operations for the current finalizers.
    async fn change_finalizers<K: Namespaced>(
        &self,
        operation: &'static str,
        meta: &ObjectMeta,
        patch: impl Fn(&[String]) -> Vec<serde_json::Value>,
    ) -> Result<ObjectMeta, WriteError> {
        let (namespace, name) = key_of(meta);
        let api = self.api::<K>(&namespace);
        let mut finalizers = meta.finalizers.clone();
        for _ in 0..MAX_CONFLICTS {
            let mut operations = vec![
                json!({"op": "test", "path": "/metadata/uid", "value": meta.uid}),
                json!({"op": "test", "path": "/metadata/finalizers", "value": finalizers}),
            ];
            operations.extend(patch(finalizers.as_deref().unwrap_or_default()));
            let operations = serde_json::from_value(json!(operations)).unwrap_or_default();
            let json = Patch::Json::<()>(operations);
            match self.write(operation, api.patch_metadata(&name, &PatchParams::default(), &json)).await {
                Err(error @ (WriteError::Refused(_) | WriteError::Conflict(_))) => {
                    let read = self.read(api.get_metadata(&name)).await?.metadata;
                    if read.uid != meta.uid {
                        return Err(WriteError::NotFound(error.to_string()));
                    }
                    if read.finalizers == finalizers {
                        return Err(error);
                    }
                    finalizers = read.finalizers;
                }
                answer => return answer.map(|changed| changed.metadata),
            }
        }
        Err(WriteError::Busy("the finalizers of the object keep changing".into()))
    }
}

/// Returns the parameters to delete only the object with this uid, and its dependents in the background.
pub fn exactly(uid: Option<String>) -> DeleteParams {
    DeleteParams::background().preconditions(Preconditions { uid, resource_version: None })
}

/// Treats NotFound as success: the object to be removed or updated is gone, or another one has its name.
pub fn not_found_is_fine<T>(answer: Result<T, WriteError>) -> Result<(), EffectError> {
    match answer {
        Ok(_) | Err(WriteError::NotFound(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Whether an existing object names the same session and deployment. Only the operator may set these labels, while anybody may
/// write any owner.
fn has_the_labels_of(existing: &ObjectMeta, wanted: &ObjectMeta) -> bool {
    let label = |meta: &ObjectMeta, name: &str| meta.labels.as_ref().and_then(|labels| labels.get(name)).cloned();
    let same = |name: &&str| label(wanted, name).is_none_or(|value| label(existing, name) == Some(value));
    [LABEL_SESSION_UID, LABEL_DEPLOYMENT_UID].iter().all(same)
}

/// Succeeds if an existing object is ours. Otherwise, or while it is being deleted, the effect has to wait.
pub fn ours(meta: &ObjectMeta, owner: Option<&str>, kind: &str, name: &str) -> Result<(), EffectError> {
    let owned = meta.owner_references.iter().flatten().any(|reference| Some(reference.uid.as_str()) == owner);
    if !owned {
        return Err(EffectError::Wait(format!("the {kind} {name} exists and does not belong to this object")));
    }
    if meta.deletion_timestamp.is_some() {
        return Err(EffectError::Wait(format!("{kind} {name} is being deleted")));
    }
    Ok(())
}
