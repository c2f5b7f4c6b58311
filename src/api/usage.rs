//! What a tenant uses: the status of keypairs, users, projects and domains.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Quantity;

/// What a tenant uses, written at most once in 5 s and only when it changed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TenantStatus {
    /// Sessions that hold resources.
    #[serde(default)]
    pub sessions_running: i64,
    /// Sessions that wait.
    #[serde(default)]
    pub sessions_pending: i64,
    /// Each resource that is used or limited.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["resource"]))]
    pub resources: Vec<ResourceUsage>,
}

/// How much of one resource is used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResourceUsage {
    /// Its name, such as `cpu`.
    #[schemars(length(min = 1, max = 253))]
    pub resource: String,
    /// How much sessions occupy.
    pub used: Quantity,
    /// How much they may; no limit if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<Quantity>,
}
