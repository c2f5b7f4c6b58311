//! What a handler is: its row in the table, and what it says of an item.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use crate::api::{KernelAllocation, KernelPhase, NodeName, SessionPhase, SessionResult, Waiting};
use crate::lifecycle::{Class, Failure, Reason};
use crate::provisioner::{LedgerSnapshot, Refusal};
use crate::session::effect::Effect;
use crate::session::snapshot::{SessionItem, Snapshot};

/// The name of a handler: what history entries, metrics and marks carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HandlerName {
    ScheduleSessions,
    CheckPrecondition,
    StartSessions,
    TerminateSessions,
    DeprioritizeSessions,
    SweepSessions,
    SweepStaleKernels,
    DetectTermination,
    PromoteToPulling,
    PromoteToPrepared,
    PromoteToRunning,
    PromoteToTerminated,
    ResetUnschedulable,
    EndSessions,
    FinalizeSessions,
    /// Keeps kernels' ends and leftover pods right; like those below it decides on no session, so it has no row.
    SyncKernels,
    /// Records that kernels run or what holds them up, for people: behind all else.
    RecordKernels,
    /// Commits what has waited for long enough.
    CommitLingering,
}

impl HandlerName {
    pub const ALL: [Self; 18] = [
        Self::ScheduleSessions,
        Self::CheckPrecondition,
        Self::StartSessions,
        Self::TerminateSessions,
        Self::DeprioritizeSessions,
        Self::SweepSessions,
        Self::SweepStaleKernels,
        Self::DetectTermination,
        Self::PromoteToPulling,
        Self::PromoteToPrepared,
        Self::PromoteToRunning,
        Self::PromoteToTerminated,
        Self::ResetUnschedulable,
        Self::EndSessions,
        Self::FinalizeSessions,
        Self::SyncKernels,
        Self::RecordKernels,
        Self::CommitLingering,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::ScheduleSessions => "schedule-sessions",
            Self::CheckPrecondition => "check-precondition",
            Self::StartSessions => "start-sessions",
            Self::TerminateSessions => "terminate-sessions",
            Self::DeprioritizeSessions => "deprioritize-sessions",
            Self::SweepSessions => "sweep-sessions",
            Self::SweepStaleKernels => "sweep-stale-kernels",
            Self::DetectTermination => "detect-termination",
            Self::PromoteToPulling => "promote-to-pulling",
            Self::PromoteToPrepared => "promote-to-prepared",
            Self::PromoteToRunning => "promote-to-running",
            Self::PromoteToTerminated => "promote-to-terminated",
            Self::ResetUnschedulable => "reset-unschedulable",
            Self::EndSessions => "end-sessions",
            Self::FinalizeSessions => "finalize-sessions",
            Self::SyncKernels => "sync-kernels",
            Self::RecordKernels => "record-kernels",
            Self::CommitLingering => "commit-lingering",
        }
    }
}

impl std::fmt::Display for HandlerName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An in-process lock: two handlers with the same one never run at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LockId {
    Pending,
    Preparing,
    Creating,
    Terminating,
}

/// Where a session goes, and whether its kernels begin anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct To {
    pub phase: SessionPhase,
    pub reset: bool,
}

impl To {
    pub const fn phase(phase: SessionPhase) -> Option<Self> {
        Some(Self { phase, reset: false })
    }

    /// Back to the queue, with kernels reset.
    pub const PENDING_RESET: Option<Self> = Some(Self { phase: SessionPhase::Pending, reset: true });
}

/// Where each result leads; None leaves the phase.
#[derive(Clone, Copy, Debug, Default)]
pub struct Transitions {
    pub success: Option<To>,
    /// Other phases that a success may name.
    pub also: &'static [SessionPhase],
    pub need_retry: Option<To>,
    pub expired: Option<To>,
    pub give_up: Option<To>,
    /// Transition when the namespace's ResourceQuota rejects a pod, or when something the session needs is on hold: its
    /// nodes are given back.
    pub refused: Option<To>,
}

impl Transitions {
    pub const NONE: Self = Self { success: None, also: &[], need_retry: None, expired: None, give_up: None, refused: None };

    pub fn of(&self, class: Class) -> Option<To> {
        match class {
            Class::GiveUp => self.give_up,
            Class::Expired => self.expired,
            Class::NeedRetry => self.need_retry,
        }
    }
}

/// A handler's row in the table.
#[derive(Debug)]
pub struct Handler {
    pub name: HandlerName,
    /// It is asked about the sessions in these phases.
    pub targets: &'static [SessionPhase],
    pub transitions: Transitions,
    pub lock: Option<LockId>,
    /// The sub-steps that a decision leaves in the history besides its effects.
    pub trace: Option<fn(&SessionItem, &Verdict) -> Vec<Trace>>,
    /// Whether it waits rather than tries: its clock is the phase's, and it never gives up.
    pub waits: bool,
    pub decide: Decide,
}

impl Handler {
    /// Whether it decides in memory, without an effect that could fail. Such a handler also evaluates sessions whose last
    /// fault is recent, so that they start the moment its cause is fixed.
    pub fn evaluates(&self) -> bool {
        self.name == HandlerName::ScheduleSessions
    }
}

/// How a handler decides: on each item by itself, or on the whole set with what is taken.
#[derive(Clone, Copy, Debug)]
pub enum Decide {
    Each(fn(&Snapshot, &SessionItem) -> Verdict),
    All(fn(&Snapshot, &mut LedgerSnapshot, &[SessionItem]) -> Vec<Verdict>),
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

/// The sub-step of a promotion: the number of kernels in each phase.
pub fn trace_kernels(item: &SessionItem, _: &Verdict) -> Vec<Trace> {
    let mut counts: BTreeMap<KernelPhase, usize> = BTreeMap::new();
    item.kernels.iter().for_each(|kernel| *counts.entry(kernel.phase()).or_default() += 1);
    let counts: Vec<String> = counts.into_iter().map(|(phase, count)| format!("{phase}: {count}")).collect();
    vec![Trace::done("match-kernels", counts.join(", "))]
}

/// What a handler says of one item.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    pub outcome: Outcome,
    /// To be done before the outcome is committed; one that fails makes the outcome a failure.
    pub effects: Vec<Effect>,
    pub change: Change,
    /// When to ask again, if nothing else brings it up earlier.
    pub wake_at: Option<DateTime<Utc>>,
}

/// The outcome itself.
#[derive(Clone, Debug, Default)]
pub enum Outcome {
    /// It is done; `to` names a phase other than the row's.
    Success {
        to: Option<SessionPhase>,
    },
    Failure(Failure),
    /// Nothing to do yet, for a reason worth recording.
    Skipped(Reason, String),
    /// Nothing to do, and nothing to tell.
    #[default]
    Idle,
}

/// What changes in the status besides phase and history.
#[derive(Clone, Debug, Default)]
pub struct Change {
    pub allocation: Option<Vec<KernelAllocation>>,
    /// How much priority it costs.
    pub priority_lost: i32,
    /// Only the first one that is ever recorded counts.
    pub result: Option<SessionResult>,
    pub exit_code: Option<i32>,
    pub reason: Option<(Reason, String)>,
    /// The nodes to be tried last from now on.
    pub failed_nodes: Vec<NodeName>,
    /// Why it waits.
    pub waiting: Option<Waiting>,
    /// The sessions it depends on that have ended with Success since the last commit.
    pub met_dependencies: Vec<String>,
    /// Where an expiry leads instead of where the row says.
    pub expired_to: Option<To>,
}

impl Verdict {
    pub fn idle() -> Self {
        Self::default()
    }

    pub fn success() -> Self {
        Self { outcome: Outcome::Success { to: None }, ..Self::default() }
    }

    pub fn success_to(phase: SessionPhase) -> Self {
        Self { outcome: Outcome::Success { to: Some(phase) }, ..Self::default() }
    }

    pub fn failure(failure: Failure) -> Self {
        Self { outcome: Outcome::Failure(failure), ..Self::default() }
    }

    /// Why it is refused, as a failure, or as a skip if it is none.
    pub fn refused(refusal: &Refusal) -> Self {
        match refusal.cause {
            Some(cause) => Self::failure(Failure::new(cause, refusal.reason, refusal.message.clone())),
            None => Self::skipped(refusal.reason, refusal.message.clone()),
        }
    }

    pub fn skipped(reason: Reason, message: impl Into<String>) -> Self {
        Self { outcome: Outcome::Skipped(reason, message.into()), ..Self::default() }
    }

    pub fn because(mut self, reason: Reason, message: impl Into<String>) -> Self {
        self.change.reason = Some((reason, message.into()));
        self
    }

    pub fn result(mut self, result: SessionResult) -> Self {
        self.change.result = Some(result);
        self
    }

    pub fn effects(mut self, effects: Vec<Effect>) -> Self {
        self.effects = effects;
        self
    }

    pub fn wake_at(mut self, time: Option<DateTime<Utc>>) -> Self {
        self.wake_at = time;
        self
    }
}
