//! Every reason that a status, an Event or a history entry can give.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

/// Why something failed, waits or ended, as one stable word: part of the API (`status.reason`, `history[].errorCode`,
/// Events). The variant's name is that word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, IntoStaticStr)]
pub enum Reason {
    /// The session was not evaluated yet.
    NotEvaluated,
    NoAvailableNode,
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
    DesignatedNodeNotFound,
    NotYetDue,
    /// The user of a session keeps it in the queue.
    Suspended,
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
    LifetimeExceeded,
    /// A running session is not used, and will end.
    Idle,
    /// A session that was idle is used again, or may stay for another reason.
    InUse,
    /// A session was not used for as long as it may be.
    IdleTimeout,
    Deprioritized,
    LowestPriority,
    PodGone,
    /// Somebody other than the operator deleted the pod.
    PodDeleted,
    /// kube-scheduler made room for a pod of higher priority, or the kubelet for a critical one.
    Preempted,
    /// The Eviction API removed the pod, as `kubectl drain` does, or its node shut down.
    Drained,
    /// The kubelet or a taint evicted the pod.
    Evicted,
    /// The kubelet refused the pod when it arrived.
    AdmissionRefused,
    DeadlineExceeded,
    OutOfMemory,
    DiskLimitExceeded,
    /// The program exited of its own accord.
    ExitCode,
    /// The operator deleted the pod because another kernel ended the session.
    SessionEnded,
    RuntimeClassNotFound,
    VolumeClaimNotBound,
    VolumeClaimInUse,
    /// A claim of the name that a session's own claim would have exists already.
    VolumeClaimExists,
    ServiceAccountNotAllowed,
    TemplateNotFound,
    /// A session does not fit its SessionTemplate: unknown parameters, or values out of their bounds.
    TemplateMismatch,
    /// Finalizers of others keep an object that is being deleted.
    DeletionHeld,
    /// The API server refuses the status: the object is too large.
    StatusRefused,
    /// The session of a route is on its way.
    SessionStarting,
    /// The session of a route was removed.
    SessionGone,
    /// The health check of a replica did not pass in time.
    StartTimeout,
    HealthCheckFailed,
    NodeSilent,
    NodeAnswers,
    /// An unhealthy replica is not replaced yet.
    EvictionHeld,
    /// No replica of a deployment can serve.
    NoHealthyReplica,
    RevisionNotFound,
    /// The template of a deployment cannot run.
    InvalidTemplate,
    ReplicasAvailable,
    /// Replicas exist and are not available yet.
    ReplicasNotAvailable,
    /// Replicas of the revision end by themselves; the next one waits.
    ReplicasFailing,
    /// The revision was rolled back.
    RolledBack,
    RolloutPaused,
    /// A new revision replaces the current one.
    RollingOut,
    SurgeHasNoCapacity,
    /// A reason written by another version of the operator.
    #[serde(other)]
    Unknown,
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// Whether it announces something that its user may want to prevent, although nothing failed.
    pub fn announces(self) -> bool {
        self == Self::Idle
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A string in the schema, so that an older CRD takes the reasons of a newer operator.
impl JsonSchema for Reason {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Reason".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "maxLength": 128})
    }
}
