//! Keypair: what sessions are run under; its object's name is the access key.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::{PolicyName, TenantStatus, UserName};

/// What sessions are run under. Its name is the access key.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "sokovan.dev",
    version = "v1alpha1",
    kind = "Keypair",
    status = "TenantStatus",
    derive = "PartialEq",
    category = "sokovan",
    doc = "What sessions are run under. Its name is the access key.",
    printcolumn(name = "User", type_ = "string", json_path = ".spec.user"),
    printcolumn(name = "Active", type_ = "boolean", json_path = ".spec.active"),
    printcolumn(name = "Running", type_ = "integer", json_path = ".status.sessionsRunning"),
    printcolumn(name = "Pending", type_ = "integer", json_path = ".status.sessionsPending"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.size() <= 63").message("an access key has at most 63 characters")
)]
#[serde(rename_all = "camelCase")]
pub struct KeypairSpec {
    /// The User it belongs to.
    pub user: UserName,
    /// Whether anything of it may be scheduled.
    #[serde(default = "super::yes")]
    pub active: bool,
    /// The ResourcePolicy over its sessions; none means no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_policy: Option<PolicyName>,

    /// The highest priority that sessions of this keypair may have; any that their authors may use, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub max_priority: Option<i32>,
}
