//! end-sessions: ends a session that its user deletes or sets to `desiredState: Terminated`.

use super::{Decide, Handler, HandlerName, Mode, Sessions, Settings, Transitions, Verdict};
use crate::api::{DesiredState, SessionPhase, SessionResult, TerminationMode};
use crate::lifecycle::{CommitMode, Reason, exits};
use crate::session::snapshot::{SessionItem, Snapshot};

exits!(Sessions: Cancelled, Terminating, Terminated);

pub static ROW: Handler = Handler {
    name: HandlerName::EndSessions,
    targets: &SessionPhase::LIVE,
    transitions: Transitions { exits: Exit::PHASES, ..Transitions::NONE },
    mode: Mode::Waits,
    follows: &[],
    commit: CommitMode::Now,
    wakes_on: &[],
    lock: None,
    overview: None,
    trace: None,
    settings: Settings::NONE,
    decide: Decide::Each(end),
};

fn end(_: &Snapshot, item: &SessionItem) -> Verdict {
    let spec = &item.session.spec;
    let (reason, message) = if item.session.is_deleted() {
        (Reason::Deleted, "the session was deleted")
    } else if spec.desired_state == DesiredState::Terminated {
        (Reason::UserRequested, "its user ended it with desiredState: Terminated")
    } else {
        return Verdict::idle();
    };
    let to = match (item.phase(), spec.termination.mode) {
        (_, TerminationMode::Forced) => Exit::Terminated,
        (SessionPhase::Pending | SessionPhase::Deprioritizing, _) => Exit::Cancelled,
        (SessionPhase::Terminating, _) => return Verdict::idle(),
        _ => Exit::Terminating,
    };
    Verdict::success_to(to).because(reason, message).result(SessionResult::UserCancelled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::handlers::Outcome;
    use crate::session::handlers::testing::{item, session_in, snapshot};
    use SessionPhase::{Cancelled, Deprioritizing, Pending, Running, Scheduled, Terminated, Terminating};

    fn ended(phase: SessionPhase, mode: TerminationMode) -> Option<SessionPhase> {
        let mut session = session_in(phase);
        session.spec.desired_state = DesiredState::Terminated;
        session.spec.termination.mode = mode;
        match end(&snapshot(vec![]), &item(session, &[])).outcome {
            Outcome::Success { to } => to,
            _ => None,
        }
    }

    #[test]
    fn a_session_in_the_queue_is_cancelled_and_a_session_with_nodes_terminates() {
        let graceful = |phase| ended(phase, TerminationMode::Graceful);
        assert_eq!([Pending, Deprioritizing].map(graceful), [Some(Cancelled); 2]);
        assert_eq!([Scheduled, Running].map(graceful), [Some(Terminating); 2]);
        assert_eq!(graceful(Terminating), None, "it is ending already");
    }

    #[test]
    fn a_forced_end_terminates_a_session_at_once_in_every_live_phase() {
        let forced = |phase| ended(phase, TerminationMode::Forced);
        assert_eq!([Pending, Deprioritizing, Scheduled, Running, Terminating].map(forced), [Some(Terminated); 5]);
    }
}
