//! Kernel: one container of a session. Users read it; the operator alone writes it.

use chrono::{DateTime, Utc};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{Display, EnumIter, IntoStaticStr};

use super::{GroupName, NodeName, ResourceList};

/// One kernel of a session, on one node, in one pod of the same name.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "sokovan.dev",
    version = "v1alpha1",
    kind = "Kernel",
    namespaced,
    status = "KernelStatus",
    derive = "PartialEq",
    shortname = "krn",
    category = "sokovan",
    doc = "One container of a session, in one pod of the same name. The operator alone writes it, once the container runs, is held up, or has ended.",
    printcolumn(name = "Session", type_ = "string", json_path = ".spec.session"),
    printcolumn(name = "Kernel", type_ = "string", json_path = ".spec.hostname"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.reason"),
    printcolumn(name = "Node", type_ = "string", json_path = ".spec.node"),
    printcolumn(name = "Exit", type_ = "integer", json_path = ".status.exitCode"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "IP", type_ = "string", json_path = ".status.podIP", priority = 1)
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self == oldSelf").message("a kernel's spec cannot be changed"))]
pub struct KernelSpec {
    /// The session's name.
    #[schemars(length(min = 1, max = 40))]
    pub session: String,
    /// The session's uid.
    #[schemars(length(min = 1, max = 64))]
    pub session_uid: String,
    /// The role in the session: `main`, `sub` …
    #[schemars(length(min = 1, max = 16))]
    pub role: String,
    /// The index within the role, from 1.
    #[schemars(range(min = 1, max = 128))]
    pub index: i32,
    /// The place in the session, from 0 for `main1`.
    #[schemars(range(min = 0, max = 127))]
    pub local_rank: i32,
    /// Role and index; the other kernels of the session reach it by this name.
    #[schemars(length(min = 1, max = 24))]
    pub hostname: String,
    /// The allocation that it was created for. A new allocation creates new kernels.
    #[schemars(range(min = 1))]
    pub allocation_generation: i64,
    /// The scaling group.
    pub scaling_group: GroupName,
    /// The node it runs on.
    pub node: NodeName,
    /// The container image.
    #[schemars(length(min = 1, max = 512))]
    pub image: String,
    /// The resources that it was allocated.
    #[schemars(extend("maxProperties" = 16))]
    pub resources: ResourceList,
}

impl Kernel {
    /// The end of the kernel, once recorded.
    pub fn recorded_end(&self) -> Option<&KernelStatus> {
        self.status.as_ref().filter(|status| status.phase.is_terminal())
    }
}

/// The phase of a kernel (docs/lifecycle.md#kernel-states).
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
    Display,
    EnumIter,
    IntoStaticStr,
)]
pub enum KernelPhase {
    #[default]
    Pending,
    Scheduled,
    Preparing,
    Pulling,
    Prepared,
    Creating,
    Running,
    Terminating,
    Terminated,
    Cancelled,
    Error,
}

impl KernelPhase {
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Terminated | Self::Cancelled | Self::Error)
    }

    /// Whether its image may still be missing.
    pub fn is_pre_prepared(self) -> bool {
        matches!(self, Self::Pending | Self::Scheduled | Self::Preparing | Self::Pulling)
    }

    /// Whether it does not run yet.
    pub fn is_pre_running(self) -> bool {
        self.is_pre_prepared() || matches!(self, Self::Prepared | Self::Creating)
    }

    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// The state of a kernel. The operator writes it when the kernel runs, is held up, or has ended. It is no subresource, so that
/// the operator creates a kernel and its state with one write.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))] // Only the operator writes this, so the API server need not track field owners.
pub struct KernelStatus {
    /// The last state recorded. Earlier states are in the session's status.
    #[serde(default)]
    pub phase: KernelPhase,
    /// The reason, as one stable CamelCase word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub reason: Option<String>,
    /// The reason in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
    /// The uid of its pod: `BACKENDAI_KERNEL_ID` in its environment.
    #[serde(rename = "podUID", default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub pod_uid: Option<String>,
    /// The address of its pod.
    #[serde(rename = "podIP", default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub pod_ip: Option<String>,
    /// The start of its container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<DateTime<Utc>>,
    /// The time of its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<DateTime<Utc>>,
    /// The exit code of its main container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
}
