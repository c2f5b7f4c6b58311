//! The identity of sessions, and which of their versions are the same for all decisions.

use super::table::Key;
use crate::api::{Session, SessionUid};

/// Whether two versions of a session are the same for all decisions. Annotations, labels and managed fields may differ.
pub fn is_same_for_decisions(one: &Session, other: &Session) -> bool {
    let (a, b) = (&one.metadata, &other.metadata);
    a.uid == b.uid
        && a.generation == b.generation
        && a.deletion_timestamp == b.deletion_timestamp
        && a.finalizers == b.finalizers
        && one.status == other.status
}

pub fn uid_of(session: &Session) -> SessionUid {
    SessionUid(session.metadata.uid.clone().unwrap_or_default())
}

pub fn key_of(meta: &kube::core::ObjectMeta) -> Key {
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

/// Returns the sessions in `dependsOn`, by namespace and name.
pub fn dependencies(session: &Session) -> impl Iterator<Item = Key> {
    let namespace = session.metadata.namespace.clone().unwrap_or_default();
    session.spec.depends_on.iter().map(move |name| (namespace.clone(), name.clone()))
}
