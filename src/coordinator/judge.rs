//! Judges a verdict: what it amounts to, where it leads, and whether there is anything new to write. Pure.

use crate::api::{Cause, HistoryEntry, HistoryResult, Session};
use crate::lifecycle::{Class, Failure, Limits, Reason, Record, attempts_of, classify};
use crate::session::handlers::{Change, Handler, HandlerName, Outcome, To};
use crate::session::snapshot::{SessionItem, Snapshot};

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
        Outcome::Skipped(reason, _) => {
            let told = is_last_skip(history, handler.name, *reason);
            (!told).then_some(Judged { result: HistoryResult::Skipped, to: None })
        }
        Outcome::Failure(failure) => {
            let judged = judge_failure(handler, snapshot, item, failure, change);
            (judged.to.is_some() || is_news(handler, snapshot, item, failure)).then_some(judged)
        }
    }
}

fn judge_failure(handler: &Handler, snapshot: &Snapshot, item: &SessionItem, failure: &Failure, change: &Change) -> Judged {
    let (record, limits) = (record(handler, snapshot, item), limits(handler, snapshot, item));
    let leads = |class: Class| handler.transitions.of(class);
    let class = classify(&record, &limits, failure.cause, snapshot.now, |class| leads(class).is_some());
    let to = match class {
        Class::Expired => change.expired_to.or(leads(class)),
        _ => leads(class),
    };
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
        return Record { attempts: 0, started_at: item.status_since() };
    }
    let history = item.session.status.as_ref().map(|status| status.history.as_slice()).unwrap_or_default();
    let mut record = attempts_of(history, handler.name.as_str());
    // Waiting for capacity or quota is not failing: those attempts never count towards giving up, unless opted in.
    let last = history.iter().rev().find(|entry| entry.result != HistoryResult::Skipped);
    if matches!(last.and_then(|last| last.cause), Some(Cause::Capacity | Cause::Quota)) && !counts_capacity(snapshot) {
        record.attempts = 0;
    }
    record
}

fn limits(handler: &Handler, snapshot: &Snapshot, item: &SessionItem) -> Limits {
    Limits {
        max_attempts: (!handler.waits).then(|| snapshot.max_attempts(&item.session)),
        timeout: snapshot.phase_timeout(&item.session, item.phase()),
        count_capacity: counts_capacity(snapshot),
    }
}

fn counts_capacity(snapshot: &Snapshot) -> bool {
    snapshot.group.as_ref().is_some_and(|group| group.spec.retry.count_capacity)
}

/// Whether a failure says something that does not stand there already. A fault that is tried always does; waiting
/// does when its reason changed or its pause is over; a handler that waits, when its words changed.
fn is_news(handler: &Handler, snapshot: &Snapshot, item: &SessionItem, failure: &Failure) -> bool {
    let status = item.session.status.as_ref();
    let Some(last) = status.and_then(|status| status.history.last()) else { return true };
    let same = last.phase == handler.name.as_str()
        && last.error_code.as_deref() == Some(failure.reason.as_str())
        && last.cause == Some(failure.cause);
    if handler.waits {
        return !same || last.message != shortened(&failure.message);
    }
    match failure.cause {
        Cause::Fault => true,
        Cause::Capacity | Cause::Quota => {
            !same || status.and_then(|status| status.next_attempt_at).is_none_or(|next| snapshot.now >= next)
        }
    }
}

fn shortened(message: &str) -> String {
    let mut message = message.to_owned();
    crate::lifecycle::truncate(&mut message, crate::lifecycle::MAX_MESSAGE);
    message
}

fn is_last_skip(history: &[HistoryEntry], handler: HandlerName, reason: Reason) -> bool {
    history.last().is_some_and(|last| {
        last.result == HistoryResult::Skipped
            && last.phase == handler.as_str()
            && last.error_code.as_deref() == Some(reason.as_str())
    })
}

/// Until when a handler that tries leaves a session alone: the pause after its last fault.
pub fn paused_until(
    handler: &Handler,
    session: &Session,
    now: chrono::DateTime<chrono::Utc>,
) -> Option<chrono::DateTime<chrono::Utc>> {
    let status = session.status.as_ref().filter(|_| !handler.waits)?;
    let last = status.history.iter().rev().find(|entry| entry.result != HistoryResult::Skipped)?;
    let failed = last.phase == handler.name.as_str() && last.cause == Some(Cause::Fault);
    status.next_attempt_at.filter(|next| failed && *next > now)
}
