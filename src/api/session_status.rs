//! SessionStatus: everything the operator tells about a session.

use std::ops::{Deref, DerefMut};

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{Display, EnumIter, IntoStaticStr};

use super::progress::is_zero;
use super::{DomainName, GroupName, NodeName, Progress, ProjectName, ResourceList, Session, UserName, Waiting};

/// Where a session stands (rules §1).
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
    /// It waits for its turn and for room.
    #[default]
    Pending,
    /// It has its nodes.
    Scheduled,
    /// Its pods are being made.
    Preparing,
    /// Images are being pulled.
    Pulling,
    /// All images are there.
    Prepared,
    /// Its kernels are being started, all at once.
    Creating,
    /// All kernels run.
    Running,
    /// It is being ended.
    Terminating,
    /// It has ended; see the result.
    Terminated,
    /// It failed too often and goes back to the queue with a lower priority.
    Deprioritizing,
    /// It ended before it ran.
    Cancelled,
    /// Not entered by this version; `result` tells what went wrong.
    Error,
}

impl SessionPhase {
    /// Those of sessions that have not ended.
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

/// How a session ended; the first one recorded wins.
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

/// Whom a session belongs to.
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

/// What the operator knows of a session. Written by the operator alone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))] // it has one author: whose each field is needs not be kept
pub struct SessionStatus {
    #[serde(flatten)]
    pub progress: Progress<SessionPhase>,
    /// The priority it is scheduled by: the spec's, less 10 for each time it was deprioritized.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective_priority: Option<i32>,
    /// How much of its priority failures have cost it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub priority_lost: i32,
    /// The scaling group it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling_group: Option<GroupName>,
    /// Why it waits, while it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Waiting>,
    /// Sessions of `dependsOn` that have ended with Success. They stay met when those sessions are removed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 40)))]
    pub met_dependencies: Vec<String>,
    /// Counts the allocations; it only grows. Pods of an older one are swept.
    #[serde(default)]
    pub allocation_generation: i64,
    /// Whom what it holds counts for, besides its keypair: those it belonged to when it was given its nodes. It counts for
    /// them until it is gone, whatever becomes of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<SessionOwner>,
    /// Which kernel has which node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    pub allocation: Vec<KernelAllocation>,
    /// How many times it began anew: Creating took too long, its start failed too often or took too long, or a node was lost
    /// before the start.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub resets: i32,
    /// How often in a row its pods were refused, by kube-scheduler or a ResourceQuota, so that it went back to the queue.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub refusals: i32,
    /// How often something outside the session ended its pods before anything had started, so that it began again elsewhere: an
    /// eviction, a drain, a refusal by the kubelet, a lost node.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub disruptions: i32,
    /// Nodes that failed this session; tried last for an hour.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub failed_nodes: Vec<FailedNode>,
    /// Kernels running / kernels, for example `2/3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub kernels_ready: Option<String>,
    /// The nodes it has, in order, shortened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub nodes: Option<String>,
    /// How the session ended: `Success`, `Failure`, `Error` or `UserCancelled`. Empty until it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<SessionResult>,
    /// The exit code of the main kernel, once it exited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// When all kernels ran first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<DateTime<Utc>>,
    /// When it reached its last phase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<DateTime<Utc>>,
    /// What it occupies while it runs, over all kernels; empty once it has ended.
    #[serde(default, skip_serializing_if = "ResourceList::is_empty")]
    pub occupied: ResourceList,
}

/// As in JSON: what progress has are fields of the status.
impl Deref for SessionStatus {
    type Target = Progress<SessionPhase>;

    fn deref(&self) -> &Self::Target {
        &self.progress
    }
}

impl DerefMut for SessionStatus {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.progress
    }
}

/// One kernel's place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KernelAllocation {
    /// Role and index, for example `main1`.
    #[schemars(length(max = 24))]
    pub kernel: String,
    /// The node it is to run on.
    pub node: NodeName,
}

/// A node that failed a session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailedNode {
    /// The node.
    pub node: NodeName,
    /// Until when it is tried last.
    pub until: DateTime<Utc>,
}

impl Session {
    /// The phase, Pending for a session that the operator has not touched yet.
    pub fn phase(&self) -> SessionPhase {
        self.status.as_ref().map(|status| status.phase).unwrap_or_default()
    }

    /// The priority it is scheduled by.
    pub fn priority(&self) -> i32 {
        let lost = self.status.as_ref().map_or(0, |status| status.priority_lost);
        (self.spec.priority - lost).max(0)
    }

    /// The scaling group it names, else the one it was given.
    pub fn group(&self) -> Option<&GroupName> {
        self.spec.scaling_group.as_ref().or_else(|| self.status.as_ref()?.scaling_group.as_ref())
    }

    /// The uid of the deployment whose replica it is.
    pub fn deployment_uid(&self) -> Option<String> {
        let owners = self.metadata.owner_references.iter().flatten();
        let mut deployments = owners.filter(|owner| owner.kind == "Deployment" && owner.api_version.starts_with("sokovan.dev/"));
        deployments.next().map(|owner| owner.uid.clone())
    }

    pub fn is_deleted(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }
}
