//! Keypair: the owner of sessions. Its name is the access key.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::{PolicyName, TenantStatus, UserName};

/// The user, the limits and the state of a keypair.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "sokovan.dev",
    version = "v1alpha1",
    kind = "Keypair",
    status = "TenantStatus",
    derive = "PartialEq",
    category = "sokovan",
    doc = "The owner of sessions. Its name is the access key.",
    printcolumn(name = "User", type_ = "string", json_path = ".spec.user"),
    printcolumn(name = "Active", type_ = "boolean", json_path = ".spec.active"),
    printcolumn(name = "Running", type_ = "integer", json_path = ".status.sessionsRunning"),
    printcolumn(name = "Pending", type_ = "integer", json_path = ".status.sessionsPending"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.size() <= 63").message("an access key has at most 63 characters")
)]
#[serde(rename_all = "camelCase")]
pub struct KeypairSpec {
    /// The User that it belongs to.
    pub user: UserName,
    /// Whether its sessions are scheduled. If false, waiting sessions stay in the queue and running sessions continue.
    #[serde(default = "super::yes")]
    pub active: bool,
    /// The ResourcePolicy that limits its sessions; no limit if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_policy: Option<PolicyName>,

    /// The highest priority of its sessions. If absent, only the rights of their authors limit it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub max_priority: Option<i32>,
}
