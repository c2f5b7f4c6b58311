//! expire-batches: ends a Batch session that has run for longer than `batchTimeoutSeconds`.

use super::{Decide, Handler, HandlerName, Mode, Settings, To, Transitions, Verdict, trace_kernels};
use crate::api::{Reason, SessionPhase, SessionResult};
use crate::lifecycle::{CommitMode, is_over, over_at};
use crate::session::snapshot::{SessionItem, Snapshot};

pub static ROW: Handler = Handler {
    name: HandlerName::ExpireBatches,
    targets: &[SessionPhase::Running],
    transitions: Transitions { success: To::phase(SessionPhase::Terminating), ..Transitions::NONE },
    mode: Mode::Waits,
    follows: &[],
    commit: CommitMode::Now,
    wakes_on: &[],
    lock: None,
    overview: None,
    trace: Some(trace_kernels),
    settings: Settings::NONE,
    decide: Decide::Each(expire),
};

fn expire(snapshot: &Snapshot, item: &SessionItem) -> Verdict {
    match item.session.spec.batch_timeout_seconds {
        Some(seconds) => expire_after(snapshot, item, seconds, Reason::BatchTimeout, || format!("ran for more than {seconds} s")),
        None => Verdict::idle(),
    }
}

/// Ends a session that has run for more than so many seconds.
pub(super) fn expire_after(
    snapshot: &Snapshot,
    item: &SessionItem,
    seconds: i64,
    reason: Reason,
    message: impl FnOnce() -> String,
) -> Verdict {
    // detect-termination decides on a session whose kernels end by themselves.
    if item.has_ending_kernels() {
        return Verdict::idle();
    }
    let limit = Some(snapshot.timing.configured(seconds));
    if !is_over(item.phase_started_at(), limit, snapshot.now) {
        return Verdict::idle().wake_at(over_at(item.phase_started_at(), limit));
    }
    Verdict::success().because(reason, message()).result(SessionResult::Failure)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::KernelPhase::{self, Running, Terminated};
    use crate::session::handlers::Outcome;
    use crate::session::handlers::testing::{item, now, put, session, snapshot};

    /// Returns the verdict on a Batch session that has run for a minute, with this limit in seconds.
    fn after_a_minute(limit: i64, kernel: KernelPhase) -> Verdict {
        let mut batch = session(json!({"type": "Batch", "batchTimeoutSeconds": limit}));
        put(&mut batch, SessionPhase::Running, chrono::TimeDelta::minutes(1));
        expire(&snapshot(vec![]), &item(batch, &[kernel]))
    }

    #[test]
    fn a_batch_session_fails_after_its_batch_timeout() {
        let verdict = after_a_minute(59, Running);
        assert!(matches!(verdict.outcome, Outcome::Success { to: None }));
        assert_eq!(verdict.reason, Some((Reason::BatchTimeout, "ran for more than 59 s".into())));
        assert_eq!(verdict.change.result, Some(SessionResult::Failure));
    }

    #[test]
    fn a_batch_session_within_its_timeout_is_evaluated_again_at_the_timeout() {
        let verdict = after_a_minute(60, Running);
        assert!(matches!(verdict.outcome, Outcome::Idle), "the time must exceed the timeout");
        assert_eq!(verdict.wake_at, Some(now() + chrono::TimeDelta::milliseconds(1)));
    }

    #[test]
    fn a_batch_session_whose_kernel_has_ended_is_left_to_detect_termination() {
        assert!(matches!(after_a_minute(59, Terminated).outcome, Outcome::Idle));
    }
}
