//! Metrics of the operator in the OpenMetrics text format.

mod gauges;

use std::collections::{BTreeSet, HashSet};
use std::fmt::Write as _;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge as LeaderGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::api::HistoryResult;
use gauges::Census;
pub use gauges::{Gauge, Sample};

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

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PhaseLabels {
    kind: &'static str,
    group: String,
    phase: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndLabels {
    kind: &'static str,
    group: String,
    phase: &'static str,
    reason: &'static str,
}

/// The labels under which an object that leaves a phase is counted. The second are those of its end.
type Left = (PhaseLabels, Option<EndLabels>);

/// The bounds of the time in a phase, in seconds: from a start with the image present to a day.
const PHASE_BOUNDS: [f64; 12] = [0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3600.0, 14_400.0, 86_400.0];

fn phase_histogram() -> Histogram {
    Histogram::new(PHASE_BOUNDS)
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
    leader: LeaderGauge,
    phases: Family<PhaseLabels, Histogram, fn() -> Histogram>,
    ends: Family<EndLabels, Counter>,
    census: Census,
    /// The labels of `phases` and `ends` in use.
    ended: Arc<Mutex<HashSet<Left>>>,
    /// The labels in use: a `Family` does not list its own.
    labels: Arc<Mutex<HashSet<Labels>>>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("sokovan");
        let (writes, outcomes, runs) = (Family::default(), Family::default(), Family::default());
        let seconds = Family::default();
        let (dropped_events, leader) = (Counter::default(), LeaderGauge::default());
        let phases: Family<PhaseLabels, Histogram, fn() -> Histogram> = Family::new_with_constructor(phase_histogram);
        let (ends, census): (Family<EndLabels, Counter>, _) = (Family::default(), Census::default());
        let build: Family<Vec<(&str, &str)>, LeaderGauge> = Family::default();
        build.get_or_create(&vec![("version", env!("CARGO_PKG_VERSION"))]).set(1);
        registry.register("build_info", "The version of the operator", build);
        registry.register("phase_seconds", "Time that objects spent in a phase, when they leave it", phases.clone());
        registry.register("ends", "Objects that reached their last phase", ends.clone());
        registry.register_collector(Box::new(census.clone()));
        registry.register("api_writes", "Writes to the API server, by object", writes.clone());
        registry.register("handler_outcomes", "Results that handlers recorded in histories", Family::clone(&outcomes));
        registry.register("handler_runs", "Runs of handlers, and whether they panicked", Family::clone(&runs));
        registry.register("handler_seconds", "Total duration of these runs", Family::clone(&seconds));
        registry.register("events_dropped", "Events that did not fit into the queue", Counter::clone(&dropped_events));
        registry.register("leader", "1 while this replica leads", leader.clone());
        let (registry, labels, ended) = (Arc::new(registry), Arc::default(), Arc::default());
        Self { registry, writes, outcomes, runs, seconds, dropped_events, leader, phases, ends, census, ended, labels }
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

    /// Counts the gauges in this way from now on. The first call decides.
    pub fn count_by(&self, count: impl Fn() -> Vec<Sample> + Send + Sync + 'static) {
        self.census.count_by(count);
    }

    /// Records that an object has left a phase after so many seconds; and if it has ended, in which phase and why.
    pub fn left(
        &self,
        kind: &'static str,
        partition: &str,
        phase: &'static str,
        seconds: f64,
        end: Option<(&'static str, &'static str)>,
    ) {
        let labels = PhaseLabels { kind, group: partition.to_owned(), phase };
        self.phases.get_or_create(&labels).observe(seconds);
        let end = end.map(|(phase, reason)| EndLabels { kind, group: partition.to_owned(), phase, reason });
        if let Some(end) = &end {
            self.ends.get_or_create(end).inc();
        }
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).insert((labels, end));
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
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        for (phase, end) in ended.extract_if(|(phase, _)| phase.group == partition) {
            self.phases.remove(&phase);
            end.iter().for_each(|end| _ = self.ends.remove(end));
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
    use strum::IntoEnumIterator;

    use super::*;

    #[test]
    fn docs_metrics_lists_every_metric_and_no_other() {
        let metrics = Metrics::default();
        count_all(&metrics, "gpu");
        metrics.left("session", "gpu", "Running", 1.0, Some(("Terminated", "ExitCode")));
        metrics.wrote("session-status");
        metrics.count_by(|| Gauge::iter().map(|gauge| Sample::new(gauge, &[], 1.0)).collect());
        let text = metrics.text();
        let names: BTreeSet<&str> = text.lines().filter_map(|line| line.strip_prefix("# HELP ")?.split(' ').next()).collect();
        let page = include_str!("../docs/metrics.md");
        let rows = page.lines().filter(|line| line.starts_with("| `"));
        let cells = rows.filter_map(|row| row.split(" | ").next());
        let documented: BTreeSet<&str> =
            cells.flat_map(|cell| cell.split('`').filter(|word| word.starts_with("sokovan_"))).collect();
        assert_eq!(names, documented);
    }

    #[test]
    fn gauges_are_counted_when_they_are_read_and_go_with_what_they_count() {
        let metrics = Metrics::default();
        assert!(!metrics.text().contains("sokovan_sessions{"), "nobody counts yet");
        let number = Arc::new(AtomicU64::new(3));
        let known = number.clone();
        metrics.count_by(move || match known.load(std::sync::atomic::Ordering::Relaxed) {
            0 => vec![],
            _ => vec![Sample::new(Gauge::Sessions, &[("group", "gpu".into()), ("phase", "Running".into())], 3.0)],
        });
        assert!(metrics.text().contains("sokovan_sessions{group=\"gpu\",phase=\"Running\"} 3.0\n"), "{}", metrics.text());
        number.store(0, std::sync::atomic::Ordering::Relaxed);
        assert!(!metrics.text().contains("sokovan_sessions{"));
    }

    #[test]
    fn the_time_in_a_phase_and_the_ends_are_recorded_by_scaling_group_and_go_with_it() {
        let metrics = Metrics::default();
        metrics.left("session", "gpu", "Running", 12.0, Some(("Terminated", "ExitCode")));
        let text = metrics.text();
        let labels = "{kind=\"session\",group=\"gpu\",phase=\"Running\"";
        assert!(text.contains(&format!("sokovan_phase_seconds_bucket{{le=\"30.0\",{}", &labels[1..])), "{text}");
        assert!(
            text.contains("sokovan_ends_total{kind=\"session\",group=\"gpu\",phase=\"Terminated\",reason=\"ExitCode\"} 1"),
            "{text}"
        );
        metrics.forget("gpu");
        assert_eq!(series(&metrics, "gpu"), 0);
        assert!(text.contains("sokovan_build_info{version="), "{text}");
    }

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
