//! How a main kernel serves requests: its port, its health check, and what a deployment says of its model.

use chrono::{DateTime, Utc};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Spread;
use super::session::TIME;

/// The endpoint of a session of type Inference. The kubelet checks its health and Kubernetes routes requests to it, also while
/// the operator is down.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Serving {
    /// The port of the main kernel that serves requests.
    #[schemars(range(min = 1, max = 65_535))]
    pub port: i32,
    /// How the kubelet checks that the main kernel can serve.
    #[serde(default)]
    pub health_check: HealthCheck,
    /// Seconds between the request to stop and SIGTERM. Requests that still arrive in that time are served.
    #[serde(default = "default_pre_stop")]
    #[schemars(range(min = 0, max = 600))]
    pub pre_stop_seconds: i64,
    /// The path of the Prometheus metrics on the same port.
    #[serde(default = "default_metrics_path")]
    #[schemars(length(min = 1, max = 512), regex(pattern = "^/"))]
    pub metrics_path: String,
    /// Whether a replica of a deployment avoids nodes that run other replicas.
    #[serde(default)]
    pub spread: Spread,
}

fn default_pre_stop() -> i64 {
    5
}

pub(super) fn default_metrics_path() -> String {
    "/metrics".into()
}

/// How the kubelet checks that a replica can serve: a readiness probe of the main container.
#[derive(Clone, Debug, PartialEq, Eq, Hash, KubeSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.expectedStatus) || (self.expectedStatus >= 200 && self.expectedStatus <= 399)")
        .message("the kubelet takes every status from 200 to 399 as healthy and no other: leave expectedStatus out, or name one of these")
)]
pub struct HealthCheck {
    /// `HTTP` asks for `path`, `TCP` opens a connection, `GRPC` uses the gRPC health protocol. With `None`, a replica counts as
    /// healthy as soon as its main container runs.
    #[serde(rename = "type", default = "default_type")]
    pub type_: HealthCheckType,
    /// The path of an HTTP check.
    #[serde(default = "default_path")]
    #[schemars(length(min = 1, max = 512), regex(pattern = "^/"))]
    pub path: String,
    /// Seconds between two checks.
    #[serde(default = "default_interval")]
    #[schemars(range(min = 1, max = 3600))]
    pub interval_seconds: i32,
    /// Seconds within which a check must be answered.
    #[serde(default = "default_timeout")]
    #[schemars(range(min = 1, max = 3600))]
    pub timeout_seconds: i32,
    /// The number of successes in a row that make a replica healthy.
    #[serde(default = "default_success_threshold")]
    #[schemars(range(min = 1, max = 100))]
    pub success_threshold: i32,
    /// The number of failures in a row that make a replica unhealthy.
    #[serde(default = "default_failure_threshold")]
    #[schemars(range(min = 1, max = 100))]
    pub failure_threshold: i32,
    /// Seconds from the start of the main container to its first success. Waiting for a node and pulling the image do not count.
    #[serde(default = "default_start_timeout")]
    #[schemars(range(min = 1, max = 86_400))]
    pub start_timeout_seconds: i64,
    /// The HTTP status that means healthy, for documentation only: the kubelet takes every status from 200 to 399.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_status: Option<i32>,
}

/// A health check that is given asks for its path. Without one, the port is enough.
fn default_type() -> HealthCheckType {
    HealthCheckType::Http
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self {
            type_: HealthCheckType::default(),
            path: default_path(),
            interval_seconds: default_interval(),
            timeout_seconds: default_timeout(),
            success_threshold: default_success_threshold(),
            failure_threshold: default_failure_threshold(),
            start_timeout_seconds: default_start_timeout(),
            expected_status: None,
        }
    }
}

fn default_path() -> String {
    "/health".into()
}

fn default_interval() -> i32 {
    10
}

fn default_timeout() -> i32 {
    10
}

fn default_success_threshold() -> i32 {
    1
}

fn default_failure_threshold() -> i32 {
    5
}

fn default_start_timeout() -> i64 {
    1800
}

/// The kind of a health check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum HealthCheckType {
    #[serde(rename = "HTTP")]
    Http,
    #[default]
    #[serde(rename = "TCP")]
    Tcp,
    #[serde(rename = "GRPC")]
    Grpc,
    None,
}

/// The server that a deployment runs: its port, its command and its health check.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelSpec {
    /// A ConfigMap whose files fill in what the other fields leave open. A change of the files begins a rollout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub definition_from: Option<DefinitionSource>,
    /// The inference server, which gives the port and the health check where they are absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<Variant>,
    /// The port of the main kernel that serves requests. If absent, the variant's; without a variant, the only port of the main
    /// kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_535))]
    pub port: Option<i32>,
    /// The program of the main kernel and its arguments, in place of the template's command. `{model_path}` becomes `modelPath`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), inner(length(max = 16_384)))]
    pub start_command: Option<Vec<String>>,
    /// The path of the model in the main kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub model_path: Option<String>,
    /// How the kubelet checks that a replica can serve. If absent, the variant's; without a variant, a TCP check of the port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
    /// The path of the Prometheus metrics on the port; `/metrics` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), regex(pattern = "^/"))]
    pub metrics_path: Option<String>,
    /// The time of the last restart of all replicas. `kubectl sokovan rollout restart` sets it: a change begins a rollout, and
    /// nothing else of a replica changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = TIME))]
    pub restarted_at: Option<DateTime<Utc>>,
}

/// The files that define a model. A field that several of them give comes from the model definition, else from the variant's
/// section of the deployment config, else from its root.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DefinitionSource {
    /// A ConfigMap of this namespace with the label `sokovan.dev/model-definition`.
    #[schemars(length(min = 1, max = 253))]
    pub config_map: String,
    /// The key of the model definition: its path, its start command, its port and its health check.
    #[serde(default = "default_model_definition")]
    #[schemars(length(min = 1, max = 253))]
    pub model_definition: String,
    /// The key of the deployment config: the same fields and environment variables, for all variants and for each.
    #[serde(default = "default_deployment_config")]
    #[schemars(length(min = 1, max = 253))]
    pub deployment_config: String,
}

fn default_model_definition() -> String {
    "model-definition.yaml".into()
}

fn default_deployment_config() -> String {
    "deployment-config.yaml".into()
}

/// An inference server with known defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, strum::IntoStaticStr)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Variant {
    /// vLLM: port 8000, /health.
    Vllm,
    /// NVIDIA NIM: port 8000, /v1/health/ready.
    Nim,
    /// Text Generation Inference: port 3000, /info.
    Tgi,
    /// SGLang: port 9001, /health.
    Sglang,
    /// The server of llama.cpp: port 8080, /health.
    LlamaCpp,
    /// A server of your own: port 8080, /health.
    Custom,
}

impl Variant {
    /// The port and the path of the health check.
    pub fn defaults(self) -> (i32, &'static str) {
        match self {
            Self::Vllm => (8000, "/health"),
            Self::Nim => (8000, "/v1/health/ready"),
            Self::Tgi => (3000, "/info"),
            Self::Sglang => (9001, "/health"),
            Self::LlamaCpp | Self::Custom => (8080, "/health"),
        }
    }
}
