//! User: a person or service that keypairs belong to.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::{DomainName, PolicyName, TenantStatus};

/// A person or service that keypairs belong to.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "sokovan.dev",
    version = "v1alpha1",
    kind = "User",
    status = "TenantStatus",
    derive = "PartialEq",
    category = "sokovan",
    doc = "A person or service that keypairs belong to.",
    printcolumn(name = "Domain", type_ = "string", json_path = ".spec.domain"),
    printcolumn(name = "Active", type_ = "boolean", json_path = ".spec.active"),
    printcolumn(name = "Running", type_ = "integer", json_path = ".status.sessionsRunning"),
    printcolumn(name = "Pending", type_ = "integer", json_path = ".status.sessionsPending"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct UserSpec {
    /// The Domain it belongs to.
    pub domain: DomainName,
    /// Whether anything of it may be scheduled.
    #[serde(default = "super::yes")]
    pub active: bool,
    /// The ResourcePolicy over all its keypairs; none means no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_policy: Option<PolicyName>,
}
