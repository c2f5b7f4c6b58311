//! reset-unschedulable: returns a session to the queue when a pod is refused or disrupted, or a node is lost, before any
//! container has started. The node is tried last afterwards.

use super::{Decide, Handler, HandlerName, Mode, RESET, Settings, To, Transitions, Verdict, trace_kernels};
use crate::api::SessionPhase;
use crate::lifecycle::{Cause, CommitMode, Failure, Reason};
use crate::session::kernels::{KernelItem, describe_all};
use crate::session::snapshot::{DisruptedStart, SessionItem, Snapshot};

pub static ROW: Handler = Handler {
    name: HandlerName::ResetUnschedulable,
    targets: &[SessionPhase::Scheduled, SessionPhase::Preparing, SessionPhase::Pulling, SessionPhase::Prepared],
    transitions: Transitions { need_retry: RESET, give_up: To::phase(SessionPhase::Terminating), ..Transitions::NONE },
    mode: Mode::Restarts(restarts),
    follows: &[],
    commit: CommitMode::Now,
    wakes_on: &[],
    lock: None,
    overview: None,
    trace: Some(trace_kernels),
    settings: Settings::NONE,
    decide: Decide::Each(reset),
};

/// Returns the resets that count towards giving up. Refusals count only if the scaling group sets `countCapacity`.
fn restarts(snapshot: &Snapshot, item: &SessionItem) -> i32 {
    let status = item.status();
    status.resets + if snapshot.counts_capacity() { status.refusals } else { 0 }
}

fn reset(snapshot: &Snapshot, item: &SessionItem) -> Verdict {
    let lost: Vec<&KernelItem> = item.kernels.iter().filter(|kernel| kernel.liveness.is_lost()).collect();
    // check-precondition detects a lost node before there are pods.
    let has_pods = item.phase() != SessionPhase::Scheduled;
    if has_pods && !lost.is_empty() && !item.kernels.iter().any(|kernel| item.may_run(kernel)) {
        let message = format!("lost before anything started: {}", describe_all(lost.iter().copied()));
        let mut verdict = Verdict::failure(Failure::fault(Reason::NodeLost, message));
        verdict.change.failed_nodes = lost.iter().filter_map(|kernel| kernel.node.clone()).collect();
        return verdict;
    }
    if item.disrupted_start() == DisruptedStart::Certain && restarts_after_disruption(snapshot, item) {
        return disrupted(item);
    }
    refused(snapshot, item)
}

/// Whether a disrupted start returns, or may return, the session to the queue instead of ending it. It does so
/// `retry.maxAttempts` times.
pub(super) fn restarts_after_disruption(snapshot: &Snapshot, item: &SessionItem) -> bool {
    let disruptions = item.session.status.as_ref().map_or(0, |status| status.disruptions);
    let is_disrupted = ROW.targets.contains(&item.phase()) && item.disrupted_start() != DisruptedStart::No;
    is_disrupted && disruptions < snapshot.max_attempts(&item.session, None)
}

fn disrupted(item: &SessionItem) -> Verdict {
    let ended = || item.kernels.iter().filter(|kernel| kernel.is_ending());
    let message = format!("ended before anything started: {}", describe_all(ended()));
    let mut verdict = Verdict::failure(Failure::new(Cause::Capacity, item.reason_of_end(), message));
    verdict.change.failed_nodes = ended().filter_map(|kernel| kernel.node.clone()).collect();
    verdict
}

fn refused(snapshot: &Snapshot, item: &SessionItem) -> Verdict {
    let limit = chrono::TimeDelta::from_std(snapshot.timing.unschedulable).unwrap_or_default();
    let refused = item.kernels.iter().filter_map(|kernel| {
        let (since, words) = kernel.pod.as_ref()?.unschedulable.as_ref()?;
        Some((kernel, *since + limit, words))
    });
    let Some((kernel, due, words)) = refused.min_by_key(|(_, due, _)| *due) else { return Verdict::idle() };
    if snapshot.now < due {
        return Verdict::idle().wake_at(Some(due));
    }
    let node = kernel.node.as_ref().map_or("?", |node| node.as_str());
    let message = format!("kube-scheduler refuses {} on {node}: {words}", kernel.hostname);
    let mut verdict = Verdict::failure(Failure::new(Cause::Capacity, Reason::Unschedulable, message));
    verdict.change.failed_nodes = kernel.node.clone().into_iter().collect();
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::KernelPhase::Pulling;
    use crate::session::handlers::Outcome;
    use crate::session::handlers::testing::{change_pod, gang, item, put, session, snapshot};
    use crate::views::Liveness;

    fn lost(spec: serde_json::Value, gate_opened: bool, bound: bool) -> Verdict {
        let mut session = session(spec);
        put(&mut session, SessionPhase::Pulling, chrono::TimeDelta::minutes(1));
        let mut item = item(session, &[Pulling; 3]);
        for kernel in &mut item.kernels {
            change_pod(kernel, |pod| (pod.gate_opened, pod.bound) = (gate_opened, bound));
        }
        item.kernels[0].liveness = Liveness::Lost;
        reset(&snapshot(vec![]), &item)
    }

    /// Resets a gang whose third kernel kube-scheduler has refused for `seconds`, and whose second for a second less.
    fn refused_for(seconds: i64) -> Verdict {
        let mut session = session(gang());
        put(&mut session, SessionPhase::Preparing, chrono::TimeDelta::minutes(1));
        let mut item = item(session, &[Pulling; 3]);
        for (index, node, ago) in [(1, "node-2", seconds - 1), (2, "node-3", seconds)] {
            let refused = Some((snapshot(vec![]).now - chrono::TimeDelta::seconds(ago), "1 Insufficient cpu".into()));
            change_pod(&mut item.kernels[index], |pod| (pod.bound, pod.unschedulable) = (false, refused));
            item.kernels[index].node = Some(node.into());
        }
        reset(&snapshot(vec![]), &item)
    }

    #[test]
    fn a_session_refused_by_kube_scheduler_for_ten_seconds_is_reset_and_avoids_the_node() {
        let early = refused_for(9);
        assert!(matches!(early.outcome, Outcome::Idle));
        assert_eq!(early.wake_at, Some(snapshot(vec![]).now + chrono::TimeDelta::seconds(1)));
        let verdict = refused_for(10);
        let Outcome::Failure(failure) = &verdict.outcome else { panic!("a failure") };
        assert_eq!((failure.cause, failure.reason), (Cause::Capacity, Reason::Unschedulable));
        assert_eq!(failure.message, "kube-scheduler refuses sub2 on node-3: 1 Insufficient cpu");
        assert_eq!(verdict.change.failed_nodes, ["node-3".into()]);
    }

    #[test]
    fn a_session_on_a_lost_node_is_reset_only_if_no_container_can_have_started() {
        let verdict = lost(gang(), false, true);
        assert!(matches!(&verdict.outcome, Outcome::Failure(failure) if failure.reason == Reason::NodeLost));
        assert_eq!(verdict.change.failed_nodes, ["node-1".into()]);
        assert!(matches!(lost(gang(), true, true).outcome, Outcome::Idle), "with an open gate it may run");
        assert!(matches!(lost(serde_json::json!({}), false, true).outcome, Outcome::Idle), "without a gate it may run");
        assert!(matches!(lost(serde_json::json!({}), false, false).outcome, Outcome::Failure(_)), "an unbound pod cannot run");
    }
}
