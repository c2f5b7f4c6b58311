//! What a handler says of one item, before the coordinator judges it.

use std::fmt;

pub use crate::api::Cause;

/// Why something failed or waits, as one stable word: part of the API (`status.reason`, `history[].errorCode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    NoAvailableAgent,
    QuotaExceeded,
    ConcurrencyExceeded,
    PendingLimitExceeded,
    BehindPriority,
    ContainerLimitExceeded,
    KeypairNotFound,
    KeypairInactive,
    UserNotFound,
    UserInactive,
    ProjectNotFound,
    ProjectInactive,
    DomainNotFound,
    DomainInactive,
    PolicyNotFound,
    NamespaceWithoutProject,
    ScalingGroupNotFound,
    ScalingGroupInactive,
    ScalingGroupNotAllowed,
    DesignatedAgentNotFound,
    NotYetDue,
    DependencyPending,
    DependencyMissing,
    DependencyFailed,
    DependencyCircular,
    EffectFailed,
    NameTaken,
    NamespaceQuota,
    HandlerPanicked,
    HookFailed,
    VolumeCountExceeded,
    VolumeClaimNotFound,
    VolumeReadOnly,
    PriorityTooHigh,
    WaitingForKernels,
    ImagePullFailed,
    ContainerNotStarted,
    Unschedulable,
    ExceededMaxRetries,
    PhaseTimeout,
    PendingTimeoutExceeded,
    AbnormalTermination,
    StaleKernel,
    NodeLost,
    NoKernels,
    UserRequested,
    Deleted,
    BatchFinished,
    BatchTimeout,
    Deprioritized,
    LowestPriority,
    PodGone,
    PodDeleted,
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoAvailableAgent => "no-available-agent",
            Self::QuotaExceeded => "quota-exceeded",
            Self::ConcurrencyExceeded => "concurrency-exceeded",
            Self::PendingLimitExceeded => "pending-limit-exceeded",
            Self::BehindPriority => "behind-priority",
            Self::ContainerLimitExceeded => "container-limit-exceeded",
            Self::KeypairNotFound => "keypair-not-found",
            Self::KeypairInactive => "keypair-inactive",
            Self::UserNotFound => "user-not-found",
            Self::UserInactive => "user-inactive",
            Self::ProjectNotFound => "project-not-found",
            Self::ProjectInactive => "project-inactive",
            Self::DomainNotFound => "domain-not-found",
            Self::DomainInactive => "domain-inactive",
            Self::PolicyNotFound => "policy-not-found",
            Self::NamespaceWithoutProject => "namespace-without-project",
            Self::ScalingGroupNotFound => "scaling-group-not-found",
            Self::ScalingGroupInactive => "scaling-group-inactive",
            Self::ScalingGroupNotAllowed => "scaling-group-not-allowed",
            Self::DesignatedAgentNotFound => "designated-agent-not-found",
            Self::NotYetDue => "not-yet-due",
            Self::DependencyPending => "dependency-pending",
            Self::DependencyMissing => "dependency-missing",
            Self::DependencyFailed => "dependency-failed",
            Self::DependencyCircular => "dependency-circular",
            Self::EffectFailed => "effect-failed",
            Self::NameTaken => "name-taken",
            Self::NamespaceQuota => "namespace-quota",
            Self::HandlerPanicked => "handler-panicked",
            Self::HookFailed => "hook-failed",
            Self::VolumeCountExceeded => "volume-count-exceeded",
            Self::VolumeClaimNotFound => "volume-claim-not-found",
            Self::VolumeReadOnly => "volume-read-only",
            Self::PriorityTooHigh => "priority-too-high",
            Self::WaitingForKernels => "waiting-for-kernels",
            Self::ImagePullFailed => "image-pull-failed",
            Self::ContainerNotStarted => "container-not-started",
            Self::Unschedulable => "unschedulable",
            Self::ExceededMaxRetries => "EXCEEDED_MAX_RETRIES",
            Self::PhaseTimeout => "phase-timeout",
            Self::PendingTimeoutExceeded => "PENDING_TIMEOUT_EXCEEDED",
            Self::AbnormalTermination => "ABNORMAL_TERMINATION",
            Self::StaleKernel => "STALE_KERNEL",
            Self::NodeLost => "node-lost",
            Self::NoKernels => "no-kernels",
            Self::UserRequested => "user-requested",
            Self::Deleted => "deleted",
            Self::BatchFinished => "batch-finished",
            Self::BatchTimeout => "batch-timeout",
            Self::Deprioritized => "deprioritized",
            Self::LowestPriority => "lowest-priority",
            Self::PodGone => "pod-gone",
            Self::PodDeleted => "pod-deleted",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
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
