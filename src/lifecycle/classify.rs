//! Classification: turns a verdict into a result and a transition, by cause, attempts and time (docs/lifecycle.md). Pure.

use std::time::Duration;

use chrono::{DateTime, Utc};
use kube::core::object::HasStatus;

use super::{
    Attempts, Failure, Handler, HandlerName, HasProgress, Item, MAX_MESSAGE, Mode, Outcome, Phase, Snapshot, Subject, To,
    Verdict, attempts_of, is_outdated, last_attempt, phase_of, phase_started_at, truncate,
};
use crate::api::{Cause, HistoryEntry, HistoryResult, Progress, Reason};

/// What a failure amounts to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    GiveUp,
    Expired,
    NeedRetry,
}

/// The limits that hold for one handler and object.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub max_attempts: i32,
    pub timeout: Option<Duration>,
    /// Whether waiting for capacity counts as an attempt.
    pub counts_capacity: bool,
}

/// What became of the effects of a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effects {
    /// It had none.
    None,
    Done,
    Failed,
}

/// A classified verdict.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Classified<P> {
    pub result: HistoryResult,
    /// Where it leads. None keeps the phase.
    pub to: Option<To<P>>,
}

/// The result of a verdict and where it leads. Returns None when there is nothing to write.
pub fn classify<S: Subject>(
    handler: &Handler<S>,
    snapshot: &S::Snapshot,
    item: &S::Item,
    verdict: &Verdict<S>,
    effects: Effects,
) -> Option<Classified<S::Phase>> {
    match &verdict.outcome {
        Outcome::Idle => None,
        Outcome::Success { to } => {
            let to = to.map_or(handler.transitions.success, To::phase);
            let is_news =
                to.is_some() || effects != Effects::None || S::is_news(snapshot, item, &verdict.change, HistoryResult::Success);
            is_news.then_some(Classified { result: HistoryResult::Success, to })
        }
        Outcome::Skipped(reason, message) => {
            let recorded = progress_of::<S>(item).is_some_and(|progress| is_recorded_skip(progress, handler, *reason, message));
            let recorded = recorded && !is_outdated::<S>(item.object());
            let is_news = !recorded || S::is_news(snapshot, item, &verdict.change, HistoryResult::Skipped);
            is_news.then_some(Classified { result: HistoryResult::Skipped, to: None })
        }
        Outcome::Failure(failure) => {
            let classified = classify_failure(handler, snapshot, item, verdict, failure, effects);
            let is_news = is_new_failure(handler, snapshot, item, failure)
                || S::is_news(snapshot, item, &verdict.change, classified.result);
            (classified.to.is_some() || is_news).then_some(classified)
        }
    }
}

fn progress_of<S: Subject>(item: &S::Item) -> Option<&Progress<S::Phase>> {
    item.object().status().map(HasProgress::progress)
}

fn history_of<S: Subject>(item: &S::Item) -> &[HistoryEntry] {
    progress_of::<S>(item).map(|progress| progress.history.as_slice()).unwrap_or_default()
}

fn classify_failure<S: Subject>(
    handler: &Handler<S>,
    snapshot: &S::Snapshot,
    item: &S::Item,
    verdict: &Verdict<S>,
    failure: &Failure,
    effects: Effects,
) -> Classified<S::Phase> {
    let limits = S::limits(snapshot, item, handler);
    let attempts = attempts(handler, snapshot, item, limits);
    let leads = |class| handler.transitions.of(class);
    let gives_up = !handler.waits();
    let limits = Limits { max_attempts: if gives_up { limits.max_attempts } else { i32::MAX }, ..limits };
    let class = class_of(attempts, limits, failure.cause, snapshot.now(), |class| leads(class).is_some());
    let refused = failure.cause == Cause::Hold || (failure.cause == Cause::Quota && effects == Effects::Failed);
    let to = match class {
        Class::Expired => verdict.expired_to.or(leads(class)),
        Class::NeedRetry if refused => handler.transitions.refused.or(leads(class)),
        Class::NeedRetry | Class::GiveUp => leads(class),
    };
    // What may still run on a silent node must not begin again elsewhere. Whether the node is lost is decided first.
    let to = to.filter(|to| !to.restarts || item.may_restart());
    let result = match class {
        Class::GiveUp => HistoryResult::GiveUp,
        Class::Expired => HistoryResult::Expired,
        Class::NeedRetry => HistoryResult::NeedRetry,
    };
    Classified { result, to }
}

/// The attempts that count for this handler, and when the first was made.
fn attempts<S: Subject>(handler: &Handler<S>, snapshot: &S::Snapshot, item: &S::Item, limits: Limits) -> Attempts {
    match handler.mode {
        Mode::Waits => Attempts { count: 0, started_at: phase_started_at::<S>(item.object()) },
        Mode::Restarts(count) => Attempts { count: count(snapshot, item), started_at: None },
        Mode::Acts | Mode::Evaluates => {
            let history = history_of::<S>(item);
            let attempts = attempts_of(history, handler.name.as_str());
            // Waiting is not failing.
            let counts = match last_attempt(history).and_then(|last| last.cause) {
                Some(Cause::Quota | Cause::Hold) => false,
                Some(Cause::Capacity) => limits.counts_capacity,
                Some(Cause::Fault) | None => true,
            };
            Attempts { count: if counts { attempts.count } else { 0 }, ..attempts }
        }
    }
}

/// The first class that applies: given up, expired, to be retried. A class without a transition falls through to the next
/// that has one. If none has, the first that applies is the result, and the phase stays.
fn class_of(
    attempts: Attempts,
    limits: Limits,
    cause: Cause,
    now: DateTime<Utc>,
    has_transition: impl Fn(Class) -> bool,
) -> Class {
    let counts = match cause {
        Cause::Fault => true,
        Cause::Capacity => limits.counts_capacity,
        Cause::Quota | Cause::Hold => false,
    };
    let gives_up = counts && attempts.count >= limits.max_attempts;
    let expired = is_over(attempts.started_at, limits.timeout, now);
    let applying = [(gives_up, Class::GiveUp), (expired, Class::Expired), (true, Class::NeedRetry)];
    let mut classes = applying.into_iter().filter(|(applies, _)| *applies).map(|(_, class)| class);
    let first = classes.clone().next().unwrap_or(Class::NeedRetry);
    classes.find(|class| has_transition(*class)).unwrap_or(first)
}

/// Whether a failure is not on record yet. A fault of a handler that acts always is new. For a handler that waits, another
/// message is. Any other failure is new when its reason changed or its pause is over.
fn is_new_failure<S: Subject>(handler: &Handler<S>, snapshot: &S::Snapshot, item: &S::Item, failure: &Failure) -> bool {
    let Some(last) = last_attempt(history_of::<S>(item)) else { return true };
    let same =
        last.handler == handler.name.as_str() && last.error_code == Some(failure.reason) && last.cause == Some(failure.cause);
    if handler.waits() {
        return !same || last.message != shortened(&failure.message);
    }
    match failure.cause {
        Cause::Fault if !handler.evaluates() => true,
        Cause::Fault | Cause::Capacity | Cause::Quota | Cause::Hold => {
            let next = progress_of::<S>(item).and_then(|progress| progress.next_attempt_at);
            !same || is_outdated::<S>(item.object()) || next.is_none_or(|next| snapshot.now() >= next)
        }
    }
}

/// Whether the last entry of the history is the same skip. The message counts, except for a handler that evaluates: its numbers
/// change all the time. An object that is ending keeps the reason of its end, so there only the history counts.
fn is_recorded_skip<S: Subject>(progress: &Progress<S::Phase>, handler: &Handler<S>, reason: Reason, message: &str) -> bool {
    let is_last = progress.history.last().is_some_and(|last| {
        last.result == HistoryResult::Skipped
            && last.handler == handler.name.as_str()
            && last.error_code == Some(reason)
            && (handler.evaluates() || last.message == shortened(message))
    });
    is_last && (progress.phase.is_ending() || progress.reason == Some(reason))
}

fn shortened(message: &str) -> String {
    let mut message = message.to_owned();
    truncate(&mut message, MAX_MESSAGE);
    message
}

/// Until when a handler leaves an object alone: the pause after its last fault, or after the step that led here. A changed spec
/// ends the pause of a fault.
pub fn paused_until<S: Subject>(handler: &Handler<S>, item: &S::Item, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let progress = progress_of::<S>(item).filter(|_| !handler.waits())?;
    let last = last_attempt(&progress.history)?;
    let failed = last.handler == handler.name.as_str()
        && last.cause == Some(Cause::Fault)
        && !handler.evaluates()
        && !is_outdated::<S>(item.object());
    let led_here = last.from != last.to && last.to == phase_of::<S>(item.object()).as_str();
    progress.next_attempt_at.filter(|next| (failed || led_here) && *next > now)
}

/// The first moment at which [`is_over`] holds: the limit is strict, so a millisecond later.
pub fn over_at(since: Option<DateTime<Utc>>, limit: Option<Duration>) -> Option<DateTime<Utc>> {
    let limit = chrono::TimeDelta::from_std(limit?).ok()?;
    Some(since? + limit + chrono::TimeDelta::milliseconds(1))
}

/// Whether more than `limit` has passed since `since`.
pub fn is_over(since: Option<DateTime<Utc>>, limit: Option<Duration>, now: DateTime<Utc>) -> bool {
    match (since, limit) {
        (Some(since), Some(limit)) => (now - since).to_std().is_ok_and(|elapsed| elapsed > limit),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minutes: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + chrono::TimeDelta::minutes(minutes)
    }

    fn record(attempts: i32, started: i64) -> Attempts {
        Attempts { count: attempts, started_at: Some(at(started)) }
    }

    fn limits() -> Limits {
        Limits { max_attempts: 5, timeout: Some(Duration::from_secs(900)), counts_capacity: false }
    }

    #[test]
    fn sc_co_001_failure_with_five_attempts_is_given_up() {
        assert_eq!(class_of(record(5, 0), limits(), Cause::Fault, at(1), |_| true), Class::GiveUp);
    }

    #[test]
    fn sc_co_002_failure_after_sixteen_minutes_is_expired() {
        assert_eq!(class_of(record(1, 0), limits(), Cause::Fault, at(16), |_| true), Class::Expired);
        assert_eq!(class_of(record(1, 0), limits(), Cause::Fault, at(15), |_| true), Class::NeedRetry, "strictly later");
    }

    #[test]
    fn sc_co_003_failure_within_limits_needs_retry() {
        assert_eq!(class_of(record(1, 0), limits(), Cause::Fault, at(5), |_| true), Class::NeedRetry);
    }

    #[test]
    fn sc_co_004_give_up_goes_before_expired() {
        assert_eq!(class_of(record(5, 0), limits(), Cause::Fault, at(20), |_| true), Class::GiveUp);
    }

    #[test]
    fn a_class_without_transition_falls_through_to_the_next() {
        let only_expired = |class| class == Class::Expired;
        assert_eq!(class_of(record(5, 0), limits(), Cause::Fault, at(20), only_expired), Class::Expired);
        assert_eq!(class_of(record(5, 0), limits(), Cause::Fault, at(20), |_| false), Class::GiveUp);
    }

    #[test]
    fn waiting_for_capacity_quota_or_a_hold_is_never_given_up() {
        for cause in [Cause::Capacity, Cause::Quota, Cause::Hold] {
            assert_eq!(class_of(record(50, 0), limits(), cause, at(1), |_| true), Class::NeedRetry);
        }
        let opted_in = Limits { counts_capacity: true, ..limits() };
        assert_eq!(class_of(record(5, 0), opted_in, Cause::Capacity, at(1), |_| true), Class::GiveUp);
    }
}
