//! service-discovery-sync: puts a replica into the traffic or takes it out, as its weight says.

use super::{Decide, Handler, HandlerName, Mode, ROW as BASE, Transitions, Verdict};
use crate::api::{RoutePhase, Traffic};
use crate::route::effect::Effect;
use crate::route::snapshot::{RouteItem, Snapshot};

pub static ROW: Handler = Handler {
    name: HandlerName::ServiceDiscoverySync,
    targets: &[RoutePhase::HealthChecking, RoutePhase::Running],
    transitions: Transitions::NONE,
    mode: Mode::Acts,
    decide: Decide::Each(sync),
    ..BASE
};

fn sync(_: &Snapshot, item: &RouteItem) -> Verdict {
    let Some(pod) = item.pod.as_ref().filter(|_| !item.is_deleted()) else { return Verdict::idle() };
    let shall = item.route.spec.weight > 0;
    if pod.traffic == Some(shall) {
        return Verdict::idle();
    }
    let traffic = if shall { Traffic::In } else { Traffic::Out };
    let effect = Effect::SetTraffic { pod: (&**pod).into(), on: shall };
    Verdict::success().effects(vec![effect]).traffic(traffic)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::SessionPhase;
    use crate::route::handlers::testing::{Replica as Case, snapshot};

    fn synced(weight: i32, case: Case) -> Vec<Effect> {
        let mut item = case.item();
        let mut route = (*item.route).clone();
        route.spec.weight = weight;
        item.route = std::sync::Arc::new(route);
        sync(&snapshot(), &item).effects
    }

    fn running() -> Case {
        Case::new(RoutePhase::Running).session(SessionPhase::Running).served().pod(true)
    }

    #[test]
    fn sd_001_rr_004_a_replica_with_a_weight_is_in_the_traffic() {
        assert_eq!(synced(100, running()), []);
        assert!(matches!(synced(100, running().out_of_traffic())[..], [Effect::SetTraffic { on: true, .. }]));
    }

    #[test]
    fn sd_003_a_replica_without_weight_leaves_the_traffic_and_keeps_running() {
        assert!(matches!(synced(0, running())[..], [Effect::SetTraffic { on: false, .. }]));
        assert_eq!(synced(0, running().out_of_traffic()), []);
    }

    #[test]
    fn sd_004_a_sync_that_fails_is_tried_again_and_changes_no_phase() {
        use crate::lifecycle::{Effects, Failure, classify};
        let item = running().out_of_traffic().item();
        let failed = sync(&snapshot(), &item).with_outcome(super::super::Outcome::Failure(Failure::fault(
            crate::api::Reason::EffectFailed,
            "the API server does not answer",
        )));
        let classified = classify(&ROW, &snapshot(), &item, &failed, Effects::Failed).expect("news");
        assert_eq!((classified.result, classified.to), (crate::api::HistoryResult::NeedRetry, None));
    }

    #[test]
    fn a_replica_that_leaves_is_not_put_back_into_the_traffic() {
        assert_eq!(synced(100, running().deleted().out_of_traffic()), []);
    }
}
