//! The overlay of assumed writes: statuses that count as written before the API server has them.

use std::collections::HashMap;
use std::sync::Arc;

use kube::core::object::HasStatus;

use super::identity::uid_in;
use crate::coordinator::host::AfterCommit;
use crate::lifecycle::Subject;

/// The assumed writes to the objects of one kind.
pub struct Overlay<S: Subject> {
    /// Objects with a status that is being written or deferred.
    assumed: HashMap<S::Uid, Arc<S::Object>>,
    /// The work to do after each deferred commit is written.
    pub(super) deferred: HashMap<S::Uid, AfterCommit<S>>,
}

impl<S: Subject> Default for Overlay<S> {
    fn default() -> Self {
        Self { assumed: HashMap::new(), deferred: HashMap::new() }
    }
}

impl<S: Subject> Overlay<S> {
    pub fn assumed(&self, uid: &S::Uid) -> Option<&Arc<S::Object>> {
        self.assumed.get(uid)
    }

    pub fn assume(&mut self, object: &Arc<S::Object>) {
        self.assumed.insert(uid_in::<S>(object), object.clone());
    }

    /// Removes an assumed write, because its outcome is known.
    pub fn settle(&mut self, uid: &S::Uid) {
        self.assumed.remove(uid);
    }

    pub fn forget(&mut self, uid: &S::Uid) {
        self.assumed.remove(uid);
        self.deferred.remove(uid);
    }

    /// Bases a deferred commit on a newer version of its object that is the same for all decisions.
    pub fn carry_over(&mut self, uid: &S::Uid, object: &S::Object) {
        if self.deferred.contains_key(uid)
            && let Some(assumed) = self.assumed.get_mut(uid)
        {
            *assumed = Arc::new(with_status_of::<S>(object, assumed));
        }
    }

    /// Drops the deferred commit of an object that somebody changed. It would fail with a conflict, and hide the change
    /// until then.
    pub fn drop_deferred(&mut self, uid: &S::Uid) {
        if self.deferred.remove(uid).is_some() {
            self.assumed.remove(uid);
        }
    }
}

/// An object with the status of another version of it.
pub fn with_status_of<S: Subject>(object: &S::Object, other: &S::Object) -> S::Object {
    let mut object = object.clone();
    *object.status_mut() = other.status().cloned();
    object
}
