//! check-running: follows the health of a replica that has served.

use std::time::Duration;

use super::{Decide, Handler, HandlerName, ROW as BASE, Routes, Transitions, Verdict};
use crate::api::{Health, Reason, RoutePhase};
use crate::lifecycle::exits;
use crate::route::health::{Replica, last_words};
use crate::route::snapshot::{RouteItem, Snapshot};

exits!(Routes: Running, Unhealthy, Terminating);

pub static ROW: Handler = Handler {
    name: HandlerName::CheckRunning,
    targets: &[RoutePhase::Running, RoutePhase::Unhealthy],
    transitions: Transitions { exits: Exit::PHASES, ..Transitions::NONE },
    decide: Decide::Each(check),
    ..BASE
};

fn check(snapshot: &Snapshot, item: &RouteItem) -> Verdict {
    match item.replica() {
        Replica::Absent => {
            let message = format!("session {} was removed", item.route.spec.session);
            return Verdict::success_to(Exit::Terminating).because(Reason::SessionGone, message).failed();
        }
        Replica::Ending { reason, message, .. } => {
            let verdict = Verdict::success_to(Exit::Terminating).because(reason, message);
            return if item.is_deleted() { verdict } else { verdict.failed() };
        }
        Replica::Starting | Replica::Running => {}
    }
    let Some(pod) = &item.pod else { return Verdict::idle() };
    if let Some(silent) = item.node_silent {
        return on_silent_node(snapshot, item, silent);
    }
    match (item.phase(), item.serves(pod)) {
        (RoutePhase::Running, false) => Verdict::success_to(Exit::Unhealthy).because(Reason::HealthCheckFailed, last_words(pod)),
        (RoutePhase::Unhealthy, true) => Verdict::success_to(Exit::Running),
        (_, true) if item.health() == Health::Stale => {
            Verdict::skipped(Reason::NodeAnswers, "its node answers again").health(Health::Healthy)
        }
        _ => Verdict::idle(),
    }
}

/// The health of a replica on a silent node is unknown. Kubernetes has taken it out of the traffic already.
fn on_silent_node(snapshot: &Snapshot, item: &RouteItem, silent: Duration) -> Verdict {
    if item.phase() == RoutePhase::Unhealthy {
        return Verdict::idle();
    }
    if silent > snapshot.timing.stale_replica && !item.node_lost {
        let message = format!("its node has been silent for more than {} s", snapshot.timing.stale_replica.as_secs());
        return Verdict::success_to(Exit::Unhealthy).because(Reason::NodeSilent, message);
    }
    let left = snapshot.timing.stale_replica.saturating_sub(silent) + Duration::from_millis(1);
    let wake_at = Some(snapshot.now + chrono::TimeDelta::from_std(left).unwrap_or_default());
    Verdict::skipped(Reason::NodeSilent, "its node does not answer, so its health is unknown")
        .health(Health::Stale)
        .wake_at(wake_at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::SessionPhase;
    use crate::route::handlers::Outcome;
    use crate::route::handlers::testing::{Replica as Case, leads, snapshot};

    fn case(phase: RoutePhase) -> Case {
        Case::new(phase).session(SessionPhase::Running).served()
    }

    #[test]
    fn rr_001_a_healthy_replica_keeps_running() {
        assert!(matches!(check(&snapshot(), &case(RoutePhase::Running).pod(true).item()).outcome, Outcome::Idle));
    }

    #[test]
    fn rr_002_a_replica_whose_health_check_fails_is_unhealthy_until_it_passes_again() {
        let failing = check(&snapshot(), &case(RoutePhase::Running).pod(false).item());
        assert_eq!(leads(&ROW, &failing), Some(RoutePhase::Unhealthy));
        let back = check(&snapshot(), &case(RoutePhase::Unhealthy).pod(true).item());
        assert_eq!(leads(&ROW, &back), Some(RoutePhase::Running));
    }

    #[test]
    fn rr_003_a_replica_leaves_when_its_session_ends() {
        for phase in [SessionPhase::Terminating, SessionPhase::Terminated] {
            let ended = check(&snapshot(), &Case::new(RoutePhase::Running).session(phase).served().item());
            assert_eq!(leads(&ROW, &ended), Some(RoutePhase::Terminating));
            assert!(ended.change.failed, "nobody told the operator to end it");
        }
    }

    #[test]
    fn a_replica_on_a_silent_node_is_stale_and_becomes_unhealthy_only_after_five_minutes() {
        let silent = |seconds| check(&snapshot(), &case(RoutePhase::Running).pod(false).node_silent(seconds).item());
        let stale = silent(299);
        assert!(matches!(stale.outcome, Outcome::Skipped(Reason::NodeSilent, _)) && stale.wake_at.is_some());
        assert_eq!(stale.change.health, Some(Health::Stale));
        assert_eq!(leads(&ROW, &silent(301)), Some(RoutePhase::Unhealthy));
    }
}
