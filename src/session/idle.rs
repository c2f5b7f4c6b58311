//! Idle sessions: how long a session may go unused, and what counts as use. Pure.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use crate::api::{ANNOTATION_KEEP_UNTIL, Amount, ResourceName, Resources, Session};
use crate::session::limits::{policies, shortest};
use crate::views::Tenancy;

/// A kernel is used while it uses this part of what it requests.
const USED_PER_CENT: i64 = 5;
/// Less CPU than this is never use: many programs wake up now and then.
const MIN_CPU: Amount = Amount::from_milli(10);

/// A kernel that sends and receives this much is used. Heartbeats of a browser are less.
const MIN_BYTES_PER_SECOND: u64 = 4096;

/// The use of a session, as it was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The last time that it was used, or that its use was not known.
    pub used_at: DateTime<Utc>,
    pub measured_at: DateTime<Utc>,
}

impl Usage {
    /// Returns the use after another measurement. After more than `gap` without one, the session may have been used in between.
    pub fn after(before: Option<Self>, measured_at: DateTime<Utc>, is_used: bool, gap: TimeDelta) -> Self {
        let known = before.filter(|before| !is_used && measured_at - before.measured_at <= gap);
        Self { used_at: known.map_or(measured_at, |before| before.used_at), measured_at }
    }
}

/// Whether a kernel that requests so much is used while it uses so much. Memory stays in use after the work.
pub fn is_used(requested: &Resources, used: &Resources) -> bool {
    used.iter().any(|(name, amount)| match name {
        ResourceName::Cpu => amount >= part_of(requested.amount(name)).max(MIN_CPU),
        ResourceName::Accelerator(_) => !amount.is_zero() && amount >= part_of(requested.amount(name)),
        ResourceName::Memory | ResourceName::Other(_) | ResourceName::Pods => false,
    })
}

/// Whether a kernel that sent and received so many bytes in this time is used.
pub fn is_busy_with(bytes: u64, elapsed: Duration) -> bool {
    bytes > 0 && bytes >= MIN_BYTES_PER_SECOND.saturating_mul(elapsed.as_secs())
}

fn part_of(requested: Amount) -> Amount {
    Amount::from_milli(requested.milli() / 100 * USED_PER_CENT)
}

/// Returns the seconds for which a session may be idle, and whose limit that is. A replica of a deployment has none.
pub fn limit(tenancy: &Tenancy, session: &Session) -> Option<(i64, String)> {
    shortest(tenancy, session, session.spec.idle_timeout_seconds, |policy| policy.idle_timeout_seconds)
}

/// Returns until when a session is kept although it is idle.
pub fn kept_until(tenancy: &Tenancy, session: &Session) -> Option<DateTime<Utc>> {
    let text = session.metadata.annotations.as_ref()?.get(ANNOTATION_KEEP_UNTIL)?;
    let forbidden = policies(tenancy, session).any(|(_, policy)| policy.spec.forbid_keep_until);
    DateTime::parse_from_rfc3339(text).ok().filter(|_| !forbidden).map(|time| time.to_utc())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn amounts(list: &[(&str, i64)]) -> Resources {
        let mut resources = Resources::default();
        list.iter().for_each(|(name, milli)| resources.set(*name, Amount::from_milli(*milli)));
        resources
    }

    #[test]
    fn a_kernel_is_used_from_five_per_cent_of_a_request_and_memory_does_not_count() {
        let requested = amounts(&[("cpu", 2000), ("memory", 1_000_000), ("nvidia.com/gpu", 1000)]);
        let used = |list: &[(&str, i64)]| is_used(&requested, &amounts(list));
        assert!(used(&[("cpu", 100)]) && !used(&[("cpu", 99)]));
        assert!(used(&[("cpu", 0), ("nvidia.com/gpu", 50)]) && !used(&[("nvidia.com/gpu", 49)]));
        assert!(!used(&[("memory", 1_000_000)]));
        assert!(!is_used(&amounts(&[("cpu", 100)]), &amounts(&[("cpu", 9)])), "less than 10m is no use, whatever is requested");
        assert!(!is_used(&amounts(&[]), &amounts(&[("nvidia.com/gpu", 0)])));
    }

    #[test]
    fn a_kernel_is_used_from_four_kibibytes_a_second() {
        let minute = Duration::from_secs(60);
        assert!(is_busy_with(60 * 4096, minute) && !is_busy_with(60 * 4096 - 1, minute));
        assert!(!is_busy_with(0, Duration::ZERO));
    }

    #[test]
    fn time_without_measurements_does_not_count_as_idle() {
        let at = |minute: i64| DateTime::UNIX_EPOCH + TimeDelta::minutes(minute);
        let gap = TimeDelta::minutes(3);
        let first = Usage::after(None, at(0), false, gap);
        assert_eq!(first, Usage { used_at: at(0), measured_at: at(0) });
        let idle = Usage::after(Some(first), at(3), false, gap);
        assert_eq!(idle, Usage { used_at: at(0), measured_at: at(3) });
        assert_eq!(Usage::after(Some(idle), at(4), true, gap).used_at, at(4));
        assert_eq!(Usage::after(Some(idle), at(7), false, gap).used_at, at(7), "it may have been used in between");
    }
}
