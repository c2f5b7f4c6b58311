//! The session's priority is at most the keypair's `maxPriority`.

use super::{Check, Context, Validator};
use crate::lifecycle::Reason;
use crate::provisioner::candidate::Candidate;
use crate::provisioner::refusal::Blocker;

pub static VALIDATOR: Validator = Validator { name: "priority", check: Check::Waiting(check) };

fn check(context: &Context<'_>, candidate: &Candidate<'_>) -> Vec<Blocker> {
    let key = &candidate.class.access_key;
    let highest = context.tenancy.keypairs.get(key).and_then(|keypair| keypair.spec.max_priority);
    let wanted = candidate.priority;
    let too_high = highest.filter(|highest| wanted > *highest).map(|highest| {
        let message = format!("keypair {key}: priority {wanted} requested, at most {highest} allowed");
        let needs = format!("a priority of at most {highest}, or maxPriority of keypair {key} raised to {wanted}");
        Blocker::fault(VALIDATOR.name, Reason::PriorityTooHigh, message).of(format!("keypair {key}")).needing(needs)
    });
    too_high.into_iter().collect()
}
