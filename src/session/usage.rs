//! The usage of each tenant, for its status. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::api::{Amount, Quantity, ResourceUsage, TenantStatus, Unspecified};
use crate::provisioner::LedgerSnapshot;
use crate::views::{Tenancy, Tenant};

/// The largest number of resources in one tenant's status.
const MAX_RESOURCES: usize = 64;

/// Returns the status of every tenant. `ledger` holds their usage.
pub fn usage(tenancy: &Tenancy, ledger: &LedgerSnapshot, pending: &HashMap<Tenant, i64>) -> BTreeMap<Tenant, TenantStatus> {
    let keypairs = tenancy.keypairs.keys().cloned().map(Tenant::Keypair);
    let users = tenancy.users.keys().cloned().map(Tenant::User);
    let projects = tenancy.projects.keys().cloned().map(Tenant::Project);
    let domains = tenancy.domains.keys().cloned().map(Tenant::Domain);
    let all = keypairs.chain(users).chain(projects).chain(domains);
    all.map(|tenant| {
        let status = status_of(tenancy, ledger, pending.get(&tenant).copied().unwrap_or_default(), &tenant);
        (tenant, status)
    })
    .collect()
}

fn status_of(tenancy: &Tenancy, ledger: &LedgerSnapshot, pending: i64, tenant: &Tenant) -> TenantStatus {
    let occupied = ledger.tenant(tenant);
    let policy = tenancy.policy_of(tenant);
    // A tenant whose policy does not exist is admitted nothing.
    let policy_missing = policy.is_err();
    let policy = policy.ok().flatten();
    let limits = policy.as_ref().map(|policy| &policy.spec.limits);
    let mut names: BTreeSet<&str> =
        occupied.resources.iter().filter(|(_, used)| *used != Amount::ZERO).map(|(name, _)| name.as_str()).collect();
    names.extend(limits.into_iter().flat_map(|limits| limits.keys()).map(String::as_str));
    let limit = |name: &str| -> Option<Quantity> {
        let Some(policy) = &policy else { return policy_missing.then(|| Amount::ZERO.into()) };
        let unspecified = || (policy.spec.unspecified == Unspecified::Limited).then(|| Amount::ZERO.into());
        policy.spec.limits.get(name).cloned().or_else(unspecified)
    };
    let resources = names.into_iter().take(MAX_RESOURCES).map(|name| ResourceUsage {
        resource: name.to_owned(),
        used: occupied.resources.get(name).into(),
        limit: limit(name),
    });
    TenantStatus { sessions_running: occupied.sessions, sessions_pending: pending, resources: resources.collect() }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::api::{Resources, SessionUid};
    use crate::provisioner::{Holding, Ledger};
    use crate::session::handlers::testing::limited;
    use crate::views::Account;

    #[test]
    fn a_missing_policy_allows_nothing_and_no_policy_allows_everything() {
        let mut world = limited(json!({"limits": {"cpu": 2}}));
        let (mut ledger, mut used) = (Ledger::default(), Resources::default());
        used.set("cpu", Amount::from_units(1));
        let account = Account { namespace: "ns".into(), access_key: "key".into(), owner: None };
        let nodes = BTreeMap::from([("node-1".into(), (used, 1))]);
        ledger.set_holding(&SessionUid("s".into()), Some(Holding { account, active: true, nodes, ..Holding::default() }));
        let (snapshot, tenant) = (ledger.snapshot(&world.tenancy), Tenant::Keypair("key".into()));
        let mut reported = |change: fn(&mut Tenancy)| {
            let tenancy = Arc::make_mut(&mut world.tenancy);
            change(tenancy);
            let status = status_of(tenancy, &snapshot, 0, &tenant);
            status.resources.into_iter().map(|it| (it.used.0, it.limit.map(|limit| limit.0))).collect::<Vec<_>>()
        };
        assert_eq!(reported(|_| ()), [("1".into(), Some("2".into()))]);
        assert_eq!(reported(|tenancy| tenancy.policies.clear()), [("1".into(), Some("0".into()))]);
        let without_policy = |tenancy: &mut Tenancy| {
            for keypair in tenancy.keypairs.values_mut() {
                Arc::make_mut(keypair).spec.resource_policy = None;
            }
        };
        assert_eq!(reported(without_policy), [("1".into(), None)]);
    }
}
