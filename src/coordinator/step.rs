//! One object's way through a cycle: effects, classification, gates, the next status.
//! Steps that need no earlier commit share one write; the history lists each.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use futures::future::join_all;
use kube::ResourceExt;
use kube::core::object::HasStatus;

use super::commit::Pending;
use super::decide::decide_one;
use super::deferred::may_be_deferred;
use super::engine::{Coordinator, Decided};
use super::event::{Event, EventReason};
use super::host::{AfterCommit, Host};
use super::locks::Held;
use super::recorder::Recorder;
use crate::api::{Cause, HistoryResult, Reason, SubStep};
use crate::lifecycle::{
    Classified, Decide, Effect, EffectError, Effects, Failure, Handler, HandlerName, HasProgress, Item, Outcome, Phase, Snapshot,
    Step, Subject, Verdict, classify, last_attempt, next_status, phase_of, to_millis,
};

/// Most effects of one object that run at once.
const MAX_PARALLEL_EFFECTS: usize = 8;

/// One object on its way through a cycle.
pub(super) struct Work<'a, S: Subject, H: Host<S>> {
    coordinator: &'a Coordinator<S, H>,
    handler: &'static Handler<S>,
    snapshot: S::Snapshot,
    recorder: Recorder,
    after: AfterCommit<S>,
    deadline: Instant,
}

/// The object between two steps.
struct Current<S: Subject> {
    item: S::Item,
    original: Arc<S::Object>,
}

impl<'a, S: Subject, H: Host<S>> Work<'a, S, H> {
    pub fn new(
        coordinator: &'a Coordinator<S, H>,
        handler: &'static Handler<S>,
        snapshot: S::Snapshot,
        overview: Option<&SubStep>,
        deadline: Instant,
    ) -> Self {
        let recorder = Recorder::with_overview(overview);
        Self { coordinator, handler, snapshot, recorder, after: AfterCommit::default(), deadline }
    }

    /// Goes from a decision to its commit.
    pub async fn finish(mut self, decided: Decided<S>) {
        let Decided { item, mut verdict, _claim } = decided;
        // A step of this handler that is not written yet may not be visible yet. It runs again once it is written.
        if self.coordinator.host.is_deferred(&item.uid(), self.handler.name) {
            return;
        }
        let mut current = Current { original: item.object().clone(), item };
        let mut held = Held::Nothing;
        loop {
            let reached = self.step(&mut current, verdict).await;
            drop(std::mem::replace(&mut held, Held::Nothing));
            let Some(next) = Handler::<S>::follower(self.handler.name, reached) else { break };
            // If its lock is taken, the follower has its own cycle soon.
            let Some(lock) = self.coordinator.locks.try_share(next.lock) else { break };
            held = lock;
            let Decide::Each(decide) = next.decide else { break };
            self.handler = next;
            verdict = decide_one(next, decide, &self.snapshot, &current.item);
        }
        drop(held);
        if self.after.results.is_empty() {
            return;
        }
        if may_be_deferred::<S>(current.item.object(), &self.after) {
            let object = current.item.object().clone();
            self.coordinator.defer(&current.item, &object, self.after);
            self.coordinator.marks.object(&current.item.uid(), phase_of::<S>(&object));
            return;
        }
        let Current { item, original } = current;
        let (handler, deadline) = (Some(self.handler.name), Some(self.deadline));
        let pending = Pending { handler, snapshot: self.snapshot, item, original, after: self.after, deadline };
        self.coordinator.commit(pending).await;
    }

    /// Runs one handler's step. Returns the phase it led to, if any.
    async fn step(&mut self, current: &mut Current<S>, mut verdict: Verdict<S>) -> Option<S::Phase> {
        if let Some(wake) = verdict.wake_at {
            self.coordinator.marks.at(self.handler.name, &current.item.uid(), wake);
        }
        if let Some(trace) = self.handler.trace.filter(|_| !matches!(verdict.outcome, Outcome::Idle)) {
            self.recorder.trace(trace(&current.item, &verdict), self.snapshot.now());
        }
        let effects = std::mem::take(&mut verdict.effects);
        let mut done = if effects.is_empty() { Effects::None } else { Effects::Done };
        if let Err(error) = self.carry_out(current, &effects).await {
            done = Effects::Failed;
            let outcome = self.after_error(&current.item, error, &verdict)?;
            verdict = verdict.with_outcome(outcome);
        }
        let mut classified = classify(self.handler, &self.snapshot, &current.item, &verdict, done)?;
        if let Some(to) = classified.to
            && let Err(failure) = self.pass_gates(&current.item, to.phase).await
        {
            self.retry_soon(&current.item);
            verdict = verdict.with_outcome(Outcome::Failure(failure));
            classified = classify(self.handler, &self.snapshot, &current.item, &verdict, Effects::Done)?;
        }
        self.apply(current, classified, &verdict)
    }

    /// The outcome after an effect that was not carried out. Returns None without the lease.
    fn after_error(&self, item: &S::Item, error: EffectError, verdict: &Verdict<S>) -> Option<Outcome<S>> {
        let idle = matches!(verdict.outcome, Outcome::Idle) && !verdict.records_failures;
        match error {
            EffectError::Fenced => {
                self.retry_soon(item);
                return None;
            }
            EffectError::Wait(why) if !idle => {
                self.retry_after(item, self.waited_for_a_name(item));
                return Some(Outcome::Skipped(Reason::NameTaken, why));
            }
            // The pause of a wait is in the status.
            EffectError::Failed(failure) if failure.cause == Cause::Quota && !idle => return Some(Outcome::Failure(failure)),
            EffectError::Failed(failure) => {
                let object = item.object();
                tracing::warn!(
                    handler = %self.handler.name, name = %object.name_any(), namespace = object.namespace(),
                    "an effect failed: {}", failure.message
                );
                self.retry_soon(item);
                if !idle {
                    return Some(Outcome::Failure(failure));
                }
            }
            EffectError::Wait(_) | EffectError::Again(_) => self.retry_soon(item),
        }
        Some(Outcome::Idle)
    }

    async fn pass_gates(&mut self, item: &S::Item, to: S::Phase) -> Result<(), Failure> {
        let started_at = to_millis(Utc::now());
        let transition = || self.coordinator.transition(&self.snapshot, item, to);
        let passed = self.coordinator.hooks.pass_gates(to, transition, self.coordinator.timing.hook).await;
        if let Err(failure) = &passed {
            self.recorder.gate(started_at, failure.reason, &failure.message);
        }
        passed
    }

    /// Applies a step to the object in memory. Returns the phase it led to, if any.
    fn apply(&mut self, current: &mut Current<S>, classified: Classified<S::Phase>, verdict: &Verdict<S>) -> Option<S::Phase> {
        let (failure, skip) = match &verdict.outcome {
            Outcome::Failure(failure) => (Some(failure), None),
            Outcome::Skipped(reason, message) => (None, Some((*reason, message.as_str()))),
            Outcome::Success { .. } | Outcome::Idle => (None, None),
        };
        let Classified { result, to } = classified;
        let step = Step {
            handler: self.handler.name,
            result,
            to,
            failure,
            skip,
            reason: verdict.reason.as_ref(),
            change: &verdict.change,
            steps: self.recorder.take(),
        };
        let trouble = step.trouble().map(|(reason, message)| (reason, message.to_owned()));
        let status = next_status::<S>(&self.snapshot, &current.item, step);
        if let Some(next) = status.progress().next_attempt_at.filter(|_| failure.is_some()) {
            self.coordinator.marks.at(self.handler.name, &current.item.uid(), next);
        }
        self.add_event(current, classified, &status, trouble);
        let mut object = (**current.item.object()).clone();
        *object.status_mut() = Some(status);
        current.item.set_object(Arc::new(object));
        self.after.results.push((self.handler.name, result));
        self.after.reached.extend(to.map(|to| to.phase));
        to.map(|to| to.phase)
    }

    /// Carries out effects in order until one fails, and records each. Effects that may run together do. An effect that may fail
    /// alone does not stop those after it.
    async fn carry_out(&mut self, current: &mut Current<S>, effects: &[S::Effect]) -> Result<(), EffectError> {
        let mut failed_alone = Ok(());
        for group in effects.chunk_by(S::Effect::may_run_with) {
            for parallel in group.chunks(MAX_PARALLEL_EFFECTS) {
                let item = &current.item;
                let done = join_all(parallel.iter().map(|effect| self.run_timed(item, effect))).await;
                let mut failed = Ok(());
                for (effect, (started_at, done)) in parallel.iter().zip(done) {
                    self.recorder.effect(effect, started_at, &done);
                    let error = if effect.may_fail_alone() { &mut failed_alone } else { &mut failed };
                    // A passing error says less than any other.
                    if done.is_err() && matches!(error, Ok(()) | Err(EffectError::Again(_))) {
                        *error = done;
                    }
                }
                failed?;
                if parallel.iter().any(S::Effect::changes_object)
                    && let Some((_, item)) = self.coordinator.host.look_again(&current.item.uid())
                {
                    *current = Current { original: item.object().clone(), item };
                }
            }
        }
        failed_alone
    }

    async fn run_timed(&self, item: &S::Item, effect: &S::Effect) -> (DateTime<Utc>, Result<(), EffectError>) {
        let started_at = to_millis(Utc::now());
        (started_at, self.coordinator.host.run(&self.snapshot, item, effect).await)
    }

    fn retry_soon(&self, item: &S::Item) {
        self.retry_after(item, self.coordinator.timing.fault_backoff);
    }

    fn retry_after(&self, item: &S::Item, pause: Duration) {
        self.coordinator.marks.after(self.handler.name, &item.uid(), pause);
    }

    /// How long the object has waited for a name to become free, within the pauses of faults: it is tried ever more rarely.
    fn waited_for_a_name(&self, item: &S::Item) -> Duration {
        let timing = &self.coordinator.timing;
        let last = item.object().status().and_then(|status| status.progress().history.last());
        let waits_since = last.filter(|last| last.error_code == Some(Reason::NameTaken)).map(|last| last.updated_at);
        let waited = waits_since.and_then(|since| (self.snapshot.now() - since).to_std().ok()).unwrap_or_default();
        waited.clamp(timing.fault_backoff, timing.fault_backoff_max)
    }

    /// Adds an Event for a transition, or for a failure that is new.
    fn add_event(
        &mut self,
        current: &Current<S>,
        classified: Classified<S::Phase>,
        status: &S::Status,
        trouble: Option<(Reason, String)>,
    ) {
        let before = current.item.object().status().map(HasProgress::progress);
        let progress = status.progress();
        let (from, to) = (before.map(|before| before.phase).unwrap_or_default(), progress.phase);
        let last = before.and_then(|before| last_attempt(&before.history));
        let repeated = last.is_some_and(|last| last.handler == self.handler.name.as_str() && last.error_code == progress.reason);
        let stays = classified.to.is_none();
        if stays && (repeated || classified.result == HistoryResult::Success) {
            return;
        }
        // An object that is ending keeps the reason of its end. What delays the end is the Event's own reason.
        let delay = trouble.filter(|_| stays && from.is_ending());
        let (reason, message) = match delay {
            Some((reason, message)) => (Some(reason), Some(message)),
            None => (progress.reason, progress.message.clone()),
        };
        let failed = !matches!(classified.result, HistoryResult::Success | HistoryResult::Skipped);
        self.after.add_event(Event {
            object: current.original.clone(),
            action: self.handler.name.as_str(),
            warning: failed || reason.is_some_and(Reason::announces) || (from != to && S::has_ended_badly(status)),
            reason: reason.map_or(EventReason::Reached(to), EventReason::Reason),
            message: message.unwrap_or_default(),
            from,
            reached: if from == to { vec![] } else { vec![to] },
        });
    }
}
