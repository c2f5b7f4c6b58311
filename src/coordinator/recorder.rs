//! Recorder: traces what a handler did for one object, step by step, for the history entry.

use chrono::{DateTime, Utc};

use crate::api::{Reason, SubStep, SubStepResult};
use crate::lifecycle::{Effect, EffectError, Trace, to_millis, trace_step, truncate};

/// Most bytes of a step's detail.
const MAX_DETAIL: usize = 200;

/// The steps of one object, in the order of time.
#[derive(Clone, Debug, Default)]
pub struct Recorder {
    steps: Vec<SubStep>,
}

impl Recorder {
    /// A recorder that begins with the step that a whole batch shares.
    pub fn with_overview(overview: Option<&SubStep>) -> Self {
        Self { steps: overview.cloned().into_iter().collect() }
    }

    /// Records one effect and its result.
    pub fn effect(&mut self, effect: &impl Effect, started_at: DateTime<Utc>, done: &Result<(), EffectError>) {
        let (error_code, detail) = match done {
            Ok(()) => return self.push(effect.name(), SubStepResult::Success, None, effect.target(), started_at),
            Err(EffectError::Wait(why)) => (Some(Reason::NameTaken), why.clone()),
            Err(EffectError::Again(why)) => (None, why.clone()),
            Err(EffectError::Failed(failure)) => (Some(failure.reason), failure.message.clone()),
            Err(EffectError::Fenced) => (None, "the lease is not held".into()),
        };
        self.push(effect.name(), SubStepResult::Failure, error_code, detail, started_at);
    }

    /// Records the sub-steps of a decision, which all happened at one moment.
    pub fn trace(&mut self, traces: Vec<Trace>, at: DateTime<Utc>) {
        self.steps.extend(traces.into_iter().map(|trace| shortened(trace_step(trace, at))));
    }

    /// Records a gate hook that failed.
    pub fn gate(&mut self, started_at: DateTime<Utc>, reason: Reason, message: &str) {
        self.push("gate-hook", SubStepResult::Failure, Some(reason), message.to_owned(), started_at);
    }

    /// Takes all steps. The recorder is empty afterwards.
    pub fn take(&mut self) -> Vec<SubStep> {
        std::mem::take(&mut self.steps)
    }

    fn push(&mut self, name: &str, result: SubStepResult, error_code: Option<Reason>, detail: String, started_at: DateTime<Utc>) {
        let ended_at = to_millis(Utc::now());
        self.steps.push(shortened(SubStep { name: name.into(), result, detail, error_code, started_at, ended_at }));
    }
}

pub(super) fn shortened(mut step: SubStep) -> SubStep {
    truncate(&mut step.detail, MAX_DETAIL);
    step
}
