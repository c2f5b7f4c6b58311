//! Writes that count before the API server has them: assumed, settled, deferred.

use std::sync::Arc;

use super::identity::{decides_the_same, uid_of};
use super::world::World;
use crate::api::{Session, SessionUid};
use crate::coordinator::host::AfterCommit;
use crate::coordinator::marks::Mark;
use crate::session::handlers::HandlerName;
use crate::session::sessions::Sessions;

impl World {
    /// Counts a status as written that is deferred. `base` is what it was decided on. If the session was changed meanwhile, the
    /// status would hide the change: the session is evaluated again, unless the change matters to no decision.
    pub fn defer(&self, session: &Arc<Session>, base: &Session, after: AfterCommit<Sessions>) {
        let uid = uid_of(session);
        let mut state = self.lock();
        let Some(committed) = state.committed(&uid).cloned() else { return };
        if decides_the_same(base, &committed) {
            state.overlay.deferred.entry(uid).or_default().append(after);
            let freed = state.assume(&Arc::new(Session { status: session.status.clone(), ..(*committed).clone() }));
            drop(state);
            self.after_change(freed);
        } else {
            drop(state);
            self.marks.session(&uid, committed.phase());
        }
    }

    /// The marked sessions with a deferred commit.
    pub fn deferred(&self, mark: &Mark<SessionUid>) -> Vec<SessionUid> {
        self.lock().overlay.deferred.keys().filter(|uid| mark.covers(uid)).cloned().collect()
    }

    /// Whether a deferred commit contains a step of this handler.
    pub fn is_deferred(&self, uid: &SessionUid, handler: HandlerName) -> bool {
        let state = self.lock();
        state.overlay.deferred.get(uid).is_some_and(|after| after.results.iter().any(|(by, _)| *by == handler))
    }

    /// Takes what follows a deferred commit, which is about to be written.
    pub fn take_deferred(&self, uid: &SessionUid) -> Option<AfterCommit<Sessions>> {
        self.lock().overlay.deferred.remove(uid)
    }

    /// Counts a status that is being written as written.
    pub fn assume(&self, session: &Arc<Session>) {
        let freed = self.lock().assume(session);
        self.after_change(freed);
    }

    /// The outcome of a write is known.
    pub fn settle(&self, session: &Arc<Session>) {
        let uid = uid_of(session);
        let mut state = self.lock();
        state.overlay.settle(&uid);
        let freed = state.refresh(&uid);
        drop(state);
        self.after_change(freed);
    }
}
