//! A session has no more kernels than its tenants' policies allow.

use super::{Check, Context, Subject, Validator};
use crate::lifecycle::Reason;
use crate::provisioner::refusal::Blocker;

pub static VALIDATOR: Validator = Validator { name: "containers", check: Check::EquivalenceClass(check) };

fn check(_: &Context<'_>, subject: &Subject<'_>) -> Vec<Blocker> {
    let count = subject.class.containers;
    let mut blockers = vec![];
    for (tenant, policy) in subject.policies() {
        let limit = policy.spec.max_containers_per_session.map_or(0, i64::from);
        if limit > 0 && count > limit {
            let message = format!("{tenant}: {count} kernels requested, at most {limit} allowed per session");
            let blocker = Blocker::fault(VALIDATOR.name, Reason::ContainerLimitExceeded, message).of(tenant.to_string());
            blockers.push(blocker.counting_units(count, 0, limit));
        }
    }
    blockers
}
