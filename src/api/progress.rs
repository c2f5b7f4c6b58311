//! Progress: the part of a status that every reconciled object shares.

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Condition, HistoryEntry, Reason};

/// How far an object has come in its phases, what was tried, and what happens next. Its fields are the status's own fields.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", bound(deserialize = "P: Deserialize<'de> + Default"))]
#[schemars(bound = "P: JsonSchema + Default + Serialize")]
pub struct Progress<P> {
    /// The phase of the object.
    #[serde(default)]
    pub phase: P,
    /// The reason for the phase, as one stable CamelCase word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// The reason in words, with numbers and names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
    /// The generation of the spec that this status was written for.
    #[serde(default)]
    pub observed_generation: i64,
    /// The start of the current phase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase_started_at: Option<DateTime<Utc>>,
    /// The number of failed attempts of the current step in a row.
    #[serde(default)]
    pub attempts: i32,
    /// The time of the next attempt, or of the next record of a waiting reason. A waiting object is evaluated on every change
    /// before that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// The conditions of the object, one a type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The steps of the object, oldest first, at most 64. `historyDropped` counts dropped entries.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub history: Vec<HistoryEntry>,
    /// The number of history entries dropped.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub history_dropped: i32,
}

impl<P> Progress<P> {
    /// Whether the spec has changed since this status was written.
    pub fn is_outdated(&self, generation: Option<i64>) -> bool {
        generation.is_some_and(|generation| self.observed_generation < generation)
    }
}

/// As in JSON: the fields of progress are fields of the status. An object without a status is in its first phase.
macro_rules! has_progress {
    ($status:ty, $phase:ty) => {
        impl std::ops::Deref for $status {
            type Target = $crate::api::Progress<$phase>;

            fn deref(&self) -> &Self::Target {
                &self.progress
            }
        }

        impl std::ops::DerefMut for $status {
            fn deref_mut(&mut self) -> &mut Self::Target {
                &mut self.progress
            }
        }
    };
    ($object:ty, $status:ty, $phase:ty) => {
        $crate::api::has_progress!($status, $phase);

        impl $object {
            pub fn phase(&self) -> $phase {
                self.status.as_ref().map(|status| status.phase).unwrap_or_default()
            }
        }
    };
}
pub(crate) use has_progress;

pub(super) fn is_zero(number: &i32) -> bool {
    *number == 0
}
