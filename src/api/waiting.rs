//! Waiting: why a session waits, in its status.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Quantity, Reason};

/// Why a session waits, with the numbers of the last evaluation that found another blocker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Waiting {
    /// The time of that evaluation.
    pub evaluated_at: DateTime<Utc>,
    /// The blockers, first the one that decides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub blockers: Vec<WaitingBlocker>,
    /// The nodes of the scaling group, by the reason that they do not take the session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<WaitingNodes>,
}

/// One thing that keeps a session in the queue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WaitingBlocker {
    /// The check that found it, for example `quota`.
    #[schemars(length(max = 32))]
    pub check: String,
    /// The reason, as one CamelCase word.
    pub reason: Reason,
    /// The blocking object, for example `keypair alice`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 320))]
    pub object: Option<String>,
    /// The resource that is short. If absent, sessions, kernels or volumes are counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 320))]
    pub resource: Option<String>,
    /// The amount that the session requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested: Option<Quantity>,
    /// The amount in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<Quantity>,
    /// The largest amount permitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<Quantity>,
    /// The change that would remove the blocker.
    #[schemars(length(max = 400))]
    pub needs: String,
}

/// Why the nodes of a scaling group do not take a session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WaitingNodes {
    /// The number of nodes of the scaling group.
    pub total: i64,
    /// The number of nodes that take no session: not Ready, cordoned or tainted.
    #[serde(default)]
    pub closed: i64,
    /// The number of nodes by reason, the most frequent first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub reasons: Vec<WaitingNodeReason>,
}

/// A reason for which nodes do not take a session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WaitingNodeReason {
    /// For example `cpu 3 of 4 needed`, `architecture`, `not ready`.
    #[schemars(length(max = 128))]
    pub reason: String,
    /// The number of nodes.
    pub nodes: i64,
}

impl Waiting {
    /// Whether the blockers are the same, whatever their numbers.
    pub fn says_the_same(&self, other: &Self) -> bool {
        let named = |b: &WaitingBlocker| (b.check.clone(), b.reason, b.object.clone(), b.resource.clone());
        self.blockers.iter().map(named).eq(other.blockers.iter().map(named))
    }

    /// Whether blockers of the same kinds remain, whichever objects they name.
    pub fn has_the_same_reasons(&self, other: &Self) -> bool {
        let classes = |waiting: &Self| -> BTreeSet<_> { waiting.blockers.iter().map(|b| (b.check.clone(), b.reason)).collect() };
        classes(self) == classes(other)
    }
}
