//! ScalingGroup: a set of nodes, the rules of their queue, and the settings that every kernel there gets.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use k8s_openapi::api::core::v1::{LocalObjectReference, PodSecurityContext, SecurityContext, Toleration};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Cause, Condition, Health, ProjectName, Reason, SessionType};

/// The nodes, the rules of their queue, and the settings of every pod there.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "sokovan.dev",
    version = "v1alpha1",
    kind = "ScalingGroup",
    status = "ScalingGroupStatus",
    derive = "PartialEq",
    shortname = "sg",
    category = "sokovan",
    doc = "A set of nodes with one queue of sessions.",
    printcolumn(name = "Active", type_ = "boolean", json_path = ".spec.active"),
    printcolumn(name = "Nodes", type_ = "integer", json_path = ".status.nodesReady"),
    printcolumn(name = "Running", type_ = "integer", json_path = ".status.sessionsRunning"),
    printcolumn(name = "Pending", type_ = "integer", json_path = ".status.sessionsPending"),
    printcolumn(name = "Oldest", type_ = "date", json_path = ".status.oldestWaitingSince", description = "age of the session that has waited longest"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.size() <= 63").message("a scaling group's name has at most 63 characters")
)]
#[serde(rename_all = "camelCase")]
pub struct ScalingGroupSpec {
    /// The labels of its nodes: a node with all of them belongs to it. If empty, every node does.
    #[serde(default)]
    #[schemars(extend("maxProperties" = 16))]
    pub node_selector: BTreeMap<String, String>,

    /// Whether sessions are scheduled here. If false, waiting sessions stay in the queue and running sessions continue.
    #[serde(default = "yes")]
    pub active: bool,

    /// The session types that it accepts.
    #[serde(default = "all_types")]
    #[schemars(length(min = 1, max = 4))]
    pub session_types: Vec<SessionType>,

    /// The projects that may use it; all if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub projects: Vec<ProjectName>,

    /// Seconds that a session may wait in Pending before it is cancelled; no limit if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 31_536_000))]
    pub pending_timeout_seconds: Option<i64>,

    /// Seconds that a node may be not Ready before it is lost and its sessions end.
    #[serde(default = "default_lost_after")]
    #[schemars(range(min = 1, max = 86_400))]
    pub lost_after_seconds: i64,

    /// The health for which replicas of deployments are evicted. An empty list evicts none. A replica on a node that does not answer
    /// becomes Unhealthy after 300 s.
    #[serde(default = "default_evict_health")]
    #[schemars(length(max = 4))]
    pub evict_health: Vec<Health>,

    /// The order of the queue within one priority: `FIFO` the oldest session first, `LIFO` the newest, `DRF` the keypair with
    /// the smallest dominant share.
    #[serde(default)]
    pub sequencer: SequencerName,

    /// Whether sessions of a lower priority wait while one of a higher priority starts, or could start with more room. If
    /// false, later sessions may pass a session that does not fit.
    #[serde(default)]
    pub top_priority_only: bool,

    /// The node that is chosen among those with room: `Dispersed` the one with most left, `Concentrated` the one with least
    /// left, `RoundRobin` each in turn. `Legacy` is the same as `Dispersed`.
    #[serde(default)]
    pub selector: SelectorStrategy,

    /// Whether a request that no node could hold, even an empty one, is a Fault. It then costs attempts and priority, and in
    /// the end cancels the session. If false, such a session waits until the nodes change.
    #[serde(default)]
    pub fail_unfit: bool,

    /// Whether the strategy `Concentrated` first takes the node with the fewest kernels of the same deployment.
    #[serde(default)]
    pub enforce_spreading: bool,

    /// How often and how long each step is tried.
    #[serde(default)]
    pub retry: RetryPolicy,

    /// Settings of every pod in this scaling group.
    #[serde(default)]
    pub pod: GroupPodOptions,
}

/// The order of a queue within one priority (docs/scheduling.md#the-order-of-the-queue).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum SequencerName {
    /// The oldest session first.
    #[default]
    Fifo,
    /// The newest session first.
    Lifo,
    /// The keypair with the smallest dominant share first: the largest part of any resource that its sessions occupy.
    Drf,
}

/// Which node is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SelectorStrategy {
    /// Fewest idle resources, then least left: fills one node after the other.
    Concentrated,
    /// Fewest idle resources, then most left.
    #[default]
    Dispersed,
    /// The same as Dispersed.
    Legacy,
    /// Each node in turn, by name.
    RoundRobin,
}

/// How often and how long each step of a session is tried (docs/lifecycle.md#attempts).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetryPolicy {
    /// The number of failed attempts of one step that are retried. The next failure in a row gives up. It also limits resets.
    #[serde(default = "default_attempts")]
    #[schemars(range(min = 1, max = 100))]
    pub max_attempts: i32,
    /// The most seconds in Preparing. After that the session ends.
    #[serde(default = "default_preparing")]
    #[schemars(range(min = 1, max = 86_400))]
    pub preparing_timeout_seconds: i64,
    /// The most seconds in Pulling. After that the session ends.
    #[serde(default = "default_preparing")]
    #[schemars(range(min = 1, max = 86_400))]
    pub pulling_timeout_seconds: i64,
    /// The most seconds in Creating. After that the session is reset, and ends after `maxAttempts` resets.
    #[serde(default = "default_creating")]
    #[schemars(range(min = 1, max = 86_400))]
    pub creating_timeout_seconds: i64,
    /// Seconds that the pull of an image may fail before its kernel is cancelled.
    #[serde(default = "default_image_pull")]
    #[schemars(range(min = 1, max = 86_400))]
    pub image_pull_timeout_seconds: i64,
    /// Whether failures with cause Capacity count towards giving up.
    #[serde(default)]
    pub count_capacity: bool,
    /// Limits of single handlers, instead of the limits above.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["handler"]))]
    pub handlers: Vec<HandlerRetry>,
}

/// The limits of one handler.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HandlerRetry {
    /// The name of the handler.
    pub handler: TryingHandler,
    /// The number of failed attempts that are retried; `maxAttempts` of the scaling group if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub max_attempts: Option<i32>,
    /// The most seconds from the first failed attempt; no limit if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86_400))]
    pub timeout_seconds: Option<i64>,
}

/// The handlers whose attempts are limited.
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

/// Settings of every pod in a scaling group.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupPodOptions {
    /// The taints that the pods tolerate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub tolerations: Vec<Toleration>,
    /// The RuntimeClass of the pods. Its overhead counts, and its `nodeSelector` limits the nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub runtime_class_name: Option<String>,
    /// Secrets in each session's namespace for pulling images.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// The ServiceAccounts, by name, that sessions may run their pods as; none if empty. Each session's namespace has its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 253)))]
    pub service_accounts: Vec<String>,
    /// The security context of each pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security_context: Option<PodSecurityContext>,
    /// The security context of each container. Privileged containers and capabilities beyond the baseline and IPC_LOCK are
    /// refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("!has(self.privileged) || !self.privileged").message("the operator makes no privileged containers"))]
    pub container_security_context: Option<SecurityContext>,
    /// Labels of each pod.
    #[serde(default)]
    #[schemars(extend("maxProperties" = 32))]
    pub labels: BTreeMap<String, String>,
    /// Annotations of each pod.
    #[serde(default)]
    #[schemars(extend("maxProperties" = 32))]
    pub annotations: BTreeMap<String, String>,
}

/// The nodes and the queue of a scaling group. The operator writes changes at most once in 5 s.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScalingGroupStatus {
    /// The number of its nodes.
    #[serde(default)]
    pub nodes: i64,
    /// The number of its nodes that are Ready and not cordoned, whatever their taints.
    #[serde(default)]
    pub nodes_ready: i64,
    /// The number of sessions that hold resources here.
    #[serde(default)]
    pub sessions_running: i64,
    /// The number of sessions that wait here.
    #[serde(default)]
    pub sessions_pending: i64,
    /// The waiting sessions by effective priority, the highest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 101), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["priority"]))]
    pub waiting_by_priority: Vec<WaitingByPriority>,
    /// The waiting sessions by reason and cause.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "atomic"))]
    pub waiting_by_reason: Vec<WaitingByReason>,
    /// The creation time of the session that has waited the longest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_waiting_since: Option<DateTime<Utc>>,
    /// The conditions of the scaling group.
    #[serde(default)]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// The waiting sessions of one priority.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WaitingByPriority {
    /// The effective priority.
    pub priority: i32,
    /// The number of sessions.
    pub sessions: i64,
}

/// The sessions that wait for one reason.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WaitingByReason {
    /// The reason in the sessions' statuses. `NotEvaluated` for sessions not evaluated yet.
    pub reason: Reason,
    /// The cause of the failure; absent if nothing failed. Only a `Fault` needs a change by the author of the session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// The number of sessions.
    pub sessions: i64,
}

pub(super) fn yes() -> bool {
    true
}

fn all_types() -> Vec<SessionType> {
    vec![SessionType::Interactive, SessionType::Batch, SessionType::Inference, SessionType::System]
}

fn default_evict_health() -> Vec<Health> {
    vec![Health::Unhealthy]
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
    /// Seconds that a node may be not Ready, for sessions without a scaling group.
    pub fn lost_after_default() -> i64 {
        default_lost_after()
    }
}
