//! What was tried and when: the bounded history that every status carries.

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

use super::Reason;

/// How one run of a handler ended for an object (rules §2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum HistoryResult {
    /// It did what it is for.
    Success,
    /// It failed and will be tried again.
    NeedRetry,
    /// It failed, and its time in this phase is over.
    Expired,
    /// It failed as often as it may.
    GiveUp,
    /// It had nothing to do yet, for a reason worth telling. Never counts as an attempt.
    Skipped,
}

/// What a failure is due to, which decides what it costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Cause {
    /// It would fit if the scaling group were emptier. Waits, with growing pauses between recorded attempts.
    Capacity,
    /// A quota or limit is used up. Waits until usage or policy changes.
    Quota,
    /// Somebody stopped it, or something it needs is not there yet: an inactive or missing scaling group or tenant, a
    /// request that no node can hold today. Waits until that object changes, and keeps its priority.
    Hold,
    /// Anything else, which the session itself would have to change. Counts towards giving up.
    Fault,
}

/// One entry of a history: a step that was tried, with how often. Equal failures in a row are one entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HistoryEntry {
    /// The handler that made the attempt, for example `schedule-sessions`.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub handler: String,
    /// How it ended.
    pub result: HistoryResult,
    /// The phase before.
    #[schemars(length(max = 32))]
    pub from: String,
    /// The phase after; the same where nothing changed.
    #[schemars(length(max = 32))]
    pub to: String,
    /// Why it failed or was skipped, as one CamelCase word: `NoAvailableNode`, `QuotaExceeded` …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_code: Option<Reason>,
    /// What the failure is due to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// Why, in words, with the numbers of the latest attempt.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 512))]
    pub message: String,
    /// How often this was tried in a row, at least 1.
    pub attempts: i32,
    /// When it was tried first.
    pub created_at: DateTime<Utc>,
    /// When it was tried last.
    pub updated_at: DateTime<Utc>,
    /// What the latest attempt did, step by step, in time order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub steps: Vec<SubStep>,
}

/// One step within an attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SubStep {
    /// What was done, for example `launch-kernel`.
    #[schemars(length(max = 64))]
    pub name: String,
    /// Whether it worked.
    pub result: SubStepResult,
    /// To what, or why not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 256))]
    pub detail: String,
    /// Why it failed, as one CamelCase word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_code: Option<Reason>,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// When it was over.
    pub ended_at: DateTime<Utc>,
}

/// Whether a step worked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SubStepResult {
    Success,
    Failure,
}
