//! Every duration of the operator in one value, which tests scale.

use std::time::Duration;

/// Every duration of the operator that its behaviour depends on.
#[derive(Clone, Debug)]
pub struct Timing {
    /// The pause after a cycle that did not get its lock.
    pub short_cycle: Duration,
    /// How often each handler evaluates everything, marked or not.
    pub long_cycle: Duration,
    /// When the first long cycle begins.
    pub long_cycle_initial: Duration,
    /// The pause between two cycles of a handler, in which changes gather. A cycle after a longer rest begins at once.
    pub coalesce: Duration,
    /// Longest wait for an in-process lock, and longest time that a cycle holds it.
    pub lock_lifetime: Duration,
    /// The slice of each cycle reserved for explaining why objects wait. If deciding took longer, the slice is as long.
    pub explaining: Duration,
    /// Longest time for one request to the API server.
    pub request: Duration,
    /// Longest time for one hook.
    pub hook: Duration,
    /// First pause after a fault; doubles up to `fault_backoff_max`.
    pub fault_backoff: Duration,
    pub fault_backoff_max: Duration,
    /// First pause before a broken watch is started again; doubles up to `watch_backoff_max`, plus as much at random.
    pub watch_backoff: Duration,
    /// Low: without its watches, the operator sees nothing.
    pub watch_backoff_max: Duration,
    /// First pause between recorded attempts while waiting for capacity or quota; doubles up to `wait_backoff_max`.
    pub wait_backoff: Duration,
    pub wait_backoff_max: Duration,
    /// How long kube-scheduler may refuse a pod before its node is given up.
    pub unschedulable: Duration,
    /// How long a node may show no sign of life while something runs there.
    pub stale: Duration,
    /// The same for a node without a lease. A kubelet writes an unchanged node status every 5 minutes, but after a change or
    /// a restart up to half of that later (kubernetes/kubernetes#130919).
    pub stale_without_lease: Duration,
    /// How long a node that failed is tried last.
    pub avoid_failed_node: Duration,
    /// How long a deferred commit waits for the next step; longer while the operator is busy.
    pub deferral: Duration,
    /// How long a deferred wait waits for the next step; longer while the operator is busy.
    pub wait_deferral: Duration,
    /// How long the record that a kernel runs or is held up may wait; longer while the operator is busy.
    pub kernel_progress: Duration,
    /// The pause between writes that only inform people, while the operator is busy.
    pub busy_pace: Duration,
    /// The pause between two Events otherwise.
    pub event_pace: Duration,
    /// The sender of Events is no longer busy when none came for this long.
    pub busy_over: Duration,
    /// How long a deletion or a start may be held up before what holds it up is named.
    pub held_up: Duration,
    /// How long an object that starts again waits for a node where its programs may still run.
    pub unseen: Duration,
    /// How long some kernels of a gang may be behind the others before they are named.
    pub late: Duration,
    /// How long a kubelet may take to see an open gate when others have, before it is reminded. A kubelet that mounts the pod's volumes
    /// at that moment sees it only at its next regular look, after a minute or more.
    pub missed_gate: Duration,
    /// How long the Events of a silent pod are not read again.
    pub warnings_again: Duration,
    /// How often the use of what has an idle timeout is measured.
    pub measuring: Duration,
    /// How long something may go unmeasured before it counts as used.
    pub unmeasured: Duration,
    /// How long a new leader may take to list everything.
    pub listing: Duration,
    /// How long a node may be silent before its replicas count as unhealthy.
    pub stale_replica: Duration,
    /// The time in which several changes to an unhealthy state evict a replica at once.
    pub flapping: Duration,
    /// How long after its grace period a replica may remain before it is ended by force.
    pub drain_slack: Duration,
    /// The pause before the second replacement of a replica in a row; doubles up to `replacement_backoff_max`.
    pub replacement_backoff: Duration,
    pub replacement_backoff_max: Duration,
    /// A replica that ran for this long ends a row of failures.
    pub stable_replica: Duration,
    /// How long a new replica of a rollout may find no node before that is reported.
    pub surge_capacity: Duration,
    /// How long changes of a deployment's numbers are gathered before they are written.
    pub deployment_numbers: Duration,
    /// How long changes of usage are gathered before they are published.
    pub usage: Duration,
    /// Every timeout that users configure is divided by this; 1 outside tests.
    pub scale: u32,
    pub lease: LeaseTiming,
}

/// The durations of leader election.
#[derive(Clone, Copy, Debug)]
pub struct LeaseTiming {
    /// How long a lease holds without renewal.
    pub duration: Duration,
    /// How often the holder renews it.
    pub renew: Duration,
    /// How often a standby looks.
    pub retry: Duration,
    /// Hard timeout of one request for the lease.
    pub request: Duration,
    /// Writes end this long before the lease does.
    pub margin: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            short_cycle: seconds(2),
            long_cycle: seconds(60),
            long_cycle_initial: seconds(30),
            coalesce: Duration::from_millis(20),
            lock_lifetime: seconds(30),
            explaining: seconds(1),
            request: seconds(10),
            hook: seconds(10),
            fault_backoff: seconds(1),
            fault_backoff_max: seconds(60),
            watch_backoff: Duration::from_millis(500),
            watch_backoff_max: seconds(4),
            wait_backoff: seconds(60),
            wait_backoff_max: seconds(3600),
            unschedulable: seconds(10),
            stale: seconds(120),
            stale_without_lease: seconds(480),
            avoid_failed_node: seconds(3600),
            deferral: seconds(5),
            wait_deferral: seconds(15),
            kernel_progress: seconds(1),
            busy_pace: Duration::from_millis(100),
            event_pace: Duration::from_millis(10),
            busy_over: seconds(2),
            held_up: seconds(5),
            unseen: seconds(600),
            late: seconds(15),
            missed_gate: seconds(5),
            warnings_again: seconds(30),
            measuring: seconds(60),
            unmeasured: seconds(200),
            listing: seconds(300),
            stale_replica: seconds(300),
            flapping: seconds(600),
            drain_slack: seconds(10),
            replacement_backoff: seconds(10),
            replacement_backoff_max: seconds(300),
            stable_replica: seconds(600),
            surge_capacity: seconds(60),
            deployment_numbers: seconds(1),
            usage: seconds(5),
            scale: 1,
            lease: LeaseTiming {
                duration: seconds(15),
                renew: seconds(3),
                retry: seconds(1),
                request: seconds(5),
                margin: seconds(3),
            },
        }
    }
}

impl Timing {
    /// A configured number of seconds, as it is to be used.
    pub fn configured(&self, seconds: i64) -> Duration {
        Duration::from_secs(u64::try_from(seconds).unwrap_or(0)) / self.scale.max(1)
    }
}

/// The pause after so many attempts: `first`, doubled with each, at most `max`.
pub fn backoff(first: Duration, max: Duration, attempts: i32) -> Duration {
    let doublings = u32::try_from(attempts.saturating_sub(1).clamp(0, 30)).unwrap_or(0);
    first.saturating_mul(1 << doublings).min(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_up_to_its_limit() {
        let minute = Duration::from_secs(60);
        let pauses: Vec<u64> = (1..=8).map(|n| backoff(minute, minute * 60, n).as_secs() / 60).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
    }
}
