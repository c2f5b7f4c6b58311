//! promote-to-prepared: a session is Prepared when all its images are on their nodes and its kernels can resolve each
//! other's names.

use super::late::name_late_in_gang;
use super::{Decide, Handler, HandlerName, Mode, Settings, To, Transitions, Verdict, trace_kernels};
use crate::api::SessionPhase;
use crate::lifecycle::{CommitMode, Failure, Reason, is_over};
use crate::session::effect::Effect;
use crate::session::kernels::{KernelItem, describe_all};
use crate::session::matching::Match;
use crate::session::snapshot::{SessionItem, Snapshot};

pub static ROW: Handler = Handler {
    name: HandlerName::PromoteToPrepared,
    targets: &[SessionPhase::Preparing, SessionPhase::Pulling],
    transitions: Transitions { success: To::phase(SessionPhase::Prepared), ..Transitions::NONE },
    mode: Mode::Waits,
    follows: &[],
    commit: CommitMode::Now,
    wakes_on: &[],
    lock: None,
    overview: None,
    trace: Some(trace_kernels),
    settings: Settings::NONE,
    decide: Decide::Each(promote),
};

fn promote(snapshot: &Snapshot, item: &SessionItem) -> Verdict {
    if item.has_ending_kernels() {
        return end_of_a_kernel(item); // detect-termination decides the consequences
    }
    let pulling = |kernel: &KernelItem| kernel.phase().is_pre_prepared();
    let has_images = Match::NotAny.holds(&item.kernels, pulling);
    let publish = if has_images { publish_names(item) } else { vec![] };
    if has_images && !item.awaits_names() {
        return Verdict::success().effects(publish);
    }
    if let Some(failure) = kernel_failure(item) {
        return Verdict::failure(failure);
    }
    // This only records the timeout. sweep-sessions ends the session.
    let limit = snapshot.phase_timeout(&item.session, item.phase());
    if is_over(item.phase_started_at(), limit, snapshot.now) {
        let message = format!("not prepared after {} s", limit.unwrap_or_default().as_secs());
        return Verdict::failure(Failure::fault(Reason::PhaseTimeout, message));
    }
    name_late_in_gang(snapshot, item, "prepared", pulling).effects(publish).recording_failures()
}

/// Creates the Service that publishes the names of a gang, once all pods have their addresses. A Service created before would
/// have its endpoints written again for every pod.
fn publish_names(item: &SessionItem) -> Vec<Effect> {
    let has_address = |kernel: &KernelItem| kernel.pod.as_ref().is_some_and(|pod| pod.ip.is_some());
    let due = item.is_gang() && !item.is_published && Match::All.holds(&item.kernels, has_address);
    if due { vec![Effect::CreateService] } else { vec![] }
}

/// Fails the promotion when a kernel has ended too early, once the end is certain. A Batch session whose main kernel has
/// exited has not failed to start.
pub(super) fn end_of_a_kernel(item: &SessionItem) -> Verdict {
    let finished = |kernel: &KernelItem| item.is_batch() && kernel.is_main() && kernel.state.exit_code.is_some();
    if item.kernels.iter().any(finished) {
        return Verdict::idle();
    }
    let certain = |kernel: &&KernelItem| kernel.is_ending() && (kernel.pod.is_some() || kernel.has_recorded_end());
    let ended = describe_all(item.kernels.iter().filter(certain));
    if ended.is_empty() {
        return Verdict::idle();
    }
    Verdict::failure(Failure::fault(item.reason_of_end(), ended))
}

/// Returns the failure that delays a promotion: an image pull that is retried, or a container that cannot be created or
/// started.
pub(super) fn kernel_failure(item: &SessionItem) -> Option<Failure> {
    let failing: Vec<&KernelItem> =
        item.kernels.iter().filter(|kernel| kernel.state.reason.is_some() && !kernel.is_ending()).collect();
    let by_image = failing.iter().any(|kernel| kernel.state.pull_retried_until.is_some());
    let reason = if by_image { Reason::ImagePullFailed } else { Reason::ContainerNotStarted };
    (!failing.is_empty()).then(|| Failure::fault(reason, describe_all(failing)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::KernelPhase::{self, Prepared, Pulling, Running};
    use crate::session::handlers::Outcome;
    use crate::session::handlers::testing::{change_pod, gang, item, put, session, session_in, snapshot};

    fn promoted(kernels: &[KernelPhase]) -> Verdict {
        let mut session = session(gang());
        put(&mut session, SessionPhase::Pulling, chrono::TimeDelta::minutes(1));
        promote(&snapshot(vec![]), &item(session, kernels))
    }

    #[test]
    fn pp_001_a_session_with_all_its_images_is_prepared() {
        let verdict = promote(&snapshot(vec![]), &item(session_in(SessionPhase::Pulling), &[Prepared]));
        assert!(matches!(verdict.outcome, Outcome::Success { to: None }));
    }

    #[test]
    fn a_kernel_that_ends_before_its_session_is_prepared_fails_the_promotion_by_name() {
        for ended in [KernelPhase::Cancelled, KernelPhase::Terminating] {
            let Outcome::Failure(failure) = promoted(&[Prepared, Prepared, ended]).outcome else { panic!("a failure") };
            assert!(failure.message.contains("sub2 on node-1"), "{}", failure.message);
            assert_eq!(failure.reason, Reason::AbnormalTermination);
        }
        let mut unseen = item(session_in(SessionPhase::Pulling), &[KernelPhase::Terminated]);
        unseen.kernels[0].pod = None;
        assert!(
            matches!(promote(&snapshot(vec![]), &unseen).outcome, Outcome::Idle),
            "the watch may not have reported its pod yet"
        );
    }

    #[test]
    fn pp_002_a_session_with_a_kernel_still_pulling_is_not_prepared() {
        for behind in [KernelPhase::Pending, KernelPhase::Scheduled, KernelPhase::Preparing, Pulling] {
            assert!(!matches!(promoted(&[Prepared, Prepared, behind]).outcome, Outcome::Success { .. }), "{behind}");
        }
        let mut session = session(gang());
        put(&mut session, SessionPhase::Pulling, chrono::TimeDelta::seconds(4));
        let verdict = promote(&snapshot(vec![]), &item(session, &[Prepared, Prepared, Pulling]));
        assert!(matches!(verdict.outcome, Outcome::Idle));
        assert!(verdict.wake_at.is_some(), "it is evaluated again when the delay is over");
    }

    #[test]
    fn the_kernel_that_holds_a_gang_up_is_named() {
        let Outcome::Skipped(reason, words) = promoted(&[Prepared, Prepared, Pulling]).outcome else { panic!("a skip") };
        assert_eq!(reason, Reason::WaitingForKernels);
        assert!(words.contains("1 of 3") && words.contains("sub2 on node-1 is Pulling"), "{words}");
        assert!(matches!(promoted(&[Pulling, Pulling, Pulling]).outcome, Outcome::Idle), "no kernel is held up by another");
    }

    #[test]
    fn late_kernels_are_named_again_when_the_wait_has_doubled() {
        let verdict = |after: i64| {
            let mut session = session(gang());
            put(&mut session, SessionPhase::Pulling, chrono::TimeDelta::seconds(60));
            let named_at =
                item(session.clone(), &[Pulling]).phase_started_at().expect("a time") + chrono::TimeDelta::seconds(after);
            let entry = serde_json::json!({
                "handler": "promote-to-prepared", "result": "Skipped", "from": "Pulling", "to": "Pulling", "message": "2 of 3",
                "errorCode": Reason::WaitingForKernels.as_str(), "attempts": 1, "createdAt": named_at, "updatedAt": named_at,
            });
            let status = session.status.get_or_insert_default();
            status.history.push(serde_json::from_value(entry).expect("an entry"));
            promote(&snapshot(vec![]), &item(session, &[Prepared, Prepared, Pulling]))
        };
        assert!(matches!(verdict(30).outcome, Outcome::Skipped(..)), "named after 30 s, and 60 s have passed");
        assert!(matches!(verdict(31).outcome, Outcome::Idle) && verdict(31).wake_at.is_some());
    }

    #[test]
    fn pp_005_the_timeout_is_recorded_after_fifteen_minutes_and_changes_no_phase() {
        let outcome_after = |minutes| {
            let mut session = session_in(SessionPhase::Pulling);
            put(&mut session, SessionPhase::Pulling, chrono::TimeDelta::minutes(minutes));
            promote(&snapshot(vec![]), &item(session, &[Pulling])).outcome
        };
        assert!(matches!(outcome_after(15), Outcome::Idle), "the time must exceed the timeout");
        assert!(matches!(outcome_after(16), Outcome::Failure(failure) if failure.reason == Reason::PhaseTimeout));
        assert_eq!(ROW.transitions.expired, None);
    }

    #[test]
    fn pp_003_a_retried_image_pull_is_a_failure_that_names_its_kernel() {
        let mut item = item(session_in(SessionPhase::Pulling), &[Pulling]);
        item.kernels[0].state.pull_retried_until = Some(snapshot(vec![]).now);
        item.kernels[0].state.reason = Some("ErrImagePull".into());
        let Outcome::Failure(failure) = promote(&snapshot(vec![]), &item).outcome else { panic!("a failure") };
        assert_eq!(failure.reason, Reason::ImagePullFailed);
        assert!(failure.message.contains("main1 on node-1"), "{}", failure.message);
    }

    #[test]
    fn st_004_a_session_whose_images_are_present_is_prepared_without_pulling() {
        let item = item(session_in(SessionPhase::Preparing), &[Prepared]);
        assert!(matches!(promote(&snapshot(vec![]), &item).outcome, Outcome::Success { to: None }));
        let Decide::Each(pulling) = super::super::promote_to_pulling::ROW.decide else {
            panic!("it decides one session at a time")
        };
        assert!(matches!(pulling(&snapshot(vec![]), &item).outcome, Outcome::Idle));
    }

    #[test]
    fn a_gang_is_not_prepared_before_its_names_resolve() {
        let mut session = session(gang());
        put(&mut session, SessionPhase::Pulling, chrono::TimeDelta::minutes(1));
        let mut item = item(session, &[Prepared; 3]);
        item.names_resolve = false;
        let verdict = promote(&snapshot(vec![]), &item);
        assert!(matches!(verdict.outcome, Outcome::Idle) && verdict.effects.is_empty(), "no pod has an address yet");
        item.kernels.iter_mut().for_each(|kernel| change_pod(kernel, |pod| pod.ip = Some("10.0.0.1".into())));
        let verdict = promote(&snapshot(vec![]), &item);
        assert!(matches!(verdict.outcome, Outcome::Idle));
        assert_eq!(verdict.effects, [Effect::CreateService]);
        item.is_published = true;
        assert!(promote(&snapshot(vec![]), &item).effects.is_empty(), "its endpoints follow");
    }

    #[test]
    fn kernels_that_need_not_start_together_do_not_wait_for_their_names() {
        let mut session = session(gang());
        session.spec.start_together = false;
        put(&mut session, SessionPhase::Preparing, chrono::TimeDelta::minutes(1));
        let mut item = item(session, &[Running; 3]);
        item.names_resolve = false;
        item.kernels.iter_mut().for_each(|kernel| change_pod(kernel, |pod| pod.ip = Some("10.0.0.1".into())));
        let verdict = promote(&snapshot(vec![]), &item);
        assert!(matches!(verdict.outcome, Outcome::Success { to: None }));
        assert_eq!(verdict.effects, [Effect::CreateService], "programs find each other when they try again");
    }

    #[test]
    fn kernels_that_run_wait_for_one_whose_image_was_removed_meanwhile() {
        let mut session = session(gang());
        session.spec.start_together = false;
        put(&mut session, SessionPhase::Preparing, chrono::TimeDelta::minutes(1));
        let item = item(session, &[Running, Running, Pulling]);
        assert!(!matches!(promote(&snapshot(vec![]), &item).outcome, Outcome::Success { .. }));
        let Decide::Each(pulling) = super::super::promote_to_pulling::ROW.decide else {
            panic!("it decides one session at a time")
        };
        assert!(matches!(pulling(&snapshot(vec![]), &item).outcome, Outcome::Success { to: None }), "the session says so");
    }

    #[test]
    fn pp_004_a_gang_is_prepared_when_all_its_kernels_are() {
        assert!(matches!(promoted(&[Prepared, Prepared, Running]).outcome, Outcome::Success { to: None }));
    }
}
