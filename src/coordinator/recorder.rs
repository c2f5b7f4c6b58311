//! The recorder: traces what a handler did for a session, step by step, for the history entry that comes of it.

use chrono::{DateTime, Utc};

use crate::api::{SubStep, SubStepResult};
use crate::cluster::effects::EffectError;
use crate::lifecycle::{Reason, to_millis, truncate};
use crate::session::effect::Effect;
use crate::session::handlers::Trace;

/// Most bytes of a step's detail.
const MAX_DETAIL: usize = 200;

/// The steps of one session, in the order of time.
#[derive(Clone, Debug, Default)]
pub struct Recorder {
    steps: Vec<SubStep>,
}

impl Recorder {
    /// Begins with the steps that a whole batch shares.
    pub fn with_shared(shared: &[SubStep]) -> Self {
        Self { steps: shared.to_vec() }
    }

    /// One effect that was carried out, or was to be.
    pub fn effect(&mut self, effect: &Effect, started_at: DateTime<Utc>, done: &Result<(), EffectError>) {
        let (result, error_code, detail) = match done {
            Ok(()) => (SubStepResult::Success, None, effect.subject()),
            Err(EffectError::Wait(why)) => (SubStepResult::Failure, Some(Reason::NameTaken), why.clone()),
            Err(EffectError::Again(why)) => (SubStepResult::Failure, None, why.clone()),
            Err(EffectError::Failed(failure)) => (SubStepResult::Failure, Some(failure.reason), failure.message.clone()),
            Err(EffectError::Fenced) => (SubStepResult::Failure, None, "the lease is not held".into()),
        };
        self.steps.push(step(effect.name(), result, error_code, detail, started_at));
    }

    /// The sub-steps of a decision, which all happened at one moment.
    pub fn trace(&mut self, traces: Vec<Trace>, at: DateTime<Utc>) {
        for Trace { name, failed, detail } in traces {
            let result = if failed.is_some() { SubStepResult::Failure } else { SubStepResult::Success };
            self.steps.push(SubStep { ended_at: at, ..step(name, result, failed, detail, at) });
        }
    }

    /// A gate hook that failed.
    pub fn gate(&mut self, started_at: DateTime<Utc>, reason: Reason, message: &str) {
        self.steps.push(step("gate-hook", SubStepResult::Failure, Some(reason), message.to_owned(), started_at));
    }

    /// All of them; the recorder begins anew.
    pub fn take(&mut self) -> Vec<SubStep> {
        std::mem::take(&mut self.steps)
    }
}

/// A step that ends now.
pub fn step(
    name: &str,
    result: SubStepResult,
    error_code: Option<Reason>,
    mut detail: String,
    started_at: DateTime<Utc>,
) -> SubStep {
    truncate(&mut detail, MAX_DETAIL);
    SubStep {
        name: name.into(),
        result,
        detail,
        error_code: error_code.map(|reason| reason.as_str().into()),
        started_at,
        ended_at: to_millis(Utc::now()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::Failure;

    #[test]
    fn steps_keep_their_order_after_the_shared_ones_and_say_what_failed() {
        let now = to_millis(Utc::now());
        let shared = [step("sequence", SubStepResult::Success, None, "3 sessions".into(), now)];
        let mut recorder = Recorder::with_shared(&shared);
        recorder.effect(&Effect::CreateService, now, &Ok(()));
        let failure = Failure::fault(Reason::EffectFailed, "x".repeat(1000));
        recorder.effect(&Effect::CreateSshSecret, now, &Err(EffectError::Failed(failure)));
        let steps = recorder.take();
        let names: Vec<_> = steps.iter().map(|step| (step.name.as_str(), step.result)).collect();
        use SubStepResult::{Failure as Failed, Success};
        assert_eq!(names, [("sequence", Success), ("create-service", Success), ("create-ssh-secret", Failed)]);
        assert_eq!(steps[2].error_code.as_deref(), Some(Reason::EffectFailed.as_str()));
        assert!(steps[2].detail.len() <= MAX_DETAIL);
        assert!(recorder.take().is_empty());
    }
}
