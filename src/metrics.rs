//! What the operator counts, in Prometheus' notation.

use std::collections::{BTreeSet, HashSet};
use std::fmt::Write as _;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::api::GroupName;
use crate::session::handlers::HandlerName;
use crate::session::snapshot::Snapshot;

/// The scaling group in series of sessions whose scaling group does not exist. No object has such a name.
pub const UNKNOWN: &str = "(unknown)";

/// The label of a snapshot's scaling group. Users write any name into a session; only existing scaling groups get series
/// of their own.
pub fn group_label(snapshot: &Snapshot) -> GroupName {
    if snapshot.group.is_some() { snapshot.group_name.clone() } else { UNKNOWN.into() }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Write {
    write: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    handler: &'static str,
    group: String,
    result: &'static str,
}

/// One run of a handler on one scaling group.
pub struct Run {
    pub handler: HandlerName,
    /// Its [`group_label`].
    pub group: GroupName,
    pub result: RunResult,
    pub began: Instant,
}

/// Whether a handler came to its verdicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunResult {
    Success,
    Panicked,
}

impl RunResult {
    fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Panicked => "panicked",
        }
    }
}

/// All metrics; cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    writes: Family<Write, Counter>,
    outcomes: Family<Labels, Counter>,
    runs: Family<Labels, Counter>,
    seconds: Family<Labels, Counter<f64, AtomicU64>>,
    dropped_events: Counter,
    leader: Gauge,
    /// The labels in use: a `Family` does not list its own.
    labels: Arc<Mutex<HashSet<Labels>>>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("sokovan");
        let (writes, outcomes, runs) = (Family::default(), Family::default(), Family::default());
        let seconds = Family::default();
        let (dropped_events, leader) = (Counter::default(), Gauge::default());
        registry.register("api_writes", "Writes to the API server, by what is written", writes.clone());
        registry.register(
            "handler_outcomes",
            "What was recorded of sessions by handlers, by its result",
            Family::clone(&outcomes),
        );
        registry.register("handler_runs", "Runs of handlers, and whether they panicked", Family::clone(&runs));
        registry.register("handler_seconds", "Time taken by those runs", Family::clone(&seconds));
        registry.register("events_dropped", "Events that found no room in the queue", Counter::clone(&dropped_events));
        registry.register("leader", "1 while this replica leads", leader.clone());
        Self { registry: Arc::new(registry), writes, outcomes, runs, seconds, dropped_events, leader, labels: Arc::default() }
    }
}

impl Metrics {
    pub fn wrote(&self, what: &'static str) {
        self.writes.get_or_create(&Write { write: what }).inc();
    }

    pub fn outcome(&self, handler: &'static str, snapshot: &Snapshot, result: &'static str) {
        let labels = Labels { handler, group: group_label(snapshot).0, result };
        self.outcomes.get_or_create(&labels).inc();
        self.remember(labels);
    }

    /// Counts a run that has ended.
    pub fn ran(&self, run: &Run) {
        let labels = Labels { handler: run.handler.as_str(), group: run.group.0.clone(), result: run.result.as_str() };
        self.runs.get_or_create(&labels).inc();
        self.seconds.get_or_create(&labels).inc_by(run.began.elapsed().as_secs_f64());
        self.remember(labels);
    }

    /// Comes after the series is made: `forget_group` in between then leaves labels without a series, never the reverse.
    fn remember(&self, labels: Labels) {
        self.labels_in_use().insert(labels);
    }

    fn labels_in_use(&self) -> MutexGuard<'_, HashSet<Labels>> {
        self.labels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The scaling groups that have series of their own.
    pub fn groups(&self) -> BTreeSet<GroupName> {
        let labels = self.labels_in_use();
        labels.iter().map(|labels| labels.group.as_str()).filter(|group| *group != UNKNOWN).map(Into::into).collect()
    }

    /// Removes all series of a scaling group.
    pub fn forget_group(&self, group: &GroupName) {
        let forgotten: Vec<Labels> = self.labels_in_use().extract_if(|labels| labels.group == group.as_str()).collect();
        for labels in &forgotten {
            self.outcomes.remove(labels);
            self.runs.remove(labels);
            self.seconds.remove(labels);
        }
    }

    pub fn dropped_event(&self) {
        self.dropped_events.inc();
    }

    pub fn leads(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// The text that Prometheus reads.
    pub fn text(&self) -> String {
        let mut text = String::new();
        if encode(&mut text, &self.registry).is_err() {
            let _ = writeln!(text, "# incomplete");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::session::handlers::testing::{group, snapshot};

    /// The snapshot of a scaling group that exists or not.
    fn snapshot_of(name: &str, exists: bool) -> Snapshot {
        Snapshot { group: exists.then(|| Arc::new(group(json!({})))), group_name: name.into(), ..snapshot(vec![]) }
    }

    /// Counts a run and an outcome for every handler.
    fn count_all(metrics: &Metrics, snapshot: &Snapshot) {
        for handler in HandlerName::ALL {
            for result in [RunResult::Success, RunResult::Panicked] {
                metrics.ran(&Run { handler, group: group_label(snapshot), result, began: Instant::now() });
            }
            metrics.outcome(handler.as_str(), snapshot, "need_retry");
        }
    }

    /// How many series a scaling group has.
    fn series(metrics: &Metrics, group: &str) -> usize {
        metrics.text().lines().filter(|line| line.contains(&format!("group=\"{group}\""))).count()
    }

    #[test]
    fn forgetting_a_scaling_group_removes_its_series_and_no_others() {
        let metrics = Metrics::default();
        // Two results in two families of runs, one in that of outcomes.
        let all = HandlerName::ALL.len() * 5;
        for name in ["gpu", "default"] {
            count_all(&metrics, &snapshot_of(name, true));
        }
        count_all(&metrics, &snapshot_of("gone", false));
        assert_eq!(metrics.groups(), BTreeSet::from(["default".into(), "gpu".into()]));
        metrics.forget_group(&"gpu".into());
        let left = ["gpu", "default", UNKNOWN].map(|group| series(&metrics, group));
        assert_eq!((left, metrics.groups()), ([0, all, all], BTreeSet::from(["default".into()])));
        count_all(&metrics, &snapshot_of("gpu", true));
        assert_eq!(series(&metrics, "gpu"), all, "a new scaling group of the same name counts from zero");
    }

    #[test]
    fn sessions_of_scaling_groups_that_do_not_exist_share_one_set_of_series() {
        let metrics = Metrics::default();
        count_all(&metrics, &snapshot_of("written-0", false));
        let before = metrics.text().lines().count();
        for number in 1..40 {
            count_all(&metrics, &snapshot_of(&format!("written-{number}"), false));
        }
        assert_eq!(metrics.text().lines().count(), before);
        assert!(!metrics.text().contains("written"), "{}", metrics.text());
        assert!(metrics.groups().is_empty());
    }

    #[test]
    fn runs_are_counted_and_timed_by_handler_group_and_result() {
        let metrics = Metrics::default();
        for result in [RunResult::Success, RunResult::Panicked, RunResult::Success] {
            let began = Instant::now();
            metrics.ran(&Run { handler: HandlerName::ScheduleSessions, group: "gpu".into(), result, began });
        }
        let text = metrics.text();
        for (result, count) in [("success", 2), ("panicked", 1)] {
            let labels = format!("{{handler=\"schedule-sessions\",group=\"gpu\",result=\"{result}\"}}");
            assert!(text.contains(&format!("sokovan_handler_runs_total{labels} {count}\n")), "{text}");
            assert!(text.contains(&format!("sokovan_handler_seconds_total{labels} ")), "{text}");
        }
    }
}
