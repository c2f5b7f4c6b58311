//! What must hold before a session is given nodes, and again before its pods are made: one check for both (rules §4).

use super::holding::claims;
use super::snapshot::{SessionItem, Snapshot};
use super::tenancy::Tenant;
use crate::api::{Amount, ResourcePolicy, Resources, Session, Unspecified};
use crate::lifecycle::{Cause, Failure, Reason};
use crate::provisioner::Ledger;

/// What a session asks for over all its kernels.
pub fn requested(session: &Session) -> Resources {
    let mut total = Resources::default();
    for kernel in &session.spec.kernels {
        total.add(&Resources::from(&kernel.resources).times(i64::from(kernel.replicas)));
    }
    total
}

/// All conditions; every one that fails is named in the message, the first decides reason and cause.
pub fn check(snapshot: &Snapshot, ledger: &Ledger, item: &SessionItem) -> Result<(), Failure> {
    let mut failures = vec![];
    failures.extend(check_group(snapshot, item).err());
    failures.extend(snapshot.tenancy.check_active(&item.session).err());
    let wanted = requested(&item.session);
    for tenant in snapshot.tenancy.tenants(&item.session) {
        match snapshot.tenancy.policy_of(&tenant) {
            Err(failure) => failures.push(failure),
            Ok(None) => {}
            Ok(Some(policy)) => failures.extend(check_policy(ledger, item, &tenant, &policy, &wanted)),
        }
    }
    combine(failures)
}

/// One failure out of several: faults before quotas, all of them numbered in the message.
pub fn combine(mut failures: Vec<Failure>) -> Result<(), Failure> {
    failures.sort_by_key(|failure| failure.cause != Cause::Fault);
    match failures.as_slice() {
        [] => Ok(()),
        [only] => Err(only.clone()),
        [first, ..] => {
            let numbered = failures.iter().enumerate().map(|(n, failure)| format!("({}) {}", n + 1, failure.message));
            Err(Failure::new(first.cause, first.reason, numbered.collect::<Vec<_>>().join("; ")))
        }
    }
}

fn check_group(snapshot: &Snapshot, item: &SessionItem) -> Result<(), Failure> {
    let name = &snapshot.group_name;
    let Some(group) = &snapshot.group else {
        return Err(Failure::fault(Reason::ScalingGroupNotFound, format!("scaling group {name} does not exist")));
    };
    if !group.spec.active {
        return Err(Failure::fault(Reason::ScalingGroupInactive, format!("scaling group {name} is not active")));
    }
    let kind = item.session.spec.type_;
    if !group.spec.session_types.contains(&kind) {
        let message = format!("scaling group {name} takes no sessions of type {kind:?}");
        return Err(Failure::fault(Reason::ScalingGroupNotAllowed, message));
    }
    let project = snapshot.tenancy.namespaces.get(item.namespace());
    if !group.spec.projects.is_empty() && !project.is_some_and(|project| group.spec.projects.contains(project)) {
        let project = project.map_or("none", |project| project.as_str());
        let message = format!("project {project} may not use scaling group {name}");
        return Err(Failure::fault(Reason::ScalingGroupNotAllowed, message));
    }
    Ok(())
}

fn check_policy(
    ledger: &Ledger,
    item: &SessionItem,
    tenant: &Tenant,
    policy: &ResourcePolicy,
    wanted: &Resources,
) -> Vec<Failure> {
    let mut failures = vec![];
    let spec = &policy.spec;
    let count: i64 = item.session.spec.kernels.iter().map(|kernel| i64::from(kernel.replicas)).sum();
    if let Some(limit) = spec.max_containers_per_session.filter(|limit| *limit > 0 && count > i64::from(*limit)) {
        let message = format!("{count} kernels in one session, {tenant} may have {limit}");
        failures.push(Failure::fault(Reason::ContainerLimitExceeded, message));
    }
    let occupied = ledger.occupied(tenant, &item.uid());
    let volumes = claims(&item.session);
    if let Some(limit) = spec.max_volumes.map(i64::from).filter(|limit| *limit > 0 && volumes > 0) {
        let mounted = occupied.volumes;
        if mounted + volumes > limit {
            let message = format!("{tenant}: {volumes} volumes requested, {mounted} of {limit} mounted");
            failures.push(Failure::fault(Reason::VolumeCountExceeded, message));
        }
    }
    if let Some(limit) = spec.max_concurrent_sessions.filter(|limit| *limit > 0 && occupied.sessions >= i64::from(*limit)) {
        let message = format!("{tenant} has {} sessions running of {limit}", occupied.sessions);
        failures.push(Failure::new(Cause::Quota, Reason::ConcurrencyExceeded, message));
    }
    for (name, amount) in wanted.iter() {
        let limit = match spec.limits.get(name) {
            Some(limit) => limit.amount(),
            None if spec.unspecified == Unspecified::Unlimited => continue,
            None => Amount::ZERO,
        };
        let used = occupied.resources.get(name);
        if used.saturating_add(amount) > limit {
            let message = format!("{tenant}: {name} {amount} requested, {used} of {limit} used");
            failures.push(Failure::new(Cause::Quota, Reason::QuotaExceeded, message));
        }
    }
    failures
}
