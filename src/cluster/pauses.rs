//! Ends the pauses of sessions when the object that their last failure was about changes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Utc;

use super::table::Key;
use super::world::{Inner, World};
use crate::api::{Session, SessionPhase, SessionUid};
use crate::coordinator::marks::Marks;
use crate::lifecycle::{Reason, last_attempt};
use crate::session::handlers::HandlerName;
use crate::session::namespace_quota::{Demand, MAX_CONSIDERED, admitted};
use crate::session::snapshot::created_at;
use crate::views::QuotaView;
use crate::views::VolumeView;

impl World {
    pub(super) fn upsert_quota(&self, key: Key, version: u64, quota: QuotaView) {
        let mut inner = self.lock();
        let namespace = key.0.clone();
        let before = inner.quotas.get(&key).cloned();
        if inner.quotas.upsert(key, version, quota.clone()) && before.as_ref() != Some(&quota) {
            if before.is_none_or(|before| before.hard != quota.hard) {
                inner.limits_changed(&namespace);
            }
            inner.changed_quotas.insert(namespace);
            self.quota_changed.notify_one();
        }
    }

    pub(super) fn remove_quota(&self, key: &Key) {
        let mut inner = self.lock();
        if inner.quotas.remove(key, 0).is_some() {
            inner.limits_changed(&key.0);
            inner.changed_quotas.insert(key.0.clone());
            self.quota_changed.notify_one();
        }
    }
}

impl Inner {
    /// Ends the pauses of sessions whose last failure has one of these reasons: those of one namespace, or all.
    pub(super) fn end_pauses(&self, marks: &Marks, namespace: Option<&str>, concerns: impl Fn(Reason) -> bool) {
        for (handler, uid, session) in self.paused(concerns) {
            if namespace.is_none_or(|namespace| session.metadata.namespace.as_deref() == Some(namespace)) {
                marks.urgent(handler, &uid);
            }
        }
    }

    /// Sessions that wait for the end of a pause, with the handler that tries them next.
    fn paused(&self, concerns: impl Fn(Reason) -> bool) -> Vec<(HandlerName, SessionUid, Arc<Session>)> {
        let now = Utc::now();
        let mut paused = vec![];
        for phases in self.index.values() {
            for (phase, handler) in TRIED_BY {
                for uid in phases.get(&phase).into_iter().flatten() {
                    let Some(session) = self.session(uid) else { continue };
                    let Some(status) = session.status.as_ref().filter(|s| s.next_attempt_at.is_some_and(|at| at > now)) else {
                        continue;
                    };
                    let reason = last_attempt(&status.history).and_then(|last| Reason::parse(last.error_code.as_deref()?));
                    if reason.is_some_and(&concerns) {
                        paused.push((handler, uid.clone(), session.clone()));
                    }
                }
            }
        }
        paused
    }

    /// Other limits are news, also for sessions that were let in early and refused again. Mere usage is none: each attempt
    /// changes it.
    fn limits_changed(&mut self, namespace: &str) {
        let Self { let_in_early, key_of, .. } = self;
        let_in_early.retain(|uid, _| key_of.get(uid).is_some_and(|(of, _)| of != namespace));
    }

    /// Ends the pauses of as many sessions of a namespace as its quotas have room for. The others would only be refused again.
    /// A quota may count resources that are unknown here and refuse those sessions, too, so each is let in early at most once
    /// per `at_most_each` while the limits are the same.
    fn admit_by_quota(&mut self, namespace: &str, marks: &Marks, at_most_each: Duration) {
        self.let_in_early.retain(|_, at| at.elapsed() < at_most_each);
        let mut refused = self.paused(|reason| reason == Reason::NamespaceQuota);
        refused.retain(|(_, uid, session)| {
            session.metadata.namespace.as_deref() == Some(namespace) && !self.let_in_early.contains_key(uid)
        });
        if refused.is_empty() {
            return;
        }
        // As the queue orders them.
        refused.sort_by_key(|(_, _, session)| {
            (std::cmp::Reverse(session.priority()), created_at(session), session.metadata.name.clone())
        });
        refused.truncate(MAX_CONSIDERED);
        let quotas: Vec<&QuotaView> = self.quotas.iter().filter(|((of, _), _)| of == namespace).map(|(_, quota)| quota).collect();
        let demand =
            |(_, uid, session): &(_, SessionUid, Arc<Session>)| Demand::of(uid.clone(), session, &self.overhead_of(session));
        let let_in = admitted(&quotas, refused.iter().map(demand).collect());
        for (handler, uid, _) in refused.iter().filter(|(_, uid, _)| let_in.contains(uid)) {
            marks.urgent(*handler, uid);
            self.let_in_early.insert(uid.clone(), Instant::now());
        }
    }
}

/// Lets in sessions that a changed quota has room for, for ever. A quota changes with each pod of its namespace, so changes
/// are gathered for a moment. All quotas are looked at once per wait pause: a change may have come too soon after the last
/// early attempt.
pub async fn admit(world: Arc<World>) {
    loop {
        let changed = tokio::time::timeout(world.timing.wait_backoff, world.quota_changed.notified()).await;
        tokio::time::sleep(world.timing.busy_pace).await;
        let mut inner = world.lock();
        let mut namespaces = std::mem::take(&mut inner.changed_quotas);
        if changed.is_err() {
            namespaces.extend(inner.quotas.iter().map(|((namespace, _), _)| namespace.clone()));
        }
        for namespace in namespaces {
            inner.admit_by_quota(&namespace, &world.marks, world.timing.wait_backoff);
        }
    }
}

/// Failures that a change of a tenant, a policy or a scaling group may fix.
pub(super) fn about_tenants<V>(_: &V, reason: Reason) -> bool {
    !matches!(reason, Reason::NamespaceQuota | Reason::EffectFailed | Reason::Unschedulable)
}

/// Failures that another node, or the same one in another state, may not have.
pub(super) fn about_nodes(reason: Reason) -> bool {
    use Reason::{AdmissionRefused, Drained, Evicted, NodeLost, PodDeleted, Preempted, Unschedulable};
    matches!(reason, AdmissionRefused | Drained | Evicted | NodeLost | PodDeleted | Preempted | Unschedulable)
}

/// Failures that a change of a volume claim or its classes may fix.
pub(super) fn about_volumes<V>(_: &V, reason: Reason) -> bool {
    use Reason::{Unschedulable, VolumeClaimInUse, VolumeClaimNotBound, VolumeClaimNotFound, VolumeReadOnly};
    matches!(reason, Unschedulable | VolumeClaimInUse | VolumeClaimNotBound | VolumeClaimNotFound | VolumeReadOnly)
}

/// Only a volume that is free can help a session that waits.
pub(super) fn about_free_volumes(volume: &VolumeView, reason: Reason) -> bool {
    volume.is_available && about_volumes(volume, reason)
}

/// The phases in which a session may pause, and the handler that tries it then.
const TRIED_BY: [(SessionPhase, HandlerName); 3] = [
    (SessionPhase::Pending, HandlerName::ScheduleSessions),
    (SessionPhase::Scheduled, HandlerName::CheckPrecondition),
    (SessionPhase::Prepared, HandlerName::StartSessions),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;
    use crate::api::Amount;
    use crate::cluster::world::{Scope, uid_of};
    use crate::session::handlers::testing::session_in;

    #[test]
    fn a_session_that_a_quota_refused_again_is_let_in_when_the_limit_is_raised_and_not_for_other_usage() {
        let world = World::new(Arc::default(), Arc::default(), Scope::default());
        let mut refused = session_in(SessionPhase::Pending);
        refused.metadata.namespace = Some("ns".into());
        let at = Utc::now();
        let entry = json!({"phase": "check-precondition", "result": "NeedRetry", "errorCode": "NamespaceQuota",
            "from": "Scheduled", "to": "Pending", "createdAt": at, "updatedAt": at, "attempts": 1});
        let status = json!({"phase": "Pending", "history": [entry], "nextAttemptAt": at + chrono::TimeDelta::hours(1)});
        refused.status = Some(serde_json::from_value(status).expect("a status"));
        let uid = uid_of(&world.upsert_session(refused));
        let amounts = |pods: i64| BTreeMap::from([("pods".to_owned(), Amount::from_units(pods))]);
        let let_in = |version: u64, hard: i64, used: i64| {
            let quota = QuotaView { hard: amounts(hard), used: amounts(used), is_scoped: false };
            world.upsert_quota(("ns".into(), "pods".into()), version, quota);
            world.marks.take(HandlerName::ScheduleSessions);
            world.lock().admit_by_quota("ns", &world.marks, Duration::from_secs(3600));
            world.marks.take(HandlerName::ScheduleSessions).urgent.contains(&uid)
        };
        assert!(!let_in(1, 1, 1), "no room");
        assert!(let_in(2, 1, 0));
        assert!(!let_in(3, 9, 9) && let_in(4, 10, 9), "the limit is raised");
        assert!(!let_in(5, 10, 0), "only the usage changed since");
    }
}
