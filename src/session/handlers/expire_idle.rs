//! expire-idle: announces the end of a session that is not used, and ends it.

use chrono::{DateTime, TimeDelta, Utc};

use super::{Change, Decide, Handler, HandlerName, IdleChange, Mode, Settings, To, Transitions, Verdict, trace_kernels};
use crate::api::{ANNOTATION_KEEP_UNTIL, Idle, Reason, SessionPhase, SessionResult};
use crate::lifecycle::{CommitMode, Trigger, to_millis};
use crate::session::idle;
use crate::session::snapshot::{SessionItem, Snapshot};

pub static ROW: Handler = Handler {
    name: HandlerName::ExpireIdle,
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

/// The end is announced after half of the time, as far as measurements cover it. Without a recent measurement nothing happens.
fn expire(snapshot: &Snapshot, item: &SessionItem) -> Verdict {
    let Some((seconds, whose)) = idle::limit(&snapshot.tenancy, &item.session) else {
        return stays(item, "no idleTimeoutSeconds limits it any more".into());
    };
    // detect-termination decides on a session whose kernels end by themselves.
    let Some(usage) = item.usage.filter(|_| !item.has_ending_kernels()) else { return Verdict::idle() };
    if let Some(until) = idle::kept_until(&snapshot.tenancy, &item.session).filter(|until| snapshot.now < *until) {
        return stays(item, format!("{ANNOTATION_KEEP_UNTIL} keeps it until {}", until.format("%Y-%m-%d %H:%M:%S UTC")))
            .wake_at(Some(until));
    }
    let age = snapshot.now - usage.measured_at;
    if age > TimeDelta::from_std(snapshot.timing.unmeasured).unwrap_or_default() {
        return Verdict::idle();
    }
    let limit = TimeDelta::from_std(snapshot.timing.configured(seconds)).unwrap_or_default();
    let since = to_millis(usage.used_at);
    // Only time between measurements is known. The next measurement marks the session again.
    let idle_for = usage.measured_at - since;
    if idle_for < limit / 2 {
        return stays(item, "it is used again, or may be idle for longer".into());
    }
    let announced = item.session.status.as_ref().and_then(|status| status.idle.as_ref());
    match announced.filter(|announced| announced.since == since && announced.ends_at >= since + limit) {
        Some(announced) if usage.measured_at >= announced.ends_at => {
            let message =
                format!("not used since {}, for more than {seconds} s: the idleTimeoutSeconds of {whose}", clock(since));
            Verdict::success().because(Reason::IdleTimeout, message).result(SessionResult::Failure)
        }
        Some(_) => Verdict::idle(),
        None => {
            // However late the measurement comes, half of the time is left to its user.
            let ends_at = to_millis((since + limit).max(snapshot.now + limit / 2));
            let (since_text, end) = (clock(since), clock(ends_at));
            let message = format!(
                "not used since {since_text}; it ends at {end} unless it is used: the idleTimeoutSeconds of {whose} are {seconds}"
            );
            let change = Change { idle: IdleChange::Set(Idle { since, ends_at }), ..Change::default() };
            Verdict { change, ..Verdict::skipped(Reason::Idle, message) }
        }
    }
}

fn clock(time: DateTime<Utc>) -> String {
    time.format("%H:%M:%S UTC").to_string()
}

/// Takes an announced end back.
fn stays(item: &SessionItem, why: String) -> Verdict {
    if item.session.status.as_ref().is_none_or(|status| status.idle.is_none()) {
        return Verdict::idle();
    }
    Verdict { change: Change { idle: IdleChange::Clear, ..Change::default() }, ..Verdict::skipped(Reason::InUse, why) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::KernelPhase::{Running, Terminated};
    use crate::session::handlers::Outcome;
    use crate::session::handlers::testing::{item, limited, now, put, session, snapshot};
    use crate::session::idle::Usage;

    /// A session with a limit of 600 s that has not been used for so many seconds.
    fn unused_for(seconds: i64) -> SessionItem {
        let mut session = session(json!({"idleTimeoutSeconds": 600}));
        put(&mut session, SessionPhase::Running, TimeDelta::hours(1));
        let mut item = item(session, &[Running]);
        item.usage = Some(Usage { used_at: now() - TimeDelta::seconds(seconds), measured_at: now() });
        item
    }

    fn with_status(mut item: SessionItem, change: impl FnOnce(&mut crate::api::Session)) -> SessionItem {
        let mut session = (*item.session).clone();
        change(&mut session);
        item.session = std::sync::Arc::new(session);
        item
    }

    fn announced(item: SessionItem, seconds: i64) -> SessionItem {
        with_status(item, |session| {
            let since = now() - TimeDelta::seconds(seconds);
            let status = session.status.as_mut().expect("a status");
            status.idle = Some(Idle { since, ends_at: since + TimeDelta::seconds(600) });
        })
    }

    fn skipped(verdict: &Verdict) -> Option<Reason> {
        match &verdict.outcome {
            Outcome::Skipped(reason, _) => Some(*reason),
            Outcome::Success { .. } | Outcome::Failure(_) | Outcome::Idle => None,
        }
    }

    #[test]
    fn the_end_is_announced_after_half_of_the_time_and_comes_after_all_of_it() {
        let world = snapshot(vec![]);
        assert!(matches!(expire(&world, &unused_for(299)).outcome, Outcome::Idle));
        let half = expire(&world, &unused_for(300));
        assert_eq!(skipped(&half), Some(Reason::Idle));
        let IdleChange::Set(idle) = &half.change.idle else { panic!("the end is announced") };
        assert_eq!(idle.ends_at, now() + TimeDelta::seconds(300));
        assert!(matches!(expire(&world, &announced(unused_for(300), 300)).outcome, Outcome::Idle), "it is announced once");
        let over = expire(&world, &announced(unused_for(600), 600));
        assert!(matches!(over.outcome, Outcome::Success { to: None }));
        let (reason, message) = over.reason.expect("a reason");
        assert_eq!(reason, Reason::IdleTimeout);
        assert!(message.ends_with("for more than 600 s: the idleTimeoutSeconds of the session"), "{message}");
    }

    #[test]
    fn no_session_ends_unannounced_and_time_since_the_last_measurement_does_not_count() {
        let world = snapshot(vec![]);
        let late = expire(&world, &unused_for(9000));
        let IdleChange::Set(idle) = &late.change.idle else { panic!("the end is announced") };
        assert_eq!(idle.ends_at, now() + TimeDelta::seconds(300), "half of the time is left");
        let mut used_at_the_last_measurement = announced(unused_for(600), 600);
        let ago = now() - TimeDelta::seconds(100);
        used_at_the_last_measurement.usage = Some(Usage { used_at: ago, measured_at: ago });
        assert_eq!(skipped(&expire(&world, &used_at_the_last_measurement)), Some(Reason::InUse));
    }

    #[test]
    fn a_session_that_is_used_again_stays() {
        let verdict = expire(&snapshot(vec![]), &announced(unused_for(10), 400));
        assert_eq!(skipped(&verdict), Some(Reason::InUse));
        assert!(matches!(verdict.change.idle, IdleChange::Clear));
    }

    #[test]
    fn missing_or_old_measurements_end_nobody() {
        let world = snapshot(vec![]);
        let mut unmeasured = announced(unused_for(9000), 500);
        unmeasured.usage = None;
        let mut old = announced(unused_for(9000), 500);
        let gap = TimeDelta::from_std(world.timing.unmeasured).expect("short");
        old.usage = old.usage.map(|usage| Usage { measured_at: now() - gap - TimeDelta::seconds(1), ..usage });
        let mut ends = unused_for(9000);
        ends.kernels[0].state.phase = Terminated;
        for item in [unmeasured, old, ends] {
            assert!(matches!(expire(&world, &item).outcome, Outcome::Idle));
        }
    }

    #[test]
    fn an_annotation_keeps_a_session_unless_a_policy_forbids_that() {
        let until = now() + TimeDelta::hours(1);
        let kept = |item: SessionItem| {
            with_status(item, |session| {
                let annotation = (ANNOTATION_KEEP_UNTIL.to_owned(), until.to_rfc3339());
                session.metadata.annotations = Some([annotation].into());
            })
        };
        let verdict = expire(&snapshot(vec![]), &kept(unused_for(9000)));
        assert!(matches!(verdict.outcome, Outcome::Idle));
        assert_eq!(verdict.wake_at, Some(until));
        assert_eq!(skipped(&expire(&snapshot(vec![]), &kept(announced(unused_for(9000), 400)))), Some(Reason::InUse));
        let strict = limited(json!({"forbidKeepUntil": true}));
        assert!(matches!(expire(&strict, &kept(announced(unused_for(600), 600))).outcome, Outcome::Success { .. }));
    }

    #[test]
    fn the_shortest_limit_applies_and_is_named() {
        let verdict = expire(&limited(json!({"idleTimeoutSeconds": 60})), &unused_for(61));
        let Outcome::Skipped(_, message) = verdict.outcome else { panic!("the end is announced") };
        assert!(message.contains("keypair key are 60"), "{message}");
        let without_limit = with_status(unused_for(9000), |session| session.spec.idle_timeout_seconds = None);
        assert!(matches!(expire(&snapshot(vec![]), &without_limit).outcome, Outcome::Idle));
    }
}
