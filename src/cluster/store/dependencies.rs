//! Which sessions depend on which, as `dependsOn` says.

use std::collections::BTreeSet;

use chrono::Utc;

use super::identity::{dependencies, key_of, uid_of};
use super::state::State;
use super::table::Key;
use crate::api::*;
use crate::lifecycle::created_at;
use crate::session::snapshot::{MAX_WAIT_FOR_DEPENDENTS, deleted_at};

impl State {
    pub(in crate::cluster) fn forget_dependencies(&mut self, session: &Session) {
        for dependency in dependencies(session) {
            if let Some(dependents) = self.index.dependents_of.get_mut(&dependency) {
                dependents.remove(&uid_of(session));
                if dependents.is_empty() {
                    self.index.dependents_of.remove(&dependency);
                }
            }
        }
    }

    /// The waiting sessions that depend on one.
    pub(in crate::cluster) fn dependents(&self, key: &Key) -> Vec<SessionUid> {
        let waits = |uid: &&SessionUid| self.index.phase(uid) == Some(SessionPhase::Pending);
        self.index.dependents_of.get(key).into_iter().flatten().filter(waits).cloned().collect()
    }

    /// Whether a waiting session depends on this one, which ended with Success, and has not recorded that yet.
    pub(in crate::cluster) fn is_awaited(&self, session: &Session) -> bool {
        if session.status.as_ref().is_none_or(|status| status.result != Some(SessionResult::Success)) {
            return false;
        }
        // Neither dependents made after its deletion nor those that never record it hold it up.
        let deleted_at = deleted_at(session);
        if deleted_at.is_some_and(|at| Utc::now() - at > MAX_WAIT_FOR_DEPENDENTS) {
            return false;
        }
        let is_older = |uid: &SessionUid| {
            let made = self.committed(uid).and_then(|dependent| created_at(&**dependent));
            deleted_at.is_none_or(|at| made.is_some_and(|made| made <= at))
        };
        let key = key_of(&session.metadata);
        let has_recorded = |uid: &SessionUid| {
            let status = self.committed(uid).and_then(|dependent| dependent.status.as_ref());
            status.is_some_and(|status| status.met_dependencies.contains(&key.1))
        };
        self.dependents(&key).iter().any(|uid| {
            let can_record = !self.quarantined.contains_key(uid) && !self.unreadable.contains_key(uid);
            can_record && is_older(uid) && !has_recorded(uid)
        })
    }

    /// The sessions that one depends on, as far as they exist.
    pub(in crate::cluster) fn dependencies_of(&self, session: &Session) -> Vec<SessionUid> {
        dependencies(session).filter_map(|key| self.stores.sessions.get(&key)).map(|found| uid_of(found)).collect()
    }

    /// Whether what a session depends on depends on the session in turn, by way of not too many others that wait.
    pub(in crate::cluster) fn waits_for_itself(&self, session: &Session, dependency: &str) -> bool {
        const MAX: usize = 32;
        let (own, mut ahead, mut seen) = (key_of(&session.metadata), vec![dependency.to_owned()], BTreeSet::new());
        while let Some(name) = ahead.pop().filter(|_| seen.len() < MAX) {
            if name == own.1 {
                return true;
            }
            if seen.insert(name.clone())
                && let Some(found) = self.stores.sessions.get(&(own.0.clone(), name))
                && found.phase() == SessionPhase::Pending
            {
                ahead.extend(found.spec.depends_on.iter().cloned());
            }
        }
        false
    }
}
