//! KernelTemplate: the containers of a session.

use std::fmt;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::names::DNS_NAME;
use super::quantity::written_amounts;
use super::{NodeName, Quantity, ResourceList};

/// The rules for a path in a kernel: its form, and the paths that the system or the operator needs.
const PLAIN_PATH: &str = "self.startsWith('/') && !self.endsWith('/') && !self.contains(':') && !self.contains('//') && !self.matches('/[.]{1,2}(/|$)')";
const FREE_PATH: &str = "!['/', '/bin', '/dev', '/etc', '/lib', '/lib64', '/proc', '/sbin', '/sys', '/usr', '/opt', '/opt/sokovan'].exists(p, self == p) && !['/dev/', '/proc/', '/sys/', '/opt/sokovan/'].exists(p, self.startsWith(p))";
/// The pattern of a key in a ConfigMap or a Secret.
const KEY: &str = r"^[-._a-zA-Z0-9]+$";

/// One role of a session: the same container, `replicas` times.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct KernelTemplate {
    /// The role: `main` if absent, or a name of your own such as `sub` or `worker`. Role and index form the hostname, for
    /// example `main1` or `sub2`.
    #[serde(default = "default_role", skip_serializing_if = "is_default_role")]
    #[schemars(length(min = 1, max = 16), regex(pattern = r"^[a-z]([-a-z]*[a-z])?$"))]
    pub role: String,

    /// The number of kernels of this role; 1 if absent.
    #[serde(default = "default_replicas", skip_serializing_if = "is_default_replicas")]
    #[schemars(range(min = 1, max = 128))]
    pub replicas: i32,

    /// The container image. A session with a template has none of its own.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(min = 1, max = 512), regex(pattern = r"^[^\s]+$"))]
    pub image: String,

    /// When the kubelet pulls the image; `IfNotPresent` if absent.
    #[serde(default, skip_serializing_if = "is_default")]
    pub image_pull_policy: ImagePullPolicy,

    /// The CPU architecture of the image, as in a node's label `kubernetes.io/arch`; any if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32))]
    pub architecture: Option<String>,

    /// The request and the limit of each replica: `cpu` (cores), `memory` (bytes) and accelerators such as `nvidia.com/gpu`.
    #[serde(default, skip_serializing_if = "ResourceList::is_empty")]
    #[schemars(schema_with = "written_amounts", extend("maxProperties" = 16))]
    pub resources: ResourceList,

    /// The program and its first arguments; the image's own if absent. `$(NAME)` is not expanded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 16_384)))]
    pub command: Vec<String>,

    /// Arguments to the command, or to the image's own. `$(NAME)` is not expanded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 16_384)))]
    pub args: Vec<String>,

    /// Environment variables. Names that begin with `BACKENDAI_` are reserved for the operator.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub env: Vec<EnvVar>,

    /// The ports that the kernel serves on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub ports: Vec<Port>,

    /// PersistentVolumeClaims to mount: of this namespace, or of the session's `claims`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["mountPath".into()]))]
    pub volumes: Vec<VolumeMount>,

    /// Files from ConfigMaps and Secrets of this namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["path".into()]))]
    pub files: Vec<File>,

    /// Empty directories on the node's disk, which are removed with the kernel.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["mountPath".into()]))]
    pub scratch: Vec<Scratch>,

    /// The only nodes that may run this kernel; any node of the scaling group if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub designated_nodes: Vec<NodeName>,

    /// The size of /dev/shm; 64Mi if absent. Used pages count towards the kernel's memory.
    #[serde(default = "default_shm", skip_serializing_if = "is_default_shm")]
    pub shared_memory: Quantity,
}

// Defaults inside a list are not in the schema. The API server would write them into the stored list, and each `kubectl apply`
// would replace the list without them.

pub(super) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
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

/// When the kubelet pulls an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, strum::Display)]
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
    /// The name of the variable.
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z_][A-Za-z0-9_]*$"))]
    #[x_kube(validation = Rule::new("!self.startsWith('BACKENDAI_')").message("names that begin with BACKENDAI_ are reserved"))]
    pub name: String,
    /// The value. `$(NAME)` is not expanded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32_768))]
    pub value: Option<String>,
    /// The key of a Secret of this namespace that holds the value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<SecretKeyRef>,
}

/// A key of a Secret of the session's namespace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SecretKeyRef {
    /// The name of the Secret.
    #[schemars(length(min = 1, max = 253), regex(pattern = DNS_NAME))]
    pub name: String,
    /// The key in the Secret.
    #[schemars(length(min = 1, max = 253), regex(pattern = KEY))]
    pub key: String,
}

/// A port that a kernel serves on.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Port {
    /// The name of the port, unique in the kernel.
    #[schemars(length(min = 1, max = 15), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// The number of the port. 2000 to 2003, 2200 and 7681 are reserved.
    #[schemars(range(min = 1, max = 65_535))]
    #[x_kube(validation = Rule::new("!(self in [2000, 2001, 2002, 2003, 2200, 7681])")
        .message("ports 2000 to 2003, 2200 and 7681 are reserved"))]
    pub container_port: i32,
    /// The protocol of the port; `TCP` if absent.
    #[serde(default, skip_serializing_if = "is_default")]
    pub protocol: Protocol,
}

/// The protocol of a port.
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

/// A PersistentVolumeClaim mounted into a kernel.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct VolumeMount {
    /// A name in the session's `claims`; otherwise the name of a PersistentVolumeClaim of this namespace.
    #[schemars(length(min = 1, max = 253), regex(pattern = DNS_NAME))]
    pub claim_name: String,
    /// The absolute path to mount it at.
    #[schemars(length(min = 2, max = 512))]
    #[x_kube(
        validation = Rule::new(PLAIN_PATH)
            .message("mountPath must be absolute and plain: no '/' at its end, no '.', '..', '//' or ':'"),
        validation = Rule::new(FREE_PATH)
            .message("mountPath lies over a path that the system or the operator needs")
    )]
    pub mount_path: String,
    /// A directory within the volume to mount instead of its root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    #[x_kube(validation = Rule::new("!self.startsWith('/') && !self.contains('..')").message("subPath must be relative, without '..'"))]
    pub sub_path: Option<String>,
    /// Whether the kernel may only read the volume; false if absent.
    #[serde(default, skip_serializing_if = "is_default")]
    pub read_only: bool,
}

/// A file with the content of one key of a ConfigMap or a Secret.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.configMapKeyRef) != has(self.secretKeyRef)").message("give configMapKeyRef or secretKeyRef"))]
pub struct File {
    /// The absolute path of the file. It keeps the content that it has when the kernel starts.
    #[schemars(length(min = 2, max = 512))]
    #[x_kube(
        validation = Rule::new(PLAIN_PATH)
            .message("path must be absolute and plain: no '/' at its end, no '.', '..', '//' or ':'"),
        validation = Rule::new(FREE_PATH)
            .message("path lies over a path that the system or the operator needs")
    )]
    pub path: String,
    /// The key of a ConfigMap. You need the right to read the ConfigMap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_key_ref: Option<ConfigMapKeyRef>,
    /// The key of a Secret. You need the right to read the Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<SecretKeyRef>,
    /// Whether the file may be executed; false if absent.
    #[serde(default, skip_serializing_if = "is_default")]
    pub executable: bool,
}

/// A key of a ConfigMap of the session's namespace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ConfigMapKeyRef {
    /// The name of the ConfigMap.
    #[schemars(length(min = 1, max = 253), regex(pattern = DNS_NAME))]
    pub name: String,
    /// The key in the ConfigMap.
    #[schemars(length(min = 1, max = 253), regex(pattern = KEY))]
    pub key: String,
}

/// An empty directory.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Scratch {
    /// The absolute path to mount it at.
    #[schemars(length(min = 2, max = 512))]
    #[x_kube(
        validation = Rule::new(PLAIN_PATH)
            .message("mountPath must be absolute and plain: no '/' at its end, no '.', '..', '//' or ':'"),
        validation = Rule::new(FREE_PATH)
            .message("mountPath lies over a path that the system or the operator needs")
    )]
    pub mount_path: String,
    /// The most bytes in it. The kubelet evicts a kernel that writes more.
    pub size: Quantity,
}
