//! A tenant mounts no more volume claims at a time than its policy allows.

use super::{Check, Context, Subject, Validator};
use crate::api::whole;
use crate::lifecycle::Reason;
use crate::provisioner::refusal::Blocker;

pub static VALIDATOR: Validator = Validator { name: "volumes", check: Check::EquivalenceClass(check) };

fn check(context: &Context<'_>, subject: &Subject<'_>) -> Vec<Blocker> {
    let wanted = whole(subject.class.mounts.len());
    let mut blockers = vec![];
    for (tenant, policy) in subject.policies() {
        let limit = policy.spec.max_volumes.map_or(0, i64::from);
        if limit == 0 || wanted == 0 {
            continue;
        }
        let mounted = context.ledger.occupied(tenant, subject.own).volumes;
        if mounted + wanted > limit {
            let message = format!("{tenant}: {wanted} volumes requested, {mounted} of {limit} mounted");
            let blocker = Blocker::fault(VALIDATOR.name, Reason::VolumeCountExceeded, message).of(tenant.to_string());
            blockers.push(blocker.counting_units(wanted, mounted, limit));
        }
    }
    blockers
}
