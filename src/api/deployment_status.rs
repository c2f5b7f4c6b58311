//! DeploymentStatus: everything the operator reports about a deployment.

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{Display, EnumIter, IntoStaticStr};

use super::progress::{has_progress, is_zero};
use super::{Deployment, GroupName, Progress, Reason};

/// The phase of a deployment (docs/deployments.md#phases).
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
pub enum DeploymentPhase {
    /// The deployment has no replica yet: it is checked, and waits until one fits.
    #[default]
    Pending,
    /// Its first replicas are requested.
    Provisioning,
    /// Every replica is available, and all are of the current revision.
    Ready,
    /// Replicas are missing, or there are too many.
    Scaling,
    /// A new revision replaces the current one.
    Deploying,
    /// The deployment is ending.
    Destroying,
    /// The deployment has ended.
    Destroyed,
    /// The first revision cannot serve. A change of the spec begins again.
    Failed,
}

impl DeploymentPhase {
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// A terminal phase is never left.
    pub fn is_terminal(self) -> bool {
        self == Self::Destroyed
    }

    /// Whether the deployment ends or has ended.
    pub fn is_ending(self) -> bool {
        matches!(self, Self::Destroying | Self::Destroyed)
    }
}

/// The state of a deployment. Only the operator writes it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))] // Only the operator writes this, so the API server need not track field owners.
pub struct DeploymentStatus {
    #[serde(flatten)]
    pub progress: Progress<DeploymentPhase>,
    /// The number of replicas that the deployment shall have.
    #[serde(default)]
    pub desired_replicas: i32,
    /// The number of replicas, at most `desiredReplicas`: the surge of a rollout does not count, so that an autoscaler does not
    /// see it.
    #[serde(default)]
    pub replicas: i32,
    /// Selects one pod of each replica.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub selector: Option<String>,
    /// The number of healthy replicas.
    #[serde(default)]
    pub ready: i32,
    /// The number of replicas that clients can reach.
    #[serde(default)]
    pub available: i32,
    /// The number of available replicas that makes the deployment Available.
    #[serde(default)]
    pub min_available: i32,
    /// The number of replicas of the newest revision.
    #[serde(default)]
    pub updated: i32,
    /// Available replicas / desired replicas, for example `2/3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub replicas_ready: Option<String>,
    /// The scaling group of the replicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling_group: Option<GroupName>,
    /// The revision that serves. It changes only when all replicas of the new revision are available.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_revision: Option<i64>,
    /// The revision that served before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_revision: Option<i64>,
    /// The revision that is being rolled out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deploying_revision: Option<i64>,
    /// The revision that was rolled back. It is tried again when the template or the annotation `sokovan.dev/retry` changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_revision: Option<i64>,
    /// The value of `sokovan.dev/retry` when the revision failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub failed_retry: Option<String>,
    /// Why a rollout makes no progress, as one CamelCase word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stalled: Option<Reason>,
    /// The rollout under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
    /// The address of the deployment within the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub url: Option<String>,
    /// Replicas that are decided and may not exist yet. They count as replicas.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    pub planned: Vec<PlannedReplica>,
    /// Replicas that shall end and may still be there. They do not count as replicas.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2000), inner(length(max = 63)))]
    pub leaving: Vec<String>,
    /// The number of replicas made so far. It only grows, and names a replica.
    #[serde(default)]
    pub replicas_made: i64,
    /// Replicas that ended by themselves, in a row.
    #[serde(default, skip_serializing_if = "Failures::is_none")]
    pub failures: Failures,
}

/// A replica that is decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlannedReplica {
    /// The name of the replica: of its route and its session.
    #[schemars(length(max = 63))]
    pub name: String,
    /// Its revision.
    pub revision: i64,
    /// Its number among all replicas of the deployment.
    pub ordinal: i64,
}

/// A rollout under way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rollout {
    /// The current step.
    pub step: RolloutStep,
    /// When the rollout began.
    pub since: DateTime<Utc>,
    /// The last time that the rollout made progress.
    pub progressed_at: DateTime<Utc>,
    /// The most replicas of the new revision that were available at once.
    pub best: i32,
    /// When the deployment was paused, while it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused_at: Option<DateTime<Utc>>,
    /// Whatever the rollout waits for, with numbers.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 512))]
    pub message: String,
}

/// The step of a rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, IntoStaticStr)]
pub enum RolloutStep {
    /// New replicas replace old ones.
    Replacing,
    /// The deployment is paused.
    Paused,
    /// The new revision failed. Its replicas are drained and the current revision is restored.
    RollingBack,
}

/// Replicas of one revision that ended by themselves, in a row.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Failures {
    /// The revision.
    #[serde(default)]
    pub revision: i64,
    /// How many failed since a replica of it ran for long enough.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub count: i32,
    /// When the last one failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_at: Option<DateTime<Utc>>,
    /// Whether a replica of the revision ever served.
    #[serde(default)]
    pub has_served: bool,
    /// Why the last one failed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 512))]
    pub message: String,
    /// Routes that are counted already and still exist.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2000), inner(length(max = 63)))]
    pub counted: Vec<String>,
}

impl Failures {
    fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

has_progress!(Deployment, DeploymentStatus, DeploymentPhase);
