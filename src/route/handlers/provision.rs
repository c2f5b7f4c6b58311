//! provision: creates the session of a replica, and waits until it runs.

use super::{Decide, Handler, HandlerName, Mode, ROW as BASE, Routes, To, Transitions, Verdict};
use crate::api::{Reason, RoutePhase};
use crate::lifecycle::{CommitMode, Failure, exits};
use crate::route::effect::Effect;
use crate::route::health::Replica;
use crate::route::snapshot::{RouteItem, Snapshot};

exits!(Routes: Failed);

pub static ROW: Handler = Handler {
    name: HandlerName::Provision,
    targets: &[RoutePhase::Provisioning],
    transitions: Transitions {
        success: To::phase(RoutePhase::HealthChecking),
        exits: Exit::PHASES,
        give_up: To::phase(RoutePhase::Failed),
        ..Transitions::NONE
    },
    mode: Mode::Acts,
    // Most sessions run soon. Until then the deployment and the session say what the route waits for.
    commit: CommitMode::WaitDeferred,
    decide: Decide::Each(provision),
    ..BASE
};

fn provision(_: &Snapshot, item: &RouteItem) -> Verdict {
    if item.is_deleted() {
        return Verdict::idle(); // end-routes ends it
    }
    let name = &item.route.spec.session;
    match item.replica() {
        Replica::Absent if has_had_session(item) => {
            Verdict::success_to(Exit::Failed).because(Reason::SessionGone, format!("session {name} was removed")).failed()
        }
        Replica::Absent => match &item.template {
            Some(template) => Verdict::idle().effects(vec![Effect::CreateSession(template.clone())]).recording_failures(),
            None => {
                let revision = item.route.spec.revision;
                Verdict::failure(Failure::fault(Reason::RevisionNotFound, format!("revision {revision} does not exist")))
            }
        },
        Replica::Starting => waits(name),
        Replica::Running if item.address().is_none() => waits(name),
        Replica::Running => Verdict::success(),
        Replica::Ending { reason, message, .. } => Verdict::success_to(Exit::Failed).because(reason, message).failed(),
    }
}

fn waits(session: &str) -> Verdict {
    Verdict::skipped(Reason::SessionStarting, format!("waits for session {session} to run"))
}

/// A route never gets another session.
fn has_had_session(item: &RouteItem) -> bool {
    item.route.status.as_ref().is_some_and(|status| status.session_uid.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::SessionPhase;
    use crate::route::handlers::Outcome;
    use crate::route::handlers::testing::{Replica as Case, leads, snapshot};

    #[test]
    fn rp_001_a_route_gets_a_session_and_is_checked_once_that_runs() {
        let created = provision(&snapshot(), &Case::new(RoutePhase::Provisioning).item());
        assert!(matches!(&created.effects[..], [Effect::CreateSession(_)]));
        assert!(matches!(created.outcome, Outcome::Idle) && created.records_failures);
        let running = Case::new(RoutePhase::Provisioning).session(SessionPhase::Running).pod(false);
        assert_eq!(leads(&ROW, &provision(&snapshot(), &running.item())), Some(RoutePhase::HealthChecking));
    }

    #[test]
    fn rp_002_a_route_waits_for_a_session_that_is_on_its_way() {
        for phase in [SessionPhase::Pending, SessionPhase::Preparing, SessionPhase::Creating] {
            let verdict = provision(&snapshot(), &Case::new(RoutePhase::Provisioning).session(phase).item());
            assert!(matches!(verdict.outcome, Outcome::Skipped(Reason::SessionStarting, _)), "{phase}");
        }
    }

    #[test]
    fn rp_003_a_route_fails_with_its_session() {
        let ended = Case::new(RoutePhase::Provisioning).session(SessionPhase::Terminated);
        let verdict = provision(&snapshot(), &ended.item());
        assert_eq!(leads(&ROW, &verdict), Some(RoutePhase::Failed));
        assert!(verdict.change.failed);
        let gone = Case::new(RoutePhase::Provisioning).had_session();
        assert_eq!(leads(&ROW, &provision(&snapshot(), &gone.item())), Some(RoutePhase::Failed), "it gets no second session");
    }
}
