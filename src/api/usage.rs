//! The usage of a tenant: the status of keypairs, users, projects and domains.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Quantity;

/// The usage of a tenant. The operator writes changes at most once in 5 s.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TenantStatus {
    /// The number of sessions that hold resources.
    #[serde(default)]
    pub sessions_running: i64,
    /// The number of sessions that wait.
    #[serde(default)]
    pub sessions_pending: i64,
    /// The usage and limit of each resource that is used or limited.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["resource"]))]
    pub resources: Vec<ResourceUsage>,
}

/// The usage and the limit of one resource.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResourceUsage {
    /// The name of the resource, for example `cpu`.
    #[schemars(length(min = 1, max = 253))]
    pub resource: String,
    /// The amount that sessions occupy.
    pub used: Quantity,
    /// The amount that they may occupy; no limit if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<Quantity>,
}
