//! ResourcePolicy: limits that keypairs, users, projects and domains refer to.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ResourceList;
use super::quantity::written_amounts;

/// Limits that keypairs, users, projects and domains refer to.
#[derive(CustomResource, JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "sokovan.dev",
    version = "v1alpha1",
    kind = "ResourcePolicy",
    plural = "resourcepolicies",
    derive = "PartialEq",
    shortname = "rpol",
    category = "sokovan",
    doc = "Limits that keypairs, users, projects and domains refer to.",
    printcolumn(name = "Unspecified", type_ = "string", json_path = ".spec.unspecified"),
    printcolumn(name = "Sessions", type_ = "integer", json_path = ".spec.maxConcurrentSessions"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct ResourcePolicySpec {
    /// The most of each resource that may be occupied at a time.
    #[serde(default)]
    #[schemars(schema_with = "written_amounts", extend("maxProperties" = 32))]
    pub limits: ResourceList,
    /// What holds for a resource that `limits` does not name.
    #[serde(default)]
    pub unspecified: Unspecified,
    /// Most sessions that hold resources at a time, private ones aside; 0 or absent means no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub max_concurrent_sessions: Option<i32>,
    /// Most private sessions that hold resources at a time; 0 or absent means no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub max_concurrent_private_sessions: Option<i32>,
    /// Most sessions that wait at a time, those made first first; 0 or absent means no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub max_pending_sessions: Option<i32>,
    /// The most of each resource that sessions may wait for at a time; no limit for one that is not named.
    #[serde(default, skip_serializing_if = "ResourceList::is_empty")]
    #[schemars(schema_with = "written_amounts", extend("maxProperties" = 32))]
    pub max_pending_resources: ResourceList,
    /// Most kernels in one session; 0 or absent means no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 128))]
    pub max_containers_per_session: Option<i32>,
    /// Most volume claims mounted at a time, summed over sessions that hold resources; 0 or absent means no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub max_volumes: Option<i32>,
}

/// What holds for a resource that a policy does not name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Unspecified {
    /// None of it.
    Limited,
    /// As much as there is.
    #[default]
    Unlimited,
}
