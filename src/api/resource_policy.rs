//! ResourcePolicy: limits that keypairs, users, projects and domains name.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ResourceList;
use super::quantity::written_amounts;

/// The limits. They apply to each tenant that names the policy.
#[derive(CustomResource, JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "sokovan.dev",
    version = "v1alpha1",
    kind = "ResourcePolicy",
    plural = "resourcepolicies",
    derive = "PartialEq",
    shortname = "rpol",
    category = "sokovan",
    doc = "Limits that keypairs, users, projects and domains name.",
    printcolumn(name = "Unspecified", type_ = "string", json_path = ".spec.unspecified"),
    printcolumn(name = "Sessions", type_ = "integer", json_path = ".spec.maxConcurrentSessions"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct ResourcePolicySpec {
    /// The most of each resource that sessions may occupy at a time.
    #[serde(default)]
    #[schemars(schema_with = "written_amounts", extend("maxProperties" = 32))]
    pub limits: ResourceList,
    /// The limit of a resource that `limits` does not name: `Limited` means none of it, `Unlimited` means no limit.
    #[serde(default)]
    pub unspecified: Unspecified,
    /// The most sessions that hold resources at a time, without private sessions. 0 or absent means no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub max_concurrent_sessions: Option<i32>,
    /// The most private sessions that hold resources at a time. 0 or absent means no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub max_concurrent_private_sessions: Option<i32>,
    /// The most sessions that wait at a time; the oldest count first. 0 or absent means no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub max_pending_sessions: Option<i32>,
    /// The most of each resource that waiting sessions may request at a time. A resource that is not named has no limit.
    #[serde(default, skip_serializing_if = "ResourceList::is_empty")]
    #[schemars(schema_with = "written_amounts", extend("maxProperties" = 32))]
    pub max_pending_resources: ResourceList,
    /// The most kernels in one session. 0 or absent means no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 128))]
    pub max_containers_per_session: Option<i32>,
    /// The most seconds that a session runs, apart from replicas of deployments. After that it ends. A change applies to sessions that
    /// run already. If absent, only the session's own `maxLifetimeSeconds` limits it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 31_536_000))]
    pub max_lifetime_seconds: Option<i64>,
    /// The most seconds that a session runs without being used, apart from replicas of deployments (`spec.idleTimeoutSeconds` of sessions).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 60, max = 31_536_000))]
    pub idle_timeout_seconds: Option<i64>,
    /// Whether the annotation `sokovan.dev/keep-until` of sessions has no effect.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forbid_keep_until: bool,
    /// The most volume claims that sessions holding resources mount at a time. 0 or absent means no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub max_volumes: Option<i32>,
}

/// The limit of a resource that a policy does not name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Unspecified {
    /// None of it.
    Limited,
    /// No limit.
    #[default]
    Unlimited,
}
