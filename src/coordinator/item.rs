//! One session's way through a cycle: effects, judgement, the next status, the commit, and what is told of it.
//! Steps that follow without an effect of their own in between go into one commit; the history lists each.

use std::sync::Arc;

use chrono::Utc;

use super::cycle::Coordinator;
use super::judge::{Judged, judge};
use super::locks::Held;
use crate::api::{HistoryResult, Session, SessionPhase, SessionResult, SessionStatus, SubStep, SubStepResult};
use crate::cluster::commit::Committed;
use crate::cluster::effects::{EffectError, Subject};
use crate::cluster::events::Told;
use crate::cluster::world::uid_of;
use crate::lifecycle::{Reason, to_millis, truncate};
use crate::session::effect::Effect;
use crate::session::handlers::{Decide, Handler, HandlerName, Outcome, Verdict, row};
use crate::session::snapshot::{SessionItem, Snapshot};
use crate::session::status::{Step, advance};

/// Which handler may follow within the same commit: those whose effects, if any, need nothing committed before them.
fn follower(phase: SessionPhase) -> Option<&'static Handler> {
    match phase {
        SessionPhase::Prepared => row(HandlerName::StartSessions),
        SessionPhase::Creating => row(HandlerName::PromoteToRunning),
        SessionPhase::Terminating => row(HandlerName::PromoteToTerminated),
        _ => None,
    }
}

pub(super) struct Work<'a> {
    coordinator: &'a Coordinator,
    handler: &'static Handler,
    snapshot: Snapshot,
    item: SessionItem,
    /// As it is at the API server: its version is the commit's precondition.
    original: Arc<Session>,
    told: Vec<Told>,
    changed: bool,
}

impl<'a> Work<'a> {
    pub fn new(coordinator: &'a Coordinator, handler: &'static Handler, snapshot: Snapshot, item: SessionItem) -> Self {
        let original = item.session.clone();
        Self { coordinator, handler, snapshot, item, original, told: vec![], changed: false }
    }

    /// All the way from a verdict to the commit.
    pub async fn finish(mut self, mut verdict: Verdict) {
        let mut held = Held::Nothing;
        while let Some(phase) = self.step(verdict).await {
            drop(std::mem::replace(&mut held, Held::Nothing));
            let Some(next) = follower(phase) else { break };
            // A follower whose lock is taken has its own cycle soon.
            let Some(lock) = self.coordinator.locks.try_share(next.lock) else { break };
            held = lock;
            let Decide::Each(decide) = next.decide else { break };
            self.handler = next;
            verdict = decide(&self.snapshot, &self.item);
        }
        drop(held);
        self.commit().await;
    }

    /// One handler's step; returns the phase it led to, if it led anywhere.
    async fn step(&mut self, mut verdict: Verdict) -> Option<SessionPhase> {
        if let Some(wake) = verdict.wake_at {
            self.coordinator.marks.at(self.handler.name, &uid_of(&self.original), wake);
        }
        let effects = std::mem::take(&mut verdict.effects);
        let steps = match self.carry_out(&effects).await {
            Ok(steps) => steps,
            Err((EffectError::Fenced, _)) => return None,
            Err((EffectError::Wait(why), steps)) => {
                self.retry_soon();
                verdict.outcome = match verdict.outcome {
                    Outcome::Idle => Outcome::Idle,
                    _ => Outcome::Skipped(Reason::NameTaken, why),
                };
                steps
            }
            Err((EffectError::Failed(failure), steps)) => {
                tracing::warn!(
                    handler = %self.handler.name, session = %self.item.name(), namespace = %self.item.namespace(),
                    "an effect failed: {}", failure.message
                );
                self.retry_soon();
                verdict.outcome = match verdict.outcome {
                    Outcome::Idle => Outcome::Idle,
                    _ => Outcome::Failure(failure),
                };
                steps
            }
        };
        let change = &verdict.change;
        let judged = judge(self.handler, &self.snapshot, &self.item, &verdict.outcome, change, !effects.is_empty())?;
        self.advance(judged, &verdict, steps)
    }

    fn advance(&mut self, judged: Judged, verdict: &Verdict, steps: Vec<SubStep>) -> Option<SessionPhase> {
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
            steps,
        };
        let status = advance(&self.snapshot, &self.item.session, &self.item.kernels, step);
        let mut session = (*self.item.session).clone();
        if let Some(next) = status.next_attempt_at.filter(|_| failure.is_some()) {
            self.coordinator.marks.at(self.handler.name, &uid_of(&session), next);
        }
        self.tell(&judged, &status);
        session.status = Some(status);
        self.item.session = Arc::new(session);
        self.changed = true;
        judged.to.map(|to| to.phase)
    }

    /// In order, until one fails; each leaves a trace.
    async fn carry_out(&mut self, effects: &[Effect]) -> Result<Vec<SubStep>, (EffectError, Vec<SubStep>)> {
        let mut steps = vec![];
        for effect in effects {
            let subject = self.subject();
            let started_at = to_millis(Utc::now());
            let done = self.coordinator.effects.run(&subject, effect).await;
            steps.push(trace(effect, started_at, &done));
            if let Err(error) = done {
                return Err((error, steps));
            }
            if *effect == Effect::HoldSession
                && let Some((_, seen)) = self.coordinator.world.look_again(&uid_of(&self.original))
            {
                self.original = seen.session.clone();
                self.item.session = seen.session;
            }
        }
        Ok(steps)
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
        let pause = chrono::TimeDelta::from_std(self.coordinator.timing.fault_backoff).unwrap_or_default();
        self.coordinator.marks.at(self.handler.name, &uid_of(&self.original), Utc::now() + pause);
    }

    /// One event for each transition, and one for each failure that is new.
    fn tell(&mut self, judged: &Judged, status: &SessionStatus) {
        let before = self.item.session.status.as_ref();
        let (from, to) = (before.map(|status| status.phase).unwrap_or_default(), status.phase);
        let outcome = outcome_name(judged.result);
        self.coordinator.metrics.outcome(self.handler.name.as_str(), self.snapshot.group_name.as_str(), outcome);
        let last = before.and_then(|status| status.history.last());
        let repeated = last.is_some_and(|last| last.phase == self.handler.name.as_str() && last.error_code == status.reason);
        if judged.to.is_none() && (repeated || judged.result == HistoryResult::Success) {
            return;
        }
        let moved = (from != to).then(|| format!("{from} → {to}"));
        let message = status.message.clone().filter(|message| !message.is_empty());
        let ended_badly = from != to && status.result == SessionResult::Error;
        self.told.push(Told {
            session: self.original.clone(),
            action: self.handler.name.as_str(),
            warning: ended_badly || !matches!(judged.result, HistoryResult::Success | HistoryResult::Skipped),
            reason: status.reason.clone().unwrap_or_else(|| to.as_str().to_owned()),
            note: moved.into_iter().chain(message).collect::<Vec<_>>().join(": "),
        });
    }

    /// One write for all the steps; a conflict drops them, and the session is looked at anew.
    async fn commit(self) {
        if !self.changed {
            return;
        }
        let Some(status) = self.item.session.status.clone() else { return };
        let (session, namespace) = (self.item.name(), self.item.namespace());
        match self.coordinator.committer.commit(&self.original, status).await {
            Committed::Done(written) => {
                tracing::info!(
                    %session, %namespace, handler = %self.handler.name, phase = %written.phase(),
                    reason = written.status.as_ref().and_then(|s| s.reason.as_deref()).unwrap_or_default(), "committed"
                );
                self.coordinator.events.send(self.told);
            }
            Committed::Dropped(why) => {
                tracing::debug!(%session, %namespace, handler = %self.handler.name, "dropped: {why}");
                self.coordinator.marks.session(&uid_of(&self.original), self.original.phase());
            }
        }
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

fn trace(effect: &Effect, started_at: chrono::DateTime<Utc>, done: &Result<(), EffectError>) -> SubStep {
    let (result, error_code, mut detail) = match done {
        Ok(()) => (SubStepResult::Success, None, effect.subject()),
        Err(EffectError::Wait(why)) => (SubStepResult::Failure, Some(Reason::NameTaken), why.clone()),
        Err(EffectError::Failed(failure)) => (SubStepResult::Failure, Some(failure.reason), failure.message.clone()),
        Err(EffectError::Fenced) => (SubStepResult::Failure, None, "the lease is not held".into()),
    };
    truncate(&mut detail, 200);
    SubStep {
        name: effect.name().into(),
        result,
        detail,
        error_code: error_code.map(|reason| reason.as_str().into()),
        started_at,
        ended_at: to_millis(Utc::now()),
    }
}
