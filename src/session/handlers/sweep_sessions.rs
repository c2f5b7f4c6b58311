//! sweep-sessions: ends sessions that were Pending, Preparing or Pulling for too long, and sessions without kernels.

use super::{Decide, Handler, HandlerName, Mode, Sessions, Settings, To, Transitions, Verdict};
use crate::api::{SessionPhase, SessionResult};
use crate::lifecycle::{CommitMode, Failure, Reason, Trigger, exits, is_over, over_at};
use crate::session::kernels::describe_all;
use crate::session::snapshot::{SessionItem, Snapshot};

exits!(Sessions: Cancelled, Terminated);

pub static ROW: Handler = Handler {
    name: HandlerName::SweepSessions,
    targets: &SessionPhase::LIVE,
    transitions: Transitions { exits: Exit::PHASES, expired: To::phase(SessionPhase::Terminating), ..Transitions::NONE },
    mode: Mode::Waits,
    follows: &[],
    commit: CommitMode::Now,
    wakes_on: &[Trigger::TenancyChanged],
    lock: None,
    overview: None,
    trace: None,
    settings: Settings::NONE,
    decide: Decide::Each(sweep),
};

fn sweep(snapshot: &Snapshot, item: &SessionItem) -> Verdict {
    if item.session.status.as_ref().is_some_and(|s| s.phase.holds_resources() && s.allocation.is_empty()) {
        return without_kernels(item);
    }
    match item.phase() {
        SessionPhase::Pending => sweep_pending(snapshot, item),
        phase @ (SessionPhase::Preparing | SessionPhase::Pulling) => {
            let limit = snapshot.phase_timeout(&item.session, phase);
            if !is_over(item.phase_started_at(), limit, snapshot.now) {
                return Verdict::idle().wake_at(over_at(item.phase_started_at(), limit));
            }
            // Its kernels may have moved on while no operator ran. Then a promotion follows them.
            let moved_on = !item.awaits_names() && !item.kernels.iter().any(|kernel| kernel.phase().is_pre_prepared());
            if moved_on || item.has_ending_kernels() {
                return Verdict::idle();
            }
            let held_up = describe_all(item.kernels.iter().filter(|kernel| kernel.phase().is_pre_prepared()));
            let message = format!("{phase} for more than {} s: {held_up}", limit.unwrap_or_default().as_secs());
            Verdict::failure(Failure::fault(Reason::PhaseTimeout, message))
        }
        _ => Verdict::idle(),
    }
}

fn sweep_pending(snapshot: &Snapshot, item: &SessionItem) -> Verdict {
    let name = snapshot.group_text();
    let limit = snapshot.pending_timeout();
    if is_over(item.phase_started_at(), limit, snapshot.now) {
        let message = format!("waited for more than {} s in scaling group {name}", limit.unwrap_or_default().as_secs());
        let mut verdict = Verdict::failure(Failure::fault(Reason::PendingTimeoutExceeded, message));
        verdict.expired_to = To::phase(SessionPhase::Cancelled);
        return verdict;
    }
    // schedule-sessions reports why it waits.
    Verdict::idle().wake_at(over_at(item.phase_started_at(), limit))
}

fn without_kernels(item: &SessionItem) -> Verdict {
    if item.phase() == SessionPhase::Terminating {
        return Verdict::success_to(Exit::Terminated).result(SessionResult::Error);
    }
    let cancelled = Verdict::success_to(Exit::Cancelled);
    cancelled.because(Reason::NoKernels, "the session has no kernels").result(SessionResult::Error)
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use serde_json::json;

    use super::*;
    use crate::api::KernelPhase;
    use crate::session::handlers::Outcome;
    use crate::session::handlers::testing::{item, node, now, put, session, session_in, snapshot};

    fn swept(phase: SessionPhase, minutes: i64) -> Verdict {
        let mut session = session(json!({}));
        put(&mut session, phase, TimeDelta::minutes(minutes));
        sweep(&snapshot(vec![node("node-1", 4)]), &item(session, &[KernelPhase::Pulling]))
    }

    fn timed_out(verdict: &Verdict) -> bool {
        matches!(&verdict.outcome, Outcome::Failure(failure) if failure.reason == Reason::PhaseTimeout)
    }

    #[test]
    fn sw_001_preparing_for_too_long_times_out() {
        assert!(timed_out(&swept(SessionPhase::Preparing, 16)));
    }

    #[test]
    fn a_session_that_moved_on_while_no_operator_ran_is_not_swept() {
        for phase in [KernelPhase::Running, KernelPhase::Terminated] {
            let mut session = session(json!({}));
            put(&mut session, SessionPhase::Preparing, TimeDelta::minutes(60));
            let verdict = sweep(&snapshot(vec![node("node-1", 4)]), &item(session, &[phase]));
            assert!(matches!(verdict.outcome, Outcome::Idle), "{phase}");
        }
    }

    #[test]
    fn sw_002_pulling_for_too_long_times_out() {
        assert!(timed_out(&swept(SessionPhase::Pulling, 16)));
    }

    #[test]
    fn sw_003_a_session_within_its_timeout_is_left_alone_until_the_timeout() {
        for phase in [SessionPhase::Preparing, SessionPhase::Pulling] {
            let verdict = swept(phase, 15);
            assert!(matches!(verdict.outcome, Outcome::Idle), "the time must exceed the timeout");
            assert_eq!(verdict.wake_at, Some(now() + TimeDelta::milliseconds(1)), "{phase}");
        }
    }

    #[test]
    fn sw_004_a_session_without_kernels_is_cancelled_or_terminated_if_it_was_ending() {
        for (phase, to) in
            [(SessionPhase::Preparing, SessionPhase::Cancelled), (SessionPhase::Terminating, SessionPhase::Terminated)]
        {
            let mut session = session_in(phase);
            if let Some(status) = &mut session.status {
                status.allocation.clear();
            }
            let verdict = sweep(&snapshot(vec![]), &item(session, &[]));
            assert!(matches!(verdict.outcome, Outcome::Success { to: Some(reached) } if reached == to), "{phase}");
        }
        let waiting = sweep(&snapshot(vec![node("node-1", 4)]), &item(session_in(SessionPhase::Pending), &[]));
        assert!(matches!(waiting.outcome, Outcome::Idle), "a Pending session has no kernels yet");
    }
}
