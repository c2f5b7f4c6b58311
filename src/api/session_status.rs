//! SessionStatus: everything the operator reports about a session.

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{Display, EnumIter, IntoStaticStr};

use super::progress::{has_progress, is_zero};
use super::{
    DomainName, GroupName, LABEL_DEPLOYMENT_UID, NodeName, Progress, ProjectName, ResolvedTemplate, ResourceList, Session,
    UserName, Waiting,
};

/// The phase of a session (docs/lifecycle.md#phases).
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
    Display,
    EnumIter,
    IntoStaticStr,
)]
pub enum SessionPhase {
    /// The session waits for its turn and for free resources.
    #[default]
    Pending,
    /// The session has its nodes.
    Scheduled,
    /// Its pods are being created.
    Preparing,
    /// Images are being pulled.
    Pulling,
    /// All images are on the nodes.
    Prepared,
    /// Its kernels are being started, all at once.
    Creating,
    /// All kernels run.
    Running,
    /// The session is ending.
    Terminating,
    /// The session has ended; see its result.
    Terminated,
    /// The session failed too often and returns to the queue with a lower priority.
    Deprioritizing,
    /// The session ended before it ran.
    Cancelled,
    /// Not used by this version.
    Error,
}

impl SessionPhase {
    /// The phases of sessions that have not ended.
    pub const LIVE: [Self; 9] = [
        Self::Pending,
        Self::Scheduled,
        Self::Preparing,
        Self::Pulling,
        Self::Prepared,
        Self::Creating,
        Self::Running,
        Self::Terminating,
        Self::Deprioritizing,
    ];

    /// A terminal phase is never left.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Terminated | Self::Cancelled | Self::Error)
    }

    /// Whether a session in this phase ends or has ended.
    pub fn is_ending(self) -> bool {
        self == Self::Terminating || self.is_terminal()
    }

    /// Whether a session in this phase holds what it was allocated.
    pub fn holds_resources(self) -> bool {
        !self.is_terminal() && !matches!(self, Self::Pending | Self::Deprioritizing)
    }

    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// The result of a session. The first one recorded stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SessionResult {
    /// A batch session whose program exited with 0.
    Success,
    /// A batch session whose program exited with another code, ran out of memory or ran for too long.
    Failure,
    /// Something else ended it.
    Error,
    /// Its user ended or deleted it.
    UserCancelled,
}

/// The tenants of a session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct SessionOwner {
    /// The user of its keypair.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserName>,
    /// The project of its namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<ProjectName>,
    /// The domain of that project.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<DomainName>,
}

/// The state of a session. Only the operator writes it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))] // Only the operator writes this, so the API server need not track field owners.
pub struct SessionStatus {
    #[serde(flatten)]
    pub progress: Progress<SessionPhase>,
    /// The priority in the queue: the spec's, less 10 for each time that the session was deprioritized.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective_priority: Option<i32>,
    /// The priority lost by failures.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub priority_lost: i32,
    /// The scaling group of the session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling_group: Option<GroupName>,
    /// The blockers of a Pending session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Waiting>,
    /// Sessions of `dependsOn` that have ended with Success. They stay met when those sessions are removed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 40)))]
    pub met_dependencies: Vec<String>,
    /// The session's template, as it was when the session got its nodes first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<ResolvedTemplate>,
    /// The number of allocations so far. It only grows, and pods of an earlier allocation are removed.
    #[serde(default)]
    pub allocation_generation: i64,
    /// The tenants that the session's resources count for, besides its keypair. They are fixed when the session gets its nodes,
    /// and apply until its pods are gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<SessionOwner>,
    /// The node of each kernel.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    pub allocation: Vec<KernelAllocation>,
    /// The number of resets after a Fault: Creating took too long, gates could not be opened, or a node was lost before the
    /// start.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub resets: i32,
    /// The number of resets in a row after a refused pod, by kube-scheduler or by a ResourceQuota.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub refusals: i32,
    /// The number of resets after an interruption before the start: an eviction, a drain, a refusal by the kubelet, or a lost
    /// node.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub disruptions: i32,
    /// The number of times that a Batch session was started again after a disruption that ended it (`spec.retry.onDisruption`).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub restarts: i32,
    /// Nodes that failed the session. They are tried last for an hour.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub failed_nodes: Vec<FailedNode>,
    /// Kernels running / kernels, for example `2/3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub kernels_ready: Option<String>,
    /// The nodes of its kernels, in order, shortened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub nodes: Option<String>,
    /// Since when it has not been used, if that is for at least half of its `idleTimeoutSeconds`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<Idle>,
    /// The result of the session; empty until it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<SessionResult>,
    /// The exit code of the main kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The first time that all kernels ran, since the last start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<DateTime<Utc>>,
    /// The time of the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<DateTime<Utc>>,
    /// The resources that it occupies while it runs, over all kernels; empty once it has ended.
    #[serde(default, skip_serializing_if = "ResourceList::is_empty")]
    pub occupied: ResourceList,
}

has_progress!(Session, SessionStatus, SessionPhase);

/// The node of one kernel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KernelAllocation {
    /// Role and index, for example `main1`.
    #[schemars(length(max = 24))]
    pub kernel: String,
    /// The node.
    pub node: NodeName,
}

/// A session that is not used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Idle {
    /// The last time that it was used, or that its use was not known.
    pub since: DateTime<Utc>,
    /// The time of its end if it is not used before.
    pub ends_at: DateTime<Utc>,
}

/// A node that failed a session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailedNode {
    /// The node.
    pub node: NodeName,
    /// The end of the time in which it is tried last.
    pub until: DateTime<Utc>,
}

impl Session {
    /// The priority in the queue.
    pub fn priority(&self) -> i32 {
        let lost = self.status.as_ref().map_or(0, |status| status.priority_lost);
        (self.spec.priority - lost).max(0)
    }

    /// The scaling group that the session names; else the one it was given.
    pub fn group(&self) -> Option<&GroupName> {
        self.spec.scaling_group.as_ref().or_else(|| self.status.as_ref()?.scaling_group.as_ref())
    }

    /// The uid of the deployment whose replica it is. Only the operator sets the label.
    pub fn deployment_uid(&self) -> Option<&String> {
        self.metadata.labels.as_ref()?.get(LABEL_DEPLOYMENT_UID)
    }

    pub fn is_deleted(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }

    /// Whether its user deleted it, and nothing but the operator's finalizer keeps it. Nobody waits for its result.
    pub fn is_leaving(&self) -> bool {
        let by_user = self.status.as_ref().and_then(|status| status.result) == Some(SessionResult::UserCancelled);
        by_user && self.is_deleted() && self.metadata.finalizers.iter().flatten().all(|name| name == super::FINALIZER_SESSION)
    }
}
