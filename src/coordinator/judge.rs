//! Judges a verdict: what it amounts to, where it leads, and whether there is anything new to write. Pure.

use crate::api::{Cause, HistoryEntry, HistoryResult, Session, SessionPhase, Waiting};
use crate::lifecycle::{Class, Failure, Limits, Reason, Record, attempts_of, classify, last_attempt};
use crate::session::handlers::{Change, Handler, HandlerName, Outcome, To};
use crate::session::snapshot::{SessionItem, Snapshot, is_over};

/// What a verdict amounts to.
#[derive(Debug, PartialEq)]
pub struct Judged {
    pub result: HistoryResult,
    pub to: Option<To>,
}

/// Where a success leads; a phase the row does not list counts as none.
fn success(handler: &Handler, to: Option<crate::api::SessionPhase>) -> Option<To> {
    match to {
        None => handler.transitions.success,
        Some(phase) if handler.transitions.also.contains(&phase) => To::phase(phase),
        Some(_) => handler.transitions.success,
    }
}

/// The result of an outcome and where it leads; None if there is nothing to write.
pub fn judge(
    handler: &Handler,
    snapshot: &Snapshot,
    item: &SessionItem,
    outcome: &Outcome,
    change: &Change,
    did: bool,
) -> Option<Judged> {
    let history = item.session.status.as_ref().map(|status| status.history.as_slice()).unwrap_or_default();
    match outcome {
        Outcome::Idle => None,
        Outcome::Success { to } => {
            let to = success(handler, *to);
            (to.is_some() || did).then_some(Judged { result: HistoryResult::Success, to })
        }
        Outcome::Skipped(reason, words) => {
            let status = item.session.status.as_ref();
            // A session that is ending keeps the reason of its end: there, the history alone tells of the skip.
            let stands =
                item.phase().is_ending() || status.is_some_and(|status| status.reason.as_deref() == Some(reason.as_str()));
            let told = stands && is_last_skip(history, handler, *reason, words) && !is_blocked_by_others(item, change);
            let told = told && !item.is_outdated() && change.met_dependencies.is_empty();
            (!told).then_some(Judged { result: HistoryResult::Skipped, to: None })
        }
        Outcome::Failure(failure) => {
            let judged = judge_failure(handler, snapshot, item, failure, change);
            let news = is_news(handler, snapshot, item, failure) || is_newly_blocked(snapshot, item, change);
            let news = news || !change.met_dependencies.is_empty();
            (judged.to.is_some() || news).then_some(judged)
        }
    }
}

fn judge_failure(handler: &Handler, snapshot: &Snapshot, item: &SessionItem, failure: &Failure, change: &Change) -> Judged {
    let (record, limits) = (record(handler, snapshot, item), limits(handler, snapshot, item));
    let leads = |class: Class| handler.transitions.of(class);
    let class = classify(&record, &limits, failure.cause, snapshot.now, |class| leads(class).is_some());
    let to = match class {
        Class::Expired => change.expired_to.or(leads(class)),
        Class::NeedRetry if failure.reason == Reason::NamespaceQuota || failure.cause == Cause::Hold => {
            handler.transitions.refused.or(leads(class))
        }
        _ => leads(class),
    };
    // What may run on a node that does not answer is not begun anew elsewhere: whether the node is lost comes first.
    let to = to.filter(|to| !(to.reset && item.runs_unseen()));
    let result = match class {
        Class::GiveUp => HistoryResult::GiveUp,
        Class::Expired => HistoryResult::Expired,
        Class::NeedRetry => HistoryResult::NeedRetry,
    };
    Judged { result, to }
}

/// The attempts and start that count for this handler: a handler that waits goes by its phase's clock.
fn record(handler: &Handler, snapshot: &Snapshot, item: &SessionItem) -> Record {
    if handler.waits {
        return Record { attempts: 0, started_at: item.phase_started_at() };
    }
    if handler.name == HandlerName::ResetUnschedulable {
        // Other steps succeed between two resets, so that the history's last entry does not tell how many there were.
        let status = item.status();
        let refusals = if counts_capacity(snapshot) { status.refusals } else { 0 };
        return Record { attempts: status.resets + refusals, started_at: None };
    }
    let history = item.session.status.as_ref().map(|status| status.history.as_slice()).unwrap_or_default();
    let record = attempts_of(history, handler.name.as_str());
    // Waiting is not failing: attempts for want of quota never count towards giving up, of capacity only if opted in.
    let counts = match last_attempt(history).and_then(|last| last.cause) {
        Some(Cause::Quota | Cause::Hold) => false,
        Some(Cause::Capacity) => counts_capacity(snapshot),
        Some(Cause::Fault) | None => true,
    };
    Record { attempts: if counts { record.attempts } else { 0 }, ..record }
}

fn limits(handler: &Handler, snapshot: &Snapshot, item: &SessionItem) -> Limits {
    Limits {
        max_attempts: (!handler.waits).then(|| snapshot.max_attempts(&item.session, Some(handler.name))),
        timeout: snapshot.handler_timeout(&item.session, handler.name).or(match (handler.name, item.phase()) {
            (HandlerName::SweepSessions, SessionPhase::Pending) => snapshot.pending_timeout(),
            (_, phase) => snapshot.phase_timeout(&item.session, phase),
        }),
        count_capacity: counts_capacity(snapshot),
    }
}

fn counts_capacity(snapshot: &Snapshot) -> bool {
    snapshot.group.as_ref().is_some_and(|group| group.spec.retry.count_capacity)
}

/// Whether a failure says something new. A fault of a handler that acts always does. Waiting does when its reason changed
/// or its pause is over, and so does a fault found by evaluation alone. For a handler that waits, a changed message is new.
fn is_news(handler: &Handler, snapshot: &Snapshot, item: &SessionItem, failure: &Failure) -> bool {
    let status = item.session.status.as_ref();
    let Some(last) = status.and_then(|status| last_attempt(&status.history)) else { return true };
    let same = last.phase == handler.name.as_str()
        && last.error_code.as_deref() == Some(failure.reason.as_str())
        && last.cause == Some(failure.cause);
    if handler.waits {
        return !same || last.message != shortened(&failure.message);
    }
    match failure.cause {
        Cause::Fault if !handler.evaluates() => true,
        Cause::Fault | Cause::Capacity | Cause::Quota | Cause::Hold => {
            !same
                || item.is_outdated()
                || status.and_then(|status| status.next_attempt_at).is_none_or(|next| snapshot.now >= next)
        }
    }
}

/// Whether what stands against a waiting session is not what its status says.
fn is_blocked_by_others(item: &SessionItem, change: &Change) -> bool {
    change.waiting.as_ref().is_some_and(|new| item.told().is_none_or(|told| !told.says_the_same(new)))
}

/// The same for want of quota or capacity. Others of the same kind, as when two quotas take turns, are told once the
/// pause of a wait has passed since the last time.
fn is_newly_blocked(snapshot: &Snapshot, item: &SessionItem, change: &Change) -> bool {
    let pause = Some(snapshot.timing.wait_backoff);
    let settled = |told: &Waiting, new| told.has_the_same_reasons(new) && !is_over(Some(told.evaluated_at), pause, snapshot.now);
    let lately = item.told().zip(change.waiting.as_ref()).is_some_and(|(told, new)| settled(told, new));
    !lately && is_blocked_by_others(item, change)
}

fn shortened(message: &str) -> String {
    let mut message = message.to_owned();
    crate::lifecycle::truncate(&mut message, crate::lifecycle::MAX_MESSAGE);
    message
}

/// Skips of which the message names what is waited for: another name is another skip.
const NAMES_WHO: [Reason; 2] = [Reason::WaitingForKernels, Reason::DeletionHeld];

/// Whether an equal skip stands there already.
fn is_last_skip(history: &[HistoryEntry], handler: &Handler, reason: Reason, words: &str) -> bool {
    history.last().is_some_and(|last| {
        last.result == HistoryResult::Skipped
            && last.phase == handler.name.as_str()
            && last.error_code.as_deref() == Some(reason.as_str())
            && (!NAMES_WHO.contains(&reason) || last.message == shortened(words))
    })
}

/// Until when a handler that tries leaves a session alone: the pause after its last fault, or after a reset. A changed spec
/// ends the pause of a fault.
pub fn paused_until(
    handler: &Handler,
    session: &Session,
    now: chrono::DateTime<chrono::Utc>,
) -> Option<chrono::DateTime<chrono::Utc>> {
    let status = session.status.as_ref().filter(|_| !handler.waits)?;
    let last = last_attempt(&status.history)?;
    let changed = session.metadata.generation.is_some_and(|generation| status.observed_generation < generation);
    let failed = last.phase == handler.name.as_str() && last.cause == Some(Cause::Fault) && !handler.evaluates() && !changed;
    let refused = status.phase == SessionPhase::Pending && status.refusals > 0 && last.from != last.to;
    status.next_attempt_at.filter(|next| (failed || refused) && *next > now)
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use serde_json::json;

    use super::*;
    use crate::provisioner::{Blocker, Refusal};
    use crate::session::handlers::row;
    use crate::session::handlers::testing::{group, item, now, put, session, session_in, snapshot};
    use crate::session::waiting::waiting;

    /// A session in a phase, with so many failed attempts of a handler behind it, the first of them so long ago.
    fn tried(handler: HandlerName, phase: SessionPhase, attempts: i32, ago: TimeDelta) -> SessionItem {
        let mut session = session_in(phase);
        let entry = HistoryEntry {
            phase: handler.as_str().into(),
            result: HistoryResult::NeedRetry,
            from: phase.as_str().into(),
            to: phase.as_str().into(),
            error_code: Some(Reason::EffectFailed.as_str().into()),
            cause: Some(Cause::Fault),
            message: "it failed".into(),
            attempts,
            created_at: now() - ago,
            updated_at: now() - ago,
            steps: vec![],
        };
        if let Some(status) = &mut session.status {
            status.phase_started_at = Some(now() - ago);
            status.history = if attempts > 0 { vec![entry] } else { vec![] };
        }
        item(session, &[])
    }

    fn judged(snapshot: &Snapshot, handler: HandlerName, item: &SessionItem, outcome: Outcome) -> Option<Judged> {
        judge(row(handler).expect("a row"), snapshot, item, &outcome, &Change::default(), false)
    }

    fn failed(handler: HandlerName, phase: SessionPhase, attempts: i32, ago: TimeDelta) -> (HistoryResult, Option<To>) {
        let failure = Outcome::Failure(Failure::fault(Reason::EffectFailed, "it failed"));
        let judged = judged(&snapshot(vec![]), handler, &tried(handler, phase, attempts, ago), failure).expect("news");
        (judged.result, judged.to)
    }

    #[test]
    fn fc_001_a_first_failure_is_tried_again() {
        let minute = TimeDelta::minutes(1);
        let (result, to) = failed(HandlerName::CheckPrecondition, SessionPhase::Scheduled, 0, minute);
        assert_eq!((result, to), (HistoryResult::NeedRetry, None));
        let (result, to) = failed(HandlerName::CheckPrecondition, SessionPhase::Scheduled, 4, minute);
        assert_eq!((result, to), (HistoryResult::NeedRetry, None), "five in a row are allowed");
    }

    #[test]
    fn fc_002_a_phase_that_takes_too_long_expires() {
        let late = TimeDelta::minutes(16);
        for phase in [SessionPhase::Preparing, SessionPhase::Pulling] {
            let swept = failed(HandlerName::SweepSessions, phase, 0, late);
            assert_eq!(swept, (HistoryResult::Expired, To::phase(SessionPhase::Terminating)), "{phase}");
        }
        let reset = failed(HandlerName::PromoteToRunning, SessionPhase::Creating, 0, TimeDelta::minutes(11));
        assert_eq!(reset, (HistoryResult::Expired, To::PENDING_RESET));
        let told = failed(HandlerName::PromoteToPrepared, SessionPhase::Pulling, 0, late);
        assert_eq!(told, (HistoryResult::Expired, None), "only told: the sweep decides");
    }

    #[test]
    fn fc_003_the_sixth_failure_in_a_row_is_given_up() {
        let minute = TimeDelta::minutes(1);
        for (handler, phase, to) in [
            (HandlerName::ScheduleSessions, SessionPhase::Pending, To::phase(SessionPhase::Deprioritizing)),
            (HandlerName::CheckPrecondition, SessionPhase::Scheduled, To::phase(SessionPhase::Terminating)),
            (HandlerName::StartSessions, SessionPhase::Prepared, To::PENDING_RESET),
            (HandlerName::TerminateSessions, SessionPhase::Terminating, To::phase(SessionPhase::Terminated)),
        ] {
            assert_eq!(failed(handler, phase, 5, minute), (HistoryResult::GiveUp, to), "{handler}");
        }
    }

    #[test]
    fn who_waits_past_the_groups_pending_timeout_expires() {
        let mut world = snapshot(vec![]);
        world.group = Some(std::sync::Arc::new(group(json!({"pendingTimeoutSeconds": 60}))));
        let handler = row(HandlerName::SweepSessions).expect("a row");
        let swept = |minutes| {
            let item = tried(HandlerName::ScheduleSessions, SessionPhase::Pending, 0, TimeDelta::minutes(minutes));
            let crate::session::handlers::Decide::Each(sweep) = handler.decide else { panic!("one by one") };
            let verdict = sweep(&world, &item);
            judge(handler, &world, &item, &verdict.outcome, &verdict.change, false)
        };
        assert_eq!(swept(1), None, "strictly later");
        let cancelled = Judged { result: HistoryResult::Expired, to: To::phase(SessionPhase::Cancelled) };
        assert_eq!(swept(2), Some(cancelled));
    }

    #[test]
    fn waits_for_a_quota_never_count_whatever_a_group_counts() {
        let handler = HandlerName::ScheduleSessions;
        let mut world = snapshot(vec![]);
        world.group = Some(std::sync::Arc::new(group(json!({"retry": {"countCapacity": true}}))));
        let result_after = |cause| {
            let mut item = tried(handler, SessionPhase::Pending, 5, TimeDelta::minutes(15));
            let mut session = (*item.session).clone();
            session.status.iter_mut().flat_map(|status| &mut status.history).for_each(|entry| entry.cause = Some(cause));
            item.session = std::sync::Arc::new(session);
            let full = Outcome::Failure(Failure::new(Cause::Capacity, Reason::NoAvailableNode, "full"));
            judged(&world, handler, &item, full).map(|judged| judged.result)
        };
        assert_eq!(result_after(Cause::Quota), Some(HistoryResult::NeedRetry));
        assert_eq!(result_after(Cause::Capacity), Some(HistoryResult::GiveUp));
    }

    #[test]
    fn a_group_sets_limits_of_single_handlers_and_a_session_tightens_them() {
        let handler = HandlerName::StartSessions;
        let mut world = snapshot(vec![]);
        let limits = json!({"retry": {"handlers": [{"handler": "start-sessions", "maxAttempts": 2, "timeoutSeconds": 30}]}});
        world.group = Some(std::sync::Arc::new(group(limits)));
        let failure = || Outcome::Failure(Failure::fault(Reason::EffectFailed, "it failed"));
        let result = |world: &Snapshot, item: &SessionItem| judged(world, handler, item, failure()).map(|judged| judged.result);
        let second = TimeDelta::seconds(1);
        let tried = |attempts, ago| tried(handler, SessionPhase::Prepared, attempts, ago);
        assert_eq!(result(&world, &tried(1, second)), Some(HistoryResult::NeedRetry));
        assert_eq!(result(&world, &tried(2, second)), Some(HistoryResult::GiveUp));
        assert_eq!(result(&world, &tried(1, second * 31)), Some(HistoryResult::Expired));
        let mut strict = tried(1, second);
        let mut own = session(json!({"retry": {"maxAttempts": 1}}));
        own.status = strict.session.status.clone();
        strict.session = std::sync::Arc::new(own);
        assert_eq!(result(&world, &strict), Some(HistoryResult::GiveUp));
        let mut hasty = tried(1, second * 20);
        let mut own = session(json!({"retry": {"timeoutSeconds": 10}}));
        own.status = hasty.session.status.clone();
        assert_eq!(result(&world, &hasty), Some(HistoryResult::NeedRetry));
        hasty.session = std::sync::Arc::new(own);
        assert_eq!(result(&world, &hasty), Some(HistoryResult::Expired));
    }

    #[test]
    fn sc_co_019_a_skip_is_recorded_once_and_changes_no_status() {
        let skip = || Outcome::Skipped(Reason::NotYetDue, "not before noon".into());
        let mut waiting = tried(HandlerName::ScheduleSessions, SessionPhase::Pending, 0, TimeDelta::minutes(1));
        let first = judged(&snapshot(vec![]), HandlerName::ScheduleSessions, &waiting, skip());
        assert_eq!(first, Some(Judged { result: HistoryResult::Skipped, to: None }));
        let mut session = (*waiting.session).clone();
        put(&mut session, SessionPhase::Pending, TimeDelta::minutes(1));
        let step = crate::session::status::Step {
            handler: HandlerName::ScheduleSessions,
            result: HistoryResult::Skipped,
            to: None,
            failure: None,
            skip: Some((Reason::NotYetDue, "not before noon")),
            change: &Change::default(),
            steps: vec![],
        };
        let status = crate::session::status::advance(&snapshot(vec![]), &session, &[], step);
        let last = status.history.last().expect("an entry");
        assert_eq!((last.from.as_str(), last.to.as_str(), last.result), ("Pending", "Pending", HistoryResult::Skipped));
        assert_eq!((status.phase, status.attempts), (SessionPhase::Pending, 0));
        session.status = Some(status);
        waiting.session = std::sync::Arc::new(session);
        assert_eq!(
            judged(&snapshot(vec![]), HandlerName::ScheduleSessions, &waiting, skip()),
            None,
            "an equal one is not rewritten"
        );
    }

    #[test]
    fn a_wait_for_capacity_is_recorded_again_only_when_its_pause_is_over() {
        let full = || Outcome::Failure(Failure::new(Cause::Capacity, Reason::NoAvailableNode, "full"));
        let mut waiting = tried(HandlerName::ScheduleSessions, SessionPhase::Pending, 1, TimeDelta::seconds(10));
        let mut session = (*waiting.session).clone();
        let set = |session: &mut Session, next: TimeDelta| {
            let status = session.status.as_mut().expect("a status");
            status.history[0].error_code = Some(Reason::NoAvailableNode.as_str().into());
            status.history[0].cause = Some(Cause::Capacity);
            status.history[0].attempts = 50;
            status.next_attempt_at = Some(now() + next);
        };
        set(&mut session, TimeDelta::seconds(50));
        waiting.session = std::sync::Arc::new(session.clone());
        assert_eq!(judged(&snapshot(vec![]), HandlerName::ScheduleSessions, &waiting, full()), None);
        set(&mut session, TimeDelta::zero());
        waiting.session = std::sync::Arc::new(session);
        let again = judged(&snapshot(vec![]), HandlerName::ScheduleSessions, &waiting, full());
        assert_eq!(again, Some(Judged { result: HistoryResult::NeedRetry, to: None }), "never given up");
    }

    #[test]
    fn quotas_that_take_turns_are_told_once_in_a_pause_and_another_reason_at_once() {
        let told = |reason: Reason, object: &str, ago: TimeDelta| {
            let blocker = Blocker::new("quota", Cause::Quota, reason, "over").of(object);
            waiting(&Refusal::of(vec![blocker]).expect("a refusal"), now() - ago)
        };
        let minute = TimeDelta::seconds(61);
        let written = |ago: TimeDelta, reason: Reason, object: &str| {
            let mut item = tried(HandlerName::ScheduleSessions, SessionPhase::Pending, 1, ago);
            let mut session = (*item.session).clone();
            let status = session.status.as_mut().expect("a status");
            status.history[0].error_code = Some(Reason::QuotaExceeded.as_str().into());
            status.history[0].cause = Some(Cause::Quota);
            status.next_attempt_at = Some(now() + minute);
            status.waiting = Some(told(Reason::QuotaExceeded, "project a", ago));
            item.session = std::sync::Arc::new(session);
            let change = Change { waiting: Some(told(reason, object, TimeDelta::zero())), ..Change::default() };
            let over = Outcome::Failure(Failure::new(Cause::Quota, reason, "over"));
            judge(row(HandlerName::ScheduleSessions).expect("a row"), &snapshot(vec![]), &item, &over, &change, false).is_some()
        };
        let lately = TimeDelta::seconds(5);
        assert!(!written(lately, Reason::QuotaExceeded, "project a"));
        assert!(!written(lately, Reason::QuotaExceeded, "domain b"), "the quotas take turns");
        assert!(written(lately, Reason::ConcurrencyExceeded, "project a"));
        assert!(!written(minute, Reason::QuotaExceeded, "project a"));
        assert!(written(minute, Reason::QuotaExceeded, "domain b"));
    }
}
