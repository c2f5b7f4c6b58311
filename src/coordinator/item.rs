//! One session's way through a cycle: effects, judgement, the next status, the commit, and what is told of it.
//! Steps that follow without an effect of their own in between go into one commit; the history lists each.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use futures::future::join_all;

use super::cycle::Coordinator;
use super::hooks::Transition;
use super::judge::{Judged, judge};
use super::linger::may_linger;
use super::locks::Held;
use super::post_processors::Processed;
use super::recorder::Recorder;
use crate::api::{Cause, HistoryResult, Session, SessionPhase, SessionResult, SessionStatus, SubStep};
use crate::cluster::commit::Committed;
use crate::cluster::effects::{EffectError, Subject};
use crate::cluster::events::Told;
use crate::cluster::world::{News, uid_of};
use crate::lifecycle::{Failure, Reason, last_attempt, to_millis};
use crate::session::effect::Effect;
use crate::session::handlers::{Change, Decide, Handler, HandlerName, Outcome, Verdict, row};
use crate::session::snapshot::{SessionItem, Snapshot};
use crate::session::status::{Step, advance};

/// Which handler may follow within the same commit: those whose effects, if any, need nothing committed before them.
fn follower(after: HandlerName, reached: Option<SessionPhase>) -> Option<&'static Handler> {
    use HandlerName::{DetectTermination, PromoteToPrepared, PromoteToRunning, PromoteToTerminated, StartSessions};
    match (after, reached) {
        (_, Some(SessionPhase::Prepared)) => row(StartSessions),
        (_, Some(SessionPhase::Creating)) => row(PromoteToRunning),
        (_, Some(SessionPhase::Terminating)) => row(PromoteToTerminated),
        // A kernel may have ended, which ends the session.
        (PromoteToPrepared | PromoteToRunning, None) => row(DetectTermination),
        _ => None,
    }
}

/// Most pods of one session that are made, started or deleted at once.
const SIDE_BY_SIDE: usize = 8;

pub(super) struct Work<'a> {
    coordinator: &'a Coordinator,
    handler: &'static Handler,
    snapshot: Snapshot,
    item: SessionItem,
    /// As it is at the API server: its version is the commit's precondition.
    original: Arc<Session>,
    recorder: Recorder,
    news: News,
    /// Until then, what the cycle gives away is its own; after it, what is not reserved yet is not given.
    deadline: Option<Instant>,
}

impl<'a> Work<'a> {
    /// `shared` are the steps of the whole batch, which each of its sessions records.
    pub fn new(
        coordinator: &'a Coordinator,
        handler: &'static Handler,
        snapshot: Snapshot,
        item: SessionItem,
        shared: &[SubStep],
    ) -> Self {
        let (original, recorder) = (item.session.clone(), Recorder::with_shared(shared));
        Self { coordinator, handler, snapshot, item, original, recorder, news: News::default(), deadline: None }
    }

    pub fn until(self, deadline: Instant) -> Self {
        Self { deadline: Some(deadline), ..self }
    }

    /// What lingers of a session, to be committed as it is.
    pub fn lingering(coordinator: &'a Coordinator, snapshot: Snapshot, item: SessionItem) -> Option<Self> {
        let handler = row(HandlerName::CheckPrecondition)?;
        Some(Self::new(coordinator, handler, snapshot, item, &[]))
    }

    /// All the way from a verdict to the commit, and what follows it; returns what came of it.
    pub async fn finish(mut self, mut verdict: Verdict) -> Processed {
        let mut held = Held::Nothing;
        if self.did_it_and_lingers() {
            return Processed::default();
        }
        loop {
            let reached = self.step(verdict).await;
            drop(std::mem::replace(&mut held, Held::Nothing));
            let Some(next) = follower(self.handler.name, reached) else { break };
            // A follower whose lock is taken has its own cycle soon.
            let Some(lock) = self.coordinator.locks.try_share(next.lock) else { break };
            held = lock;
            let Decide::Each(decide) = next.decide else { break };
            self.handler = next;
            verdict = decide(&self.snapshot, &self.item);
        }
        drop(held);
        if may_linger(&self.news) {
            return self.linger();
        }
        if self.news.results.is_empty() {
            return Processed::default();
        }
        self.commit().await
    }

    /// Whether what this very handler did is not written yet: it may not show yet, and is done again once it is written.
    fn did_it_and_lingers(&self) -> bool {
        self.coordinator.world.lingers_of(&self.item.uid(), self.handler.name)
    }

    /// Leaves the commit for a moment.
    fn linger(self) -> Processed {
        let (uid, phase) = (self.item.uid(), self.item.phase());
        self.coordinator.linger(&self.item.session, &self.item.stored, self.news);
        self.coordinator.marks.session(&uid, phase);
        Processed::default()
    }

    /// One handler's step; returns the phase it led to, if it led anywhere.
    async fn step(&mut self, mut verdict: Verdict) -> Option<SessionPhase> {
        if let Some(wake) = verdict.wake_at {
            self.coordinator.marks.at(self.handler.name, &uid_of(&self.original), wake);
        }
        if let Some(trace) = self.handler.trace.filter(|_| !matches!(verdict.outcome, Outcome::Idle)) {
            self.recorder.trace(trace(&self.item, &verdict), self.snapshot.now);
        }
        let effects = std::mem::take(&mut verdict.effects);
        if let Err(error) = self.carry_out(&effects).await {
            verdict.outcome = self.after_error(error, verdict.outcome)?;
            // What was to change with the outcome does not.
            verdict.change = Change::default();
        }
        let judged = self.judge(&verdict, !effects.is_empty())?;
        let judged = match judged.to.map(|to| to.phase) {
            Some(phase) if let Err(failure) = self.pass_gates(phase).await => {
                self.retry_soon();
                verdict.outcome = Outcome::Failure(failure);
                verdict.change = Change::default();
                self.judge(&verdict, true)?
            }
            _ => judged,
        };
        self.advance(judged, &verdict)
    }

    fn judge(&self, verdict: &Verdict, did: bool) -> Option<Judged> {
        judge(self.handler, &self.snapshot, &self.item, &verdict.outcome, &verdict.change, did)
    }

    /// What an effect that was not carried out makes of the outcome; None if we do not lead any more.
    fn after_error(&self, error: EffectError, outcome: Outcome) -> Option<Outcome> {
        let idle = matches!(outcome, Outcome::Idle);
        match error {
            EffectError::Fenced => {
                self.retry_soon();
                return None;
            }
            EffectError::Wait(why) if !idle => {
                self.retry_after(self.waited_for_a_name());
                return Some(Outcome::Skipped(Reason::NameTaken, why));
            }
            // Its pause is that of a wait, which the status has.
            EffectError::Failed(failure) if failure.cause == Cause::Quota && !idle => return Some(Outcome::Failure(failure)),
            EffectError::Failed(failure) => {
                tracing::warn!(
                    handler = %self.handler.name, session = %self.item.name(), namespace = %self.item.namespace(),
                    "an effect failed: {}", failure.message
                );
                self.retry_soon();
                if !idle {
                    return Some(Outcome::Failure(failure));
                }
            }
            EffectError::Wait(_) | EffectError::Again(_) => self.retry_soon(),
        }
        Some(Outcome::Idle)
    }

    async fn pass_gates(&mut self, to: SessionPhase) -> Result<(), Failure> {
        let started_at = to_millis(Utc::now());
        let passed = self.coordinator.hooks.pass_gates(to, || self.transition(to), self.coordinator.timing.hook).await;
        if let Err(failure) = &passed {
            self.recorder.gate(started_at, failure.reason, &failure.message);
        }
        passed
    }

    fn transition(&self, to: SessionPhase) -> Transition {
        let (effects, subject) = (self.coordinator.effects.clone(), self.subject());
        Transition { effects, subject, item: self.item.clone(), to }
    }

    fn advance(&mut self, judged: Judged, verdict: &Verdict) -> Option<SessionPhase> {
        let failure = match &verdict.outcome {
            Outcome::Failure(failure) => Some(failure),
            _ => None,
        };
        let skip = match &verdict.outcome {
            Outcome::Skipped(reason, words) => Some((*reason, words.as_str())),
            _ => None,
        };
        let step = Step {
            handler: self.handler.name,
            result: judged.result,
            to: judged.to,
            failure,
            skip,
            change: &verdict.change,
            steps: self.recorder.take(),
        };
        let trouble = step.trouble().map(|(reason, words)| (reason, words.to_owned()));
        let status = advance(&self.snapshot, &self.item.session, &self.item.kernels, step);
        let mut session = (*self.item.session).clone();
        if let Some(next) = status.next_attempt_at.filter(|_| failure.is_some()) {
            self.coordinator.marks.at(self.handler.name, &uid_of(&session), next);
        }
        self.tell(&judged, &status, trouble);
        session.status = Some(status);
        self.item.session = Arc::new(session);
        self.news.results.push((self.handler.name, judged.result));
        self.news.reached.extend(judged.to.map(|to| to.phase));
        judged.to.map(|to| to.phase)
    }

    /// In order, until one fails; each leaves a trace. Pods of one session are made, started and deleted side by side. A pod
    /// that cannot be deleted does not keep the others.
    async fn carry_out(&mut self, effects: &[Effect]) -> Result<(), EffectError> {
        let mut kept = Ok(());
        for group in effects.chunk_by(Effect::may_run_beside) {
            for together in group.chunks(SIDE_BY_SIDE) {
                let subject = self.subject();
                let running = together.iter().map(|effect| self.run_timed(&subject, effect));
                let done = join_all(running).await;
                let mut failed = Ok(());
                for (effect, (started_at, done)) in together.iter().zip(done) {
                    self.recorder.effect(effect, started_at, &done);
                    let error = if matches!(effect, Effect::DeletePod { .. }) { &mut kept } else { &mut failed };
                    // An error that passes by itself says less than any other.
                    if done.is_err() && matches!(error, Ok(()) | Err(EffectError::Again(_))) {
                        *error = done;
                    }
                }
                failed?;
                if together.contains(&Effect::HoldSession) {
                    self.see_the_session_held();
                }
            }
        }
        kept
    }

    async fn run_timed(&self, subject: &Subject, effect: &Effect) -> (DateTime<Utc>, Result<(), EffectError>) {
        let started_at = to_millis(Utc::now());
        (started_at, self.coordinator.effects.run(subject, effect).await)
    }

    /// The finalizer changed the session's version.
    fn see_the_session_held(&mut self) {
        if let Some((_, seen)) = self.coordinator.world.look_again(&uid_of(&self.original)) {
            self.original = seen.session.clone();
            (self.item.session, self.item.stored) = (seen.session, seen.stored);
        }
    }

    fn subject(&self) -> Subject {
        Subject {
            namespace: self.item.namespace().to_owned(),
            name: self.item.name().to_owned(),
            session: Some(self.item.session.clone()),
            group: self.snapshot.group.clone(),
            group_name: self.snapshot.group_name.clone(),
        }
    }

    fn retry_soon(&self) {
        self.retry_after(self.coordinator.timing.fault_backoff);
    }

    fn retry_after(&self, pause: Duration) {
        self.coordinator.marks.after(self.handler.name, &uid_of(&self.original), pause);
    }

    /// How long it has waited for a name to become free, so that it is tried ever more rarely; within the pauses of faults.
    fn waited_for_a_name(&self) -> Duration {
        let timing = &self.coordinator.timing;
        let last = self.item.session.status.as_ref().and_then(|status| status.history.last());
        let told = last.filter(|last| last.error_code.as_deref() == Some(Reason::NameTaken.as_str()));
        let waited = told.and_then(|told| (self.snapshot.now - told.updated_at).to_std().ok()).unwrap_or_default();
        waited.clamp(timing.fault_backoff, timing.fault_backoff_max)
    }

    /// One event for each transition, and one for each failure that is new.
    fn tell(&mut self, judged: &Judged, status: &SessionStatus, trouble: Option<(Reason, String)>) {
        let before = self.item.session.status.as_ref();
        let (from, to) = (before.map(|status| status.phase).unwrap_or_default(), status.phase);
        let last = before.and_then(|status| last_attempt(&status.history));
        let repeated = last.is_some_and(|last| last.phase == self.handler.name.as_str() && last.error_code == status.reason);
        if judged.to.is_none() && (repeated || judged.result == HistoryResult::Success) {
            return;
        }
        let moved = (from != to).then(|| format!("{from} → {to}"));
        // A session that is ending keeps the reason of its end: what delays the end is the Event's own.
        let trouble = trouble.filter(|_| judged.to.is_none() && from.is_ending());
        let (reason, message) = match trouble {
            Some((reason, words)) => (Some(reason.as_str().to_owned()), Some(words)),
            None => (status.reason.clone(), status.message.clone()),
        };
        let message = message.filter(|message| !message.is_empty());
        if moved.is_some() {
            self.news.told.retain(|told| told.from != told.to); // what it failed at before is in the history, and led to this
        }
        let ended_badly = from != to && status.result == SessionResult::Error;
        self.news.told.push(Told {
            session: self.original.clone(),
            action: self.handler.name.as_str(),
            warning: ended_badly || !matches!(judged.result, HistoryResult::Success | HistoryResult::Skipped),
            reason: reason.unwrap_or_else(|| to.as_str().to_owned()),
            from,
            to,
            note: moved.into_iter().chain(message).collect::<Vec<_>>().join(": "),
        });
    }

    /// The status itself cannot tell that it is refused.
    fn refused_status(&self, why: &str) -> Told {
        let phase = self.original.phase();
        Told {
            session: self.original.clone(),
            action: self.handler.name.as_str(),
            warning: true,
            reason: Reason::StatusRefused.as_str().to_owned(),
            note: format!("the API server refuses the session's status, so the session stays as it is: {why}"),
            from: phase,
            to: phase,
        }
    }

    /// Whether it gives places away of which the cycles that followed its own do not know. The commit reserves them in the
    /// very moment in which this is asked.
    fn is_too_late(&self, status: &SessionStatus) -> bool {
        let before = self.original.status.as_ref().map_or(0, |status| status.allocation_generation);
        status.allocation_generation > before && self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// One write for all the steps; a conflict drops them, and the session is looked at anew.
    pub async fn commit(mut self) -> Processed {
        let mut processed = Processed::default();
        let Some(status) = self.item.session.status.clone() else { return processed };
        if self.is_too_late(&status) {
            self.coordinator.marks.urgent(self.handler.name, &uid_of(&self.original));
            return processed;
        }
        let mut news = self.coordinator.world.take_lingering(&self.item.uid());
        news.append(std::mem::take(&mut self.news));
        let (session, namespace) = (self.item.name(), self.item.namespace());
        match self.coordinator.committer.commit(&self.original, &self.item.stored, status).await {
            Committed::Done(written) => {
                tracing::info!(
                    %session, %namespace, handler = %self.handler.name, phase = %written.phase(),
                    reason = written.status.as_ref().and_then(|s| s.reason.as_deref()).unwrap_or_default(), "committed"
                );
                self.coordinator.events.send(news.told);
                for phase in news.reached {
                    self.coordinator.hooks.notify(phase, || self.transition(phase), self.coordinator.timing.hook).await;
                    processed.reached.insert((phase, self.item.uid()));
                }
                for (handler, result) in news.results {
                    self.coordinator.metrics.outcome(handler.as_str(), &self.snapshot, outcome_name(result));
                    processed.add(result, &self.item.session.spec.access_key);
                }
            }
            Committed::Dropped(why) => {
                tracing::debug!(%session, %namespace, handler = %self.handler.name, "dropped: {why}");
                self.coordinator.marks.session(&uid_of(&self.original), self.original.phase());
                self.coordinator.marks.urgent(self.handler.name, &uid_of(&self.original));
            }
            Committed::Refused(why) => {
                tracing::error!(%session, %namespace, handler = %self.handler.name, "the API server refuses its status: {why}");
                self.coordinator.events.send(vec![self.refused_status(&why)]);
                let uid = uid_of(&self.original);
                self.coordinator.world.quarantine(&uid, self.coordinator.timing.fault_backoff_max);
                self.coordinator.marks.session(&uid, self.original.phase());
            }
        }
        processed
    }
}

/// As metrics name it.
fn outcome_name(result: HistoryResult) -> &'static str {
    match result {
        HistoryResult::Success => "success",
        HistoryResult::NeedRetry => "need_retry",
        HistoryResult::Expired => "expired",
        HistoryResult::GiveUp => "give_up",
        HistoryResult::Skipped => "skipped",
    }
}
