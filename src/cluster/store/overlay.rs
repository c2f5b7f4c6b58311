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
    /// The work to do after each deferred commit is written.
    pub(super) deferred: HashMap<SessionUid, AfterCommit<Sessions>>,
}

impl Overlay {
    pub fn assumed(&self, uid: &SessionUid) -> Option<&Arc<Session>> {
        self.assumed.get(uid)
    }

    pub fn assume(&mut self, session: &Arc<Session>) {
        self.assumed.insert(uid_of(session), session.clone());
    }

    /// Removes an assumed write, because its outcome is known.
    pub fn settle(&mut self, uid: &SessionUid) {
        self.assumed.remove(uid);
    }

    pub fn forget(&mut self, uid: &SessionUid) {
        self.assumed.remove(uid);
        self.deferred.remove(uid);
    }

    /// Bases a deferred commit on a newer version of its session that is the same for all decisions.
    pub fn carry_over(&mut self, uid: &SessionUid, session: &Session) {
        if self.deferred.contains_key(uid)
            && let Some(assumed) = self.assumed.get_mut(uid)
        {
            *assumed = Arc::new(Session { status: assumed.status.clone(), ..session.clone() });
        }
    }

    /// Drops the deferred commit of a session that somebody changed. It would fail with a conflict, and hide the change
    /// until then.
    pub fn drop_deferred(&mut self, uid: &SessionUid) {
        if self.deferred.remove(uid).is_some() {
            self.assumed.remove(uid);
        }
    }
}
