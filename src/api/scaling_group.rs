//! ScalingGroup: a set of nodes, how they are shared out, and what its admins give every kernel there.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use k8s_openapi::api::core::v1::{LocalObjectReference, PodSecurityContext, SecurityContext, Toleration};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Cause, Condition, ProjectName, Reason, SessionType};

/// A set of nodes that sessions are scheduled onto.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "sokovan.dev",
    version = "v1alpha1",
    kind = "ScalingGroup",
    status = "ScalingGroupStatus",
    derive = "PartialEq",
    shortname = "sg",
    category = "sokovan",
    doc = "A set of nodes that sessions are scheduled onto.",
    printcolumn(name = "Active", type_ = "boolean", json_path = ".spec.active"),
    printcolumn(name = "Nodes", type_ = "integer", json_path = ".status.nodesReady"),
    printcolumn(name = "Running", type_ = "integer", json_path = ".status.sessionsRunning"),
    printcolumn(name = "Pending", type_ = "integer", json_path = ".status.sessionsPending"),
    printcolumn(name = "Oldest", type_ = "date", json_path = ".status.oldestWaitingSince", description = "age of the session that waits for longest"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.size() <= 63").message("a scaling group's name has at most 63 characters")
)]
#[serde(rename_all = "camelCase")]
pub struct ScalingGroupSpec {
    /// Which nodes belong to it: those with all these labels. None means every node.
    #[serde(default)]
    #[schemars(extend("maxProperties" = 16))]
    pub node_selector: BTreeMap<String, String>,

    /// Whether sessions may be scheduled here.
    #[serde(default = "yes")]
    pub active: bool,

    /// The types of session it takes.
    #[serde(default = "all_types")]
    #[schemars(length(min = 1, max = 4))]
    pub session_types: Vec<SessionType>,

    /// The projects that may use it; all if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub projects: Vec<ProjectName>,

    /// Seconds a session may wait here before it is cancelled; for ever if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 31_536_000))]
    pub pending_timeout_seconds: Option<i64>,

    /// Seconds a node may be not ready before its kernels count as lost.
    #[serde(default = "default_lost_after")]
    #[schemars(range(min = 1, max = 86_400))]
    pub lost_after_seconds: i64,

    /// In which order those who wait are looked at, within one priority.
    #[serde(default)]
    pub sequencer: SequencerName,

    /// Whether only sessions of the highest priority that waits are looked at; else the others may pass those that do not fit.
    #[serde(default)]
    pub top_priority_only: bool,

    /// Which of the nodes that have room is chosen.
    #[serde(default)]
    pub selector: SelectorStrategy,

    /// Whether a request that no node of the group could hold, even an empty one, counts as a fault: after some attempts it
    /// costs priority, and in the end cancels the session. By default such a session waits until the nodes change.
    #[serde(default)]
    pub fail_unfit: bool,

    /// Whether the replicas of one deployment are spread over nodes, with the strategy Concentrated.
    #[serde(default)]
    pub enforce_spreading: bool,

    /// How often and how long each step is tried.
    #[serde(default)]
    pub retry: RetryPolicy,

    /// What every kernel here gets.
    #[serde(default)]
    pub pod: GroupPodOptions,
}

/// The order of a queue, within one priority (rules §5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum SequencerName {
    /// Who was made first.
    #[default]
    Fifo,
    /// Who was made last.
    Lifo,
    /// Whose keypair has the smallest dominant share of the group: the largest part of any resource.
    Drf,
}

/// Which node is chosen (rules §5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SelectorStrategy {
    /// Of those of whose resources the fewest would lie idle, the one with least left: nodes are filled up one after the other.
    Concentrated,
    /// Of those of whose resources the fewest would lie idle, the one with most left.
    #[default]
    Dispersed,
    /// As Dispersed.
    Legacy,
    /// Each in its turn, by name.
    RoundRobin,
}

/// How often and how long each step of a session is tried (rules §2).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetryPolicy {
    /// How many failed attempts in a row of one step are tried again: the next one is given up. A session begins anew as many
    /// times at most.
    #[serde(default = "default_attempts")]
    #[schemars(range(min = 1, max = 100))]
    pub max_attempts: i32,
    /// Most seconds in Preparing.
    #[serde(default = "default_preparing")]
    #[schemars(range(min = 1, max = 86_400))]
    pub preparing_timeout_seconds: i64,
    /// Most seconds in Pulling.
    #[serde(default = "default_preparing")]
    #[schemars(range(min = 1, max = 86_400))]
    pub pulling_timeout_seconds: i64,
    /// Most seconds in Creating.
    #[serde(default = "default_creating")]
    #[schemars(range(min = 1, max = 86_400))]
    pub creating_timeout_seconds: i64,
    /// Seconds of failed pulls after which an image counts as not to be had.
    #[serde(default = "default_image_pull")]
    #[schemars(range(min = 1, max = 86_400))]
    pub image_pull_timeout_seconds: i64,
    /// Whether waiting for capacity counts towards giving up.
    #[serde(default)]
    pub count_capacity: bool,
    /// Limits of single handlers, where they differ from the above.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["handler"]))]
    pub handlers: Vec<HandlerRetry>,
}

/// The limits of one handler that tries.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HandlerRetry {
    /// Which one.
    pub handler: TryingHandler,
    /// How many failed attempts in a row are tried again; the group's if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub max_attempts: Option<i32>,
    /// Most seconds from the first of these attempts; no limit if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86_400))]
    pub timeout_seconds: Option<i64>,
}

/// The handlers that try, rather than wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TryingHandler {
    ScheduleSessions,
    CheckPrecondition,
    StartSessions,
    TerminateSessions,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_attempts: default_attempts(),
            preparing_timeout_seconds: default_preparing(),
            pulling_timeout_seconds: default_preparing(),
            creating_timeout_seconds: default_creating(),
            image_pull_timeout_seconds: default_image_pull(),
            count_capacity: false,
            handlers: vec![],
        }
    }
}

/// What a group's admins give every kernel there.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupPodOptions {
    /// Taints of its nodes that kernels tolerate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub tolerations: Vec<Toleration>,
    /// The RuntimeClass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub runtime_class_name: Option<String>,
    /// Secrets, in each session's namespace, for pulling images.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// The pod's security context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security_context: Option<PodSecurityContext>,
    /// The security context of each of its containers. None is privileged or gets a
    /// capability beyond the baseline and IPC_LOCK: the operator may not make such pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("!has(self.privileged) || !self.privileged").message("the operator makes no privileged containers"))]
    pub container_security_context: Option<SecurityContext>,
    /// Labels for each pod.
    #[serde(default)]
    #[schemars(extend("maxProperties" = 32))]
    pub labels: BTreeMap<String, String>,
    /// Annotations for each pod.
    #[serde(default)]
    #[schemars(extend("maxProperties" = 32))]
    pub annotations: BTreeMap<String, String>,
}

/// What the operator knows of a scaling group, written at most once in 5 s and only when it changed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScalingGroupStatus {
    /// Nodes that belong to it.
    #[serde(default)]
    pub nodes: i64,
    /// Those of them that are ready and not cordoned; whether the group tolerates their taints is not looked at.
    #[serde(default)]
    pub nodes_ready: i64,
    /// Sessions that hold resources here.
    #[serde(default)]
    pub sessions_running: i64,
    /// Sessions that wait here.
    #[serde(default)]
    pub sessions_pending: i64,
    /// Those that wait, by effective priority, the highest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 101), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["priority"]))]
    pub waiting_by_priority: Vec<WaitingByPriority>,
    /// Those that wait, by the reason their status tells.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "atomic"))]
    pub waiting_by_reason: Vec<WaitingByReason>,
    /// When the one was made that waits for longest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_waiting_since: Option<DateTime<Utc>>,
    /// The state of the group.
    #[serde(default)]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// How many of one priority wait.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WaitingByPriority {
    /// The effective priority.
    pub priority: i32,
    /// How many sessions.
    pub sessions: i64,
}

/// How many wait for one reason.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WaitingByReason {
    /// The reason in the sessions' statuses. `NotEvaluated` for sessions not evaluated yet.
    pub reason: Reason,
    /// The cause: `Capacity`, `Quota` and `Hold` pass by themselves, a `Fault` needs a change. Absent if nothing failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// How many sessions.
    pub sessions: i64,
}

pub(super) fn yes() -> bool {
    true
}

fn all_types() -> Vec<SessionType> {
    vec![SessionType::Interactive, SessionType::Batch, SessionType::Inference, SessionType::System]
}

fn default_lost_after() -> i64 {
    60
}

fn default_attempts() -> i32 {
    5
}

fn default_preparing() -> i64 {
    900
}

fn default_creating() -> i64 {
    600
}

fn default_image_pull() -> i64 {
    120
}

impl ScalingGroupSpec {
    /// Seconds a node may be not ready, where no group says otherwise.
    pub fn lost_after_default() -> i64 {
        default_lost_after()
    }
}
