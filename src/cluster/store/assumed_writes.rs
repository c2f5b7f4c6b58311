//! Assumes, settles and defers writes, so that they count before the API server has them.

use std::sync::Arc;

use super::identity::{is_same_for_decisions, uid_of};
use super::stores::PodRow;
use super::world::World;
use crate::api::{Session, SessionUid};
use crate::coordinator::host::AfterCommit;
use crate::coordinator::marks::Mark;
use crate::session::handlers::HandlerName;
use crate::session::sessions::Sessions;
use crate::views::{PodRef, PodView};

impl World {
    /// Defers a commit, and counts its status as written. `base` is the version that the decision was based on. If the
    /// session has changed since in a way that matters, it is evaluated again instead, because the status would hide the
    /// change.
    pub fn defer(&self, session: &Arc<Session>, base: &Session, after: AfterCommit<Sessions>) {
        let uid = uid_of(session);
        let mut state = self.lock();
        let Some(committed) = state.committed(&uid).cloned() else { return };
        if is_same_for_decisions(base, &committed) {
            state.overlay.deferred.entry(uid).or_default().append(after);
            let freed = state.assume(&Arc::new(Session { status: session.status.clone(), ..(*committed).clone() }));
            drop(state);
            self.after_change(freed);
        } else {
            drop(state);
            self.marks.session(&uid, committed.phase());
        }
    }

    /// Returns the marked sessions that have a deferred commit.
    pub fn deferred(&self, mark: &Mark<SessionUid>) -> Vec<SessionUid> {
        self.lock().overlay.deferred.keys().filter(|uid| mark.covers(uid)).cloned().collect()
    }

    /// Whether a deferred commit contains what this handler did.
    pub fn is_deferred(&self, uid: &SessionUid, handler: HandlerName) -> bool {
        let state = self.lock();
        state.overlay.deferred.get(uid).is_some_and(|after| after.has_done(handler))
    }

    /// Takes the work that follows a deferred commit, which is about to be written.
    pub fn take_deferred(&self, uid: &SessionUid) -> Option<AfterCommit<Sessions>> {
        self.lock().overlay.deferred.remove(uid)
    }

    /// Counts a status that is being written as written.
    pub fn assume(&self, session: &Arc<Session>) {
        let freed = self.lock().assume(session);
        self.after_change(freed);
    }

    /// Removes an assumed write, because its outcome is known.
    pub fn settle(&self, session: &Arc<Session>) {
        let uid = uid_of(session);
        let mut state = self.lock();
        state.overlay.settle(&uid);
        let freed = state.refresh(&uid);
        drop(state);
        self.after_change(freed);
    }

    /// Records that a pod has lost our finalizer. If nothing else holds the pod, it is gone, and the answer has no newer version
    /// that the store would take.
    pub fn pod_released(&self, pod: &PodRef) {
        let key = (pod.namespace.clone(), pod.name.clone());
        let mut state = self.lock();
        let Some(PodRow::Ours(view)) = state.stores.pods.get(&key) else { return };
        if view.uid == pod.uid {
            let released = PodView { held: false, ..(**view).clone() };
            state.stores.pods.replace(&key, PodRow::Ours(Arc::new(released)));
        }
    }
}
