//! The status after a step: phase, reason, history, attempts and conditions, all for one write. Pure.

use std::time::Duration;

use chrono::{DateTime, Utc};
use kube::Resource;
use kube::core::object::HasStatus;

use super::{
    ConditionState, Failure, HandlerName, HasProgress, Item, Phase, Snapshot, Subject, Timing, To, Trace, backoff, bound,
    bytes_in_json, created_at, last_attempt, push, to_millis, truncate,
};
use crate::api::{
    Cause, Condition, HistoryEntry, HistoryResult, Progress, Reason, SubStep, SubStepResult, remove_condition, set_condition,
};

/// Most bytes of a status, as JSON.
const MAX_STATUS_BYTES: usize = 62 * 1024;
/// Most bytes of a status's message.
const MAX_STATUS_MESSAGE: usize = 1000;
/// Bytes that the smaller fields of a status may take.
const SMALL_FIELDS: usize = 3 * 1024;

/// One classified step of an object.
pub struct Step<'a, S: Subject> {
    pub handler: S::HandlerName,
    pub result: HistoryResult,
    /// Where it leads. None keeps the phase.
    pub to: Option<To<S::Phase>>,
    pub failure: Option<&'a Failure>,
    /// Why it was skipped.
    pub skip: Option<(Reason, &'a str)>,
    /// The reason and message that the verdict gives.
    pub reason: Option<&'a (Reason, String)>,
    pub change: &'a S::Change,
    pub steps: Vec<SubStep>,
}

impl<S: Subject> Step<'_, S> {
    /// Why it failed or was skipped.
    pub fn trouble(&self) -> Option<(Reason, &str)> {
        self.failure.map(|failure| (failure.reason, failure.message.as_str())).or(self.skip)
    }

    pub fn restarts(&self) -> bool {
        self.to.is_some_and(|to| to.restarts)
    }
}

/// The status after a step.
pub fn next_status<S: Subject>(snapshot: &S::Snapshot, item: &S::Item, step: Step<'_, S>) -> S::Status {
    let object = item.object();
    let mut status = object.status().cloned().unwrap_or_default();
    let (from, now) = (status.progress().phase, snapshot.now());
    let to = step.to.map_or(from, |to| to.phase);
    let progress = status.progress_mut();
    record(progress, &step, from, to, now);
    progress.observed_generation = object.meta().generation.unwrap_or_default();
    explain(progress, &step, from, to);
    progress.phase = to;
    if step.to.is_some() {
        progress.phase_started_at = Some(now);
    } else if progress.phase_started_at.is_none() {
        progress.phase_started_at = created_at(&**object).or(Some(now));
    }
    let restart_pause = S::apply(&mut status, &step, snapshot, item);
    if step.result != HistoryResult::Skipped {
        let pause = match (step.failure, step.to) {
            (None, _) => None,
            (Some(failure), None) => Some(pause(snapshot.timing(), failure.cause, status.progress().attempts)),
            (Some(_), Some(to)) => restart_pause.filter(|_| to.restarts),
        };
        schedule_next(status.progress_mut(), pause, now);
    }
    let states = S::conditions(&status);
    let generation = object.meta().generation.unwrap_or_default();
    set_conditions(status.progress_mut(), states, &step, generation, now);
    let left = MAX_STATUS_BYTES.saturating_sub(S::bytes_beside_progress(&status) + fixed_bytes(status.progress()));
    let progress = status.progress_mut();
    progress.history_dropped += bound(&mut progress.history, left);
    status
}

/// Writes that the status holds for this generation of the spec, too.
pub fn observe<P>(progress: &mut Progress<P>, generation: Option<i64>) {
    let generation = generation.unwrap_or_default();
    progress.observed_generation = generation;
    progress.conditions.iter_mut().for_each(|condition| condition.observed_generation = generation);
}

/// About how many bytes of JSON progress takes besides its history.
fn fixed_bytes<P>(progress: &Progress<P>) -> usize {
    let conditions = progress.conditions.iter().map(|condition| &condition.message);
    SMALL_FIELDS + progress.message.iter().chain(conditions).map(|message| bytes_in_json(message)).sum::<usize>()
}

fn record<S: Subject>(progress: &mut Progress<S::Phase>, step: &Step<'_, S>, from: S::Phase, to: S::Phase, now: DateTime<Utc>) {
    let trouble = step.trouble();
    let message = trouble.map(|(_, message)| message).or(step.reason.map(|(_, message)| message.as_str()));
    let entry = HistoryEntry {
        handler: step.handler.as_str().into(),
        result: step.result,
        from: from.as_str().into(),
        to: to.as_str().into(),
        error_code: trouble.map(|(reason, _)| reason),
        cause: step.failure.map(|failure| failure.cause),
        message: message.unwrap_or_default().into(),
        attempts: 1,
        created_at: now,
        updated_at: now,
        steps: telling_steps(step),
    };
    progress.history_dropped += push(&mut progress.history, entry);
    progress.attempts = match step.result {
        HistoryResult::Success => 0,
        HistoryResult::Skipped => progress.attempts,
        HistoryResult::NeedRetry | HistoryResult::Expired | HistoryResult::GiveUp => {
            last_attempt(&progress.history).map_or(0, |last| last.attempts)
        }
    };
}

/// The sub-steps that an entry keeps. The sub-steps of a success only repeat the object, except those that failed.
fn telling_steps<S: Subject>(step: &Step<'_, S>) -> Vec<SubStep> {
    let succeeded = step.result == HistoryResult::Success;
    let tells = |sub_step: &&SubStep| !succeeded || sub_step.result == SubStepResult::Failure;
    step.steps.iter().filter(tells).cloned().collect()
}

/// Sets reason and message: those of the verdict, else those of the failure or the skip, else none. An object that is ending
/// keeps the reason of its end. What delays the end is in the history, in an Event and in a condition.
fn explain<S: Subject>(progress: &mut Progress<S::Phase>, step: &Step<'_, S>, from: S::Phase, to: S::Phase) {
    let failed = step.failure.map(|failure| {
        let given_up = step.result == HistoryResult::GiveUp && step.to.is_some();
        (if given_up { Reason::ExceededMaxRetries } else { failure.reason }, failure.message.as_str())
    });
    let said = step.reason.map(|(reason, message)| (*reason, message.as_str())).or(failed).or(step.skip);
    let ending = from.is_ending() && to.is_ending();
    let said = said.filter(|_| !ending || progress.reason.is_none());
    if said.is_none() && (from == to || ending) {
        return;
    }
    progress.reason = said.map(|(reason, _)| reason);
    progress.message = said.map(|(_, message)| shortened(message));
}

fn shortened(message: &str) -> String {
    let mut message = message.to_owned();
    truncate(&mut message, MAX_STATUS_MESSAGE);
    message
}

/// The pause after a failure that keeps the phase: seconds after a fault, minutes while it waits.
fn pause(timing: &Timing, cause: Cause, attempts: i32) -> Duration {
    match cause {
        Cause::Fault => backoff(timing.fault_backoff, timing.fault_backoff_max, attempts),
        Cause::Capacity | Cause::Quota | Cause::Hold => backoff(timing.wait_backoff, timing.wait_backoff_max, attempts),
    }
}

fn schedule_next<P: Phase>(progress: &mut Progress<P>, pause: Option<Duration>, now: DateTime<Utc>) {
    let pause = pause.filter(|_| !progress.phase.is_terminal()).and_then(|pause| chrono::TimeDelta::from_std(pause).ok());
    progress.next_attempt_at = pause.map(|pause| to_millis(now + pause));
}

fn set_conditions<S: Subject>(
    progress: &mut Progress<S::Phase>,
    states: Vec<ConditionState>,
    step: &Step<'_, S>,
    generation: i64,
    now: DateTime<Utc>,
) {
    for ConditionState { type_, holds, shows_delay, is_explained } in states {
        let Some(holds) = holds else {
            remove_condition(&mut progress.conditions, type_);
            continue;
        };
        let delay = step.trouble().filter(|_| shows_delay && progress.phase.is_ending());
        let (reason, message) = match delay {
            Some((reason, message)) => (Some(reason), Some(shortened(message))),
            None if is_explained => (progress.reason, progress.message.clone()),
            None => (None, None),
        };
        let condition = Condition {
            type_: type_.into(),
            status: holds.into(),
            reason: reason.map_or(progress.phase.as_str(), Reason::as_str).to_owned(),
            message: message.unwrap_or_default(),
            observed_generation: generation,
            last_transition_time: now,
        };
        set_condition(&mut progress.conditions, condition);
    }
}

/// The sub-step for a trace.
pub fn trace_step(Trace { name, failed, detail }: Trace, at: DateTime<Utc>) -> SubStep {
    let result = if failed.is_some() { SubStepResult::Failure } else { SubStepResult::Success };
    SubStep { name: name.into(), result, detail, error_code: failed, started_at: at, ended_at: at }
}
