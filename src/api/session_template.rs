//! SessionTemplate: kernels that admins describe once, with parameters for the authors of sessions.

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::{ClusterMode, KernelTemplate, Quantity};

/// The kernels of a session, and what its author may set in them.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "sokovan.dev",
    version = "v1alpha1",
    kind = "SessionTemplate",
    derive = "PartialEq",
    shortname = "stpl",
    category = "sokovan",
    doc = "Kernels described by an admin, which sessions name in spec.template.",
    printcolumn(name = "Description", type_ = "string", json_path = ".spec.description"),
    printcolumn(name = "Parameters", type_ = "string", json_path = ".spec.parameters[*].name"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.size() <= 63").message("a template's name has at most 63 characters")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.parameters) || self.parameters.all(p, !has(p.role) || self.kernels.exists(k, (has(k.role) ? k.role : 'main') == p.role))")
        .message("the role of a parameter is that of a kernel"),
    validation = Rule::new("self.kernels.map(k, has(k.replicas) ? k.replicas : 1).sum() <= 128").message("a session has at most 128 kernels")
)]
pub struct SessionTemplateSpec {
    /// A text for users who choose a template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub description: Option<String>,

    /// Where the kernels run. If absent, each session decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_mode: Option<ClusterMode>,

    /// The kernels, one entry a role. Exactly one entry has the role `main`. Volumes, files, secrets and nodes belong to the author of a
    /// session, who has the rights to them, and cannot be set here.
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(
        validation = Rule::new("self.exists_one(k, !has(k.role) || k.role == 'main')").message("exactly one entry has the role main"),
        validation = Rule::new("self.all(k, !has(k.role) || self.exists_one(other, has(other.role) && other.role == k.role))").message("each role has one entry"),
        validation = Rule::new("self.all(k, (has(k.role) && k.role != 'main') || !has(k.replicas) || k.replicas == 1)").message("the role main has one replica"),
        validation = Rule::new("self.all(k, has(k.image))").message("each kernel has an image"),
        validation = Rule::new("self.all(k, !has(k.volumes) && !has(k.files) && !has(k.designatedNodes) && (!has(k.env) || k.env.all(e, !has(e.secretKeyRef))))")
            .message("volumes, files, secretKeyRef and designatedNodes belong to the session, not to its template"),
    )]
    pub kernels: Vec<KernelTemplate>,

    /// The values that the author of a session may set. Everything else stays as it is here, apart from command, args, env, ports
    /// and scratch.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub parameters: Vec<Parameter>,
}

/// One value that the author of a session may set. Its default is what the kernels say.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(self.sets in ['Resource', 'Env']) == has(self.key)").message("key names the resource or the variable that a parameter sets"),
    validation = Rule::new("self.sets != 'Replicas' || (has(self.role) && self.role != 'main')").message("a parameter that sets Replicas names a role other than main"),
    validation = Rule::new("self.sets in ['Resource', 'Replicas'] || (!has(self.minimum) && !has(self.maximum))").message("minimum and maximum are for Resource and Replicas")
)]
pub struct Parameter {
    /// The name of the parameter.
    #[schemars(length(min = 1, max = 40), regex(pattern = r"^[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$"))]
    pub name: String,
    /// A text for users who set it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub description: Option<String>,
    /// The field that the parameter sets.
    pub sets: Target,
    /// The name of the resource or of the environment variable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub key: Option<String>,
    /// The role whose kernels it sets; all roles if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16))]
    pub role: Option<String>,
    /// The smallest value, for Resource and Replicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum: Option<Quantity>,
    /// The largest value, for Resource and Replicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maximum: Option<Quantity>,
    /// The only values, if not empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(max = 512)))]
    pub allowed: Vec<String>,
}

/// The field that a parameter sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Target {
    /// The image.
    Image,
    /// The number of kernels of a role.
    Replicas,
    /// The request of the resource `key`.
    Resource,
    /// The environment variable `key`.
    Env,
}

/// The template of a session.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
pub struct TemplateRef {
    /// The name of a SessionTemplate.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Values of its parameters.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16), schema_with = "parameter_values")]
    pub parameters: BTreeMap<String, String>,
    /// The kernels as the session's author wrote them. The operator's own copy of a session has the template's kernels in `spec.kernels`.
    #[serde(skip)]
    pub written: Option<Vec<KernelTemplate>>,
}

fn parameter_values(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "maxProperties": 16, "additionalProperties": {"type": "string", "maxLength": 512}})
}

/// The template of a session as it was when the session got its nodes. Later changes of the template do not matter.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResolvedTemplate {
    /// The generation of the template.
    #[serde(default)]
    pub generation: i64,
    /// Where the kernels run, if the template says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_mode: Option<ClusterMode>,
    /// The kernels with the parameters of the session, without what the session adds.
    #[schemars(schema_with = "any_objects")]
    pub kernels: Vec<KernelTemplate>,
}

/// The API server need not check what only the operator writes.
fn any_objects(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "array", "maxItems": 16, "items": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        "x-kubernetes-list-type": "atomic"})
}
