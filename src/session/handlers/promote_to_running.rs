//! promote-to-running: a session is Running when all its kernels run. A session that takes too long is reset.

use super::late::name_late_in_gang;
use super::promote_to_prepared::{end_of_a_kernel, kernel_failure};
use super::{After, Decide, Handler, HandlerName, Mode, RESET, Settings, To, Transitions, Verdict, trace_kernels};
use crate::api::SessionPhase;
use crate::lifecycle::{CommitMode, Failure, Reason, is_over, over_at};
use crate::session::kernels::{KernelItem, describe_all};
use crate::session::launcher;
use crate::session::matching::Match;
use crate::session::snapshot::{SessionItem, Snapshot};

pub static ROW: Handler = Handler {
    name: HandlerName::PromoteToRunning,
    targets: &[SessionPhase::Creating],
    transitions: Transitions { success: To::phase(SessionPhase::Running), expired: RESET, ..Transitions::NONE },
    mode: Mode::Waits,
    follows: &[After::Reaching(SessionPhase::Creating)],
    commit: CommitMode::Now,
    wakes_on: &[],
    lock: None,
    overview: None,
    trace: Some(trace_kernels),
    settings: Settings::NONE,
    decide: Decide::Each(promote),
};

fn promote(snapshot: &Snapshot, item: &SessionItem) -> Verdict {
    let pre_running = |kernel: &KernelItem| kernel.phase().is_pre_running();
    let limit = snapshot.phase_timeout(&item.session, SessionPhase::Creating);
    let over = is_over(item.phase_started_at(), limit, snapshot.now);
    if item.has_ending_kernels() {
        // detect-termination ends the session. A reset would start it again.
        return if over { Verdict::idle() } else { end_of_a_kernel(item) };
    }
    if Match::NotAny.holds(&item.kernels, pre_running) {
        return Verdict::success();
    }
    if over {
        let late: Vec<&KernelItem> = item.kernels.iter().filter(|kernel| pre_running(kernel)).collect();
        let seconds = limit.unwrap_or_default().as_secs();
        let message = format!("not running after {seconds} s: {}", describe_all(late.iter().copied()));
        let mut verdict = Verdict::failure(Failure::fault(Reason::PhaseTimeout, message));
        verdict.change.failed_nodes = late.iter().filter_map(|kernel| kernel.node.clone()).collect();
        let resets = item.session.status.as_ref().map_or(0, |status| status.resets);
        if resets >= snapshot.max_attempts(&item.session, None) {
            verdict.expired_to = To::phase(SessionPhase::Terminating);
        }
        return verdict;
    }
    let verdict = match kernel_failure(item) {
        Some(failure) => Verdict::failure(failure),
        None => name_late_in_gang(snapshot, item, "running", pre_running),
    };
    let (reminders, next_reminder) = launcher::remind(snapshot, item);
    let over = over_at(item.phase_started_at(), limit);
    let wake = verdict.wake_at.into_iter().chain(over).chain(next_reminder).min();
    verdict.effects(reminders).wake_at(wake)
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;
    use crate::api::KernelPhase::{self, Creating, Running};
    use crate::session::effect::Effect;
    use crate::session::handlers::Outcome;
    use crate::session::handlers::testing::{change_pod, gang, item, put, session, snapshot};
    use crate::views::GateState;

    fn promoted(kernels: &[KernelPhase], minutes: i64, resets: i32) -> Verdict {
        let mut session = session(gang());
        put(&mut session, SessionPhase::Creating, chrono::TimeDelta::minutes(minutes));
        if let Some(status) = &mut session.status {
            status.resets = resets;
        }
        promote(&snapshot(vec![]), &item(session, kernels))
    }

    #[test]
    fn pr_001_pr_004_a_session_with_all_kernels_running_is_running() {
        assert!(matches!(promoted(&[Running, Running, Running], 1, 0).outcome, Outcome::Success { to: None }));
    }

    #[test]
    fn a_kubelet_that_misses_an_open_gate_is_reminded_each_time_the_wait_has_doubled() {
        let mut session = session(gang());
        put(&mut session, SessionPhase::Creating, TimeDelta::zero());
        let mut item = item(session, &[Creating; 3]);
        let opened_at = item.phase_started_at().expect("a phase");
        let (waits, passed) = (Some(GateState::Running), Some(GateState::Passed));
        for (kernel, gate) in item.kernels.iter_mut().zip([passed, waits, passed]) {
            change_pod(kernel, |pod| (pod.gate, pod.gate_opened) = (gate, true));
        }
        let mut reminded_at = |after: i64, last: Option<i64>| {
            let time = |seconds| opened_at + TimeDelta::seconds(seconds);
            change_pod(&mut item.kernels[1], |pod| pod.gate_reminded_at = last.map(time));
            let verdict = promote(&Snapshot { now: time(after), ..snapshot(vec![]) }, &item);
            let wake = verdict.wake_at.map(|wake| (wake - opened_at).num_seconds());
            (verdict.effects.iter().map(Effect::name).collect::<Vec<_>>(), wake)
        };
        assert_eq!(reminded_at(4, None), (vec![], Some(5)), "its kubelet may need a moment");
        assert_eq!(reminded_at(5, None).0, ["remind-kubelet"]);
        assert_eq!(reminded_at(9, Some(5)), (vec![], Some(10)));
        assert_eq!(reminded_at(10, Some(5)).0, ["remind-kubelet"]);
        assert_eq!(reminded_at(19, Some(10)).0, [""; 0]);
        assert_eq!(reminded_at(20, Some(10)).0, ["remind-kubelet"]);
        assert_eq!(reminded_at(20, Some(300_000_000_000)).0, ["remind-kubelet"], "somebody wrote a time to come");
        for kernel in &mut item.kernels {
            change_pod(kernel, |pod| (pod.gate, pod.gate_reminded_at) = (waits, None));
        }
        let at = |seconds| {
            promote(&Snapshot { now: opened_at + TimeDelta::seconds(seconds), ..snapshot(vec![]) }, &item).effects.len()
        };
        assert_eq!((at(14), at(15)), (0, 3), "all of them may be slow");
    }

    #[test]
    fn pr_006_a_gang_fails_as_a_whole_when_a_kernel_ends_before_all_run() {
        let Outcome::Failure(failure) = promoted(&[Running, Running, KernelPhase::Terminated], 1, 0).outcome else {
            panic!("a failure")
        };
        assert!(failure.message.contains("sub2 on node-1"), "{}", failure.message);
        let late = promoted(&[Running, Running, KernelPhase::Terminated], 11, 0);
        assert!(matches!(late.outcome, Outcome::Idle), "it ends instead of being reset");
    }

    #[test]
    fn the_exit_of_a_short_batch_session_is_no_failure_to_start() {
        let mut session = session(serde_json::json!({"type": "Batch"}));
        put(&mut session, SessionPhase::Creating, chrono::TimeDelta::seconds(1));
        let mut item = item(session, &[KernelPhase::Terminated]);
        item.kernels[0].state.exit_code = Some(0);
        assert!(matches!(promote(&snapshot(vec![]), &item).outcome, Outcome::Idle));
    }

    #[test]
    fn a_promotion_records_the_kernels_of_each_phase_as_a_sub_step() {
        let mut session = session(gang());
        put(&mut session, SessionPhase::Creating, chrono::TimeDelta::minutes(1));
        let item = item(session, &[Running, Running, Creating]);
        let steps = trace_kernels(&item, &Verdict::success());
        assert_eq!(
            steps.iter().map(|step| (step.name, step.detail.as_str())).collect::<Vec<_>>(),
            [("match-kernels", "Creating: 1, Running: 2")]
        );
    }

    #[test]
    fn pr_002_a_session_with_a_kernel_not_running_yet_is_not_running() {
        use KernelPhase::{Pending, Prepared, Preparing, Pulling, Scheduled};
        for behind in [Pending, Scheduled, Preparing, Pulling, Prepared, Creating] {
            let outcome = promoted(&[Running, Running, behind], 1, 0).outcome;
            assert!(!matches!(outcome, Outcome::Success { .. }), "{behind}");
        }
        assert!(matches!(promoted(&[Running, Running, Creating], 0, 0).outcome, Outcome::Idle));
        let later = promoted(&[Running, Running, Creating], 1, 0).outcome;
        assert!(matches!(later, Outcome::Skipped(Reason::WaitingForKernels, words) if words.contains("sub2")));
    }

    #[test]
    fn pr_003_an_error_of_one_kernel_is_a_failure_that_names_the_kernel() {
        let mut session = session(gang());
        put(&mut session, SessionPhase::Creating, chrono::TimeDelta::minutes(1));
        let mut item = item(session, &[Running, Running, Creating]);
        item.kernels[2].state.pull_retried_until = Some(snapshot(vec![]).now);
        item.kernels[2].state.reason = Some("ErrImagePull".into());
        let Outcome::Failure(failure) = promote(&snapshot(vec![]), &item).outcome else { panic!("a failure") };
        assert_eq!(failure.reason, Reason::ImagePullFailed);
        assert!(failure.message.contains("sub2 on node-1"), "{}", failure.message);
    }

    #[test]
    fn pr_005_a_session_is_reset_after_ten_minutes_and_terminated_after_five_resets() {
        let verdict = promoted(&[Running, Running, Creating], 11, 0);
        let Outcome::Failure(failure) = &verdict.outcome else { panic!("a failure") };
        assert!(failure.message.contains("after 600 s: sub2 on node-1"), "{}", failure.message);
        assert_eq!(verdict.change.failed_nodes, ["node-1".into()]);
        assert_eq!(verdict.expired_to, None);
        let in_time = promoted(&[Running, Running, Creating], 10, 0).outcome;
        assert!(!matches!(in_time, Outcome::Failure(_)), "the time must exceed the timeout");
        assert_eq!(promoted(&[Running, Running, Creating], 11, 4).expired_to, None);
        assert_eq!(promoted(&[Running, Running, Creating], 11, 5).expired_to, To::phase(SessionPhase::Terminating));
    }
}
