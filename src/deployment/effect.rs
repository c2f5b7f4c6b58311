//! Effects as data: the writes that a decision on a deployment needs. `cluster::serving::deployment_effects` performs them.

use super::revision::Content;
use crate::api::PlannedReplica;

/// One write. Every effect is idempotent, so that it can be repeated after a crash.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Adds our finalizer to the deployment, so that it cannot vanish while it has replicas.
    HoldDeployment,
    /// Removes our finalizer, so that the API server removes the deployment.
    ReleaseDeployment,
    CreateRevision {
        number: i64,
        content: Box<Content>,
    },
    DeleteRevision {
        name: String,
        uid: String,
    },
    /// Creates the Service that sends requests to the replicas, or sets its port.
    ApplyService {
        port: i32,
        target_port: i32,
    },
    DeleteService,
    /// Creates the PodDisruptionBudget, or sets its limit.
    ApplyBudget {
        min_available: i32,
    },
    DeleteBudget,
    CreateRoute(PlannedReplica),
    DeleteRoute {
        name: String,
        uid: String,
    },
    /// Ends a session of the deployment that has no route.
    DeleteSession {
        name: String,
        uid: String,
    },
    /// Kills a session of the deployment at once.
    ForceSession {
        name: String,
    },
}

impl Effect {
    /// Returns its name among the sub-steps of the history.
    pub fn name(&self) -> &'static str {
        match self {
            Self::HoldDeployment => "hold-deployment",
            Self::ReleaseDeployment => "release-deployment",
            Self::CreateRevision { .. } => "create-revision",
            Self::DeleteRevision { .. } => "delete-revision",
            Self::ApplyService { .. } => "apply-service",
            Self::DeleteService => "delete-service",
            Self::ApplyBudget { .. } => "apply-budget",
            Self::DeleteBudget => "delete-budget",
            Self::CreateRoute(_) => "create-route",
            Self::DeleteRoute { .. } => "delete-route",
            Self::DeleteSession { .. } => "delete-session",
            Self::ForceSession { .. } => "force-session",
        }
    }

    /// Returns the object it writes, if that is not the deployment or an object of its name.
    pub fn target(&self) -> String {
        match self {
            Self::CreateRoute(planned) => planned.name.clone(),
            Self::DeleteRoute { name, .. }
            | Self::DeleteSession { name, .. }
            | Self::ForceSession { name }
            | Self::DeleteRevision { name, .. } => name.clone(),
            Self::CreateRevision { number, .. } => number.to_string(),
            Self::HoldDeployment
            | Self::ReleaseDeployment
            | Self::ApplyService { .. }
            | Self::DeleteService
            | Self::ApplyBudget { .. }
            | Self::DeleteBudget => String::new(),
        }
    }

    /// Whether it may run at the same time as another effect of its kind.
    pub fn is_parallel(&self) -> bool {
        matches!(self, Self::CreateRoute(_) | Self::DeleteRoute { .. } | Self::DeleteSession { .. } | Self::ForceSession { .. })
    }
}
