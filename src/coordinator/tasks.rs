//! What there is to do for the sessions of a batch: most of a long queue need nothing, many are only told. Pure.

use super::judge::judge;
use crate::api::SubStep;
use crate::session::handlers::{Handler, Verdict};
use crate::session::snapshot::{SessionItem, Snapshot};

/// What the sessions of a batch need that need anything.
pub(super) struct Tasks {
    pub snapshot: Snapshot,
    pub shared: Vec<SubStep>,
    pub doing: Vec<(SessionItem, Verdict)>,
    pub explaining: Vec<(SessionItem, Verdict)>,
}

/// What there is to do for a session.
#[derive(Debug, PartialEq)]
pub(super) enum Task {
    Nothing,
    /// It stays as it is, and its status says why.
    Tell,
    /// Something is carried out, or it goes on to another phase.
    Do,
}

pub(super) fn task(handler: &Handler, snapshot: &Snapshot, item: &SessionItem, verdict: &Verdict) -> Task {
    if !verdict.effects.is_empty() {
        return Task::Do;
    }
    match judge(handler, snapshot, item, &verdict.outcome, &verdict.change, false) {
        None => Task::Nothing,
        Some(judged) if judged.to.is_none() => Task::Tell,
        Some(_) => Task::Do,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Cause, SessionPhase};
    use crate::lifecycle::{Failure, Reason};
    use crate::session::effect::Effect;
    use crate::session::handlers::testing::{item, session_in, snapshot};
    use crate::session::handlers::{HandlerName, row};

    #[test]
    fn who_stays_as_it_is_is_told_and_what_leads_on_or_has_effects_is_done() {
        let waiting = item(session_in(SessionPhase::Pending), &[]);
        let task = |name: HandlerName, item: &SessionItem, verdict: Verdict| {
            task(row(name).expect("a row"), &snapshot(vec![]), item, &verdict)
        };
        let failure = |cause| Verdict::failure(Failure { cause, ..Failure::fault(Reason::PhaseTimeout, "it failed") });
        let schedule = |verdict| task(HandlerName::ScheduleSessions, &waiting, verdict);
        assert_eq!(schedule(failure(Cause::Fault)), Task::Tell);
        assert_eq!(schedule(failure(Cause::Capacity)), Task::Tell);
        assert_eq!(schedule(Verdict::skipped(Reason::NotYetDue, "not yet")), Task::Tell);
        assert_eq!(schedule(Verdict::idle()), Task::Nothing);
        assert_eq!(schedule(Verdict::success()), Task::Do, "it is given its nodes");
        assert_eq!(schedule(failure(Cause::Fault).effects(vec![Effect::DeleteService])), Task::Do);
        // A place that is given up makes room for others.
        let refused = item(session_in(SessionPhase::Preparing), &[]);
        assert_eq!(task(HandlerName::ResetUnschedulable, &refused, failure(Cause::Capacity)), Task::Do);
    }
}
