//! No more sessions wait for a tenant, and for no more resources, than its policy allows: those made first count first,
//! and those beyond the limit are not looked at until some of them are gone.

use super::{Check, Context, Validator};
use crate::lifecycle::{Cause, Reason};
use crate::provisioner::candidate::Candidate;
use crate::provisioner::refusal::Blocker;

pub static VALIDATOR: Validator = Validator { name: "pending", check: Check::Waiting(check) };

fn check(_: &Context<'_>, candidate: &Candidate<'_>) -> Vec<Blocker> {
    let mut found = vec![];
    for ahead in candidate.ahead {
        let tenant = &ahead.tenant;
        let blocker =
            |message| Blocker::new(VALIDATOR.name, Cause::Quota, Reason::PendingLimitExceeded, message).of(tenant.to_string());
        if let Some(count) = ahead.too_many() {
            let message = format!("{tenant} has {} sessions waiting before this one of {count}", ahead.sessions);
            found.push(blocker(message).counting_units(1, ahead.sessions, count));
        }
        for (name, requested, limit) in ahead.beyond(&candidate.class.total) {
            let used = ahead.resources.amount(name);
            let message = format!("{tenant}: {name} {requested} requested, {used} of {limit} waited for already");
            found.push(blocker(message).counting(Some(name.clone()), requested, used, limit));
        }
    }
    found
}
