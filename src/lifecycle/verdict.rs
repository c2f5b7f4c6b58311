//! A verdict: what a handler says of one object.

use chrono::{DateTime, Utc};

use super::{Exit, Subject, To};
pub use crate::api::{Cause, Reason};

/// What a handler says of one object.
#[derive(Clone, Debug)]
pub struct Verdict<S: Subject> {
    pub outcome: Outcome<S>,
    /// Carried out before the outcome is committed. An effect that fails makes the outcome a failure.
    pub effects: Vec<S::Effect>,
    /// The reason and message of the status; by default those of the outcome.
    pub reason: Option<(Reason, String)>,
    /// Where an expiry leads, if not where the row says.
    pub expired_to: Option<To<S::Phase>>,
    pub change: S::Change,
    /// When to evaluate again, if nothing else does so earlier.
    pub wake_at: Option<DateTime<Utc>>,
    /// Whether an effect that fails is recorded although the outcome is idle.
    pub records_failures: bool,
}

/// The outcome itself.
#[derive(Clone, Debug)]
pub enum Outcome<S: Subject> {
    /// Done. `to` names a phase other than the row's.
    Success {
        to: Option<S::Phase>,
    },
    Failure(Failure),
    /// Nothing to do yet, for a reason worth recording.
    Skipped(Reason, String),
    /// Nothing to do, and nothing to record.
    Idle,
}

/// A failure, before it is classified.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    pub cause: Cause,
    pub reason: Reason,
    /// In words, with numbers and names.
    pub message: String,
}

impl Failure {
    pub fn new(cause: Cause, reason: Reason, message: impl Into<String>) -> Self {
        Self { cause, reason, message: message.into() }
    }

    pub fn fault(reason: Reason, message: impl Into<String>) -> Self {
        Self::new(Cause::Fault, reason, message)
    }
}

/// Why an effect was not carried out.
#[derive(Debug)]
pub enum EffectError {
    /// Another object has the name and will go by itself. Counts no attempt.
    Wait(String),
    /// It was not done for a passing reason. It is tried again, and nothing is recorded.
    Again(String),
    Failed(Failure),
    /// This process does not hold the lease any more.
    Fenced,
}

/// One sub-step of a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    pub name: &'static str,
    /// None if it succeeded.
    pub failed: Option<Reason>,
    pub detail: String,
}

impl Trace {
    pub fn done(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, failed: None, detail: detail.into() }
    }

    pub fn failed(name: &'static str, reason: Reason, detail: impl Into<String>) -> Self {
        Self { name, failed: Some(reason), detail: detail.into() }
    }
}

impl<S: Subject> Default for Verdict<S> {
    fn default() -> Self {
        Self {
            outcome: Outcome::Idle,
            effects: vec![],
            reason: None,
            expired_to: None,
            change: S::Change::default(),
            wake_at: None,
            records_failures: false,
        }
    }
}

impl<S: Subject> Verdict<S> {
    pub fn idle() -> Self {
        Self::default()
    }

    pub fn success() -> Self {
        Self { outcome: Outcome::Success { to: None }, ..Self::default() }
    }

    pub fn success_to(exit: impl Exit<S>) -> Self {
        Self { outcome: Outcome::Success { to: Some(exit.phase()) }, ..Self::default() }
    }

    pub fn failure(failure: Failure) -> Self {
        Self { outcome: Outcome::Failure(failure), ..Self::default() }
    }

    pub fn skipped(reason: Reason, message: impl Into<String>) -> Self {
        Self { outcome: Outcome::Skipped(reason, message.into()), ..Self::default() }
    }

    pub fn because(mut self, reason: Reason, message: impl Into<String>) -> Self {
        self.reason = Some((reason, message.into()));
        self
    }

    pub fn effects(mut self, effects: Vec<S::Effect>) -> Self {
        self.effects = effects;
        self
    }

    pub fn wake_at(mut self, time: Option<DateTime<Utc>>) -> Self {
        self.wake_at = time;
        self
    }

    /// An idle verdict writes nothing. This one does if an effect fails.
    pub fn recording_failures(mut self) -> Self {
        self.records_failures = true;
        self
    }

    /// The same without what was to change with the outcome.
    pub fn with_outcome(self, outcome: Outcome<S>) -> Self {
        Self { outcome, reason: None, expired_to: None, change: S::Change::default(), ..self }
    }
}
