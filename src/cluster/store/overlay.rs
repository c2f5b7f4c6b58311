//! The overlay of assumed writes: statuses that count as written before the API server has them.

use std::collections::HashMap;
use std::sync::Arc;

use super::identity::uid_of;
use crate::api::{Session, SessionUid};
use crate::coordinator::host::AfterCommit;
use crate::session::sessions::Sessions;

/// The assumed writes.
#[derive(Default)]
pub struct Overlay {
    /// Sessions with a status that is being written or deferred.
    assumed: HashMap<SessionUid, Arc<Session>>,
    /// What follows deferred commits once they are written.
    pub(super) deferred: HashMap<SessionUid, AfterCommit<Sessions>>,
}

impl Overlay {
    pub fn assumed(&self, uid: &SessionUid) -> Option<&Arc<Session>> {
        self.assumed.get(uid)
    }

    pub fn assume(&mut self, session: &Arc<Session>) {
        self.assumed.insert(uid_of(session), session.clone());
    }

    /// The outcome of a write is known.
    pub fn settle(&mut self, uid: &SessionUid) {
        self.assumed.remove(uid);
    }

    pub fn forget(&mut self, uid: &SessionUid) {
        self.assumed.remove(uid);
        self.deferred.remove(uid);
    }

    /// A deferred commit holds for another version of its session that is the same to every decision.
    pub fn carry_over(&mut self, uid: &SessionUid, session: &Session) {
        if self.deferred.contains_key(uid)
            && let Some(assumed) = self.assumed.get_mut(uid)
        {
            *assumed = Arc::new(Session { status: assumed.status.clone(), ..session.clone() });
        }
    }

    /// The deferred commit of a session that somebody changed could not be written any more, and would hide the change.
    pub fn drop_deferred(&mut self, uid: &SessionUid) {
        if self.deferred.remove(uid).is_some() {
            self.assumed.remove(uid);
        }
    }
}
