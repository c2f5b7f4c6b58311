//! evict: replaces a replica that stays unhealthy, a few at a time, and none while most nodes do not answer.

use chrono::TimeDelta;

use super::{Decide, Handler, HandlerName, ROW as BASE, To, Transitions, Verdict};
use crate::api::{Reason, RoutePhase};
use crate::lifecycle::{Trigger, is_over, over_at};
use crate::route::effect::Effect;
use crate::route::snapshot::{RouteItem, Snapshot};

pub static ROW: Handler = Handler {
    name: HandlerName::Evict,
    targets: &[RoutePhase::Unhealthy],
    transitions: Transitions { success: To::phase(RoutePhase::Evicting), ..Transitions::NONE },
    wakes_on: &[Trigger::NodeChanged, Trigger::DependencyChanged],
    decide: Decide::All(evict),
    ..BASE
};

/// Changes to an unhealthy state within `Timing::flapping` that evict a replica at once.
const MAX_CHANGES: usize = 3;

/// Decides on the unhealthy routes of one deployment.
fn evict(snapshot: &Snapshot, (): &mut (), items: &[RouteItem]) -> Vec<Verdict> {
    let mut in_eviction = snapshot.in_eviction;
    items
        .iter()
        .map(|item| {
            if item.is_deleted() || !is_evictable(snapshot, item) || serves_again(item) {
                return Verdict::idle();
            }
            if let Some(wake) = not_yet(snapshot, item) {
                return Verdict::idle().wake_at(Some(wake));
            }
            // A replica that left the traffic for its eviction is counted already.
            let limit = usize::try_from(item.desired_replicas().max(1)).unwrap_or(1).div_ceil(4);
            let has_begun = item.pod.is_some() && !item.is_in_traffic() && item.route.spec.weight > 0;
            if let Some(outage) = &snapshot.outage {
                return Verdict::skipped(Reason::EvictionHeld, format!("nothing is evicted: {outage}"));
            }
            if !has_begun && in_eviction >= limit {
                let replicas = item.desired_replicas();
                let message = format!(
                    "evictions of unhealthy replicas under way: {in_eviction}, and at most {limit} may be (25 % of {replicas} replicas)"
                );
                return Verdict::skipped(Reason::EvictionHeld, message);
            }
            in_eviction += usize::from(!has_begun);
            begin(snapshot, item)
        })
        .collect()
}

/// After an outage, the phase is older than what the kubelet reports now.
fn serves_again(item: &RouteItem) -> bool {
    item.node_silent.is_none() && item.pod.as_ref().is_some_and(|pod| item.serves(pod))
}

fn is_evictable(snapshot: &Snapshot, item: &RouteItem) -> bool {
    snapshot.group.as_ref().is_none_or(|group| group.spec.evict_health.contains(&item.health()))
}

/// Returns when the route may be evicted, if that is later.
fn not_yet(snapshot: &Snapshot, item: &RouteItem) -> Option<chrono::DateTime<chrono::Utc>> {
    let since = snapshot.now - TimeDelta::from_std(snapshot.timing.flapping).unwrap_or_default();
    let times = item.route.status.iter().flat_map(|status| &status.became_unhealthy_at);
    if times.filter(|at| **at >= since).count() >= MAX_CHANGES {
        return None;
    }
    let seconds = item.deployment.as_ref().map(|deployment| deployment.spec.eviction.after_seconds).unwrap_or_default();
    let limit = Some(snapshot.timing.configured(seconds));
    if is_over(item.since(), limit, snapshot.now) { None } else { over_at(item.since(), limit) }
}

fn begin(snapshot: &Snapshot, item: &RouteItem) -> Verdict {
    match &item.pod {
        Some(pod) if item.is_in_traffic() => {
            Verdict::idle().effects(vec![Effect::SetTraffic { pod: (&**pod).into(), on: false }])
        }
        Some(_) | None if snapshot.healthy == 0 => {
            let message = "the last replica is unhealthy and is replaced; no replica can serve";
            Verdict::success().because(Reason::NoHealthyReplica, message).failed()
        }
        Some(_) | None => {
            let message = format!("unhealthy for too long; {} replicas are healthy", snapshot.healthy);
            Verdict::success().because(Reason::HealthCheckFailed, message).failed()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::SessionPhase;
    use crate::route::handlers::Outcome;
    use crate::route::handlers::testing::{Replica as Case, leads, snapshot};

    fn unhealthy(seconds: i64) -> Case {
        Case::new(RoutePhase::Unhealthy).session(SessionPhase::Running).served().pod(false).since(seconds)
    }

    fn one(snapshot: &Snapshot, case: Case) -> Verdict {
        evict(snapshot, &mut (), &[case.item()]).remove(0)
    }

    #[test]
    fn a_replica_that_serves_again_is_not_evicted_although_its_phase_is_old() {
        let recovered = one(&snapshot(), unhealthy(500).pod(true));
        assert!(recovered.effects.is_empty() && matches!(recovered.outcome, Outcome::Idle));
        let silent = one(&snapshot(), unhealthy(500).pod(true).node_silent(400));
        assert_eq!(silent.effects.len(), 1, "the kubelet's last report is old");
    }

    #[test]
    fn re_001_a_replica_that_stays_unhealthy_leaves_the_traffic_and_is_then_evicted() {
        assert!(one(&snapshot(), unhealthy(119)).wake_at.is_some());
        let first = one(&snapshot(), unhealthy(121));
        assert!(matches!(&first.effects[..], [Effect::SetTraffic { on: false, .. }]) && matches!(first.outcome, Outcome::Idle));
        let second = one(&snapshot(), unhealthy(121).out_of_traffic());
        assert_eq!(leads(&ROW, &second), Some(RoutePhase::Evicting));
        assert!(second.change.failed, "it counts as a failure of its revision");
    }

    #[test]
    fn re_002_other_healthy_replicas_take_over_the_requests() {
        let snapshot = Snapshot { healthy: 2, ..snapshot() };
        let (reason, message) = one(&snapshot, unhealthy(121).out_of_traffic()).reason.expect("a reason");
        assert_eq!((reason, message.as_str()), (Reason::HealthCheckFailed, "unhealthy for too long; 2 replicas are healthy"));
    }

    #[test]
    fn re_003_the_last_replica_is_evicted_with_a_warning() {
        let snapshot = Snapshot { healthy: 0, ..snapshot() };
        let (reason, _) = one(&snapshot, unhealthy(121).out_of_traffic()).reason.expect("a reason");
        assert_eq!(reason, Reason::NoHealthyReplica);
    }

    #[test]
    fn at_most_a_quarter_of_the_replicas_are_evicted_at_a_time() {
        let items: Vec<RouteItem> = (0..3).map(|_| unhealthy(200).replicas(8).item()).collect();
        let verdicts = evict(&snapshot(), &mut (), &items);
        let begun = verdicts.iter().filter(|verdict| !verdict.effects.is_empty()).count();
        assert_eq!(begun, 2);
        assert!(matches!(verdicts[2].outcome, Outcome::Skipped(Reason::EvictionHeld, _)));
        let busy = Snapshot { in_eviction: 2, ..snapshot() };
        assert!(matches!(one(&busy, unhealthy(200).replicas(8)).outcome, Outcome::Skipped(Reason::EvictionHeld, _)));
        let under_way = one(&busy, unhealthy(200).replicas(8).out_of_traffic());
        assert_eq!(leads(&ROW, &under_way), Some(RoutePhase::Evicting), "one that has begun is finished");
    }

    #[test]
    fn nothing_is_evicted_while_most_nodes_do_not_answer() {
        let outage = Snapshot { outage: Some("3 of 4 nodes are not ready".into()), ..snapshot() };
        assert!(matches!(one(&outage, unhealthy(500)).outcome, Outcome::Skipped(Reason::EvictionHeld, _)));
    }

    #[test]
    fn a_replica_that_became_unhealthy_three_times_is_evicted_at_once() {
        assert!(!one(&snapshot(), unhealthy(1).flapped(3)).effects.is_empty());
        assert!(one(&snapshot(), unhealthy(1).flapped(2)).effects.is_empty());
    }
}
