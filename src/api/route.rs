//! Route: the entry of one replica in its deployment's traffic.

use chrono::{DateTime, Utc};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{Display, EnumIter, IntoStaticStr};

use super::Progress;
use super::progress::has_progress;

/// The replica and its share of the traffic.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "sokovan.dev",
    version = "v1alpha1",
    kind = "Route",
    namespaced,
    status = "RouteStatus",
    derive = "PartialEq",
    shortname = "rt",
    category = "sokovan",
    doc = "One replica of a deployment: where it is, whether it is healthy, and whether it gets requests. The operator creates routes; you may change only `spec.weight`.",
    printcolumn(name = "Deployment", type_ = "string", json_path = ".spec.deployment"),
    printcolumn(name = "Revision", type_ = "integer", json_path = ".spec.revision"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Health", type_ = "string", json_path = ".status.health"),
    printcolumn(name = "Traffic", type_ = "string", json_path = ".status.traffic"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.reason"),
    printcolumn(name = "Address", type_ = "string", json_path = ".status.address", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.deployment == oldSelf.deployment && self.session == oldSelf.session && self.revision == oldSelf.revision && self.ordinal == oldSelf.ordinal")
        .message("only weight can be changed")
)]
pub struct RouteSpec {
    /// The name of a Deployment of this namespace.
    #[schemars(length(min = 1, max = 63))]
    pub deployment: String,
    /// The name of the Session that is the replica. A route never gets another session.
    #[schemars(length(min = 1, max = 40))]
    pub session: String,
    /// The revision of the deployment.
    #[schemars(range(min = 1))]
    pub revision: i64,
    /// The number of the replica among all replicas of the deployment.
    #[schemars(range(min = 0))]
    pub ordinal: i64,
    /// The weight of the route. With 0 the replica gets no requests and still counts as a replica. A Service sends every other
    /// replica the same share: it knows no weights.
    #[serde(default = "RouteSpec::full_weight")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub weight: i32,
}

impl RouteSpec {
    pub fn full_weight() -> i32 {
        100
    }
}

/// The phase of a route (docs/deployments.md#routes).
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
pub enum RoutePhase {
    /// The session is on its way.
    #[default]
    Provisioning,
    /// The session runs. Its health check has not passed yet.
    HealthChecking,
    /// The replica is healthy.
    Running,
    /// The health check fails.
    Unhealthy,
    /// The replica is replaced because it stayed unhealthy. It gets no requests.
    Evicting,
    /// The replica leaves: it gets no requests, finishes those it has, and ends.
    Terminating,
    /// The replica has ended.
    Terminated,
    /// The replica never served.
    Failed,
}

impl RoutePhase {
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// A terminal phase is never left.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Terminated | Self::Failed)
    }

    /// Whether the replica ends or has ended.
    pub fn is_ending(self) -> bool {
        matches!(self, Self::Evicting | Self::Terminating) || self.is_terminal()
    }
}

/// The health of a replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Display)]
pub enum Health {
    /// It was not checked yet.
    #[default]
    Unknown,
    Healthy,
    Unhealthy,
    /// Its node does not answer, so its health is not known.
    Stale,
}

/// Whether a replica gets requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Display)]
pub enum Traffic {
    In,
    #[default]
    Out,
}

/// The state of a route. Only the operator writes it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))] // Only the operator writes this, so the API server need not track field owners.
pub struct RouteStatus {
    #[serde(flatten)]
    pub progress: Progress<RoutePhase>,
    /// The health of the replica.
    #[serde(default)]
    pub health: Health,
    /// Whether the replica gets requests while it is healthy.
    #[serde(default)]
    pub traffic: Traffic,
    /// Host and port of the replica.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub address: Option<String>,
    /// The uid of the session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub session_uid: Option<String>,
    /// The first time that the replica was healthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub served_at: Option<DateTime<Utc>>,
    /// The last times that the replica became unhealthy, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub became_unhealthy_at: Vec<DateTime<Utc>>,
    /// Whether the replica ended by itself: nobody asked the operator to end it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub failed: bool,
    /// The time of the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<DateTime<Utc>>,
}

has_progress!(Route, RouteStatus, RoutePhase);
