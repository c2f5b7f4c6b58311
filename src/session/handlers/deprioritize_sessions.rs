//! deprioritize-sessions: sends a session that failed too often back to the queue with a lower priority.

use super::{Decide, Handler, HandlerName, To, Transitions, Verdict};
use crate::api::{SessionPhase, SessionResult};
use crate::lifecycle::Reason;
use crate::session::snapshot::{SessionItem, Snapshot};

pub static ROW: Handler = Handler {
    name: HandlerName::DeprioritizeSessions,
    targets: &[SessionPhase::Deprioritizing],
    transitions: Transitions {
        success: To::phase(SessionPhase::Pending),
        also: &[SessionPhase::Cancelled],
        ..Transitions::NONE
    },
    lock: None,
    waits: false,
    decide: Decide::Each(deprioritize),
};

/// How much priority one round of failures costs.
const COST: i32 = 10;

fn deprioritize(_: &Snapshot, item: &SessionItem) -> Verdict {
    let priority = item.priority();
    let last = item.session.status.as_ref().and_then(|status| status.message.clone()).unwrap_or_default();
    if priority <= 0 {
        return Verdict::success_to(SessionPhase::Cancelled)
            .because(Reason::LowestPriority, format!("failed too often at the lowest priority: {last}"))
            .result(SessionResult::Error);
    }
    let lower = (priority - COST).max(0);
    let mut verdict = Verdict::success()
        .because(Reason::Deprioritized, format!("priority lowered from {priority} to {lower} after too many failures: {last}"));
    verdict.change.effective_priority = Some(lower);
    verdict
}
