//! end-routes: takes a deleted replica out of the traffic, and lets it leave.

use super::{Decide, Handler, HandlerName, ROW as BASE, To, Transitions, Verdict};
use crate::api::{Reason, RoutePhase};
use crate::route::effect::Effect;
use crate::route::snapshot::{RouteItem, Snapshot};

pub static ROW: Handler = Handler {
    name: HandlerName::EndRoutes,
    targets: &[RoutePhase::Provisioning, RoutePhase::HealthChecking, RoutePhase::Running, RoutePhase::Unhealthy],
    transitions: Transitions { success: To::phase(RoutePhase::Terminating), ..Transitions::NONE },
    decide: Decide::Each(end),
    ..BASE
};

fn end(_: &Snapshot, item: &RouteItem) -> Verdict {
    if !item.is_deleted() {
        return Verdict::idle();
    }
    // The drain begins once the pod is seen out of the traffic, so that its delay is never cut short.
    match &item.pod {
        Some(pod) if item.is_in_traffic() => {
            Verdict::idle().effects(vec![Effect::SetTraffic { pod: (&**pod).into(), on: false }])
        }
        Some(_) => leaves(),
        None if item.session.is_some() && !item.replica().has_ended() => leaves().effects(vec![Effect::ConfirmNoPod]),
        None => leaves(),
    }
}

fn leaves() -> Verdict {
    Verdict::success().because(Reason::Deleted, "the replica is no longer needed")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::SessionPhase;
    use crate::route::handlers::Outcome;
    use crate::route::handlers::testing::{Replica as Case, leads, snapshot};

    #[test]
    fn a_deleted_replica_is_out_of_the_traffic_before_its_drain_begins() {
        let running = || Case::new(RoutePhase::Running).session(SessionPhase::Running).served().deleted();
        let first = end(&snapshot(), &running().pod(true).item());
        assert!(matches!(first.outcome, Outcome::Idle));
        assert!(matches!(&first.effects[..], [Effect::SetTraffic { on: false, .. }]));
        let second = end(&snapshot(), &running().pod(true).out_of_traffic().item());
        assert_eq!(leads(&ROW, &second), Some(RoutePhase::Terminating));
        assert!(!second.change.failed);
    }

    #[test]
    fn a_pod_that_is_not_seen_is_looked_for_before_its_session_ends() {
        let starting = Case::new(RoutePhase::Provisioning).session(SessionPhase::Creating).deleted();
        assert_eq!(end(&snapshot(), &starting.item()).effects, [Effect::ConfirmNoPod]);
        assert_eq!(end(&snapshot(), &Case::new(RoutePhase::Provisioning).deleted().item()).effects, []);
    }

    #[test]
    fn a_replica_that_nobody_deletes_stays() {
        let verdict = end(&snapshot(), &Case::new(RoutePhase::Running).session(SessionPhase::Running).pod(true).item());
        assert!(matches!(verdict.outcome, Outcome::Idle) && verdict.effects.is_empty());
    }
}
