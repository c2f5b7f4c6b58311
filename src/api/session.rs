//! Session: what a user asks for.

use std::fmt;

use chrono::{DateTime, Utc};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::names::DNS_NAME;
use super::quantity::written_amounts;
use super::{AccessKey, GroupName, NodeName, Quantity, ResourceList, SessionStatus};

/// Most kernels one session may have.
pub const MAX_KERNELS: i64 = 128;

/// A compute session: one container or many that start together.
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
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.reason"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.kernelsReady", description = "kernels running / kernels"),
    printcolumn(name = "Node", type_ = "string", json_path = ".status.nodes"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Group", type_ = "string", json_path = ".status.scalingGroup", priority = 1),
    printcolumn(name = "Type", type_ = "string", json_path = ".spec.type", priority = 1),
    printcolumn(name = "Priority", type_ = "integer", json_path = ".status.effectivePriority", priority = 1),
    printcolumn(name = "Result", type_ = "string", json_path = ".status.result", priority = 1),
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
    validation = Rule::new("self.kernels.map(k, has(k.replicas) ? k.replicas : 1).sum() <= 128").message("a session has at most 128 kernels")
)]
pub struct SessionSpec {
    /// What the session is for. `Batch` ends when its main kernel's command does, with its exit code as the result.
    #[serde(rename = "type", default)]
    pub type_: SessionType,

    /// The Keypair that the session is run under; its owner's quotas apply.
    pub access_key: AccessKey,

    /// The ScalingGroup to run in. Without one, the first by name that is active and takes the project and the type; that needs
    /// the right to use all scaling groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling_group: Option<GroupName>,

    /// Higher is scheduled first, 0 to 100.
    #[serde(default = "default_priority")]
    #[schemars(range(min = 0, max = 100))]
    pub priority: i32,

    /// Whether all kernels share one node, or each may have its own.
    #[serde(default)]
    pub cluster_mode: ClusterMode,

    /// What to run. Exactly one has the role `main`, with one replica.
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(
        validation = Rule::new("self.exists_one(k, !has(k.role) || k.role == 'main')").message("exactly one entry has the role main"),
        validation = Rule::new("self.all(k, !has(k.role) || self.exists_one(other, has(other.role) && other.role == k.role))").message("each role has one entry"),
        validation = Rule::new("self.all(k, (has(k.role) && k.role != 'main') || !has(k.replicas) || k.replicas == 1)").message("the role main has one replica"),
    )]
    pub kernels: Vec<KernelTemplate>,

    /// Not to be started before this time, as in 2026-01-31T09:00:00Z.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = TIME))]
    pub starts_at: Option<DateTime<Utc>>,

    /// Batch only: ends the session as failed when it has run this many seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 31_536_000))]
    pub batch_timeout_seconds: Option<i64>,

    /// Sessions of this namespace that must have ended with Success before this one is scheduled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 40), regex(pattern = DNS_NAME)))]
    pub depends_on: Vec<String>,

    /// Only on nodes that have, when it is placed, no other session and no pods of others but those of DaemonSets and of the
    /// node itself. While it runs other sessions are kept off; pods of others are not.
    #[serde(default)]
    pub private: bool,

    /// `Terminated` ends the session and keeps its record; deleting the object ends and removes it.
    #[serde(default)]
    pub desired_state: DesiredState,

    /// How to end it.
    #[serde(default)]
    pub termination: Termination,

    /// Seconds after its end at which the session is deleted; never if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 31_536_000))]
    pub ttl_seconds_after_finished: Option<i32>,

    /// Limits tighter than those of the scaling group for how long and how often things are tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<SessionRetry>,
}

/// A time with its offset, of all that the format date-time lets pass what can be read.
const TIME: &str = r"^\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(\.\d{1,9})?([Zz]|[+-]([01]\d|2[0-3]):[0-5]\d)$";

fn default_priority() -> i32 {
    10
}

/// What a session is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum SessionType {
    #[default]
    Interactive,
    Batch,
    Inference,
    System,
}

/// Whether all kernels share one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ClusterMode {
    /// All kernels on one node.
    #[default]
    SingleNode,
    /// Each kernel where it fits.
    MultiNode,
}

/// Whether the session shall run.
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
    /// `Forced` counts the session as ended at once and kills what is left of it without grace; a kubelet that already
    /// waits for a program to stop may wait on, for as long as it was told before.
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

/// Whether ending waits for the kernels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TerminationMode {
    #[default]
    Graceful,
    Forced,
}

/// Limits of one session; each only ever tightens the scaling group's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionRetry {
    /// How many failed attempts in a row of one step are tried again: the next one is given up. A session begins anew as many
    /// times at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub max_attempts: Option<i32>,
    /// Most seconds in one of the phases Preparing, Pulling and Creating; and from the first failed attempt of
    /// check-precondition or start-sessions, where the scaling group limits that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86_400))]
    pub timeout_seconds: Option<i64>,
}

/// One role of a session: the same container, `replicas` times.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct KernelTemplate {
    /// `main` (if absent), or a name of your own such as `sub` or `worker`. With the index it makes the hostname: `main1`, `sub2`.
    #[serde(default = "default_role", skip_serializing_if = "is_default_role")]
    #[schemars(length(min = 1, max = 16), regex(pattern = r"^[a-z]([-a-z]*[a-z])?$"))]
    pub role: String,

    /// How many of this role; one if absent.
    #[serde(default = "default_replicas", skip_serializing_if = "is_default_replicas")]
    #[schemars(range(min = 1, max = 128))]
    pub replicas: i32,

    /// The container image.
    #[schemars(length(min = 1, max = 512), regex(pattern = r"^[^\s]+$"))]
    pub image: String,

    /// When to pull the image; `IfNotPresent` if absent.
    #[serde(default, skip_serializing_if = "is_default")]
    pub image_pull_policy: ImagePullPolicy,

    /// The CPU architecture the image is for, as in a node's label `kubernetes.io/arch`; any if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32))]
    pub architecture: Option<String>,

    /// What each replica gets, requested and limited alike: `cpu` (cores) and `memory` (bytes), and accelerators such as `nvidia.com/gpu`.
    #[schemars(schema_with = "written_amounts", extend("maxProperties" = 16))]
    pub resources: ResourceList,

    /// The program and its first arguments, as they stand: `$(NAME)` is not expanded. The image's own if absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 16_384)))]
    pub command: Vec<String>,

    /// Arguments to the command or to the image's own, as they stand.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 16_384)))]
    pub args: Vec<String>,

    /// Environment variables. Names that begin with `BACKENDAI_` are the operator's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub env: Vec<EnvVar>,

    /// Ports the kernel serves on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub ports: Vec<Port>,

    /// Volume claims of this namespace to mount.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["mountPath".into()]))]
    pub volumes: Vec<VolumeMount>,

    /// Only these nodes come into question, if any are named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub designated_nodes: Vec<NodeName>,

    /// Size of /dev/shm, 64Mi if absent; it counts towards the kernel's memory as it is used.
    #[serde(default = "default_shm", skip_serializing_if = "is_default_shm")]
    pub shared_memory: Quantity,
}

// A default inside a list is none of the schema's: the API server would write it into the stored list, and each `kubectl
// apply` would replace the list without it.

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn is_default_role(role: &String) -> bool {
    *role == default_role()
}

fn is_default_replicas(replicas: &i32) -> bool {
    *replicas == default_replicas()
}

fn is_default_shm(size: &Quantity) -> bool {
    *size == default_shm()
}

fn default_role() -> String {
    "main".into()
}

fn default_replicas() -> i32 {
    1
}

fn default_shm() -> Quantity {
    "64Mi".into()
}

/// When an image is pulled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ImagePullPolicy {
    #[default]
    IfNotPresent,
    Always,
    Never,
}

/// An environment variable.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(has(self.value) && has(self.secretKeyRef))").message("give value or secretKeyRef, not both"))]
pub struct EnvVar {
    /// Its name.
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z_][A-Za-z0-9_]*$"))]
    #[x_kube(validation = Rule::new("!self.startsWith('BACKENDAI_')").message("names that begin with BACKENDAI_ are reserved"))]
    pub name: String,
    /// Its value, as it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32_768))]
    pub value: Option<String>,
    /// A key of a Secret of this namespace that holds its value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<SecretKeyRef>,
}

/// A key of a Secret of the session's namespace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SecretKeyRef {
    /// The Secret's name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The key in it.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// A port that a kernel serves on.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Port {
    /// Its name, unique in the kernel.
    #[schemars(length(min = 1, max = 15), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// Its number.
    #[schemars(range(min = 1, max = 65_535))]
    #[x_kube(validation = Rule::new("!(self in [2000, 2001, 2002, 2003, 2200, 7681])")
        .message("ports 2000 to 2003, 2200 and 7681 are reserved"))]
    pub container_port: i32,
    /// Its protocol; `TCP` if absent.
    #[serde(default, skip_serializing_if = "is_default")]
    pub protocol: Protocol,
}

/// A port's protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    #[default]
    Tcp,
    Udp,
    Sctp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

/// A volume claim mounted into a kernel.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct VolumeMount {
    /// The PersistentVolumeClaim, of this namespace.
    #[schemars(length(min = 1, max = 253), regex(pattern = DNS_NAME))]
    pub claim_name: String,
    /// Where to mount it.
    #[schemars(length(min = 2, max = 512))]
    #[x_kube(
        validation = Rule::new("self.startsWith('/') && !self.endsWith('/') && !self.contains(':') && !self.contains('//') && !self.matches('/[.]{1,2}(/|$)')")
            .message("mountPath must be absolute and plain: no '/' at its end, no '.', '..', '//' or ':'"),
        validation = Rule::new("!['/', '/bin', '/dev', '/etc', '/lib', '/lib64', '/proc', '/sbin', '/sys', '/usr', '/opt', '/opt/sokovan'].exists(p, self == p) && !['/dev/', '/proc/', '/sys/', '/opt/sokovan/'].exists(p, self.startsWith(p))")
            .message("mountPath lies over a path that the system or the operator needs")
    )]
    pub mount_path: String,
    /// A directory within the volume instead of its root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    #[x_kube(validation = Rule::new("!self.startsWith('/') && !self.contains('..')").message("subPath must be relative, without '..'"))]
    pub sub_path: Option<String>,
    /// Whether the kernel may only read it; it may write if absent.
    #[serde(default, skip_serializing_if = "is_default")]
    pub read_only: bool,
}
