//! promote-to-terminated: a Terminating session is Terminated when all its kernels have ended.

use super::{After, Decide, Handler, HandlerName, Mode, Settings, To, Transitions, Verdict, trace_kernels};
use crate::api::SessionPhase;
use crate::lifecycle::{CommitMode, Reason};
use crate::session::kernels::{KernelItem, describe_all};
use crate::session::matching::Match;
use crate::session::snapshot::{SessionItem, Snapshot};

pub static ROW: Handler = Handler {
    name: HandlerName::PromoteToTerminated,
    targets: &[SessionPhase::Terminating],
    transitions: Transitions { success: To::phase(SessionPhase::Terminated), ..Transitions::NONE },
    mode: Mode::Waits,
    follows: &[After::Reaching(SessionPhase::Terminating)],
    commit: CommitMode::Now,
    wakes_on: &[],
    lock: None,
    overview: None,
    trace: Some(trace_kernels),
    settings: Settings::NONE,
    decide: Decide::Each(promote),
};

fn promote(_: &Snapshot, item: &SessionItem) -> Verdict {
    // A kernel on a lost node counts as ended. Its resources stay reserved until its pod is gone.
    let ended = |kernel: &KernelItem| kernel.phase().is_terminal() || kernel.liveness.is_lost();
    if !Match::All.holds(&item.kernels, ended) {
        return Verdict::idle();
    }
    let lost = describe_all(item.kernels.iter().filter(|kernel| !kernel.phase().is_terminal()));
    let mut verdict = Verdict::success();
    if !lost.is_empty() {
        verdict = verdict.because(Reason::NodeLost, format!("counted as ended because the node does not answer: {lost}"));
    }
    let main = item.kernels.iter().find(|kernel| kernel.is_main());
    verdict.change.exit_code = main.and_then(|kernel| kernel.state.exit_code);
    verdict
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::api::KernelPhase::{self, Running, Terminated, Terminating};
    use crate::api::{HistoryResult, SessionResult, SessionStatus};
    use crate::lifecycle::{Step, next_status};
    use crate::session::handlers::Outcome;
    use crate::session::handlers::testing::{gang, item, put, session, snapshot};
    use crate::views::Liveness;

    fn ending(kernels: &[KernelPhase]) -> SessionItem {
        let mut session = session(gang());
        put(&mut session, SessionPhase::Terminating, chrono::TimeDelta::minutes(1));
        item(session, kernels)
    }

    #[test]
    fn dt_001_pt_001_a_session_with_all_kernels_ended_has_ended() {
        let verdict = promote(&snapshot(vec![]), &ending(&[Terminated; 3]));
        assert!(matches!(verdict.outcome, Outcome::Success { to: None }));
    }

    /// Returns the status after the whole step, as the coordinator writes it.
    fn ended(result: Option<SessionResult>) -> SessionStatus {
        let mut item = ending(&[Terminated; 3]);
        let mut session = (*item.session).clone();
        if let Some(status) = &mut session.status {
            status.result = result;
            status.occupied.insert("cpu".into(), crate::api::Quantity("3".into()));
        }
        item.session = Arc::new(session);
        let verdict = promote(&snapshot(vec![]), &item);
        let step: Step<'_, crate::session::sessions::Sessions> = Step {
            handler: ROW.name,
            result: HistoryResult::Success,
            to: ROW.transitions.success,
            failure: None,
            skip: None,
            reason: verdict.reason.as_ref(),
            change: &verdict.change,
            steps: vec![],
        };
        next_status(&snapshot(vec![]), &item, step)
    }

    #[test]
    fn pt_002_pt_003_the_result_that_was_recorded_first_is_kept_at_the_end() {
        for result in [SessionResult::Error, SessionResult::UserCancelled, SessionResult::Success] {
            let status = ended(Some(result));
            assert_eq!((status.phase, status.result), (SessionPhase::Terminated, Some(result)));
            assert_eq!(status.history.last().map(|entry| entry.to.as_str()), Some("Terminated"));
            assert!(status.finished_at.is_some() && status.occupied.is_empty());
        }
        assert_eq!(ended(None).result, None);
    }

    #[test]
    fn dt_002_dt_004_a_session_with_a_live_kernel_has_not_ended() {
        for third in [Terminating, Running] {
            assert!(matches!(promote(&snapshot(vec![]), &ending(&[Terminated, Terminated, third])).outcome, Outcome::Idle));
        }
    }

    #[test]
    fn dt_003_kernels_on_a_lost_node_count_as_ended_and_the_message_names_them() {
        let mut item = ending(&[Terminated, Terminated, Terminating]);
        item.kernels[2].liveness = Liveness::Lost;
        let verdict = promote(&snapshot(vec![]), &item);
        assert!(matches!(verdict.outcome, Outcome::Success { to: None }));
        assert!(verdict.reason.is_some_and(|(reason, words)| reason == Reason::NodeLost && words.contains("sub2")));
    }
}
