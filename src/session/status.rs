//! How a judged verdict becomes the next status: phase, reason, history, conditions, all in one write.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::ends::EndCause;
use super::handlers::{Change, HandlerName, To};
use super::kernels::KernelItem;
use super::snapshot::Snapshot;
use crate::api::{
    Cause, Condition, FailedNode, HistoryEntry, HistoryResult, KernelPhase, ResourceList, Session, SessionPhase, SessionResult,
    SessionStatus, SubStep, requested, set_condition,
};
use crate::lifecycle::{Failure, Reason, backoff, bound, bytes_in_json, last_attempt, push, to_millis, truncate};
use crate::session::kernels::short_hash;

/// Most nodes remembered as having failed a session.
const MAX_FAILED_NODES: usize = 32;
/// Most bytes of a status, as JSON.
const MAX_STATUS_BYTES: usize = 62 * 1024;
/// Most characters of a status's message.
const MAX_STATUS_MESSAGE: usize = 1000;

/// One judged step of a session.
pub struct Step<'a> {
    pub handler: HandlerName,
    pub result: HistoryResult,
    /// Where it leads; None stays in the phase.
    pub to: Option<To>,
    pub failure: Option<&'a Failure>,
    /// For a skip, why.
    pub skip: Option<(Reason, &'a str)>,
    pub change: &'a Change,
    pub steps: Vec<SubStep>,
}

impl Step<'_> {
    /// Why it failed, or why it has nothing to do yet.
    pub fn trouble(&self) -> Option<(Reason, &str)> {
        self.failure.map(|failure| (failure.reason, failure.message.as_str())).or(self.skip)
    }
}

/// The status after a step.
pub fn advance(snapshot: &Snapshot, session: &Session, kernels: &[KernelItem], step: Step<'_>) -> SessionStatus {
    let mut status = session.status.clone().unwrap_or_default();
    let from = status.phase;
    let to = step.to.map_or(from, |to| to.phase);
    record(&mut status, &step, from, to, snapshot.now);
    status.observed_generation = session.metadata.generation.unwrap_or_default();
    if !snapshot.group_name.is_none() {
        status.scaling_group.get_or_insert_with(|| snapshot.group_name.clone());
    }
    status.priority_lost += step.change.priority_lost;
    status.effective_priority = Some((session.spec.priority - status.priority_lost).max(0));
    if let Some(allocation) = &step.change.allocation {
        status.allocation = allocation.clone();
        status.allocation_generation += 1;
        let namespace = session.metadata.namespace.as_deref().unwrap_or_default();
        status.owner = Some(snapshot.tenancy.owner(&session.spec.access_key, namespace));
    }
    let declared = &session.spec.depends_on;
    status.met_dependencies.extend(step.change.met_dependencies.iter().cloned());
    status.met_dependencies.retain(|name| declared.contains(name));
    status.met_dependencies.sort_unstable();
    status.met_dependencies.dedup();
    explain(&mut status, &step, from, to);
    // It stands as long as the session waits, with the numbers as of when it was recorded.
    status.waiting = step.change.waiting.clone().or(status.waiting).filter(|_| to == SessionPhase::Pending);
    if step.to.is_some() {
        enter(&mut status, session, &step, to, snapshot.now);
    } else if status.phase_started_at.is_none() {
        status.phase_started_at = super::snapshot::created_at(session).or(Some(snapshot.now));
    }
    let tried_before = step.to.is_some_and(|to| to.reset) && reset(&mut status, snapshot, kernels, &step);
    if step.result != HistoryResult::Skipped {
        let reset = step.to.is_some_and(|to| to.reset);
        let elsewhere = reset && !tried_before;
        let pause = step.failure.and_then(|failure| pause(&status, session, snapshot, failure.cause, reset, elsewhere));
        schedule_next(&mut status, pause, snapshot.now);
    }
    summarize(&mut status, kernels);
    conditions(&mut status, session, &step, snapshot.now);
    let left = MAX_STATUS_BYTES.saturating_sub(fixed_bytes(&status));
    status.history_dropped += bound(&mut status.history, left);
    status
}

/// What stands there holds for this generation of the spec, too.
pub fn observe(status: &mut SessionStatus, generation: Option<i64>) {
    let generation = generation.unwrap_or_default();
    status.observed_generation = generation;
    status.conditions.iter_mut().for_each(|condition| condition.observed_generation = generation);
}

/// About how many bytes of JSON a status takes besides its history.
fn fixed_bytes(status: &SessionStatus) -> usize {
    const REST: usize = 3 * 1024;
    let allocation: usize = status.allocation.iter().map(|a| a.kernel.len() + a.node.as_str().len() + 24).sum();
    let failed: usize = status.failed_nodes.iter().map(|node| node.node.as_str().len() + 56).sum();
    let messages = status
        .message
        .iter()
        .chain(status.conditions.iter().map(|c| &c.message))
        .map(|message| bytes_in_json(message))
        .sum::<usize>();
    let needs = status.waiting.iter().flat_map(|waiting| &waiting.blockers).map(|b| bytes_in_json(&b.needs) + 512).sum::<usize>();
    REST + allocation + failed + messages + needs
}

fn record(status: &mut SessionStatus, step: &Step<'_>, from: SessionPhase, to: SessionPhase, now: DateTime<Utc>) {
    let skip_reason = step.skip.map(|(reason, _)| reason);
    let reason = step.failure.map(|failure| failure.reason).or(skip_reason);
    let words = step.failure.map(|failure| failure.message.as_str()).or(step.skip.map(|(_, words)| words));
    let told = step.change.reason.as_ref().map(|(_, words)| words.as_str());
    let entry = HistoryEntry {
        phase: step.handler.as_str().into(),
        result: step.result,
        from: from.as_str().into(),
        to: to.as_str().into(),
        error_code: reason.map(|reason| reason.as_str().into()),
        cause: step.failure.map(|failure| failure.cause),
        message: words.or(told).unwrap_or_default().into(),
        attempts: 1,
        created_at: now,
        updated_at: now,
        steps: step.steps.clone(),
    };
    status.history_dropped += push(&mut status.history, entry);
    status.attempts = match step.result {
        HistoryResult::Success => 0,
        HistoryResult::Skipped => status.attempts,
        _ => last_attempt(&status.history).map_or(0, |last| last.attempts),
    };
}

/// Reason and message: what the step says, else why it failed or waits, else nothing. A session that is ending keeps the
/// reason of its end; why the end takes long is in the history, the Event and the condition `Terminated`.
fn explain(status: &mut SessionStatus, step: &Step<'_>, from: SessionPhase, to: SessionPhase) {
    let told = step.change.reason.as_ref().map(|(reason, words)| (reason.as_str(), words.clone()));
    let failed = step.failure.map(|failure| {
        let reason = match (step.result, step.to) {
            (HistoryResult::GiveUp, Some(_)) => Reason::ExceededMaxRetries,
            _ => failure.reason,
        };
        (reason.as_str(), failure.message.clone())
    });
    let skipped = step.skip.map(|(reason, words)| (reason.as_str(), words.to_owned()));
    let ending = from.is_ending();
    let said = told.or(failed).or(skipped).filter(|_| !ending || status.reason.is_none());
    if said.is_none() && (from == to || ending) {
        return;
    }
    status.reason = said.as_ref().map(|(reason, _)| (*reason).to_owned());
    status.message = said.map(|(_, mut words)| {
        truncate(&mut words, MAX_STATUS_MESSAGE);
        words
    });
}

/// What changes as a phase is entered.
fn enter(status: &mut SessionStatus, session: &Session, step: &Step<'_>, to: SessionPhase, now: DateTime<Utc>) {
    status.phase = to;
    status.phase_started_at = Some(now);
    let ends = to.is_ending();
    let failed = matches!(step.result, HistoryResult::GiveUp | HistoryResult::Expired).then_some(SessionResult::Error);
    if let Some(result) = step.change.result.or(failed).filter(|_| ends)
        && status.result == SessionResult::Undefined
    {
        status.result = result;
    }
    status.exit_code = status.exit_code.or(step.change.exit_code);
    if to == SessionPhase::Creating {
        status.refusals = 0;
    }
    if to == SessionPhase::Running {
        status.started_at = status.started_at.or(Some(now));
        status.occupied = ResourceList::from(&requested(session));
    }
    if to.is_terminal() {
        status.finished_at = Some(now);
        status.occupied.clear();
    }
}

/// Gives up the allocation and remembers the nodes that failed. Returns true when one of them had failed the session before:
/// then no other node had room for it.
fn reset(status: &mut SessionStatus, snapshot: &Snapshot, kernels: &[KernelItem], step: &Step<'_>) -> bool {
    match step.failure.map(|failure| failure.cause) {
        Some(Cause::Capacity | Cause::Quota) => status.refusals += 1,
        Some(Cause::Fault) | None => status.resets += 1,
        Some(Cause::Hold) => {}
    }
    let disruption =
        step.failure.and_then(|failure| EndCause::parse(failure.reason.as_str())).filter(|cause| cause.is_disruption());
    status.disruptions += i32::from(disruption.is_some());
    status.allocation.clear();
    status.occupied.clear();
    let nodes_are_innocent = |failure: &Failure| failure.reason == Reason::NamespaceQuota || failure.cause == Cause::Hold;
    let failed = if step.failure.is_some_and(nodes_are_innocent) {
        vec![]
    } else if step.change.failed_nodes.is_empty() {
        kernels.iter().filter(|k| k.phase() != KernelPhase::Running).filter_map(|k| k.node.clone()).collect()
    } else {
        step.change.failed_nodes.clone()
    };
    let until = snapshot.now + chrono::TimeDelta::from_std(snapshot.timing.avoid_failed_node).unwrap_or_default();
    status.failed_nodes.retain(|node| node.until > snapshot.now);
    let tried_before = status.failed_nodes.iter().any(|node| failed.contains(&node.node));
    status.failed_nodes.retain(|node| !failed.contains(&node.node));
    status.failed_nodes.extend(failed.into_iter().map(|node| FailedNode { node, until }));
    let excess = status.failed_nodes.len().saturating_sub(MAX_FAILED_NODES);
    status.failed_nodes.drain(..excess);
    tried_before || excess > 0
}

/// How long a failure is left alone: a fault for seconds, everything else for minutes. After a reset another node is tried
/// at once. Once a node has refused the session a second time, since no other had room, or a quota has, it waits; the wait
/// differs between sessions, so that those that collided do not collide again. `elsewhere` tells that another node is left.
fn pause(
    status: &SessionStatus,
    session: &Session,
    snapshot: &Snapshot,
    cause: Cause,
    reset: bool,
    elsewhere: bool,
) -> Option<Duration> {
    let timing = &snapshot.timing;
    let waiting = |attempts| backoff(timing.wait_backoff, timing.wait_backoff_max, attempts);
    match cause {
        Cause::Fault | Cause::Hold if reset => None,
        Cause::Capacity if elsewhere => None,
        Cause::Capacity | Cause::Quota if reset => {
            let pause = waiting(status.refusals - 1);
            (status.refusals > 1).then(|| pause + pause.mul_f64(share(session)))
        }
        Cause::Fault => Some(backoff(timing.fault_backoff, timing.fault_backoff_max, status.attempts)),
        Cause::Capacity | Cause::Quota | Cause::Hold => Some(waiting(status.attempts)),
    }
}

/// A number from 0 to 1 that is the session's own.
fn share(session: &Session) -> f64 {
    let uid = session.metadata.uid.as_deref().unwrap_or_default();
    let hash = u32::from_str_radix(&short_hash(uid), 16).unwrap_or_default();
    f64::from(hash) / f64::from(u32::MAX)
}

fn schedule_next(status: &mut SessionStatus, pause: Option<Duration>, now: DateTime<Utc>) {
    let pause = pause.filter(|_| !status.phase.is_terminal());
    status.next_attempt_at = pause.and_then(|pause| chrono::TimeDelta::from_std(pause).ok()).map(|pause| to_millis(now + pause));
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

/// The four conditions, as the phase implies them. Those of steps that an ended session had reached stay as they were.
fn conditions(status: &mut SessionStatus, session: &Session, step: &Step<'_>, now: DateTime<Utc>) {
    use SessionPhase::{Creating, Prepared, Running};
    let phase = status.phase;
    let ending = phase.is_ending();
    let holds = [
        ("Scheduled", phase.holds_resources()),
        ("Prepared", matches!(phase, Prepared | Creating | Running)),
        ("Running", phase == Running),
        ("Terminated", phase.is_terminal()),
    ];
    for (type_, holds) in holds {
        let reached = matches!(type_, "Scheduled" | "Prepared");
        if ending && reached && status.conditions.iter().any(|condition| condition.type_ == type_) {
            continue;
        }
        let (mut reason, mut message) = (status.reason.as_deref(), status.message.clone());
        if ending
            && type_ == "Terminated"
            && let Some((why, words)) = step.trouble()
        {
            let mut words = words.to_owned();
            truncate(&mut words, MAX_STATUS_MESSAGE);
            (reason, message) = (Some(why.as_str()), Some(words));
        }
        let condition = Condition {
            type_: type_.into(),
            status: holds.into(),
            reason: reason.unwrap_or_else(|| phase.as_str()).to_owned(),
            message: message.unwrap_or_default(),
            observed_generation: session.metadata.generation.unwrap_or_default(),
            last_transition_time: now,
        };
        set_condition(&mut status.conditions, condition);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::KernelAllocation;
    use crate::api::KernelPhase::{Creating, Running};
    use crate::session::handlers::testing::{gang, item, now, put, session, session_in, snapshot};

    fn step<'a>(handler: HandlerName, result: HistoryResult, to: Option<To>, change: &'a Change) -> Step<'a> {
        Step { handler, result, to, failure: None, skip: None, change, steps: vec![] }
    }

    #[test]
    fn sc_co_009_a_reset_gives_up_every_place_and_remembers_the_agents_that_failed() {
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
        let given_up = Step {
            failure: Some(&failure),
            ..step(HandlerName::StartSessions, HistoryResult::GiveUp, To::PENDING_RESET, &change)
        };
        let status = advance(&snapshot(vec![]), &item.session, &item.kernels, given_up);
        assert_eq!((status.phase, status.resets), (SessionPhase::Pending, 1));
        assert!(status.allocation.is_empty() && status.occupied.is_empty() && status.nodes.is_none());
        assert_eq!(status.reason.as_deref(), Some("ExceededMaxRetries"));
        assert_eq!(status.failed_nodes.iter().map(|node| node.node.as_str()).collect::<Vec<_>>(), ["node-3"]);
        assert_eq!(status.failed_nodes[0].until, now() + chrono::TimeDelta::hours(1));
        assert_eq!(status.allocation_generation, 1, "the next allocation gets a number of its own");
    }

    #[test]
    fn he_001_what_a_session_occupies_is_in_the_commit_that_makes_it_run() {
        let item = item(session_in(SessionPhase::Creating), &[Running]);
        let change = Change::default();
        let running = step(HandlerName::PromoteToRunning, HistoryResult::Success, To::phase(SessionPhase::Running), &change);
        let status = advance(&snapshot(vec![]), &item.session, &item.kernels, running);
        assert_eq!(status.occupied.get("cpu").map(|cpu| cpu.0.as_str()), Some("1"));
        assert_eq!((status.kernels_ready.as_deref(), status.started_at), (Some("1/1"), Some(now())));
        let holds = |type_: &str| status.conditions.iter().find(|c| c.type_ == type_).map(|c| c.status);
        let (yes, no) = (Some(true.into()), Some(false.into()));
        assert_eq!([holds("Scheduled"), holds("Prepared"), holds("Running"), holds("Terminated")], [yes, yes, yes, no]);
    }

    #[test]
    fn the_first_result_stands() {
        let mut session = session_in(SessionPhase::Running);
        let ends = |session: &Session, result| {
            let change = Change { result: Some(result), ..Change::default() };
            let step = step(HandlerName::EndSessions, HistoryResult::Success, To::phase(SessionPhase::Terminating), &change);
            advance(&snapshot(vec![]), session, &[], step)
        };
        let status = ends(&session, SessionResult::UserCancelled);
        assert_eq!(status.result, SessionResult::UserCancelled);
        session.status = Some(status);
        assert_eq!(ends(&session, SessionResult::Error).result, SessionResult::UserCancelled);
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
                error_code: Some("e".repeat(64)),
                started_at: now(),
                ended_at: now(),
            });
            let to = (round % 3 == 0).then_some(To { phase: SessionPhase::Pending, reset: true });
            let step =
                Step { failure: Some(&failure), steps: steps.collect(), ..step(handler, HistoryResult::NeedRetry, to, &change) };
            let kernels = item(session.clone(), &phases).kernels;
            session.status = Some(advance(&snapshot(vec![]), &session, &kernels, step));
            let size = serde_json::to_string(&session.status).expect("JSON").len();
            assert!(size <= 64 * 1024, "{size} bytes in round {round}");
        }
    }
}
