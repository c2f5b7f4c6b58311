//! deprioritize-sessions: returns a session that failed too often to the queue with a lower priority.

use super::{Decide, Handler, HandlerName, Mode, Sessions, Settings, To, Transitions, Verdict};
use crate::api::{SessionPhase, SessionResult};
use crate::lifecycle::{CommitMode, Reason, exits};
use crate::session::snapshot::{SessionItem, Snapshot};

exits!(Sessions: Cancelled);

pub static ROW: Handler = Handler {
    name: HandlerName::DeprioritizeSessions,
    targets: &[SessionPhase::Deprioritizing],
    transitions: Transitions { success: To::phase(SessionPhase::Pending), exits: Exit::PHASES, ..Transitions::NONE },
    mode: Mode::Acts,
    follows: &[],
    commit: CommitMode::Now,
    wakes_on: &[],
    lock: None,
    overview: None,
    trace: None,
    settings: Settings::NONE,
    decide: Decide::Each(deprioritize),
};

/// The amount by which the priority falls when scheduling gives up.
const COST: i32 = 10;

fn deprioritize(_: &Snapshot, item: &SessionItem) -> Verdict {
    let priority = item.priority();
    let last = item.session.status.as_ref().and_then(|status| status.message.clone()).unwrap_or_default();
    if priority <= 0 {
        return Verdict::success_to(Exit::Cancelled)
            .because(Reason::LowestPriority, format!("failed too often at the lowest priority: {last}"))
            .result(SessionResult::Error);
    }
    let lower = (priority - COST).max(0);
    let mut verdict = Verdict::success()
        .because(Reason::Deprioritized, format!("priority lowered from {priority} to {lower} after too many failures: {last}"));
    verdict.change.priority_lost = priority - lower;
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::handlers::Outcome;
    use crate::session::handlers::testing::{item, session_in, snapshot};

    fn with_priority(priority: i32) -> Verdict {
        let mut session = session_in(SessionPhase::Deprioritizing);
        session.spec.priority = 60;
        if let Some(status) = &mut session.status {
            status.priority_lost = 60 - priority;
        }
        deprioritize(&snapshot(vec![]), &item(session, &[]))
    }

    #[test]
    fn dp_001_the_priority_falls_and_the_session_waits_again() {
        for (before, after) in [(50, 40), (10, 0), (5, 0)] {
            let verdict = with_priority(before);
            assert!(matches!(verdict.outcome, Outcome::Success { to: None }));
            assert_eq!(verdict.change.priority_lost, before - after);
        }
    }

    #[test]
    fn dp_002_a_session_with_the_lowest_priority_is_cancelled() {
        let verdict = with_priority(0);
        assert!(matches!(verdict.outcome, Outcome::Success { to: Some(SessionPhase::Cancelled) }));
        assert_eq!(verdict.change.result, Some(SessionResult::Error));
    }
}
