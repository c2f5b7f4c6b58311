//! Deployment: replicas of a session template that serve. Served by the API, not reconciled yet; its status says so.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Condition, SessionSpec};

/// Replicas of a session template, for serving. Not reconciled by this version: the condition `Reconciled` says so.
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
    doc = "Replicas of a session template, for serving. Not reconciled by this version: the condition Reconciled says so.",
    scale(spec_replicas_path = ".spec.replicas", status_replicas_path = ".status.replicas"),
    printcolumn(name = "Desired", type_ = "integer", json_path = ".spec.replicas"),
    printcolumn(name = "Current", type_ = "integer", json_path = ".status.replicas"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Reconciled\")].reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.size() <= 30").message("a deployment's name has at most 30 characters")
)]
#[serde(rename_all = "camelCase")]
pub struct DeploymentSpec {
    /// How many sessions of the template shall run.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: i32,
    /// The session that each replica is; its type is Inference.
    #[x_kube(validation = Rule::new("self.type == 'Inference'").message("a deployment's template is of type Inference"))]
    pub template: SessionSpec,
}

fn one() -> i32 {
    1
}

/// What the operator knows of a deployment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeploymentStatus {
    /// How many replicas there are.
    #[serde(default)]
    pub replicas: i32,
    /// The state of the deployment.
    #[serde(default)]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
