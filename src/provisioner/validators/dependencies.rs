//! Every session that this one depends on has ended with Success; to wait for one is no failure.

use super::{Check, Context, Validator};
use crate::api::SessionResult;
use crate::lifecycle::Reason;
use crate::provisioner::candidate::Candidate;
use crate::provisioner::refusal::Blocker;

pub static VALIDATOR: Validator = Validator { name: "dependencies", check: Check::Waiting(check) };

fn check(_: &Context<'_>, candidate: &Candidate<'_>) -> Vec<Blocker> {
    let blocker = |(name, state): &(String, Option<_>)| {
        let waits = |reason, message| Blocker::not_yet(VALIDATOR.name, reason, message);
        let blocker = match state {
            Some((phase, SessionResult::Success)) if crate::api::SessionPhase::is_terminal(*phase) => return None,
            Some((phase, result)) if phase.is_terminal() => {
                let message = format!("session {name}, which this one depends on, ended {phase} with {result:?}");
                Blocker::fault(VALIDATOR.name, Reason::DependencyFailed, message)
            }
            Some(_) => waits(Reason::DependencyPending, format!("waits for {name} to end with Success")),
            None => waits(Reason::DependencyMissing, format!("waits for {name}, which does not exist")),
        };
        Some(blocker.of(format!("session {name}")))
    };
    candidate.dependencies.iter().filter_map(blocker).collect()
}
