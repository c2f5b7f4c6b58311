//! A tenant's waiting sessions stay within its policy's limits on their number and their requests. Older sessions count
//! first. A session beyond a limit gets no nodes until older ones have left the queue.

use super::{Check, Context, Validator};
use crate::lifecycle::{Cause, Reason};
use crate::provisioner::candidate::Candidate;
use crate::provisioner::refusal::Blocker;

pub static VALIDATOR: Validator = Validator { name: "pending", check: Check::Waiting(check) };

fn check(_: &Context<'_>, candidate: &Candidate<'_>) -> Vec<Blocker> {
    let mut blockers = vec![];
    for ahead in candidate.ahead {
        let tenant = &ahead.tenant;
        let blocker =
            |message| Blocker::new(VALIDATOR.name, Cause::Quota, Reason::PendingLimitExceeded, message).of(tenant.to_string());
        if let Some(limit) = ahead.full_session_limit() {
            let message = format!("{tenant}: {} of {limit} sessions waiting, all older than this session", ahead.sessions);
            blockers.push(blocker(message).counting_units(1, ahead.sessions, limit));
        }
        for (name, requested, limit) in ahead.exceeded(&candidate.class.total) {
            let used = ahead.resources.amount(name);
            let message =
                format!("{tenant}: {name} {requested} requested, {used} of {limit} requested by older waiting sessions");
            blockers.push(blocker(message).counting(Some(name.clone()), requested, used, limit));
        }
    }
    blockers
}
