//! What each tenant uses, as its status tells it. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::tenancy::{Tenancy, Tenant};
use crate::api::{Amount, Quantity, ResourceUsage, TenantStatus, Unspecified};
use crate::provisioner::Room;

/// Most resources told of one tenant.
const MAX_RESOURCES: usize = 64;

/// The status of every tenant there is; `room` has them summed up.
pub fn usage(tenancy: &Tenancy, room: &Room, pending: &HashMap<Tenant, i64>) -> BTreeMap<Tenant, TenantStatus> {
    let keypairs = tenancy.keypairs.keys().cloned().map(Tenant::Keypair);
    let users = tenancy.users.keys().cloned().map(Tenant::User);
    let projects = tenancy.projects.keys().cloned().map(Tenant::Project);
    let domains = tenancy.domains.keys().cloned().map(Tenant::Domain);
    let all = keypairs.chain(users).chain(projects).chain(domains);
    all.map(|tenant| {
        let status = of_tenant(tenancy, room, pending.get(&tenant).copied().unwrap_or_default(), &tenant);
        (tenant, status)
    })
    .collect()
}

fn of_tenant(tenancy: &Tenancy, room: &Room, pending: i64, tenant: &Tenant) -> TenantStatus {
    let occupied = room.tenant(tenant);
    // A policy that does not exist admits nothing and limits nothing that could be shown.
    let policy = tenancy.policy_of(tenant).ok().flatten();
    let limits = policy.as_ref().map(|policy| &policy.spec.limits);
    let mut names: BTreeSet<&str> =
        occupied.resources.iter().filter(|(_, used)| *used != Amount::ZERO).map(|(name, _)| name.as_str()).collect();
    names.extend(limits.into_iter().flat_map(|limits| limits.keys()).map(String::as_str));
    let limit = |name: &str| -> Option<Quantity> {
        let policy = policy.as_ref()?;
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
