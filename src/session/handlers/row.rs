//! The parts of a session handler's row: locks, settings, and the changes that a verdict makes.

use std::collections::BTreeMap;

use super::super::sessions::Sessions;
use super::super::snapshot::SessionItem;
use crate::api::{
    Idle, KernelAllocation, KernelPhase, NodeName, ResolvedTemplate, SessionPhase, SessionResult, TryingHandler, Waiting,
};
use crate::lifecycle::{self, Failure, Trace};
use crate::provisioner::Refusal;

pub type Handler = lifecycle::Handler<Sessions>;
pub type Verdict = lifecycle::Verdict<Sessions>;
pub type Outcome = lifecycle::Outcome<Sessions>;
pub type Transitions = lifecycle::Transitions<Sessions>;
pub type Decide = lifecycle::Decide<Sessions>;
pub type Mode = lifecycle::Mode<Sessions>;
pub type After = lifecycle::After<Sessions>;
pub type To = lifecycle::To<SessionPhase>;

/// The transition back to the queue. The session gives its nodes back.
pub const RESET: Option<To> = To::restart(SessionPhase::Pending);

/// Two handlers with the same lock never run at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LockId {
    Pending,
    Preparing,
    Creating,
    Terminating,
}

/// The part of a row that only handlers of sessions have.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Its entry in `retry.handlers` of a scaling group, where admins set limits.
    pub retry: Option<TryingHandler>,
    /// Whether `retry.timeoutSeconds` of a session may shorten its timeout.
    pub tightened_by_session: bool,
    /// Whether it needs the whole queue of a scaling group, to put the sessions in order.
    pub ranks_queue: bool,
}

impl Settings {
    pub const NONE: Self = Self { retry: None, tightened_by_session: false, ranks_queue: false };
}

/// The changes that a verdict makes in a session's status, apart from its progress.
#[derive(Clone, Debug, Default)]
pub struct Change {
    pub allocation: Option<Vec<KernelAllocation>>,
    /// The template to record with the allocation.
    pub template: Option<ResolvedTemplate>,
    /// The amount by which the priority falls.
    pub priority_lost: i32,
    /// The session's result. A result that is recorded already is kept.
    pub result: Option<SessionResult>,
    pub exit_code: Option<i32>,
    /// The nodes that failed the session, which are tried last for an hour.
    pub failed_nodes: Vec<NodeName>,
    pub waiting: Option<Waiting>,
    /// A disruption ended the session, and it starts again: it gives its nodes back.
    pub starts_again: bool,
    pub idle: IdleChange,
    /// Dependencies that have ended with Success since the last commit.
    pub met_dependencies: Vec<String>,
}

/// A change of the announced end of an idle session.
#[derive(Clone, Debug, Default)]
pub enum IdleChange {
    #[default]
    None,
    Set(Idle),
    Clear,
}

impl Verdict {
    /// Returns the verdict of a refusal: a failure, or a skip if the refusal has no cause.
    pub fn refused(refusal: &Refusal) -> Self {
        match refusal.cause {
            Some(cause) => Self::failure(Failure::new(cause, refusal.reason, refusal.message.clone())),
            None => Self::skipped(refusal.reason, refusal.message.clone()),
        }
    }

    pub fn result(mut self, result: SessionResult) -> Self {
        self.change.result = Some(result);
        self
    }
}

/// Returns the sub-step of a promotion: the number of kernels in each phase.
pub fn trace_kernels(item: &SessionItem, _: &Verdict) -> Vec<Trace> {
    let mut counts: BTreeMap<KernelPhase, usize> = BTreeMap::new();
    item.kernels.iter().for_each(|kernel| *counts.entry(kernel.phase()).or_default() += 1);
    let counts: Vec<String> = counts.into_iter().map(|(phase, count)| format!("{phase}: {count}")).collect();
    vec![Trace::done("match-kernels", counts.join(", "))]
}
