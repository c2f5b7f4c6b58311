//! Turns a handler's failure into a result, by attempts and time (rules §2).

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::Cause;

/// What a failure amounts to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    GiveUp,
    Expired,
    NeedRetry,
}

/// What classification looks at.
#[derive(Clone, Debug)]
pub struct Record {
    /// Failed attempts in a row before this one.
    pub attempts: i32,
    /// When the first of them was made, or when the status was committed, for a handler that waits.
    pub started_at: Option<DateTime<Utc>>,
}

/// The limits that hold for one handler and session.
#[derive(Clone, Debug)]
pub struct Limits {
    /// None for handlers that wait rather than try.
    pub max_attempts: Option<i32>,
    pub timeout: Option<Duration>,
    /// Whether waiting for capacity counts towards giving up.
    pub count_capacity: bool,
}

/// The first class that applies: given up, expired, to be retried. A class for which `has_transition` is false falls
/// through to the next that has one; if none has, the first that applies is the verdict and changes nothing.
pub fn classify(
    record: &Record,
    limits: &Limits,
    cause: Cause,
    now: DateTime<Utc>,
    has_transition: impl Fn(Class) -> bool,
) -> Class {
    let counts = match cause {
        Cause::Fault => true,
        Cause::Capacity => limits.count_capacity,
        Cause::Quota | Cause::Hold => false,
    };
    let gives_up = counts && limits.max_attempts.is_some_and(|max| record.attempts >= max);
    let expired = match (limits.timeout, record.started_at) {
        (Some(timeout), Some(started)) => (now - started).to_std().is_ok_and(|elapsed| elapsed > timeout),
        _ => false,
    };
    let applying = [(gives_up, Class::GiveUp), (expired, Class::Expired), (true, Class::NeedRetry)];
    let mut classes = applying.into_iter().filter(|(applies, _)| *applies).map(|(_, class)| class);
    let first = classes.clone().next().unwrap_or(Class::NeedRetry);
    classes.find(|class| has_transition(*class)).unwrap_or(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minutes: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + chrono::TimeDelta::minutes(minutes)
    }

    fn record(attempts: i32, started: i64) -> Record {
        Record { attempts, started_at: Some(at(started)) }
    }

    fn limits() -> Limits {
        Limits { max_attempts: Some(5), timeout: Some(Duration::from_secs(900)), count_capacity: false }
    }

    #[test]
    fn sc_co_001_failure_with_five_attempts_is_given_up() {
        assert_eq!(classify(&record(5, 0), &limits(), Cause::Fault, at(1), |_| true), Class::GiveUp);
    }

    #[test]
    fn sc_co_002_failure_after_sixteen_minutes_is_expired() {
        assert_eq!(classify(&record(1, 0), &limits(), Cause::Fault, at(16), |_| true), Class::Expired);
        assert_eq!(classify(&record(1, 0), &limits(), Cause::Fault, at(15), |_| true), Class::NeedRetry, "strictly later");
    }

    #[test]
    fn sc_co_003_failure_within_limits_needs_retry() {
        assert_eq!(classify(&record(1, 0), &limits(), Cause::Fault, at(5), |_| true), Class::NeedRetry);
    }

    #[test]
    fn sc_co_004_give_up_goes_before_expired() {
        assert_eq!(classify(&record(5, 0), &limits(), Cause::Fault, at(20), |_| true), Class::GiveUp);
    }

    #[test]
    fn a_class_without_transition_falls_through_to_the_next() {
        let only_expired = |class| class == Class::Expired;
        assert_eq!(classify(&record(5, 0), &limits(), Cause::Fault, at(20), only_expired), Class::Expired);
        assert_eq!(classify(&record(5, 0), &limits(), Cause::Fault, at(20), |_| false), Class::GiveUp);
    }

    #[test]
    fn waiting_for_capacity_quota_or_a_hold_is_never_given_up() {
        for cause in [Cause::Capacity, Cause::Quota, Cause::Hold] {
            assert_eq!(classify(&record(50, 0), &limits(), cause, at(1), |_| true), Class::NeedRetry);
        }
        let opted_in = Limits { count_capacity: true, ..limits() };
        assert_eq!(classify(&record(5, 0), &opted_in, Cause::Capacity, at(1), |_| true), Class::GiveUp);
    }
}
