//! terminate-sessions: deletes the pods of a session that is ending.

use super::{Decide, Handler, HandlerName, LockId, Mode, Settings, To, Transitions, Verdict, late};
use crate::api::{SessionPhase, TryingHandler};
use crate::lifecycle::CommitMode;
use crate::session::snapshot::{SessionItem, Snapshot};
use crate::session::terminator;

pub static ROW: Handler = Handler {
    name: HandlerName::TerminateSessions,
    targets: &[SessionPhase::Terminating],
    transitions: Transitions {
        expired: To::phase(SessionPhase::Terminated),
        give_up: To::phase(SessionPhase::Terminated),
        ..Transitions::NONE
    },
    mode: Mode::Acts,
    follows: &[],
    commit: CommitMode::Deferred,
    wakes_on: &[],
    lock: Some(LockId::Terminating),
    overview: None,
    trace: None,
    settings: Settings { retry: Some(TryingHandler::TerminateSessions), ..Settings::NONE },
    decide: Decide::Each(terminate),
};

fn terminate(snapshot: &Snapshot, item: &SessionItem) -> Verdict {
    let effects = terminator::terminate(item);
    if effects.is_empty() { still_ending(snapshot, item) } else { Verdict::success().effects(effects) }
}

/// Names the pods that have not ended when their grace period is over. All of them are being deleted.
fn still_ending(snapshot: &Snapshot, item: &SessionItem) -> Verdict {
    let grace = snapshot.timing.configured(item.session.spec.termination.grace_period_seconds);
    let left = item.kernels.iter().filter(|kernel| kernel.pod.as_ref().is_some_and(|pod| pod.deleting && !pod.ended));
    late::name_late(snapshot, item, &left.collect::<Vec<_>>(), grace + snapshot.timing.held_up, "have not ended")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::api::KernelPhase::{Running, Terminated};
    use crate::lifecycle::Reason;
    use crate::session::effect::Effect;
    use crate::session::handlers::Outcome;
    use crate::session::handlers::testing::{change_pod, gang, item, put, session, session_in, snapshot};
    use crate::views::Liveness;

    fn ending(kernels: usize) -> SessionItem {
        let mut session = if kernels == 1 { session_in(SessionPhase::Terminating) } else { session(gang()) };
        put(&mut session, SessionPhase::Terminating, chrono::TimeDelta::minutes(1));
        item(session, &vec![Running; kernels])
    }

    #[test]
    fn a_pod_that_does_not_stop_is_named_when_its_grace_period_is_over() {
        let verdict = |ago: i64| {
            let mut item = ending(3);
            let mut session = (*item.session).clone();
            put(&mut session, SessionPhase::Terminating, chrono::TimeDelta::seconds(ago));
            item.session = Arc::new(session);
            (0..3).for_each(|n| change_pod(&mut item.kernels[n], |pod| (pod.deleting, pod.ended) = (true, n != 2)));
            terminate(&snapshot(vec![]), &item)
        };
        let waiting = verdict(34);
        assert!(matches!(waiting.outcome, Outcome::Idle) && waiting.wake_at.is_some());
        let Outcome::Skipped(Reason::WaitingForKernels, words) = verdict(36).outcome else { panic!("a skip") };
        assert!(words.starts_with("1 of 3 kernels have not ended: sub2 on node-1"), "{words}");
    }

    #[test]
    fn ts_001_ts_005_every_pod_is_deleted_with_its_grace_period() {
        let verdict = terminate(&snapshot(vec![]), &ending(3));
        assert_eq!(verdict.effects.len(), 3);
        assert!(verdict.effects.iter().all(|effect| matches!(effect, Effect::DeletePod { grace: Some(30), .. })));
    }

    #[test]
    fn ts_002_a_pod_whose_node_is_gone_is_removed_by_force() {
        let mut item = ending(1);
        item.kernels[0].liveness = Liveness::Gone;
        let verdict = terminate(&snapshot(vec![]), &item);
        assert!(matches!(verdict.effects[..], [Effect::DeletePod { grace: Some(0), .. }]));
    }

    #[test]
    fn ts_003_a_kernel_without_a_pod_needs_nothing() {
        let mut item = ending(1);
        item.kernels[0].pod = None;
        let verdict = terminate(&snapshot(vec![]), &item);
        assert!(matches!(verdict.outcome, Outcome::Idle) && verdict.effects.is_empty());
    }

    #[test]
    fn only_pods_that_are_not_being_deleted_yet_are_deleted() {
        let mut item = ending(3);
        change_pod(&mut item.kernels[0], |pod| pod.deleting = true);
        change_pod(&mut item.kernels[1], |pod| pod.deleting = true);
        assert_eq!(terminate(&snapshot(vec![]), &item).effects.len(), 1);
    }

    #[test]
    fn ts_006_an_ended_kernel_is_left_alone() {
        let mut item = ending(1);
        item.kernels[0].state.phase = Terminated;
        change_pod(&mut item.kernels[0], |pod| pod.ended = true);
        assert!(matches!(terminate(&snapshot(vec![]), &item).outcome, Outcome::Idle));
    }
}
