//! Every session that this one depends on has ended with Success; to wait for one is no failure.

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
                let message = format!("session {name}, which this one depends on, ended {phase} with {result:?}");
                let needs = format!("{name} made anew to end with Success, or left out of dependsOn");
                Blocker::fault(VALIDATOR.name, Reason::DependencyFailed, message).needing(needs)
            }
            Dependency::Is(..) => waits(Reason::DependencyPending, format!("waits for {name} to end with Success")),
            Dependency::Missing => waits(Reason::DependencyMissing, format!("waits for {name}, which does not exist")),
            Dependency::Circular => {
                let message = format!("session {name}, which this one depends on, waits for this one");
                let needs = format!("{name} left out of dependsOn, or what waits for this one ended");
                Blocker::fault(VALIDATOR.name, Reason::DependencyCircular, message).needing(needs)
            }
        };
        Some(blocker.of(format!("session {name}")))
    };
    candidate.dependencies.iter().filter_map(blocker).collect()
}
