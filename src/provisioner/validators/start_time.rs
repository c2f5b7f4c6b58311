//! A session starts at its `startsAt` or later.

use super::{Check, Context, Validator};
use crate::lifecycle::Reason;
use crate::provisioner::candidate::Candidate;
use crate::provisioner::refusal::Blocker;

pub static VALIDATOR: Validator = Validator { name: "start-time", check: Check::Waiting(check) };

fn check(context: &Context<'_>, candidate: &Candidate<'_>) -> Vec<Blocker> {
    let due = candidate.starts_at.filter(|due| context.now < *due);
    let blocker = due.map(|due| Blocker::not_yet(VALIDATOR.name, Reason::NotYetDue, format!("not before {}", due.to_rfc3339())));
    blocker.into_iter().collect()
}
