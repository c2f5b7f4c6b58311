//! end-sessions: what the user wishes to end ends: by `desiredState: Terminated`, or by deleting the session.

use super::{Decide, Handler, HandlerName, Transitions, Verdict};
use crate::api::{DesiredState, SessionPhase, SessionResult, TerminationMode};
use crate::lifecycle::Reason;
use crate::session::snapshot::{SessionItem, Snapshot};

pub static ROW: Handler = Handler {
    name: HandlerName::EndSessions,
    targets: &SessionPhase::LIVE,
    transitions: Transitions {
        also: &[SessionPhase::Cancelled, SessionPhase::Terminating, SessionPhase::Terminated],
        ..Transitions::NONE
    },
    lock: None,
    waits: true,
    decide: Decide::Each(end),
};

fn end(_: &Snapshot, item: &SessionItem) -> Verdict {
    let spec = &item.session.spec;
    let (reason, message) = if item.session.is_deleted() {
        (Reason::Deleted, "the session was deleted")
    } else if spec.desired_state == DesiredState::Terminated {
        (Reason::UserRequested, "its user asked it to end")
    } else {
        return Verdict::idle();
    };
    let to = match (item.phase(), spec.termination.mode) {
        (SessionPhase::Pending | SessionPhase::Deprioritizing, _) => SessionPhase::Cancelled,
        (_, TerminationMode::Forced) => SessionPhase::Terminated,
        (SessionPhase::Terminating, _) => return Verdict::idle(),
        _ => SessionPhase::Terminating,
    };
    Verdict::success_to(to).because(reason, message).result(SessionResult::UserCancelled)
}
