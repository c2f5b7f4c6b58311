//! The scaling group allows the ServiceAccount of the session's pods.

use super::{Check, Context, Subject, Validator};
use crate::lifecycle::{Cause, Reason};
use crate::provisioner::refusal::Blocker;

pub static VALIDATOR: Validator = Validator { name: "service-account", check: Check::EquivalenceClass(check) };

fn check(context: &Context<'_>, subject: &Subject<'_>) -> Vec<Blocker> {
    let (Some(wanted), Some(name), Some(group)) = (&subject.class.service_account, context.group_name, context.group) else {
        return vec![]; // the scaling group itself is missing, or none is asked for
    };
    let allowed = &group.spec.pod.service_accounts;
    if allowed.contains(wanted) {
        return vec![];
    }
    let others = if allowed.is_empty() { "none".into() } else { allowed.join(", ") };
    let message = format!("scaling group {name} does not allow ServiceAccount {wanted}; it allows {others}");
    let blocker = Blocker::new(VALIDATOR.name, Cause::Hold, Reason::ServiceAccountNotAllowed, message);
    vec![
        blocker
            .of(format!("scaling group {name}"))
            .needing(format!("{wanted} in spec.pod.serviceAccounts of scaling group {name}")),
    ]
}
