//! Metrics of the operator in Prometheus' text format.

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

use crate::api::HistoryResult;

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

/// One run of a handler on the objects of one partition.
pub struct Run {
    pub handler: &'static str,
    /// The label `group`.
    pub partition: String,
    pub result: RunResult,
    pub began: Instant,
}

/// Whether a handler completed or panicked.
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
        registry.register("api_writes", "Writes to the API server, by object", writes.clone());
        registry.register("handler_outcomes", "Results that handlers recorded in histories", Family::clone(&outcomes));
        registry.register("handler_runs", "Runs of handlers, and whether they panicked", Family::clone(&runs));
        registry.register("handler_seconds", "Total duration of these runs", Family::clone(&seconds));
        registry.register("events_dropped", "Events that did not fit into the queue", Counter::clone(&dropped_events));
        registry.register("leader", "1 while this replica leads", leader.clone());
        Self { registry: Arc::new(registry), writes, outcomes, runs, seconds, dropped_events, leader, labels: Arc::default() }
    }
}

impl Metrics {
    pub fn wrote(&self, what: &'static str) {
        self.writes.get_or_create(&Write { write: what }).inc();
    }

    pub fn outcome(&self, handler: &'static str, partition: &str, result: HistoryResult) {
        let labels = Labels { handler, group: partition.to_owned(), result: result.into() };
        self.outcomes.get_or_create(&labels).inc();
        self.remember(labels);
    }

    /// Counts a run that has ended.
    pub fn ran(&self, run: &Run) {
        let labels = Labels { handler: run.handler, group: run.partition.clone(), result: run.result.as_str() };
        self.runs.get_or_create(&labels).inc();
        self.seconds.get_or_create(&labels).inc_by(run.began.elapsed().as_secs_f64());
        self.remember(labels);
    }

    /// Runs after the series is created. A concurrent `forget` then leaves labels without a series, never a series without
    /// labels.
    fn remember(&self, labels: Labels) {
        self.labels_in_use().insert(labels);
    }

    fn labels_in_use(&self) -> MutexGuard<'_, HashSet<Labels>> {
        self.labels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the partitions that have series.
    pub fn partitions(&self) -> BTreeSet<String> {
        self.labels_in_use().iter().map(|labels| labels.group.clone()).collect()
    }

    /// Removes all series of a partition.
    pub fn forget(&self, partition: &str) {
        let forgotten: Vec<Labels> = self.labels_in_use().extract_if(|labels| labels.group == partition).collect();
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

    /// Returns the text that Prometheus scrapes.
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
    use super::*;

    const HANDLERS: [&str; 2] = ["schedule-sessions", "start-sessions"];

    /// Counts runs and outcomes of every handler.
    fn count_all(metrics: &Metrics, partition: &str) {
        for handler in HANDLERS {
            for result in [RunResult::Success, RunResult::Panicked] {
                metrics.ran(&Run { handler, partition: partition.into(), result, began: Instant::now() });
            }
            metrics.outcome(handler, partition, HistoryResult::NeedRetry);
        }
    }

    /// Returns the number of series of a scaling group.
    fn series(metrics: &Metrics, group: &str) -> usize {
        metrics.text().lines().filter(|line| line.contains(&format!("group=\"{group}\""))).count()
    }

    #[test]
    fn forgetting_a_scaling_group_removes_its_series_and_no_others() {
        let metrics = Metrics::default();
        // Runs and seconds have two results each, and outcomes have one.
        let all = HANDLERS.len() * 5;
        for name in ["gpu", "default"] {
            count_all(&metrics, name);
        }
        metrics.forget("gpu");
        let left = ["gpu", "default"].map(|group| series(&metrics, group));
        assert_eq!((left, metrics.partitions()), ([0, all], BTreeSet::from(["default".into()])));
        count_all(&metrics, "gpu");
        assert_eq!(series(&metrics, "gpu"), all, "a new scaling group of the same name counts from zero");
    }

    #[test]
    fn runs_are_counted_and_timed_by_handler_group_and_result() {
        let metrics = Metrics::default();
        for result in [RunResult::Success, RunResult::Panicked, RunResult::Success] {
            let began = Instant::now();
            metrics.ran(&Run { handler: "schedule-sessions", partition: "gpu".into(), result, began });
        }
        metrics.outcome("schedule-sessions", "gpu", HistoryResult::GiveUp);
        let text = metrics.text();
        for (result, count) in [("success", 2), ("panicked", 1)] {
            let labels = format!("{{handler=\"schedule-sessions\",group=\"gpu\",result=\"{result}\"}}");
            assert!(text.contains(&format!("sokovan_handler_runs_total{labels} {count}\n")), "{text}");
            assert!(text.contains(&format!("sokovan_handler_seconds_total{labels} ")), "{text}");
        }
        assert!(text.contains("result=\"give_up\"} 1\n"), "{text}");
    }
}
