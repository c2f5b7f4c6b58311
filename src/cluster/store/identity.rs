//! What tells sessions apart, and which versions of one are the same.

use super::table::Key;
use crate::api::{Session, SessionUid};

/// Whether two versions of a session are the same to every decision: they differ in annotations, labels or managed fields
/// at most.
pub fn decides_the_same(one: &Session, other: &Session) -> bool {
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

/// The sessions it waits for, by namespace and name.
pub fn dependencies(session: &Session) -> impl Iterator<Item = Key> {
    let namespace = session.metadata.namespace.clone().unwrap_or_default();
    session.spec.depends_on.iter().map(move |name| (namespace.clone(), name.clone()))
}
