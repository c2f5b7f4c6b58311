//! start-sessions: opens the gates of a prepared session, so that all its kernels start at the same moment.

use super::{After, Decide, Handler, HandlerName, LockId, Mode, RESET, Settings, To, Transitions, Verdict};
use crate::api::{SessionPhase, TryingHandler};
use crate::lifecycle::CommitMode;
use crate::session::effect::Effect;
use crate::session::launcher;
use crate::session::snapshot::{SessionItem, Snapshot};

pub static ROW: Handler = Handler {
    name: HandlerName::StartSessions,
    targets: &[SessionPhase::Prepared],
    transitions: Transitions { success: To::phase(SessionPhase::Creating), expired: RESET, give_up: RESET, ..Transitions::NONE },
    mode: Mode::Acts,
    follows: &[After::Reaching(SessionPhase::Prepared)],
    commit: CommitMode::Now,
    wakes_on: &[],
    lock: Some(LockId::Creating),
    overview: None,
    trace: None,
    settings: Settings { retry: Some(TryingHandler::StartSessions), tightened_by_session: true, ..Settings::NONE },
    decide: Decide::Each(start),
};

/// Starts all kernels. If one gate cannot be opened, the step fails for the whole session.
fn start(_: &Snapshot, item: &SessionItem) -> Verdict {
    if item.has_ending_kernels() {
        return Verdict::idle(); // detect-termination ends the session
    }
    if item.awaits_names() {
        // The Service was deleted, or its EndpointSlices are not complete yet. Their next change marks the session again.
        return Verdict::idle().effects(vec![Effect::CreateService]);
    }
    Verdict::success().effects(launcher::start(item))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::KernelPhase::{Prepared, Terminated};
    use crate::session::handlers::Outcome;
    use crate::session::handlers::testing::{change_pod, gang, item, put, session, session_in, snapshot};
    use crate::views::GateState;

    /// Returns a prepared gang of three with open or closed gates.
    fn prepared(open: [bool; 3]) -> SessionItem {
        let mut session = session(gang());
        put(&mut session, SessionPhase::Prepared, chrono::TimeDelta::seconds(1));
        let mut item = item(session, &[Prepared; 3]);
        for (kernel, gate_opened) in item.kernels.iter_mut().zip(open) {
            let seen = (kernel.hostname.clone(), Some(GateState::Running), gate_opened);
            change_pod(kernel, |pod| (pod.name, pod.gate, pod.gate_opened) = seen);
        }
        item
    }

    fn opened(verdict: &Verdict) -> Vec<&str> {
        let gates = verdict.effects.iter().map(|effect| match effect {
            Effect::OpenGate(pod) => pod.name.as_str(),
            other => panic!("{other:?}"),
        });
        gates.collect()
    }

    #[test]
    fn st_005_all_kernels_of_a_gang_are_started_once() {
        let all = start(&snapshot(vec![]), &prepared([false; 3]));
        assert!(matches!(all.outcome, Outcome::Success { to: None }));
        assert_eq!(opened(&all), ["main1", "sub1", "sub2"]);
        assert_eq!(opened(&start(&snapshot(vec![]), &prepared([true, false, true]))), ["sub1"]);
        let single = start(&snapshot(vec![]), &item(session_in(SessionPhase::Prepared), &[Prepared]));
        assert!(matches!(single.outcome, Outcome::Success { to: None }) && single.effects.is_empty(), "it has no gate");
    }

    #[test]
    fn a_gang_is_not_started_before_its_kernels_can_resolve_each_others_names() {
        let mut item = prepared([false; 3]);
        item.names_resolve = false;
        let verdict = start(&snapshot(vec![]), &item);
        assert!(matches!(verdict.outcome, Outcome::Idle));
        assert!(matches!(verdict.effects[..], [Effect::CreateService]));
    }

    #[test]
    fn no_kernel_is_started_when_another_has_ended() {
        let mut item = prepared([false; 3]);
        item.kernels[1].state.phase = Terminated;
        let verdict = start(&snapshot(vec![]), &item);
        assert!(matches!(verdict.outcome, Outcome::Idle) && verdict.effects.is_empty());
    }
}
