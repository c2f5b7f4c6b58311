//! Usage plus request stays within the limits of keypair, user, project and domain, for each resource. A resource that the
//! policy does not name is unlimited, or 0 with `unspecified: Limited`.

use super::{Check, Context, Subject, Validator};
use crate::api::{Amount, Unspecified};
use crate::lifecycle::{Cause, Reason};
use crate::provisioner::refusal::Blocker;

pub static VALIDATOR: Validator = Validator { name: "quota", check: Check::EquivalenceClass(check) };

fn check(context: &Context<'_>, subject: &Subject<'_>) -> Vec<Blocker> {
    let mut blockers = vec![];
    let mut total = subject.class.total.clone();
    if let Some(class) = context.group.and_then(|group| context.tenancy.runtime_class(group)) {
        total.add(&class.overhead.times(subject.class.containers));
    }
    for (tenant, policy) in subject.policies() {
        let spec = &policy.spec;
        if spec.limits.is_empty() && spec.unspecified == Unspecified::Unlimited {
            continue;
        }
        let occupied = context.ledger.occupied(tenant, subject.own).resources;
        for (name, requested) in total.iter() {
            let limit = match spec.limits.get(name.as_str()) {
                Some(limit) => limit.amount(),
                None if spec.unspecified == Unspecified::Unlimited => continue,
                None => Amount::ZERO,
            };
            let used = occupied.amount(name);
            if used.saturating_add(requested) > limit {
                let message = format!("{tenant}: {name} {requested} requested, {used} of {limit} used");
                let blocker = Blocker::new(VALIDATOR.name, Cause::Quota, Reason::QuotaExceeded, message);
                blockers.push(blocker.of(tenant.to_string()).counting(Some(name.clone()), requested, used, limit));
            }
        }
    }
    blockers
}
