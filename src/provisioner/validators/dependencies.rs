//! Every session that this session depends on has ended with Success. Waiting for one is not a failure.

use super::{Check, Context, Validator};
use crate::api::SessionResult;
use crate::lifecycle::Reason;
use crate::provisioner::candidate::{Candidate, Dependency};
use crate::provisioner::refusal::Blocker;

pub static VALIDATOR: Validator = Validator { name: "dependencies", check: Check::Waiting(check) };

fn check(_: &Context<'_>, candidate: &Candidate<'_>) -> Vec<Blocker> {
    let blocker = |(name, state): &(String, Dependency)| {
        let waits = |reason, message| Blocker::not_yet(VALIDATOR.name, reason, message);
        let blocker = match state {
            Dependency::Met => return None,
            Dependency::Is(phase, Some(SessionResult::Success)) if phase.is_terminal() => return None,
            Dependency::Is(phase, result) if phase.is_terminal() => {
                let message = format!("this session depends on session {name}, which ended {phase} with {result:?}");
                let needs = format!("a new session {name} that ends with Success, or {name} removed from dependsOn");
                Blocker::fault(VALIDATOR.name, Reason::DependencyFailed, message).needing(needs)
            }
            Dependency::Is(..) => waits(Reason::DependencyPending, format!("waits for {name} to end with Success")),
            Dependency::Missing => waits(Reason::DependencyMissing, format!("waits for {name}, which does not exist")),
            Dependency::Circular => {
                let message = format!("this session depends on session {name}, which waits for this session");
                let needs = format!("{name} removed from dependsOn, or the sessions that wait for this session ended");
                Blocker::fault(VALIDATOR.name, Reason::DependencyCircular, message).needing(needs)
            }
        };
        Some(blocker.of(format!("session {name}")))
    };
    candidate.dependencies.iter().filter_map(blocker).collect()
}
