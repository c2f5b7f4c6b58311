//! expire-lifetimes: ends a session that has run for as long as it, or the policies of its tenants, allow.

use super::expire_batches::expire_after;
use super::{Decide, Handler, HandlerName, Mode, Settings, To, Transitions, Verdict, trace_kernels};
use crate::api::{Reason, SessionPhase};
use crate::lifecycle::{CommitMode, Trigger};
use crate::session::limits::shortest;
use crate::session::snapshot::{SessionItem, Snapshot};

pub static ROW: Handler = Handler {
    name: HandlerName::ExpireLifetimes,
    targets: &[SessionPhase::Running],
    transitions: Transitions { success: To::phase(SessionPhase::Terminating), ..Transitions::NONE },
    mode: Mode::Waits,
    follows: &[],
    commit: CommitMode::Now,
    wakes_on: &[Trigger::TenancyChanged], // a policy may limit it now
    lock: None,
    overview: None,
    trace: Some(trace_kernels),
    settings: Settings::NONE,
    decide: Decide::Each(expire),
};

fn expire(snapshot: &Snapshot, item: &SessionItem) -> Verdict {
    let own = item.session.spec.max_lifetime_seconds;
    let limit = shortest(&snapshot.tenancy, &item.session, own, |policy| policy.max_lifetime_seconds);
    let Some((seconds, whose)) = limit else { return Verdict::idle() };
    expire_after(snapshot, item, seconds, Reason::LifetimeExceeded, || {
        format!("ran for more than {seconds} s, which is the maxLifetimeSeconds of {whose}")
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::KernelPhase::{self, Running, Terminated};
    use crate::api::SessionResult;
    use crate::session::handlers::Outcome;
    use crate::session::handlers::testing::{item, now, put, session, snapshot};

    fn after_a_minute(spec: serde_json::Value, kernel: KernelPhase) -> Verdict {
        let mut session = session(spec);
        put(&mut session, SessionPhase::Running, chrono::TimeDelta::minutes(1));
        expire(&snapshot(vec![]), &item(session, &[kernel]))
    }

    #[test]
    fn a_session_ends_after_its_lifetime() {
        let verdict = after_a_minute(json!({"maxLifetimeSeconds": 59}), Running);
        assert!(matches!(verdict.outcome, Outcome::Success { to: None }));
        let (reason, message) = verdict.reason.expect("a reason");
        assert_eq!(reason, Reason::LifetimeExceeded);
        assert_eq!(message, "ran for more than 59 s, which is the maxLifetimeSeconds of the session");
        assert_eq!(verdict.change.result, Some(SessionResult::Failure));
    }

    #[test]
    fn a_session_within_its_lifetime_is_evaluated_again_at_its_end() {
        let verdict = after_a_minute(json!({"maxLifetimeSeconds": 60}), Running);
        assert!(matches!(verdict.outcome, Outcome::Idle));
        assert_eq!(verdict.wake_at, Some(now() + chrono::TimeDelta::milliseconds(1)));
        assert!(after_a_minute(json!({}), Running).wake_at.is_none());
        let ended = after_a_minute(json!({"maxLifetimeSeconds": 1}), Terminated);
        assert!(matches!(ended.outcome, Outcome::Idle), "its own end comes first");
    }
}
