//! Domain: the topmost tenant; projects and users belong to one.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::{PolicyName, TenantStatus};

/// A tenant that holds projects and users.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "sokovan.dev",
    version = "v1alpha1",
    kind = "Domain",
    status = "TenantStatus",
    derive = "PartialEq",
    category = "sokovan",
    doc = "A tenant that holds projects and users.",
    printcolumn(name = "Active", type_ = "boolean", json_path = ".spec.active"),
    printcolumn(name = "Running", type_ = "integer", json_path = ".status.sessionsRunning"),
    printcolumn(name = "Pending", type_ = "integer", json_path = ".status.sessionsPending"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct DomainSpec {
    /// Whether anything of it may be scheduled.
    #[serde(default = "super::yes")]
    pub active: bool,
    /// The ResourcePolicy over all that runs in it; none means no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_policy: Option<PolicyName>,
}
