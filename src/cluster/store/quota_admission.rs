//! Ends the pauses of sessions and replicas that a ResourceQuota refused: of sessions as soon as they fit into it, of replicas when its
//! limits change.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::identity::uid_in;
use super::state::State;
use super::table::Key;
use super::world::World;
use crate::api::{Reason, Route, Session, SessionUid};
use crate::coordinator::marks::HandlerMarks;
use crate::lifecycle::created_at;
use crate::route::Routes;
use crate::session::handlers::HandlerName;
use crate::session::namespace_quota::{Demand, MAX_CONSIDERED, admitted};
use crate::session::sessions::Sessions;
use crate::views::QuotaView;

impl World {
    pub(in crate::cluster) fn upsert_quota(&self, key: Key, version: u64, quota: QuotaView) {
        let mut state = self.lock();
        let namespace = key.0.clone();
        let before = state.stores.quotas.get(&key).cloned();
        if state.stores.quotas.upsert(key, version, quota.clone()) && before.as_ref() != Some(&quota) {
            if before.is_none_or(|before| before.hard != quota.hard) {
                self.limits_changed(&mut state, &namespace);
            }
            state.quota_admission.changed.insert(namespace);
            self.quota_changed.notify_one();
        }
    }

    pub(in crate::cluster) fn remove_quota(&self, key: &Key, version: u64) {
        let mut state = self.lock();
        if state.stores.quotas.remove(key, version).is_some() {
            self.limits_changed(&mut state, &key.0);
            state.quota_admission.changed.insert(key.0.clone());
            self.quota_changed.notify_one();
        }
    }

    /// A route whose session was refused is evaluated again.
    fn limits_changed(&self, state: &mut State, namespace: &str) {
        state.limits_changed(namespace);
        let is_refused = |route: &&Arc<Route>| {
            let reason = route.status.as_ref().and_then(|status| status.reason);
            reason == Some(Reason::NamespaceQuota) && route.metadata.namespace.as_deref() == Some(namespace)
        };
        for route in state.stores.routes.values().filter(is_refused) {
            self.routes.marks.object(&uid_in::<Routes>(route), route.phase());
        }
    }
}

impl State {
    /// Allows another early admission in a namespace after a limit has changed. A change of usage does not, because each
    /// attempt changes the usage.
    fn limits_changed(&mut self, namespace: &str) {
        let key_of = &self.index.key_of;
        self.quota_admission.admitted_early.retain(|uid, _| key_of.get(uid).is_some_and(|(other, _)| other != namespace));
    }

    /// Ends the pauses of as many sessions of a namespace as fit into its ResourceQuotas. The others would be refused again.
    /// A ResourceQuota may also count resources that the operator does not know, and refuse these sessions. So each session
    /// is admitted early once per `interval`, until a limit changes.
    fn admit_by_quota(&mut self, namespace: &str, marks: &HandlerMarks<Sessions>, interval: Duration) {
        self.quota_admission.admitted_early.retain(|_, at| at.elapsed() < interval);
        let mut refused = self.paused(|reason| reason == Reason::NamespaceQuota);
        refused.retain(|(_, uid, session)| {
            let is_new = !self.quota_admission.admitted_early.contains_key(uid);
            is_new && session.metadata.namespace.as_deref() == Some(namespace)
        });
        if refused.is_empty() {
            return;
        }
        // In the order of the queue.
        refused
            .sort_by_key(|(_, _, session)| (Reverse(session.priority()), created_at(&**session), session.metadata.name.clone()));
        refused.truncate(MAX_CONSIDERED);
        let quotas: Vec<&QuotaView> =
            self.stores.quotas.iter().filter(|((other, _), _)| other == namespace).map(|(_, quota)| quota).collect();
        let demand = |(_, uid, session): &(HandlerName, SessionUid, Arc<Session>)| {
            Demand::of(uid.clone(), session, &self.overhead_of(session))
        };
        let admitted = admitted(&quotas, refused.iter().map(demand).collect());
        for (handler, uid, _) in refused.iter().filter(|(_, uid, _)| admitted.contains(uid)) {
            marks.urgent(*handler, uid);
            self.quota_admission.admitted_early.insert(uid.clone(), Instant::now());
        }
    }
}

/// Admits sessions that fit into a changed ResourceQuota. Never returns. A ResourceQuota changes with each pod of its
/// namespace, so changes are gathered for a moment. All ResourceQuotas are also evaluated once per wait pause, because a
/// change may have come too soon after the last early admission.
pub async fn admit(world: Arc<World>) {
    loop {
        let changed = tokio::time::timeout(world.timing.wait_backoff, world.quota_changed.notified()).await;
        tokio::time::sleep(world.timing.busy_pace).await;
        let mut state = world.lock();
        let mut namespaces = std::mem::take(&mut state.quota_admission.changed);
        if changed.is_err() {
            namespaces.extend(state.stores.quotas.iter().map(|((namespace, _), _)| namespace.clone()));
        }
        for namespace in namespaces {
            state.admit_by_quota(&namespace, &world.marks.handlers, world.timing.wait_backoff);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use chrono::Utc;
    use serde_json::json;

    use super::*;
    use crate::api::{Amount, RoutePhase, SessionPhase};
    use crate::cluster::store::identity::uid_of;
    use crate::cluster::store::world::Scope;
    use crate::route::handlers as route;
    use crate::route::handlers::testing::Replica;
    use crate::session::handlers::testing::session_in;

    #[test]
    fn a_replica_that_was_refused_is_tried_again_when_a_limit_changes() {
        let world = World::new(Arc::default(), Scope::default());
        let mut route = (*Replica::new(RoutePhase::Provisioning).item().route).clone();
        route.metadata.namespace = Some("ns".into());
        let status = json!({"phase": "Provisioning", "reason": "NamespaceQuota", "message": "exceeded quota"});
        route.status = Some(serde_json::from_value(status).expect("a status"));
        world.upsert_object::<Routes>(route);
        let is_tried_again = |version: u64, namespace: &str, hard: i64, used: i64| {
            let amounts = |amount| BTreeMap::from([("count/sessions.sokovan.dev".to_owned(), Amount::from_units(amount))]);
            let quota = QuotaView { hard: amounts(hard), used: amounts(used), is_scoped: false };
            world.routes.marks.take(route::HandlerName::Provision);
            world.upsert_quota((namespace.into(), "sessions".into()), version, quota);
            !world.routes.marks.take(route::HandlerName::Provision).is_empty()
        };
        assert!(is_tried_again(1, "ns", 1, 1));
        assert!(!is_tried_again(2, "ns", 1, 0), "each replica changes the usage");
        assert!(is_tried_again(3, "ns", 2, 0) && !is_tried_again(4, "other", 2, 0));
    }

    #[test]
    fn a_session_refused_again_is_admitted_early_when_the_limit_is_raised_and_not_when_only_the_usage_changes() {
        let world = World::new(Arc::default(), Scope::default());
        let mut refused = session_in(SessionPhase::Pending);
        refused.metadata.namespace = Some("ns".into());
        let at = Utc::now();
        let entry = json!({"handler": "check-precondition", "result": "NeedRetry", "errorCode": "NamespaceQuota",
            "from": "Scheduled", "to": "Pending", "createdAt": at, "updatedAt": at, "attempts": 1});
        let status = json!({"phase": "Pending", "history": [entry], "nextAttemptAt": at + chrono::TimeDelta::hours(1)});
        refused.status = Some(serde_json::from_value(status).expect("a status"));
        let uid = uid_of(&world.upsert_session(refused));
        let amounts = |pods: i64| BTreeMap::from([("pods".to_owned(), Amount::from_units(pods))]);
        let is_admitted = |version: u64, hard: i64, used: i64| {
            let quota = QuotaView { hard: amounts(hard), used: amounts(used), is_scoped: false };
            world.upsert_quota(("ns".into(), "pods".into()), version, quota);
            world.marks.handlers.take(HandlerName::ScheduleSessions);
            world.lock().admit_by_quota("ns", &world.marks.handlers, Duration::from_secs(3600));
            world.marks.handlers.take(HandlerName::ScheduleSessions).urgent.contains(&uid)
        };
        assert!(!is_admitted(1, 1, 1), "the quota is used up");
        assert!(is_admitted(2, 1, 0));
        assert!(!is_admitted(3, 9, 9) && is_admitted(4, 10, 9), "the limit is raised");
        assert!(!is_admitted(5, 10, 0), "only the usage changed since");
    }
}
