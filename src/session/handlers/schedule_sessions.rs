//! schedule-sessions: gives waiting sessions their agents, highest priority first, all kernels or none.

use std::cmp::Reverse;

use super::{Change, Decide, Handler, HandlerName, LockId, Outcome, To, Transitions, Verdict};
use crate::api::{FINALIZER_SESSION, SessionPhase, SessionResult};
use crate::lifecycle::{Failure, Reason};
use crate::provisioner::{Ledger, place};
use crate::session::effect::Effect;
use crate::session::precondition;
use crate::session::snapshot::{SessionItem, Snapshot};

pub static ROW: Handler = Handler {
    name: HandlerName::ScheduleSessions,
    targets: &[SessionPhase::Pending],
    transitions: Transitions {
        success: To::phase(SessionPhase::Scheduled),
        expired: To::phase(SessionPhase::Terminating),
        give_up: To::phase(SessionPhase::Deprioritizing),
        ..Transitions::NONE
    },
    lock: Some(LockId::Pending),
    waits: false,
    decide: Decide::All(decide),
};

fn decide(snapshot: &Snapshot, ledger: &mut Ledger, items: &[SessionItem]) -> Vec<Verdict> {
    let mut order: Vec<usize> = (0..items.len()).collect();
    order.sort_by_key(|&at| {
        let item = &items[at];
        (Reverse(item.priority()), item.created_at(), item.namespace(), item.name())
    });
    let mut verdicts: Vec<Verdict> = items.iter().map(|_| Verdict::idle()).collect();
    for at in order {
        verdicts[at] = schedule(snapshot, ledger, &items[at]);
    }
    verdicts
}

fn schedule(snapshot: &Snapshot, ledger: &mut Ledger, item: &SessionItem) -> Verdict {
    if let Some(due) = item.session.spec.starts_at.filter(|due| snapshot.now < *due) {
        return Verdict::skipped(Reason::NotYetDue, format!("not before {}", due.to_rfc3339())).wake_at(Some(due));
    }
    if let Some(waiting) = dependencies(item) {
        return waiting;
    }
    let placed = precondition::check(snapshot, ledger, item).and_then(|()| place(snapshot, ledger, item));
    match placed {
        Err(failure) => Verdict::failure(failure),
        Ok(allocation) => Verdict {
            outcome: Outcome::Success { to: None },
            effects: hold(item),
            change: Change { allocation: Some(allocation), ..Change::default() },
            wake_at: None,
        },
    }
}

/// Before anything is held for a session, it must not be able to vanish.
fn hold(item: &SessionItem) -> Vec<Effect> {
    let held = item.session.metadata.finalizers.iter().flatten().any(|name| name == FINALIZER_SESSION);
    if held { vec![] } else { vec![Effect::HoldSession] }
}

/// Every session it depends on must have ended with Success.
fn dependencies(item: &SessionItem) -> Option<Verdict> {
    let mut waiting = vec![];
    for (name, state) in &item.dependencies {
        match state {
            Some((phase, SessionResult::Success)) if phase.is_terminal() => {}
            Some((phase, result)) if phase.is_terminal() => {
                let message = format!("session {name}, which this one depends on, ended {phase} with {result:?}");
                return Some(Verdict::failure(Failure::fault(Reason::DependencyFailed, message)));
            }
            Some((phase, _)) => waiting.push(format!("{name} ({phase})")),
            None => waiting.push(format!("{name} (does not exist)")),
        }
    }
    (!waiting.is_empty())
        .then(|| Verdict::skipped(Reason::DependencyPending, format!("waits for {}", waiting.join(", "))))
}
