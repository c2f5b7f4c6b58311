//! Counts the pending sessions of a tenant ahead of each session, where a policy limits them. Older sessions count first.
//! Pure.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::api::{ResourceList, ResourcePolicy, Resources, SessionUid};
use crate::provisioner::{Ahead, EquivalenceClass};
use crate::views::{Tenancy, Tenant};

/// A pending session.
pub struct Pending<'p> {
    pub uid: &'p SessionUid,
    pub created_at: Option<DateTime<Utc>>,
    pub class: &'p Arc<EquivalenceClass>,
}

/// Whether any policy limits pending sessions.
pub fn is_limited<'p>(mut policies: impl Iterator<Item = &'p Arc<ResourcePolicy>>) -> bool {
    policies.any(|policy| limits(policy))
}

fn limits(policy: &ResourcePolicy) -> bool {
    policy.spec.max_pending_sessions.is_some_and(|limit| limit > 0) || !policy.spec.max_pending_resources.is_empty()
}

#[derive(Clone, Default)]
struct Sum {
    sessions: i64,
    resources: Resources,
}

/// Returns the pending sessions ahead of each session, for its tenants that limit them. A session that exceeds a limit
/// itself does not count for the sessions after it.
pub fn ahead(tenancy: &Tenancy, mut pending: Vec<Pending<'_>>) -> HashMap<SessionUid, Vec<Ahead>> {
    pending.sort_by_key(|session| (session.created_at, session.uid));
    let mut sums: HashMap<Tenant, Sum> = HashMap::new();
    let mut ahead_of = HashMap::new();
    for Pending { uid, class, .. } in pending {
        let tenants = tenancy.tenants(&class.access_key, &class.namespace).into_iter();
        let limited: Vec<(Tenant, Arc<ResourcePolicy>)> =
            tenants.filter_map(|tenant| Some((tenant.clone(), tenancy.policy_of(&tenant).ok()??))).collect();
        let ahead: Vec<Ahead> = limited
            .into_iter()
            .filter(|(_, policy)| limits(policy))
            .map(|(tenant, policy)| {
                let sum = sums.get(&tenant).cloned().unwrap_or_default();
                let max_resources: ResourceList = policy.spec.max_pending_resources.clone();
                let max_sessions = policy.spec.max_pending_sessions.map(i64::from);
                Ahead { tenant, sessions: sum.sessions, resources: sum.resources, max_sessions, max_resources }
            })
            .collect();
        if ahead.iter().all(|tenant| tenant.admits(&class.total)) {
            for Ahead { tenant, .. } in &ahead {
                let sum = sums.entry(tenant.clone()).or_default();
                sum.sessions += 1;
                sum.resources.add(&class.total);
            }
        }
        if !ahead.is_empty() {
            ahead_of.insert(uid.clone(), ahead);
        }
    }
    ahead_of
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::provisioner::EquivalenceClasses;
    use crate::session::handlers::testing::{limited, session};

    #[test]
    fn older_sessions_count_first_and_a_session_beyond_the_limit_does_not_count() {
        let world = limited(json!({"maxPendingResources": {"cpu": 3}}));
        let mut classes = EquivalenceClasses::default();
        let mut class_with = |cpu: i64| {
            let resources = json!({"cpu": cpu, "memory": "1Gi"});
            classes.of(&session(json!({"kernels": [{"image": "i", "resources": resources}]})))
        };
        let sizes = [2, 2, 1].map(&mut class_with);
        let uids: Vec<SessionUid> = (0..3).map(|n| SessionUid(format!("s{n}"))).collect();
        let time = |seconds| DateTime::from_timestamp(seconds, 0);
        let pending = |n: usize| Pending { uid: &uids[n], created_at: time(n as i64), class: &sizes[n] };
        let ahead = ahead(&world.tenancy, vec![pending(2), pending(0), pending(1)]);
        let counts =
            |n: usize| ahead[&uids[n]].iter().map(|a| (a.sessions, a.resources.get("cpu").milli() / 1000)).collect::<Vec<_>>();
        assert_eq!(counts(0), [(0, 0)]);
        assert_eq!(counts(1), [(1, 2)], "with its own 2 CPU it exceeds the limit");
        assert_eq!(counts(2), [(1, 2)], "the session beyond the limit does not count");
        assert!(is_limited(world.tenancy.policies.values()));
        assert!(!is_limited(limited(json!({"limits": {"cpu": 1}})).tenancy.policies.values()));
    }
}
