//! Deployment: replicas of a session template. The API serves it, and this version does not reconcile it; its status says so.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Condition, SessionSpec};

/// The number of replicas, and the session that each of them is.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "sokovan.dev",
    version = "v1alpha1",
    kind = "Deployment",
    namespaced,
    status = "DeploymentStatus",
    derive = "PartialEq",
    shortname = "sdep",
    category = "sokovan",
    doc = "Replicas of a session template, for serving. This version does not reconcile it; the condition Reconciled says so.",
    scale(spec_replicas_path = ".spec.replicas", status_replicas_path = ".status.replicas"),
    printcolumn(name = "Desired", type_ = "integer", json_path = ".spec.replicas"),
    printcolumn(name = "Current", type_ = "integer", json_path = ".status.replicas"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Reconciled\")].reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.size() <= 30").message("a deployment's name has at most 30 characters")
)]
#[serde(rename_all = "camelCase")]
pub struct DeploymentSpec {
    /// The number of sessions to run.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: i32,
    /// The session of each replica. Its type is Inference.
    #[x_kube(validation = Rule::new("self.type == 'Inference'").message("a deployment's template is of type Inference"))]
    pub template: SessionSpec,
}

fn one() -> i32 {
    1
}

/// The state of a deployment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeploymentStatus {
    /// The number of replicas.
    #[serde(default)]
    pub replicas: i32,
    /// The conditions of the deployment.
    #[serde(default)]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
