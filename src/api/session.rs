//! Session: the workload that a user declares.

use chrono::{DateTime, Utc};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::names::DNS_NAME;
use super::scaling_group::yes;
use super::{AccessKey, ClaimTemplate, GroupName, KernelTemplate, Serving, SessionStatus, TemplateRef};

/// The most kernels of one session.
pub const MAX_KERNELS: i64 = 128;

/// The workload, and how it is queued, retried and ended.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "sokovan.dev",
    version = "v1alpha1",
    kind = "Session",
    namespaced,
    status = "SessionStatus",
    derive = "PartialEq",
    shortname = "ses",
    category = "sokovan",
    doc = "A compute session: one container or many that start together, as a gang.",
    selectable = ".spec.accessKey",
    selectable = ".status.phase",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Result", type_ = "string", json_path = ".status.result"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.reason"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.kernelsReady", description = "kernels running / kernels"),
    printcolumn(name = "Node", type_ = "string", json_path = ".status.nodes"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Group", type_ = "string", json_path = ".status.scalingGroup", priority = 1),
    printcolumn(name = "Type", type_ = "string", json_path = ".spec.type", priority = 1),
    printcolumn(name = "Priority", type_ = "integer", json_path = ".status.effectivePriority", priority = 1),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message", priority = 1),
    validation = Rule::new("self.metadata.name.size() <= 40").message("a session's name has at most 40 characters"),
    validation = Rule::new("!self.metadata.name.contains('.')")
        .message("a session's name is a DNS label: lower-case letters, digits and '-', without dots"),
    validation = Rule::new("oldSelf.hasValue() || !has(self.spec.dependsOn) || !(self.metadata.name in self.spec.dependsOn)")
        .optional_old_self(true).message("a session cannot depend on itself")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.batchTimeoutSeconds) || self.type == 'Batch'").message("batchTimeoutSeconds is for sessions of type Batch"),
    validation = Rule::new("!has(self.retry) || !has(self.retry.onDisruption) || self.type == 'Batch'").message("retry.onDisruption is for sessions of type Batch"),
    validation = Rule::new("!has(self.serving) || self.type == 'Inference'").message("serving is for sessions of type Inference"),
    validation = Rule::new("self.kernels.map(k, has(k.replicas) ? k.replicas : 1).sum() <= 128").message("a session has at most 128 kernels"),
    validation = Rule::new("has(self.template) || self.kernels.exists_one(k, !has(k.role) || k.role == 'main')").message("exactly one entry has the role main").field_path(".kernels"),
    validation = Rule::new("has(self.template) || self.kernels.all(k, has(k.image))").message("each kernel has an image, unless the session has a template").field_path(".kernels"),
    validation = Rule::new("!has(self.template) || self.kernels.all(k, !has(k.image) && !has(k.replicas) && !has(k.imagePullPolicy) && !has(k.architecture) && !has(k.sharedMemory))").message("image, imagePullPolicy, replicas, architecture and sharedMemory are the template's: set its parameters instead")
)]
pub struct SessionSpec {
    /// The type of workload. `Batch` ends when the command of its main kernel does, and the exit code decides the result. The
    /// other types run until they are ended.
    #[serde(rename = "type", default)]
    pub type_: SessionType,

    /// The Keypair that owns the session. Its limits apply, and so do the limits of its user, project and domain.
    pub access_key: AccessKey,

    /// The ScalingGroup to run in. If absent, the first by name that is active and accepts the project and the type. That needs
    /// the right to use all scaling groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling_group: Option<GroupName>,

    /// The place in the queue: sessions of a higher priority are scheduled first.
    #[serde(default = "default_priority")]
    #[schemars(range(min = 0, max = 100))]
    pub priority: i32,

    /// `SingleNode` puts all kernels on one node. `MultiNode` places each kernel where it fits.
    #[serde(default)]
    pub cluster_mode: ClusterMode,

    /// The SessionTemplate to take the kernels from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<TemplateRef>,

    /// The containers to run, one entry a role. Exactly one entry has the role `main`, with one replica. With a template, only what the
    /// session adds to the template's kernels: command, args, env, ports, volumes, files, scratch and designatedNodes.
    #[serde(default)]
    #[schemars(length(max = 16))]
    #[x_kube(
        validation = Rule::new("self.all(k, !has(k.role) || self.exists_one(other, has(other.role) && other.role == k.role))").message("each role has one entry"),
        validation = Rule::new("self.all(k, (has(k.role) && k.role != 'main') || !has(k.replicas) || k.replicas == 1)").message("the role main has one replica"),
    )]
    pub kernels: Vec<KernelTemplate>,

    /// Secrets of this namespace with the credentials of registries. The scaling group may add its own. You need the right to read them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4), inner(length(min = 1, max = 253), regex(pattern = DNS_NAME)))]
    pub image_pull_secrets: Vec<String>,

    /// PersistentVolumeClaims that are created for the session before its kernels. You need the right to create them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub claims: Vec<ClaimTemplate>,

    /// The ServiceAccount of this namespace that its pods run as, for the identity at a cloud provider. The scaling group must allow
    /// it, and you need the right to use it. No pod gets a token for the API server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = DNS_NAME))]
    pub service_account_name: Option<String>,

    /// Whether all kernels start at the same moment, when each can resolve the names of all others. If false, and every node of
    /// the session has the images already, each kernel starts as soon as it can, and its program has to retry lookups of names.
    #[serde(default = "yes")]
    pub start_together: bool,

    /// The earliest start, for example 2026-01-31T09:00:00Z.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = TIME))]
    pub starts_at: Option<DateTime<Utc>>,

    /// Whether a session that waits is kept in the queue, at its priority. A session that has its nodes is not affected.
    #[serde(default)]
    pub suspend: bool,

    /// Seconds that a Batch session may run. After that it ends with the result Failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 31_536_000))]
    pub batch_timeout_seconds: Option<i64>,

    /// Seconds that a session may run, whatever its type. After that it ends with the result Failure. The resource policies of its
    /// tenants may set less. If absent, only they limit it. Replicas of deployments have no such limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 31_536_000))]
    pub max_lifetime_seconds: Option<i64>,

    /// Seconds that a session may run without being used, whatever its type. After half of them its status and an Event announce the end;
    /// after all of them it ends with the result Failure. The resource policies of its tenants may set less. It is used while a kernel
    /// uses 5 % of the CPU or of another resource that it requests, as far as `metrics.k8s.io` reports it. Without measurements it does
    /// not end. The annotation `sokovan.dev/keep-until`, with a time, defers the end, unless a policy forbids that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 60, max = 31_536_000))]
    pub idle_timeout_seconds: Option<i64>,

    /// Sessions of this namespace that must end with Success before this session is scheduled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 40), regex(pattern = DNS_NAME)))]
    pub depends_on: Vec<String>,

    /// Whether the session has its nodes to itself. It is placed on nodes without other sessions and foreign pods, and other
    /// sessions are kept off while it runs. Pods of DaemonSets and of the node itself do not count. Foreign pods may come
    /// later.
    #[serde(default)]
    pub private: bool,

    /// `Terminated` ends the session and keeps its record. It cannot be set back. Deleting the object ends and removes the
    /// session.
    #[serde(default)]
    pub desired_state: DesiredState,

    /// How the session is ended.
    #[serde(default)]
    pub termination: Termination,

    /// Seconds between the end of the session and its removal. If absent, it is never removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 31_536_000))]
    pub ttl_seconds_after_finished: Option<i32>,

    /// Limits for attempts and times that are tighter than the limits of the scaling group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<SessionRetry>,

    /// The endpoint of a session of type Inference: the port of its main kernel and how its health is checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serving: Option<Serving>,
}

/// A time with its offset. The format date-time alone admits times that cannot be read.
pub(super) const TIME: &str = r"^\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(\.\d{1,9})?([Zz]|[+-]([01]\d|2[0-3]):[0-5]\d)$";

/// The priority of a session that names none.
pub fn default_priority() -> i32 {
    10
}

/// The type of workload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum SessionType {
    #[default]
    Interactive,
    Batch,
    Inference,
    System,
}

/// How kernels are spread over nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ClusterMode {
    /// All kernels on one node.
    #[default]
    SingleNode,
    /// Each kernel where it fits.
    MultiNode,
}

/// The state that the user wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DesiredState {
    #[default]
    Running,
    Terminated,
}

/// How a session is ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Termination {
    /// `Graceful` gives each container `gracePeriodSeconds` to stop. `Forced` counts the session as ended at once and kills its
    /// containers without grace. A container that was already asked to stop may keep its first grace period.
    #[serde(default)]
    pub mode: TerminationMode,
    /// Seconds between the request to stop and the kill.
    #[serde(default = "default_grace")]
    #[schemars(range(min = 0, max = 3600))]
    pub grace_period_seconds: i64,
}

fn default_grace() -> i64 {
    30
}

impl Default for Termination {
    fn default() -> Self {
        Self { mode: TerminationMode::default(), grace_period_seconds: default_grace() }
    }
}

/// Whether the end of a session waits for its kernels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TerminationMode {
    #[default]
    Graceful,
    Forced,
}

/// Limits of one session. Each can only tighten the scaling group's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionRetry {
    /// The number of failed attempts of one step that are retried. The next failure in a row gives up. It also limits resets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub max_attempts: Option<i32>,
    /// The most seconds in each of the phases Preparing, Pulling and Creating. If the scaling group limits the attempts of
    /// check-precondition or start-sessions in time, it also limits those attempts, in seconds from the first failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86_400))]
    pub timeout_seconds: Option<i64>,
    /// How often a Batch session starts again after a disruption that ended it while it ran; 0 if absent. Disruptions are evictions,
    /// drains, preemptions, lost nodes and deleted pods. Its programs start from the beginning. Failures do not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub on_disruption: Option<i32>,
}
