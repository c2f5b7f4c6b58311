//! Why a session waits: the verdict of its last evaluation, in its status.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Quantity, Reason};

/// Why a session waits, with the numbers as of its last evaluation that said something new.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Waiting {
    /// When this was found.
    pub evaluated_at: DateTime<Utc>,
    /// All that stands against it, first what decides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub blockers: Vec<WaitingBlocker>,
    /// Why no node of the group takes it, where it came so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<WaitingNodes>,
}

/// One thing that stands against a session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WaitingBlocker {
    /// Which check says so, for example `quota`.
    #[schemars(length(max = 32))]
    pub check: String,
    /// The stable word for it.
    pub reason: Reason,
    /// What blocks, for example `keypair alice`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 320))]
    pub object: Option<String>,
    /// Of which resource there is too little; sessions, kernels or volumes are counted if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 320))]
    pub resource: Option<String>,
    /// How much is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested: Option<Quantity>,
    /// How much is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<Quantity>,
    /// How much may be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<Quantity>,
    /// What would have to change.
    #[schemars(length(max = 400))]
    pub needs: String,
}

/// Why the nodes of a group do not take a session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WaitingNodes {
    /// How many nodes the group has.
    pub total: i64,
    /// How many of them take no session at all: not ready, cordoned or tainted.
    #[serde(default)]
    pub closed: i64,
    /// How many fell to which reason, the most frequent first.
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
    /// How many nodes.
    pub nodes: i64,
}

impl Waiting {
    /// Whether the same things stand against the session, whatever their numbers.
    pub fn says_the_same(&self, other: &Self) -> bool {
        let named = |b: &WaitingBlocker| (b.check.clone(), b.reason, b.object.clone(), b.resource.clone());
        self.blockers.iter().map(named).eq(other.blockers.iter().map(named))
    }

    /// Whether things of the same kinds do, whichever they are.
    pub fn has_the_same_reasons(&self, other: &Self) -> bool {
        let classes = |waiting: &Self| -> BTreeSet<_> { waiting.blockers.iter().map(|b| (b.check.clone(), b.reason)).collect() };
        classes(self) == classes(other)
    }
}
