//! The identity of objects, and which of their versions are the same for all decisions.

use kube::Resource;
use kube::core::object::HasStatus;

use super::table::Key;
use crate::api::{DeploymentUid, LABEL_DEPLOYMENT_UID, Session, SessionUid};
use crate::lifecycle::Subject;

/// Whether two versions of an object are the same for all decisions. Annotations, labels and managed fields may differ.
pub fn is_same_for_decisions<K>(one: &K, other: &K) -> bool
where
    K: Resource + HasStatus,
    K::Status: PartialEq,
{
    let (a, b) = (one.meta(), other.meta());
    a.uid == b.uid
        && a.generation == b.generation
        && a.deletion_timestamp == b.deletion_timestamp
        && a.finalizers == b.finalizers
        && one.status() == other.status()
}

pub fn uid_of(session: &Session) -> SessionUid {
    SessionUid(session.metadata.uid.clone().unwrap_or_default())
}

/// The uid of an object of any kind that the engine drives.
pub fn uid_in<S: Subject>(object: &S::Object) -> S::Uid {
    object.meta().uid.clone().unwrap_or_default().into()
}

pub fn key_of(meta: &kube::core::ObjectMeta) -> Key {
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

/// Returns the sessions in `dependsOn`, by namespace and name.
pub fn dependencies(session: &Session) -> impl Iterator<Item = Key> {
    let namespace = session.metadata.namespace.clone().unwrap_or_default();
    session.spec.depends_on.iter().map(move |name| (namespace.clone(), name.clone()))
}

/// The deployment that an object belongs to, by the label that only the operator sets.
pub fn deployment_of(meta: &kube::core::ObjectMeta) -> Option<DeploymentUid> {
    meta.labels.as_ref()?.get(LABEL_DEPLOYMENT_UID).map(|uid| DeploymentUid(uid.clone()))
}
