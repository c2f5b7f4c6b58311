//! terminate: lets a replica finish its requests, ends its session, and waits for the end.

use std::time::Duration;

use super::{After, Decide, Handler, HandlerName, LockId, ROW as BASE, To, Transitions, Verdict};
use crate::api::{DesiredState, RoutePhase, TerminationMode};
use crate::lifecycle::{is_over, over_at};
use crate::route::effect::Effect;
use crate::route::snapshot::{RouteItem, Snapshot};

pub static ROW: Handler = Handler {
    name: HandlerName::Terminate,
    targets: &[RoutePhase::Evicting, RoutePhase::Terminating],
    transitions: Transitions { success: To::phase(RoutePhase::Terminated), ..Transitions::NONE },
    follows: &[After::Reaching(RoutePhase::Terminating)],
    lock: Some(LockId::Terminating),
    decide: Decide::Each(terminate),
    ..BASE
};

fn terminate(snapshot: &Snapshot, item: &RouteItem) -> Verdict {
    let Some(session) = item.session.as_ref().filter(|_| !item.replica().has_ended()) else { return Verdict::success() };
    if let Some(pod) = item.pod.as_ref().filter(|_| item.is_in_traffic()) {
        return Verdict::idle().effects(vec![Effect::SetTraffic { pod: (&**pod).into(), on: false }]);
    }
    let (drain, timing) = (item.drain(), &snapshot.timing);
    // A replica that never served has no requests to finish. One that is ready got some before its route said so.
    let may_serve = item.has_served() || item.pod.as_ref().is_some_and(|pod| pod.ready_since.is_some());
    let delay = if may_serve { timing.configured(drain.delay_seconds) } else { Duration::ZERO };
    let is_told = session.spec.desired_state == DesiredState::Terminated || session.is_deleted();
    if !is_told && !delay.is_zero() && !is_over(item.since(), Some(delay), snapshot.now) {
        return Verdict::idle().wake_at(over_at(item.since(), Some(delay)));
    }
    if !is_told {
        let grace = drain.timeout_seconds;
        // Nobody reads the end of an unwanted replica, so it need not be recorded.
        let own = &session.spec.termination;
        let is_unwanted = item.is_deleted() && own.grace_period_seconds == grace && own.mode == TerminationMode::Graceful;
        let end = if is_unwanted { Effect::DeleteSession } else { Effect::EndSession { grace, forced: false } };
        return Verdict::idle().effects(vec![end]);
    }
    // The kubelet ends the pod within the grace period. If it cannot, the session ends without it.
    let limit = delay + timing.configured(drain.timeout_seconds) + timing.drain_slack;
    if !is_over(item.since(), Some(limit), snapshot.now) {
        return Verdict::idle().wake_at(over_at(item.since(), Some(limit)));
    }
    let is_forced = session.spec.termination.mode == TerminationMode::Forced;
    let force = (!is_forced).then_some(Effect::EndSession { grace: 0, forced: true });
    Verdict::idle().effects(force.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::SessionPhase;
    use crate::route::handlers::Outcome;
    use crate::route::handlers::testing::{Replica as Case, leads, snapshot};

    fn leaving(seconds: i64) -> Case {
        Case::new(RoutePhase::Terminating).session(SessionPhase::Running).served().pod(true).out_of_traffic().since(seconds)
    }

    fn effects(case: Case) -> Vec<Effect> {
        terminate(&snapshot(), &case.item()).effects
    }

    #[test]
    fn rt_001_a_route_is_terminated_once_its_session_has_ended() {
        let ended = Case::new(RoutePhase::Terminating).session(SessionPhase::Terminated).served();
        assert_eq!(leads(&ROW, &terminate(&snapshot(), &ended.item())), Some(RoutePhase::Terminated));
        let gone = Case::new(RoutePhase::Terminating).served();
        assert_eq!(leads(&ROW, &terminate(&snapshot(), &gone.item())), Some(RoutePhase::Terminated));
    }

    #[test]
    fn rt_002_a_replica_finishes_its_requests_before_its_session_ends() {
        let waits = terminate(&snapshot(), &leaving(29).item());
        assert!(matches!(waits.outcome, Outcome::Idle) && waits.effects.is_empty() && waits.wake_at.is_some());
        assert_eq!(effects(leaving(31)), [Effect::EndSession { grace: 30, forced: false }]);
        let never_served = Case::new(RoutePhase::Terminating).session(SessionPhase::Running).pod(false).out_of_traffic();
        assert_eq!(effects(never_served.since(0)), [Effect::EndSession { grace: 30, forced: false }]);
        let just_ready = Case::new(RoutePhase::Terminating).session(SessionPhase::Running).pod(true).out_of_traffic();
        assert_eq!(effects(just_ready.since(0)), [], "clients reached it before its route was seen to serve");
    }

    #[test]
    fn the_session_of_a_route_that_is_no_longer_needed_is_removed_with_its_own_grace_period() {
        assert_eq!(effects(leaving(31).deleted()), [Effect::DeleteSession]);
        let longer = leaving(31).deleted().session_grace(300);
        assert_eq!(effects(longer), [Effect::EndSession { grace: 30, forced: false }], "the drain became shorter since");
        let forced = effects(leaving(31).deleted().session_forced());
        assert_eq!(forced, [Effect::EndSession { grace: 30, forced: false }], "a template cannot skip the drain");
    }

    #[test]
    fn rt_003_a_session_that_does_not_end_in_time_is_forced() {
        assert_eq!(effects(leaving(60).told_to_end()), []);
        assert_eq!(effects(leaving(100).told_to_end()), [Effect::EndSession { grace: 0, forced: true }]);
    }
}
