//! The dependencies between sessions, from `dependsOn`.

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

    /// Returns the pending sessions that depend on the session of this key.
    pub(in crate::cluster) fn dependents(&self, key: &Key) -> Vec<SessionUid> {
        let waits = |uid: &&SessionUid| self.index.phase(uid) == Some(SessionPhase::Pending);
        self.index.dependents_of.get(key).into_iter().flatten().filter(waits).cloned().collect()
    }

    /// Whether this session ended with Success, and a pending session that depends on it has not recorded that yet.
    pub(in crate::cluster) fn is_awaited(&self, session: &Session) -> bool {
        if session.status.as_ref().is_none_or(|status| status.result != Some(SessionResult::Success)) {
            return false;
        }
        // Dependents created after its deletion do not hold it up, nor do dependents that never record its success.
        let deleted_at = deleted_at(session);
        if deleted_at.is_some_and(|at| Utc::now() - at > MAX_WAIT_FOR_DEPENDENTS) {
            return false;
        }
        let is_older = |uid: &SessionUid| {
            let created_at = self.committed(uid).and_then(|dependent| created_at(&**dependent));
            deleted_at.is_none_or(|deleted_at| created_at.is_some_and(|created_at| created_at <= deleted_at))
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

    /// Returns the existing sessions that a session depends on.
    pub(in crate::cluster) fn dependencies_of(&self, session: &Session) -> Vec<SessionUid> {
        dependencies(session).filter_map(|key| self.stores.sessions.get(&key)).map(|found| uid_of(found)).collect()
    }

    /// Whether a dependency of a session depends on the session in turn, directly or through pending sessions. Returns false
    /// after `MAX_VISITED` sessions.
    pub(in crate::cluster) fn waits_for_itself(&self, session: &Session, dependency: &str) -> bool {
        const MAX_VISITED: usize = 32;
        let (namespace, own_name) = key_of(&session.metadata);
        let (mut to_visit, mut visited) = (vec![dependency.to_owned()], BTreeSet::new());
        while let Some(name) = to_visit.pop().filter(|_| visited.len() < MAX_VISITED) {
            if name == own_name {
                return true;
            }
            if visited.insert(name.clone())
                && let Some(found) = self.stores.sessions.get(&(namespace.clone(), name))
                && found.phase() == SessionPhase::Pending
            {
                to_visit.extend(found.spec.depends_on.iter().cloned());
            }
        }
        false
    }
}
