//! Route: the endpoint of one replica. The API serves it, and this version does not reconcile it; its status says so.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Condition;

/// The replica and its share of the traffic.
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
    doc = "The endpoint of one replica of a deployment. This version does not reconcile it; the condition Reconciled says so.",
    printcolumn(name = "Deployment", type_ = "string", json_path = ".spec.deployment"),
    printcolumn(name = "Session", type_ = "string", json_path = ".spec.session"),
    printcolumn(name = "Weight", type_ = "integer", json_path = ".spec.weight"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Reconciled\")].reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct RouteSpec {
    /// The name of a Deployment of this namespace.
    #[schemars(length(min = 1, max = 63))]
    pub deployment: String,
    /// The name of the Session that is the replica.
    #[schemars(length(min = 1, max = 40))]
    pub session: String,
    /// The weight of the route. Its share of the traffic is this weight in the sum of the deployment's routes.
    #[serde(default = "full")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub weight: i32,
}

fn full() -> i32 {
    100
}

/// The state of a route.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteStatus {
    /// The conditions of the route.
    #[serde(default)]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
