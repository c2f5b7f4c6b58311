//! Project: a team's work within a domain. Namespaces belong to one by label.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::{DomainName, PolicyName, TenantStatus};

/// The domain, the limits and the state of a project.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "sokovan.dev",
    version = "v1alpha1",
    kind = "Project",
    status = "TenantStatus",
    derive = "PartialEq",
    category = "sokovan",
    doc = "A team's work within a domain. A namespace belongs to it by the label sokovan.dev/project.",
    printcolumn(name = "Domain", type_ = "string", json_path = ".spec.domain"),
    printcolumn(name = "Active", type_ = "boolean", json_path = ".spec.active"),
    printcolumn(name = "Running", type_ = "integer", json_path = ".status.sessionsRunning"),
    printcolumn(name = "Pending", type_ = "integer", json_path = ".status.sessionsPending"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct ProjectSpec {
    /// The Domain that it belongs to.
    pub domain: DomainName,
    /// Whether its sessions are scheduled. If false, waiting sessions stay in the queue and running sessions continue.
    #[serde(default = "super::yes")]
    pub active: bool,
    /// The ResourcePolicy that limits the sessions of all its namespaces; no limit if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_policy: Option<PolicyName>,
}
