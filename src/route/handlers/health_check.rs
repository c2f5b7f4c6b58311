//! health-check: waits until the health check of a new replica passes.

use super::{After, Decide, Handler, HandlerName, ROW as BASE, Routes, To, Transitions, Verdict};
use crate::api::{Reason, RoutePhase};
use crate::lifecycle::{exits, is_over, over_at};
use crate::route::effect::Effect;
use crate::route::health::{Replica, last_words, started_at};
use crate::route::snapshot::{RouteItem, Snapshot};

exits!(Routes: Failed);

pub static ROW: Handler = Handler {
    name: HandlerName::HealthCheck,
    targets: &[RoutePhase::HealthChecking],
    transitions: Transitions { success: To::phase(RoutePhase::Running), exits: Exit::PHASES, ..Transitions::NONE },
    follows: &[After::Reaching(RoutePhase::HealthChecking)],
    decide: Decide::Each(check),
    ..BASE
};

fn check(snapshot: &Snapshot, item: &RouteItem) -> Verdict {
    if item.is_deleted() {
        return Verdict::idle(); // end-routes ends it
    }
    let fails = |reason, message: String| Verdict::success_to(Exit::Failed).because(reason, message).failed();
    match item.replica() {
        Replica::Absent => return fails(Reason::SessionGone, format!("session {} was removed", item.route.spec.session)),
        Replica::Ending { reason, message, .. } => return fails(reason, message),
        Replica::Starting | Replica::Running => {}
    }
    let Some(pod) = &item.pod else { return Verdict::idle() };
    if item.serves(pod) {
        return Verdict::success();
    }
    let serving = item.session.as_ref().and_then(|session| session.spec.serving.as_ref());
    let seconds = serving.map(|serving| serving.health_check.start_timeout_seconds).unwrap_or_default();
    let limit = Some(snapshot.timing.configured(seconds));
    let started = started_at(pod);
    if !is_over(started, limit, snapshot.now) {
        return Verdict::idle().wake_at(over_at(started, limit));
    }
    let message = format!("the health check did not pass within {seconds} s of the container's start: {}", last_words(pod));
    let end = Effect::EndSession { grace: item.drain().timeout_seconds, forced: false };
    // It was never ready, so no request is on its way to it.
    let leave = item.is_in_traffic().then(|| Effect::SetTraffic { pod: (&**pod).into(), on: false });
    fails(Reason::StartTimeout, message).effects(leave.into_iter().chain([end]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::SessionPhase;
    use crate::route::handlers::Outcome;
    use crate::route::handlers::testing::{Replica as Case, leads, snapshot};

    fn case() -> Case {
        Case::new(RoutePhase::HealthChecking).session(SessionPhase::Running)
    }

    #[test]
    fn rh_001_a_replica_runs_once_its_health_check_passes() {
        assert_eq!(leads(&ROW, &check(&snapshot(), &case().pod(true).item())), Some(RoutePhase::Running));
        let unchecked = case().check("None").pod(false);
        assert_eq!(leads(&ROW, &check(&snapshot(), &unchecked.item())), Some(RoutePhase::Running), "its container runs");
    }

    #[test]
    fn rh_002_rh_003_a_replica_that_does_not_answer_is_checked_until_its_start_timeout_and_then_fails() {
        let slow = check(&snapshot(), &case().pod(false).started(1799).item());
        assert!(matches!(slow.outcome, Outcome::Idle) && slow.wake_at.is_some());
        let late = check(&snapshot(), &case().pod(false).started(1801).item());
        assert_eq!(leads(&ROW, &late), Some(RoutePhase::Failed));
        assert_eq!(late.reason.as_ref().map(|(reason, _)| *reason), Some(Reason::StartTimeout));
        let ends = [
            matches!(late.effects[0], Effect::SetTraffic { on: false, .. }),
            matches!(late.effects[1], Effect::EndSession { .. }),
        ];
        assert_eq!(ends, [true, true], "it leaves the traffic, and its session ends");
        assert!(late.change.failed);
    }

    #[test]
    fn an_image_pull_and_a_queue_of_any_length_do_not_count_against_the_start_timeout() {
        let pulling = check(&snapshot(), &case().pod_that_pulls().item());
        assert!(matches!(pulling.outcome, Outcome::Idle));
    }
}
