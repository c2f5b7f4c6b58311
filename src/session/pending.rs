//! What waits for a tenant before each session, where a policy limits that: those made first count first. Pure.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::api::{ResourceList, ResourcePolicy, Resources, SessionUid};
use crate::provisioner::{Ahead, EquivalenceClass};
use crate::views::{Tenancy, Tenant};

/// A session that waits.
pub struct Pending<'p> {
    pub uid: &'p SessionUid,
    pub created_at: Option<DateTime<Utc>>,
    pub class: &'p Arc<EquivalenceClass>,
}

/// Whether any policy limits what may wait.
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

/// For each session with a tenant that limits what may wait, what waits before it. One that is beyond a limit itself
/// does not count for those after it.
pub fn ahead(tenancy: &Tenancy, mut pending: Vec<Pending<'_>>) -> HashMap<SessionUid, Vec<Ahead>> {
    pending.sort_by_key(|one| (one.created_at, one.uid));
    let mut sums: HashMap<Tenant, Sum> = HashMap::new();
    let mut found = HashMap::new();
    for Pending { uid, class, .. } in pending {
        let tenants = tenancy.tenants(&class.access_key, &class.namespace).into_iter();
        let limited: Vec<(Tenant, Arc<ResourcePolicy>)> =
            tenants.filter_map(|tenant| Some((tenant.clone(), tenancy.policy_of(&tenant).ok()??))).collect();
        let before: Vec<Ahead> = limited
            .into_iter()
            .filter(|(_, policy)| limits(policy))
            .map(|(tenant, policy)| {
                let sum = sums.get(&tenant).cloned().unwrap_or_default();
                let max_resources: ResourceList = policy.spec.max_pending_resources.clone();
                let max_sessions = policy.spec.max_pending_sessions.map(i64::from);
                Ahead { tenant, sessions: sum.sessions, resources: sum.resources, max_sessions, max_resources }
            })
            .collect();
        if before.iter().all(|ahead| ahead.admits(&class.total)) {
            for ahead in &before {
                let sum = sums.entry(ahead.tenant.clone()).or_default();
                sum.sessions += 1;
                sum.resources.add(&class.total);
            }
        }
        if !before.is_empty() {
            found.insert(uid.clone(), before);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::provisioner::EquivalenceClasses;
    use crate::session::handlers::testing::{limited, session};

    #[test]
    fn those_made_first_count_first_and_those_beyond_the_limit_not_at_all() {
        let world = limited(json!({"maxPendingResources": {"cpu": 3}}));
        let mut classes = EquivalenceClasses::default();
        let mut of = |cpu: i64| {
            let resources = json!({"cpu": cpu, "memory": "1Gi"});
            classes.of(&session(json!({"kernels": [{"image": "i", "resources": resources}]})))
        };
        let sizes = [2, 2, 1].map(&mut of);
        let uids: Vec<SessionUid> = (0..3).map(|n| SessionUid(format!("s{n}"))).collect();
        let at = |seconds| DateTime::from_timestamp(seconds, 0);
        let pending = |n: usize| Pending { uid: &uids[n], created_at: at(n as i64), class: &sizes[n] };
        let ahead = ahead(&world.tenancy, vec![pending(2), pending(0), pending(1)]);
        let waits =
            |n: usize| ahead[&uids[n]].iter().map(|a| (a.sessions, a.resources.get("cpu").milli() / 1000)).collect::<Vec<_>>();
        assert_eq!(waits(0), [(0, 0)]);
        assert_eq!(waits(1), [(1, 2)], "which is too much: it does not count");
        assert_eq!(waits(2), [(1, 2)]);
        assert!(is_limited(world.tenancy.policies.values()));
        assert!(!is_limited(limited(json!({"limits": {"cpu": 1}})).tenancy.policies.values()));
    }
}
