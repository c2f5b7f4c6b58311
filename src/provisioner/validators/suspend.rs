//! A session that its user has suspended waits in the queue.

use super::{Check, Context, Validator};
use crate::lifecycle::Reason;
use crate::provisioner::candidate::Candidate;
use crate::provisioner::refusal::Blocker;

pub static VALIDATOR: Validator = Validator { name: "suspend", check: Check::Waiting(check) };

fn check(_: &Context<'_>, candidate: &Candidate<'_>) -> Vec<Blocker> {
    if !candidate.suspended {
        return vec![];
    }
    vec![Blocker::hold(VALIDATOR.name, Reason::Suspended, "its user has suspended it").needing("spec.suspend set to false")]
}
