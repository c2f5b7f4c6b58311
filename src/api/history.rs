//! History: what was tried and when. Bounded, in every status.

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

use super::Reason;

/// The result of one run of a handler for an object (docs/lifecycle.md#attempts).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum HistoryResult {
    /// The handler succeeded.
    Success,
    /// The handler failed and tries again.
    NeedRetry,
    /// The handler failed, and the time in this phase is over.
    Expired,
    /// The handler failed as often as allowed.
    GiveUp,
    /// The handler had nothing to do yet. A skip never counts as an attempt.
    Skipped,
}

/// The cause of the failure, which decides what it costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Cause {
    /// The scaling group is full. The object waits, with growing pauses between recorded attempts.
    Capacity,
    /// A quota or limit is used up. The object waits until usage or policy changes.
    Quota,
    /// Something that the object needs is inactive or missing: a scaling group, a tenant, a node large enough. The object waits
    /// until that changes, and keeps its priority.
    Hold,
    /// Anything else, which the object itself would have to change. A fault counts as an attempt.
    Fault,
}

/// One step that was tried. Equal failures in a row are one entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HistoryEntry {
    /// The handler that made the attempt, for example `schedule-sessions`.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub handler: String,
    /// The result of the step.
    pub result: HistoryResult,
    /// The phase before.
    #[schemars(length(max = 32))]
    pub from: String,
    /// The phase after; the same if it did not change.
    #[schemars(length(max = 32))]
    pub to: String,
    /// Why it failed or was skipped, as one CamelCase word: `NoAvailableNode`, `QuotaExceeded` …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_code: Option<Reason>,
    /// The cause of the failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// Why, in words, with the numbers of the latest attempt.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 512))]
    pub message: String,
    /// The number of equal steps in a row, at least 1.
    pub attempts: i32,
    /// The time of the first of them.
    pub created_at: DateTime<Utc>,
    /// The time of the last of them.
    pub updated_at: DateTime<Utc>,
    /// The sub-steps of the last attempt, in the order of time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub steps: Vec<SubStep>,
}

/// One step within an attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SubStep {
    /// The name of the sub-step, for example `launch-kernel`.
    #[schemars(length(max = 64))]
    pub name: String,
    /// Whether it succeeded.
    pub result: SubStepResult,
    /// The object of the sub-step, or why it failed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 256))]
    pub detail: String,
    /// Why it failed, as one CamelCase word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_code: Option<Reason>,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// When it ended.
    pub ended_at: DateTime<Utc>,
}

/// Whether a sub-step succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SubStepResult {
    Success,
    Failure,
}
