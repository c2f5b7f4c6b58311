//! promote-to-terminated: a Terminating session is Terminated when all its kernels have ended. A Batch session that a disruption ended
//! may start again instead.

use super::{After, Decide, Handler, HandlerName, Mode, Sessions, Settings, To, Transitions, Verdict, trace_kernels};
use crate::api::{DesiredState, SessionPhase, SessionResult};
use crate::lifecycle::{CommitMode, Reason, exits, is_over, over_at};
use crate::session::ends::{EndCause, is_disruption};
use crate::session::kernels::{KernelItem, describe_all};
use crate::session::matching::Match;
use crate::session::snapshot::{SessionItem, Snapshot};

exits!(Sessions: Pending);

pub static ROW: Handler = Handler {
    name: HandlerName::PromoteToTerminated,
    targets: &[SessionPhase::Terminating],
    transitions: Transitions { success: To::phase(SessionPhase::Terminated), exits: Exit::PHASES, ..Transitions::NONE },
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

fn promote(snapshot: &Snapshot, item: &SessionItem) -> Verdict {
    // A kernel on a lost node counts as ended. Its resources stay reserved until its pod is gone.
    let ended = |kernel: &KernelItem| kernel.phase().is_terminal() || kernel.liveness.is_lost();
    if !Match::All.holds(&item.kernels, ended) {
        return Verdict::idle();
    }
    let status = item.session.status.as_ref();
    let reason = status.and_then(|status| status.reason);
    // Its result was left open, because it could start again.
    let open = reason.filter(|reason| is_disruption(*reason) && status.is_some_and(|status| status.result.is_none()));
    if let Some(reason) = open.filter(|reason| may_start_again(item, *reason))
        && let Some(verdict) = start_again(snapshot, item, reason)
    {
        return verdict;
    }
    let lost = describe_all(item.kernels.iter().filter(|kernel| !kernel.phase().is_terminal()));
    let mut verdict = Verdict::success();
    if !lost.is_empty() {
        verdict = verdict.because(Reason::NodeLost, format!("counted as ended because the node does not answer: {lost}"));
    }
    if open.is_some() {
        verdict = verdict.result(if is_wanted(item) { SessionResult::Error } else { SessionResult::UserCancelled });
    }
    let main = item.kernels.iter().find(|kernel| kernel.is_main());
    verdict.change.exit_code = main.and_then(|kernel| kernel.state.exit_code);
    verdict
}

/// Whether a session that ends for this reason may start again. A session that its user ends does not.
pub(super) fn may_start_again(item: &SessionItem, reason: Reason) -> bool {
    let status = item.session.status.as_ref();
    let is_left = status.map_or(0, |status| status.restarts) < max_restarts(item);
    let has_run = status.is_some_and(|status| status.started_at.is_some()) || item.kernels.iter().any(KernelItem::has_started);
    item.is_batch() && is_disruption(reason) && is_left && has_run && is_wanted(item)
}

fn max_restarts(item: &SessionItem) -> i32 {
    item.session.spec.retry.as_ref().and_then(|retry| retry.on_disruption).unwrap_or(0)
}

fn is_wanted(item: &SessionItem) -> bool {
    item.session.spec.desired_state == DesiredState::Running && !item.session.is_deleted()
}

fn is_disrupted(kernel: &KernelItem) -> bool {
    kernel.liveness.is_lost() || kernel.state.end_cause().is_some_and(EndCause::is_disruption)
}

/// Sends the session back to the queue. On a node that does not answer, its programs may still run, and must not run twice. So it
/// waits for the node, and returns None when that has taken too long. `terminate-sessions` names the kernel meanwhile.
fn start_again(snapshot: &Snapshot, item: &SessionItem, reason: Reason) -> Option<Verdict> {
    if item.runs_unseen() {
        let limit = Some(snapshot.timing.unseen);
        let since = item.phase_started_at();
        return (!is_over(since, limit, snapshot.now)).then(|| Verdict::idle().wake_at(over_at(since, limit)));
    }
    let status = item.status();
    let most = max_restarts(item);
    let why = status.message.as_deref().unwrap_or_default();
    let message = format!("starts again after a disruption ({} of {most}): {why}", status.restarts + 1);
    let mut verdict = Verdict::success_to(Exit::Pending).because(reason, message);
    verdict.change.starts_again = true;
    verdict.change.failed_nodes = item.kernels.iter().filter(|k| is_disrupted(k)).filter_map(|k| k.node.clone()).collect();
    Some(verdict)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::api::KernelPhase::{self, Running, Terminated, Terminating};
    use crate::api::{HistoryResult, SessionStatus};
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

    /// A Batch session that a drain ended, with this budget and these restarts before.
    fn drained(budget: i32, restarts: i32) -> SessionItem {
        let mut session = session(serde_json::json!({"type": "Batch", "retry": {"onDisruption": budget}}));
        put(&mut session, SessionPhase::Terminating, chrono::TimeDelta::minutes(1));
        let status = session.status.get_or_insert_default();
        (status.reason, status.message) = (Some(Reason::Drained), Some("main1 was evicted".into()));
        (status.restarts, status.started_at) = (restarts, Some(crate::session::handlers::testing::now()));
        let mut item = item(session, &[Terminated]);
        item.kernels[0].state.reason = Some(EndCause::Drained.as_str().into());
        item
    }

    #[test]
    fn a_batch_session_starts_again_after_a_disruption_as_often_as_its_spec_says() {
        let again = promote(&snapshot(vec![]), &drained(2, 1));
        assert!(matches!(again.outcome, Outcome::Success { to: Some(SessionPhase::Pending) }) && again.change.starts_again);
        let why = (Reason::Drained, "starts again after a disruption (2 of 2): main1 was evicted".into());
        assert_eq!((again.reason, again.change.failed_nodes), (Some(why), vec!["node-1".into()]));
        for ended in [drained(2, 2), drained(0, 0)] {
            let verdict = promote(&snapshot(vec![]), &ended);
            assert!(!verdict.change.starts_again);
            assert_eq!(verdict.change.result, Some(SessionResult::Error));
        }
    }

    #[test]
    fn a_session_that_its_user_ended_or_whose_program_failed_does_not_start_again() {
        let with = |change: &dyn Fn(&mut crate::api::Session)| {
            let mut item = drained(2, 0);
            let mut session = (*item.session).clone();
            change(&mut session);
            item.session = Arc::new(session);
            let change = promote(&snapshot(vec![]), &item).change;
            (change.starts_again, change.result)
        };
        assert_eq!(with(&|_| {}), (true, None));
        let ended = with(&|session| session.spec.desired_state = DesiredState::Terminated);
        assert_eq!(ended, (false, Some(SessionResult::UserCancelled)));
        let failed =
            |session: &mut crate::api::Session| session.status.get_or_insert_default().result = Some(SessionResult::Failure);
        assert_eq!(with(&failed), (false, None), "it has its result already");
    }

    #[test]
    fn a_session_whose_programs_may_still_run_on_a_lost_node_waits_ten_minutes_for_it() {
        let mut item = drained(2, 0);
        item.kernels[0] = ending(&[Running]).kernels.remove(0);
        item.kernels[0].liveness = Liveness::Lost;
        let waits = promote(&snapshot(vec![]), &item);
        assert!(matches!(waits.outcome, Outcome::Idle) && waits.wake_at.is_some());
        let later =
            Snapshot { now: crate::session::handlers::testing::now() + chrono::TimeDelta::minutes(10), ..snapshot(vec![]) };
        let verdict = promote(&later, &item);
        assert_eq!((verdict.change.starts_again, verdict.change.result), (false, Some(SessionResult::Error)));
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
