//! detect-termination: ends a session when any of its kernels has ended or is ending.

use super::promote_to_terminated::may_start_again;
use super::reset_unschedulable::restarts_after_disruption;
use super::{After, Decide, Handler, HandlerName, Mode, Sessions, Settings, To, Transitions, Verdict, trace_kernels};
use crate::api::{KernelPhase, SessionPhase, SessionResult};
use crate::lifecycle::{CommitMode, Reason, exits};
use crate::session::effect::Effect;
use crate::session::ends::EndCause;
use crate::session::kernels::{KernelItem, describe_all};
use crate::session::matching::Match;
use crate::session::snapshot::{SessionItem, Snapshot};

exits!(Sessions: Cancelled);

pub static ROW: Handler = Handler {
    name: HandlerName::DetectTermination,
    targets: &[
        SessionPhase::Scheduled,
        SessionPhase::Preparing,
        SessionPhase::Pulling,
        SessionPhase::Prepared,
        SessionPhase::Creating,
        SessionPhase::Running,
    ],
    transitions: Transitions { success: To::phase(SessionPhase::Terminating), exits: Exit::PHASES, ..Transitions::NONE },
    mode: Mode::Waits,
    follows: &[After::Staying(HandlerName::PromoteToPrepared), After::Staying(HandlerName::PromoteToRunning)],
    commit: CommitMode::Now,
    wakes_on: &[],
    lock: None,
    overview: None,
    trace: Some(trace_kernels),
    settings: Settings::NONE,
    decide: Decide::Each(detect),
};

fn detect(snapshot: &Snapshot, item: &SessionItem) -> Verdict {
    if !Match::Any.holds(&item.kernels, KernelItem::is_ending) {
        return Verdict::idle();
    }
    if restarts_after_disruption(snapshot, item) {
        return Verdict::idle();
    }
    let message = describe_all(item.kernels.iter().filter(|kernel| kernel.is_ending()));
    if Match::All.holds(&item.kernels, |kernel| kernel.phase() == KernelPhase::Cancelled) {
        return Verdict::success_to(Exit::Cancelled).because(item.reason_of_end(), message).result(SessionResult::Error);
    }
    let main = item.kernels.iter().find(|kernel| kernel.is_main());
    let exit_code = main.and_then(|kernel| kernel.state.exit_code);
    let batch_end = main.filter(|main| item.is_batch() && main.phase().is_terminal()).and_then(|main| main.state.end_cause());
    let mut verdict = match (batch_end, exit_code) {
        (Some(EndCause::ExitCode), Some(0)) => {
            Verdict::success().because(Reason::BatchFinished, "main1 exited with 0").result(SessionResult::Success)
        }
        (Some(EndCause::ExitCode), Some(code)) => {
            Verdict::success().because(Reason::ExitCode, exit_words(code, message)).result(SessionResult::Failure)
        }
        (Some(cause @ (EndCause::OutOfMemory | EndCause::DiskLimitExceeded)), _) => {
            Verdict::success().because(cause.reason(), message).result(SessionResult::Failure)
        }
        // A session that may start again has no result yet.
        _ if may_start_again(item, item.reason_of_end()) => {
            return Verdict::success().because(item.reason_of_end(), message).effects(absences(item));
        }
        _ => Verdict::success().because(item.reason_of_end(), message).result(SessionResult::Error),
    };
    verdict.change.exit_code = exit_code;
    verdict.effects(absences(item))
}

fn exit_words(code: i32, details: String) -> String {
    format!("main1 exited with {code} ({details})")
}

/// Confirms that missing pods do not exist. A late request of a former leader may have created one that no watch has
/// reported.
fn absences(item: &SessionItem) -> Vec<Effect> {
    let unseen = item.kernels.iter().filter(|kernel| kernel.pod.is_none() && kernel.is_ending() && !kernel.has_recorded_end());
    unseen.map(|kernel| Effect::ConfirmNoPod(item.kernel_name(&kernel.hostname))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::session::handlers::Outcome;
    use crate::session::handlers::testing::{gang, item, put, session, snapshot};
    use KernelPhase::{Cancelled, Prepared, Running, Terminated};

    fn detected(spec: serde_json::Value, kernels: &[KernelPhase], exit: Option<i32>) -> Verdict {
        let mut session = session(spec);
        put(&mut session, SessionPhase::Running, chrono::TimeDelta::minutes(1));
        let mut item = item(session, kernels);
        item.kernels[0].state.exit_code = exit;
        detect(&snapshot(vec![]), &item)
    }

    #[test]
    fn a_session_ends_when_any_of_its_kernels_ends() {
        let verdict = detected(gang(), &[Running, Running, Terminated], None);
        assert!(matches!(verdict.outcome, Outcome::Success { to: None }));
        assert_eq!(verdict.change.result, Some(SessionResult::Error));
        let (reason, words) = verdict.reason.expect("a reason");
        assert_eq!(reason, Reason::AbnormalTermination);
        assert!(words.contains("sub2 on node-1 is Terminated"), "{words}");
        assert!(matches!(detected(gang(), &[Running, Running, Running], None).outcome, Outcome::Idle));
    }

    #[test]
    fn a_session_is_cancelled_when_all_its_kernels_are_cancelled() {
        let verdict = detected(gang(), &[Cancelled, Cancelled, Cancelled], None);
        assert!(matches!(verdict.outcome, Outcome::Success { to: Some(SessionPhase::Cancelled) }));
        let mixed = detected(gang(), &[Cancelled, Prepared, Prepared], None);
        assert!(matches!(mixed.outcome, Outcome::Success { to: None }));
    }

    #[test]
    fn a_batch_session_ends_with_its_main_kernels_result() {
        for (code, result) in [(0, SessionResult::Success), (3, SessionResult::Failure)] {
            let verdict = detected(json!({"type": "Batch"}), &[Terminated], Some(code));
            assert_eq!((verdict.change.result, verdict.change.exit_code), (Some(result), Some(code)));
        }
    }
}
