//! Route: one replica's endpoint. Served by the API, not reconciled yet; its status says so.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Condition;

/// The endpoint of one replica of a deployment. Not reconciled by this version: the condition `Reconciled` says so.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "sokovan.dev",
    version = "v1alpha1",
    kind = "Route",
    namespaced,
    status = "RouteStatus",
    derive = "PartialEq",
    shortname = "rt",
    category = "sokovan",
    doc = "The endpoint of one replica of a deployment. Not reconciled by this version: the condition Reconciled says so.",
    printcolumn(name = "Deployment", type_ = "string", json_path = ".spec.deployment"),
    printcolumn(name = "Session", type_ = "string", json_path = ".spec.session"),
    printcolumn(name = "Weight", type_ = "integer", json_path = ".spec.weight"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Reconciled\")].reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct RouteSpec {
    /// The Deployment, of this namespace.
    #[schemars(length(min = 1, max = 63))]
    pub deployment: String,
    /// The Session that is the replica.
    #[schemars(length(min = 1, max = 40))]
    pub session: String,
    /// Its share of the traffic, among the weights of the deployment's routes.
    #[serde(default = "full")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub weight: i32,
}

fn full() -> i32 {
    100
}

/// What the operator knows of a route.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteStatus {
    /// The state of the route.
    #[serde(default)]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
