//! What each tenant uses, as its status tells it. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::api::{Amount, Quantity, ResourceUsage, TenantStatus, Unspecified};
use crate::provisioner::LedgerSnapshot;
use crate::views::{Tenancy, Tenant};

/// Most resources told of one tenant.
const MAX_RESOURCES: usize = 64;

/// The status of every tenant there is; `ledger` has them summed up.
pub fn usage(tenancy: &Tenancy, ledger: &LedgerSnapshot, pending: &HashMap<Tenant, i64>) -> BTreeMap<Tenant, TenantStatus> {
    let keypairs = tenancy.keypairs.keys().cloned().map(Tenant::Keypair);
    let users = tenancy.users.keys().cloned().map(Tenant::User);
    let projects = tenancy.projects.keys().cloned().map(Tenant::Project);
    let domains = tenancy.domains.keys().cloned().map(Tenant::Domain);
    let all = keypairs.chain(users).chain(projects).chain(domains);
    all.map(|tenant| {
        let status = of_tenant(tenancy, ledger, pending.get(&tenant).copied().unwrap_or_default(), &tenant);
        (tenant, status)
    })
    .collect()
}

fn of_tenant(tenancy: &Tenancy, ledger: &LedgerSnapshot, pending: i64, tenant: &Tenant) -> TenantStatus {
    let occupied = ledger.tenant(tenant);
    let policy = tenancy.policy_of(tenant);
    // Where a policy does not exist, nothing is admitted.
    let nothing = policy.is_err();
    let policy = policy.ok().flatten();
    let limits = policy.as_ref().map(|policy| &policy.spec.limits);
    let mut names: BTreeSet<&str> =
        occupied.resources.iter().filter(|(_, used)| *used != Amount::ZERO).map(|(name, _)| name.as_str()).collect();
    names.extend(limits.into_iter().flat_map(|limits| limits.keys()).map(String::as_str));
    let limit = |name: &str| -> Option<Quantity> {
        let Some(policy) = &policy else { return nothing.then(|| Amount::ZERO.into()) };
        let none = || (policy.spec.unspecified == Unspecified::Limited).then(|| Amount::ZERO.into());
        policy.spec.limits.get(name).cloned().or_else(none)
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
    fn where_a_policy_is_gone_nothing_is_allowed_and_without_one_everything() {
        let mut world = limited(json!({"limits": {"cpu": 2}}));
        let (mut ledger, mut used) = (Ledger::default(), Resources::default());
        used.set("cpu", Amount::from_units(1));
        let account = Account { namespace: "ns".into(), access_key: "key".into(), owner: None };
        let nodes = BTreeMap::from([("node-1".into(), (used, 1))]);
        ledger.set_holding(&SessionUid("s".into()), Some(Holding { account, active: true, nodes, ..Holding::default() }));
        let (snapshot, tenant) = (ledger.snapshot(&world.tenancy), Tenant::Keypair("key".into()));
        let mut told = |change: fn(&mut Tenancy)| {
            let tenancy = Arc::make_mut(&mut world.tenancy);
            change(tenancy);
            let status = of_tenant(tenancy, &snapshot, 0, &tenant);
            status.resources.into_iter().map(|it| (it.used.0, it.limit.map(|limit| limit.0))).collect::<Vec<_>>()
        };
        assert_eq!(told(|_| ()), [("1".into(), Some("2".into()))]);
        assert_eq!(told(|tenancy| tenancy.policies.clear()), [("1".into(), Some("0".into()))]);
        let free = |tenancy: &mut Tenancy| {
            for keypair in tenancy.keypairs.values_mut() {
                Arc::make_mut(keypair).spec.resource_policy = None;
            }
        };
        assert_eq!(told(free), [("1".into(), None)]);
    }
}
