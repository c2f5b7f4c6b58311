//! Failures: replicas of one revision that ended by themselves, in a row, and the pause that follows.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::snapshot::{DeploymentItem, Replica, Snapshot};
use crate::api::{Failures, RoutePhase};
use crate::lifecycle::{Timing, backoff, truncate};

/// The largest message, in bytes.
const MAX_MESSAGE: usize = 512;
/// A revision that never served fails after this many replicas, or after as many as there shall be.
const MAX_FAILURES: i32 = 5;

/// The failures of a revision after those that are not counted yet. Returns None if nothing changes.
pub fn counted(snapshot: &Snapshot, item: &DeploymentItem, revision: i64) -> Option<Failures> {
    let before = &item.status().failures;
    let mut next = if before.revision == revision {
        before.clone()
    } else {
        Failures { revision, counted: before.counted.clone(), ..Failures::default() }
    };
    let of_revision = |replica: &&Replica| replica.revision() == revision;
    next.has_served |= item.replicas.iter().filter(of_revision).any(Replica::has_served);
    next.counted.retain(|name| item.replicas.iter().any(|replica| replica.name() == name));
    let stable = item.replicas.iter().filter(of_revision).filter_map(|replica| stable_at(snapshot, replica)).max();
    if next.count > 0 && stable.is_some_and(|at| at <= snapshot.now && next.last_at.is_none_or(|last| at > last)) {
        (next.count, next.last_at) = (0, None);
    }
    let fresh = item.replicas.iter().filter(|replica| has_failed(replica) && !next.counted.iter().any(|n| n == replica.name()));
    let mut fresh: Vec<&Replica> = fresh.collect();
    fresh.sort_by_key(|replica| failed_at(replica));
    for replica in fresh {
        next.counted.push(replica.name().to_owned());
        if replica.revision() == revision {
            next.count += 1;
            next.last_at = next.last_at.max(failed_at(replica)).or(Some(snapshot.now));
            next.message = why(replica);
        }
    }
    (next != *before).then_some(next)
}

fn has_failed(replica: &Replica) -> bool {
    replica.route.status.as_ref().is_some_and(|status| status.failed)
}

fn failed_at(replica: &Replica) -> Option<DateTime<Utc>> {
    replica.route.status.as_ref().and_then(|status| status.ended_at.or(status.phase_started_at))
}

/// Why a replica ended, in its own words.
fn why(replica: &Replica) -> String {
    let status = replica.route.status.as_ref();
    let reason = status.and_then(|status| status.reason).map_or("Unknown", |reason| reason.as_str());
    let message = status.and_then(|status| status.message.as_deref()).unwrap_or_default();
    let mut why = format!("{}: {reason}: {message}", replica.name());
    truncate(&mut why, MAX_MESSAGE);
    why
}

/// When a replica has run for long enough to end a row of failures before that.
fn stable_at(snapshot: &Snapshot, replica: &Replica) -> Option<DateTime<Utc>> {
    let since = replica.route.status.as_ref().and_then(|status| status.phase_started_at);
    let long = TimeDelta::from_std(snapshot.timing.stable_replica).unwrap_or_default();
    Some(since.filter(|_| replica.phase() == RoutePhase::Running)? + long)
}

/// When the next replica of the revision may be made, if not at once. The first replacement is immediate.
pub fn next_at(failures: &Failures, revision: i64, timing: &Timing, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let repeated = failures.revision == revision && failures.count > 1;
    let last = failures.last_at.filter(|_| repeated)?;
    let pause: Duration = backoff(timing.replacement_backoff, timing.replacement_backoff_max, failures.count - 1);
    let next = last + TimeDelta::from_std(pause).unwrap_or_default();
    (next > now).then_some(next)
}

/// Whether a revision that never served has failed too often.
pub fn is_hopeless(failures: &Failures, revision: i64, desired: i32) -> bool {
    failures.revision == revision && !failures.has_served && failures.count >= MAX_FAILURES.max(desired)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deployment::handlers::testing::{Case, now, snapshot};

    #[test]
    fn each_replica_that_ends_by_itself_counts_once() {
        let case = Case::new(2).failed(2);
        let first = counted(&snapshot(), &case.item(), 1).expect("news");
        assert_eq!((first.count, first.counted.len()), (2, 2));
        let again = Case::new(2).failed(2).status(|status| status.failures = first.clone());
        assert_eq!(counted(&snapshot(), &again.item(), 1), None);
    }

    #[test]
    fn the_pause_grows_with_the_failures_in_a_row_and_ends_with_a_stable_replica() {
        let failures = |count| Failures { revision: 1, count, last_at: Some(now()), ..Failures::default() };
        let pause = |count| next_at(&failures(count), 1, &Timing::default(), now()).map(|at| (at - now()).num_seconds());
        assert_eq!([pause(1), pause(2), pause(3), pause(4), pause(9)], [None, Some(10), Some(20), Some(40), Some(300)]);
        let before = |seconds| Failures { last_at: Some(now() - TimeDelta::seconds(seconds)), has_served: true, ..failures(3) };
        let stable = |failures: Failures| Case::new(1).running(1, 601).status(|status| status.failures = failures);
        assert_eq!(counted(&snapshot(), &stable(before(10)).item(), 1).map(|failures| failures.count), Some(0));
        assert_eq!(counted(&snapshot(), &stable(before(0)).item(), 1), None, "it was stable before another one failed");
        let young = Case::new(1).running(1, 20).status(|status| {
            status.failures = Failures { has_served: true, ..failures(3) };
        });
        assert_eq!(counted(&snapshot(), &young.item(), 1), None);
    }

    #[test]
    fn a_revision_that_never_served_fails_after_five_replicas_or_as_many_as_desired() {
        let failures = |count, has_served| Failures { revision: 1, count, has_served, ..Failures::default() };
        assert!(!is_hopeless(&failures(4, false), 1, 3) && is_hopeless(&failures(5, false), 1, 3));
        assert!(!is_hopeless(&failures(9, false), 1, 10) && is_hopeless(&failures(10, false), 1, 10));
        assert!(!is_hopeless(&failures(99, true), 1, 3), "one that ever served is retried for ever");
    }
}
