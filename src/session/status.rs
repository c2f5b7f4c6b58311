//! Applies a step to a session's status, apart from its progress: allocation, result, failed nodes, conditions. Pure.

use std::time::Duration;

use super::ends::is_disruption;
use super::handlers::IdleChange;
use super::kernels::KernelItem;
use super::sessions::Sessions;
use super::snapshot::{SessionItem, Snapshot};
use super::template;
use crate::api::{
    Cause, FailedNode, HistoryResult, KernelPhase, NodeName, Reason, ResourceList, Session, SessionPhase, SessionResult,
    SessionStatus, requested, short_hash,
};
use crate::lifecycle::{ConditionState, Failure, Step, backoff, bytes_in_json, truncate};

/// The largest number of nodes in `failedNodes`.
const MAX_FAILED_NODES: usize = 32;

/// Applies a step. Returns the pause after a reset.
pub fn apply(status: &mut SessionStatus, step: &Step<'_, Sessions>, snapshot: &Snapshot, item: &SessionItem) -> Option<Duration> {
    let session = &*item.session;
    if snapshot.group_name.is_some() && status.scaling_group.is_none() {
        status.scaling_group.clone_from(&snapshot.group_name);
    }
    status.priority_lost += step.change.priority_lost;
    status.effective_priority = Some((session.spec.priority - status.priority_lost).max(0));
    if let Some(allocation) = &step.change.allocation {
        status.allocation = allocation.clone();
        status.allocation_generation += 1;
        status.template = step.change.template.clone().or(status.template.take());
        status.owner = Some(snapshot.tenancy.owner(&session.spec.access_key, item.namespace()));
    }
    let declared = &session.spec.depends_on;
    status.met_dependencies.extend(step.change.met_dependencies.iter().cloned());
    status.met_dependencies.retain(|name| declared.contains(name));
    status.met_dependencies.sort_unstable();
    status.met_dependencies.dedup();
    // The report stays while the session is Pending, with the numbers of the time when it was recorded.
    let waiting = step.change.waiting.clone().or(status.waiting.take());
    status.waiting = waiting.filter(|_| status.phase == SessionPhase::Pending);
    match &step.change.idle {
        IdleChange::Set(idle) => status.idle = Some(idle.clone()),
        IdleChange::Clear => status.idle = None,
        IdleChange::None => status.idle = status.idle.take().filter(|_| status.phase == SessionPhase::Running),
    }
    if step.to.is_some() {
        enter(status, session, step, snapshot);
    }
    if step.change.starts_again {
        status.started_at = None;
        status.restarts += 1;
        give_back(status, snapshot, &step.change.failed_nodes);
    }
    let pause = step.restarts().then(|| {
        let tried_before = reset(status, snapshot, &item.kernels, step);
        step.failure.and_then(|failure| pause_after_reset(status, session, snapshot, failure.cause, !tried_before))
    });
    summarize(status, &item.kernels);
    pause.flatten()
}

/// Estimates the JSON bytes of a status apart from its progress.
pub fn bytes_beside_progress(status: &SessionStatus) -> usize {
    let allocation: usize = status.allocation.iter().map(|a| a.kernel.len() + a.node.as_str().len() + 24).sum();
    let failed: usize = status.failed_nodes.iter().map(|failed| failed.node.as_str().len() + 56).sum();
    let needs = status.waiting.iter().flat_map(|waiting| &waiting.blockers).map(|b| bytes_in_json(&b.needs) + 512).sum::<usize>();
    let template = status.template.as_ref().map_or(0, |template| template::bytes(&template.kernels));
    allocation + failed + needs + template
}

/// Applies the changes of entering a phase.
fn enter(status: &mut SessionStatus, session: &Session, step: &Step<'_, Sessions>, snapshot: &Snapshot) {
    let to = status.phase;
    let failed = matches!(step.result, HistoryResult::GiveUp | HistoryResult::Expired).then_some(SessionResult::Error);
    if to.is_ending() {
        status.result = status.result.or(step.change.result).or(failed);
    }
    status.exit_code = status.exit_code.or(step.change.exit_code);
    if to == SessionPhase::Creating {
        status.refusals = 0;
    }
    if to == SessionPhase::Running {
        status.started_at = status.started_at.or(Some(snapshot.now));
        status.occupied = ResourceList::from(&requested(session));
    }
    if to.is_terminal() {
        status.finished_at = Some(snapshot.now);
        status.occupied.clear();
    }
}

/// Counts a reset, clears the allocation and records the nodes that failed the session. Returns true when one of them had failed it
/// before, because no other node had enough free resources.
fn reset(status: &mut SessionStatus, snapshot: &Snapshot, kernels: &[KernelItem], step: &Step<'_, Sessions>) -> bool {
    match step.failure.map(|failure| failure.cause) {
        Some(Cause::Capacity | Cause::Quota) => status.refusals += 1,
        Some(Cause::Fault) | None => status.resets += 1,
        Some(Cause::Hold) => {}
    }
    status.disruptions += i32::from(step.failure.is_some_and(|failure| is_disruption(failure.reason)));
    let blames_no_node = |failure: &Failure| failure.reason == Reason::NamespaceQuota || failure.cause == Cause::Hold;
    let failed = if step.failure.is_some_and(blames_no_node) {
        vec![]
    } else if step.change.failed_nodes.is_empty() {
        kernels.iter().filter(|k| k.phase() != KernelPhase::Running).filter_map(|k| k.node.clone()).collect()
    } else {
        step.change.failed_nodes.clone()
    };
    give_back(status, snapshot, &failed)
}

/// Clears the allocation and records the nodes that failed the session. Returns true when one of them had failed it before.
fn give_back(status: &mut SessionStatus, snapshot: &Snapshot, failed: &[NodeName]) -> bool {
    status.allocation.clear();
    status.occupied.clear();
    let until = snapshot.now + chrono::TimeDelta::from_std(snapshot.timing.avoid_failed_node).unwrap_or_default();
    status.failed_nodes.retain(|failed| failed.until > snapshot.now);
    let tried_before = status.failed_nodes.iter().any(|before| failed.contains(&before.node));
    status.failed_nodes.retain(|before| !failed.contains(&before.node));
    status.failed_nodes.extend(failed.iter().map(|node| FailedNode { node: node.clone(), until }));
    let excess = status.failed_nodes.len().saturating_sub(MAX_FAILED_NODES);
    status.failed_nodes.drain(..excess);
    tried_before || excess > 0
}

/// Returns the pause after a reset. If `another_node_left`, the session tries another node at once. After the second refusal
/// by one node or by a ResourceQuota, it waits. The pause differs between sessions, so that they do not collide again.
fn pause_after_reset(
    status: &SessionStatus,
    session: &Session,
    snapshot: &Snapshot,
    cause: Cause,
    another_node_left: bool,
) -> Option<Duration> {
    let timing = &snapshot.timing;
    match cause {
        Cause::Fault | Cause::Hold => None,
        Cause::Capacity if another_node_left => None,
        Cause::Capacity | Cause::Quota => {
            let pause = backoff(timing.wait_backoff, timing.wait_backoff_max, status.refusals - 1);
            (status.refusals > 1).then(|| pause + pause.mul_f64(jitter(session)))
        }
    }
}

/// Returns a number from 0 to 1 that is always the same for one session.
fn jitter(session: &Session) -> f64 {
    let uid = session.metadata.uid.as_deref().unwrap_or_default();
    let hash = u32::from_str_radix(&short_hash(uid), 16).unwrap_or_default();
    f64::from(hash) / f64::from(u32::MAX)
}

fn summarize(status: &mut SessionStatus, kernels: &[KernelItem]) {
    let total = kernels.len();
    let running = match status.phase {
        phase if phase.is_terminal() || !phase.holds_resources() => 0,
        _ => kernels.iter().filter(|kernel| kernel.phase() == KernelPhase::Running).count(),
    };
    status.kernels_ready = Some(format!("{running}/{total}"));
    let mut nodes: Vec<&str> = vec![];
    for allocation in &status.allocation {
        if !nodes.contains(&allocation.node.as_str()) {
            nodes.push(allocation.node.as_str());
        }
    }
    let mut text = nodes.join(",");
    truncate(&mut text, 120);
    status.nodes = (!text.is_empty()).then_some(text);
}

/// Returns the conditions that follow from the phase. A session that is ending keeps its `Scheduled` and `Prepared`.
/// `Ready` exists until the session has ended. Then `Succeeded`, or `Failed` and `Stalled`, show how it ended.
pub fn conditions(status: &SessionStatus) -> Vec<ConditionState> {
    use SessionPhase::{Creating, Prepared, Running};
    let phase = status.phase;
    let has = |type_: &str| status.conditions.iter().any(|condition| condition.type_ == type_);
    let state = |type_, holds| ConditionState { type_, holds, shows_delay: type_ == "Terminated", is_explained: true };
    let ended = phase.is_terminal();
    let (succeeded, failed) = match status.result.filter(|_| ended) {
        Some(SessionResult::Success) => (Some(true), None),
        Some(SessionResult::Failure | SessionResult::Error) => (None, Some(true)),
        Some(SessionResult::UserCancelled) | None => (None, None),
    };
    let states = [
        state("Scheduled", Some(phase.holds_resources())),
        state("Prepared", Some(matches!(phase, Prepared | Creating | Running))),
        state("Running", Some(phase == Running)),
        state("Terminated", phase.is_ending().then_some(ended)),
        state("Ready", (!ended).then_some(phase == Running)),
        state("Succeeded", succeeded),
        state("Failed", failed),
        state("Stalled", failed),
    ];
    let is_kept = |type_: &str| phase.is_ending() && matches!(type_, "Scheduled" | "Prepared") && has(type_);
    states.into_iter().filter(|state| !is_kept(state.type_)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::KernelAllocation;
    use crate::api::KernelPhase::{Creating, Running};
    use crate::lifecycle::{To, next_status};
    use crate::session::handlers::testing::{gang, item, now, put, session, session_in, snapshot};
    use crate::session::handlers::{Change, HandlerName, RESET};

    fn step(handler: HandlerName, result: HistoryResult, to: Option<To<SessionPhase>>, change: &Change) -> Step<'_, Sessions> {
        Step { handler, result, to, failure: None, skip: None, reason: None, change, steps: vec![] }
    }

    #[test]
    fn sc_co_009_a_reset_clears_the_allocation_and_records_the_failed_nodes() {
        let mut session = session(gang());
        put(&mut session, SessionPhase::Creating, chrono::TimeDelta::minutes(11));
        if let Some(status) = &mut session.status {
            status.occupied.insert("cpu".into(), crate::api::Quantity("3".into()));
        }
        let mut item = item(session, &[Running, Running, Creating]);
        for (kernel, node) in item.kernels.iter_mut().zip(["node-1", "node-2", "node-3"]) {
            kernel.node = Some(node.into());
        }
        let failure = Failure::fault(Reason::EffectFailed, "it failed");
        let change = Change::default();
        let given_up =
            Step { failure: Some(&failure), ..step(HandlerName::StartSessions, HistoryResult::GiveUp, RESET, &change) };
        let status = next_status(&snapshot(vec![]), &item, given_up);
        assert_eq!((status.phase, status.resets), (SessionPhase::Pending, 1));
        assert!(status.allocation.is_empty() && status.occupied.is_empty() && status.nodes.is_none());
        assert_eq!(status.reason, Some(Reason::ExceededMaxRetries));
        assert_eq!(status.failed_nodes.iter().map(|node| node.node.as_str()).collect::<Vec<_>>(), ["node-3"]);
        assert_eq!(status.failed_nodes[0].until, now() + chrono::TimeDelta::hours(1));
        assert_eq!(status.allocation_generation, 1, "the next allocation gets a number of its own");
    }

    #[test]
    fn he_001_the_commit_that_enters_running_records_the_occupied_resources() {
        let item = item(session_in(SessionPhase::Creating), &[Running]);
        let change = Change::default();
        let running = step(HandlerName::PromoteToRunning, HistoryResult::Success, To::phase(SessionPhase::Running), &change);
        let status = next_status(&snapshot(vec![]), &item, running);
        assert_eq!(status.occupied.get("cpu").map(|cpu| cpu.0.as_str()), Some("1"));
        assert_eq!((status.kernels_ready.as_deref(), status.started_at), (Some("1/1"), Some(now())));
        let holds = |type_: &str| status.conditions.iter().find(|c| c.type_ == type_).map(|c| c.status);
        let yes = Some(true.into());
        assert_eq!([holds("Scheduled"), holds("Prepared"), holds("Running"), holds("Terminated")], [yes, yes, yes, None]);
        assert_eq!([holds("Ready"), holds("Succeeded"), holds("Failed")], [yes, None, None]);
    }

    #[test]
    fn the_first_result_is_kept() {
        let mut session = session_in(SessionPhase::Running);
        let ends = |session: &Session, result| {
            let change = Change { result: Some(result), ..Change::default() };
            let step = step(HandlerName::EndSessions, HistoryResult::Success, To::phase(SessionPhase::Terminating), &change);
            next_status(&snapshot(vec![]), &item(session.clone(), &[]), step)
        };
        let status = ends(&session, SessionResult::UserCancelled);
        assert_eq!(status.result, Some(SessionResult::UserCancelled));
        session.status = Some(status);
        assert_eq!(ends(&session, SessionResult::Error).result, Some(SessionResult::UserCancelled));
    }

    #[test]
    fn a_status_never_exceeds_64_kib() {
        let mut session = session(gang());
        session.spec.kernels[1].replicas = 127;
        put(&mut session, SessionPhase::Pending, chrono::TimeDelta::minutes(1));
        let phases = vec![Creating; 128];
        let long = "ä\u{1}\"".repeat(300);
        for round in 0..200 {
            let node = |n: i32| format!("{}-{n}", "n".repeat(240)).as_str().into();
            let allocation = (0..128).map(|n| KernelAllocation { kernel: format!("{}{n}", "w".repeat(16)), node: node(n) });
            let failed_nodes = (0..40).map(|n| node(round * 40 + n)).collect();
            let change = Change { allocation: Some(allocation.collect()), failed_nodes, ..Change::default() };
            let failure = Failure::fault(Reason::EffectFailed, format!("{round}{long}"));
            let handler = if round % 2 == 0 { HandlerName::StartSessions } else { HandlerName::CheckPrecondition };
            let steps = (0..16).map(|_| crate::api::SubStep {
                name: "n".repeat(64),
                result: crate::api::SubStepResult::Failure,
                detail: "d".repeat(200),
                error_code: Some(Reason::PendingTimeoutExceeded),
                started_at: now(),
                ended_at: now(),
            });
            let to = (round % 3 == 0).then_some(To { phase: SessionPhase::Pending, restarts: true });
            let step =
                Step { failure: Some(&failure), steps: steps.collect(), ..step(handler, HistoryResult::NeedRetry, to, &change) };
            session.status = Some(next_status(&snapshot(vec![]), &item(session.clone(), &phases), step));
            let size = serde_json::to_string(&session.status).expect("JSON").len();
            assert!(size <= 64 * 1024, "{size} bytes in round {round}");
        }
    }

    #[test]
    fn the_conditions_of_an_ended_session_show_how_it_ended() {
        for (result, succeeded, failed) in [
            (SessionResult::Success, Some(true.into()), None),
            (SessionResult::Failure, None, Some(true.into())),
            (SessionResult::Error, None, Some(true.into())),
            (SessionResult::UserCancelled, None, None),
        ] {
            let change = Change { result: Some(result), ..Change::default() };
            let mut session = session_in(SessionPhase::Running);
            let ending = step(HandlerName::EndSessions, HistoryResult::Success, To::phase(SessionPhase::Terminating), &change);
            session.status = Some(next_status(&snapshot(vec![]), &item(session.clone(), &[Running]), ending));
            let holds = |session: &Session, type_: &str| {
                let conditions = &session.status.as_ref().expect("a status").conditions;
                conditions.iter().find(|condition| condition.type_ == type_).map(|condition| condition.status)
            };
            assert_eq!((holds(&session, "Ready"), holds(&session, "Succeeded")), (Some(false.into()), None), "it is ending");
            let change = Change::default();
            let ended =
                step(HandlerName::PromoteToTerminated, HistoryResult::Success, To::phase(SessionPhase::Terminated), &change);
            session.status = Some(next_status(&snapshot(vec![]), &item(session.clone(), &[Running]), ended));
            let now = ["Ready", "Succeeded", "Failed", "Stalled"].map(|type_| holds(&session, type_));
            assert_eq!(now, [None, succeeded, failed, failed], "{result:?}");
        }
    }
}
