//! Metrics of the operator in the OpenMetrics text format.

mod gauges;
mod labels;
mod process;

use std::collections::{BTreeSet, HashSet};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge as PlainGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use strum::IntoEnumIterator;

use crate::api::HistoryResult;
use gauges::Census;
pub use gauges::{Gauge, Sample};
pub use labels::{Code, CommitResult, Verb};
use labels::{
    CommitLabels, EndLabels, FailureLabels, HandlerLabels, ItemLabels, KindLabels, PhaseLabels, RequestLabels, ResultLabels,
    WriteLabels,
};
use process::OwnProcess;

/// One run of a handler on the objects of one partition.
pub struct Run {
    pub handler: &'static str,
    /// The label `group`.
    pub partition: String,
    /// How many objects the handler decided on.
    pub items: usize,
    pub result: RunResult,
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

/// The labels in use: a `Family` does not list its own. Each set belongs to a scaling group and is removed with it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Series {
    Result(ResultLabels),
    Items(ItemLabels),
    Phase(PhaseLabels),
    End(EndLabels),
}

impl Series {
    fn group(&self) -> &String {
        match self {
            Self::Result(labels) => &labels.group,
            Self::Items(labels) => &labels.group,
            Self::Phase(labels) => &labels.group,
            Self::End(labels) => &labels.group,
        }
    }
}

/// The bounds of the time in a phase, in seconds: from a start with the image present to a day.
const PHASE_BOUNDS: [f64; 12] = [0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3600.0, 14_400.0, 86_400.0];
/// The bounds of the time of a cycle, in seconds: from an idle one to the longest that a lock allows.
const CYCLE_BOUNDS: [f64; 8] = [0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 10.0, 30.0];

/// The ends of sessions that an alert counts: their phases and reasons.
const ALARMING: [(&str, &str); 10] = [
    ("Terminated", "NodeLost"),
    ("Terminated", "ImagePullFailed"),
    ("Cancelled", "ImagePullFailed"),
    ("Terminated", "ContainerNotStarted"),
    ("Cancelled", "ContainerNotStarted"),
    ("Terminated", "Evicted"),
    ("Terminated", "DiskLimitExceeded"),
    ("Terminated", "OutOfMemory"),
    ("Terminated", "ExceededMaxRetries"),
    ("Terminated", "PhaseTimeout"),
];

/// Makes a histogram with these bounds.
#[derive(Clone, Copy)]
struct Bounds(&'static [f64]);

impl MetricConstructor<Histogram> for Bounds {
    fn new_metric(&self) -> Histogram {
        Histogram::new(self.0.iter().copied())
    }
}

/// All metrics; cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    writes: Family<WriteLabels, Counter>,
    failures: Family<FailureLabels, Counter>,
    requests: Family<RequestLabels, Counter>,
    restarts: Family<KindLabels, Counter>,
    commits: Family<CommitLabels, Counter>,
    outcomes: Family<ResultLabels, Counter>,
    runs: Family<ResultLabels, Counter>,
    items: Family<ItemLabels, Counter>,
    cycles: Family<HandlerLabels, Histogram, Bounds>,
    dropped_events: Counter,
    leader: PlainGauge,
    /// Without labels. Empty until the lease was read.
    transitions: Family<Vec<(&'static str, &'static str)>, PlainGauge>,
    takeover: PlainGauge<f64, std::sync::atomic::AtomicU64>,
    phases: Family<PhaseLabels, Histogram, Bounds>,
    ends: Family<EndLabels, Counter>,
    census: Census,
    series: Arc<Mutex<HashSet<Series>>>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Arc::default(),
            writes: Family::default(),
            failures: Family::default(),
            requests: Family::default(),
            restarts: Family::default(),
            commits: Family::default(),
            outcomes: Family::default(),
            runs: Family::default(),
            items: Family::default(),
            cycles: Family::new_with_constructor(Bounds(&CYCLE_BOUNDS)),
            dropped_events: Counter::default(),
            leader: PlainGauge::default(),
            transitions: Family::default(),
            takeover: PlainGauge::default(),
            phases: Family::new_with_constructor(Bounds(&PHASE_BOUNDS)),
            ends: Family::default(),
            census: Census::default(),
            series: Arc::default(),
        };
        let mut registry = Registry::default();
        metrics.register(registry.sub_registry_with_prefix("sokovan"));
        registry.register_collector(Box::new(OwnProcess));
        metrics.registry = Arc::new(registry);
        metrics
    }
}

impl Metrics {
    fn register(&self, registry: &mut Registry) {
        let build: Family<Vec<(&str, &str)>, PlainGauge> = Family::default();
        build.get_or_create(&vec![("version", env!("CARGO_PKG_VERSION"))]).set(1);
        registry.register("build_info", "The version of the operator", build);
        registry.register("leader", "1 while this replica leads", self.leader.clone());
        let help = "How often the lease has changed its holder, as this replica last read it";
        registry.register("lease_transitions", help, self.transitions.clone());
        let help = "Time between the last renewal by the leader before and the takeover by this replica";
        registry.register("takeover_seconds", help, self.takeover.clone());
        registry.register_collector(Box::new(self.census.clone()));
        registry.register("phase_seconds", "Time that objects spent in a phase, when they leave it", self.phases.clone());
        registry.register("ends", "Objects that reached their last phase", self.ends.clone());
        registry.register("cycle_seconds", "Duration of the cycles of a handler", self.cycles.clone());
        registry.register("handler_items", "Objects that a handler decided on", self.items.clone());
        registry.register("handler_outcomes", "Results that handlers recorded in histories", self.outcomes.clone());
        registry.register("handler_runs", "Runs of handlers, and whether they panicked", self.runs.clone());
        registry.register("commits", "Commits of statuses, and how they ended", self.commits.clone());
        registry.register("api_requests", "Requests to the API server, by verb and HTTP status", self.requests.clone());
        registry.register("api_writes", "Writes to the API server, by object", self.writes.clone());
        registry.register("api_write_failures", "Writes that failed, and why", self.failures.clone());
        registry.register("watch_restarts", "Watches that broke and were started again", self.restarts.clone());
        registry.register("events_dropped", "Events that did not fit into the queue", self.dropped_events.clone());
    }

    /// Counts a write before it is sent.
    pub fn wrote(&self, write: &'static str) {
        self.writes.get_or_create(&WriteLabels { write }).inc();
    }

    pub fn write_failed(&self, write: &'static str, failure: &'static str) {
        self.failures.get_or_create(&FailureLabels { write, failure }).inc();
    }

    /// Counts a request that was answered or given up.
    pub fn requested(&self, verb: Verb, code: Code) {
        self.requests.get_or_create(&RequestLabels { verb, code }).inc();
    }

    pub fn watch_restarted(&self, kind: &str) {
        self.restarts.get_or_create(&KindLabels { kind: kind.to_owned() }).inc();
    }

    pub fn committed(&self, kind: &'static str, result: CommitResult) {
        // A series that begins at 0 shows its first refusal as an increase.
        for other in CommitResult::iter() {
            self.commits.get_or_create(&CommitLabels { kind, result: other }).inc_by(u64::from(other == result));
        }
    }

    pub fn outcome(&self, handler: &'static str, partition: &str, result: HistoryResult) {
        let labels = ResultLabels { handler, group: partition.to_owned(), result: result.into() };
        self.outcomes.get_or_create(&labels).inc();
        self.remember([Series::Result(labels)]);
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
        let group = || partition.to_owned();
        let labels = PhaseLabels { kind, group: group(), phase };
        self.phases.get_or_create(&labels).observe(seconds);
        let labels = Series::Phase(labels);
        if !self.in_use().contains(&labels) {
            self.begin_alarming(partition);
        }
        let end = end.map(|(phase, reason)| EndLabels { kind, group: group(), phase, reason });
        if let Some(end) = &end {
            self.ends.get_or_create(end).inc();
        }
        self.remember([labels].into_iter().chain(end.map(Series::End)));
    }

    /// Begins the series of the ends that alerts count at 0: they look for an increase.
    fn begin_alarming(&self, partition: &str) {
        let labels = ALARMING.map(|(phase, reason)| EndLabels { kind: "session", group: partition.to_owned(), phase, reason });
        labels.iter().for_each(|labels| drop(self.ends.get_or_create(labels)));
        self.remember(labels.map(Series::End));
    }

    /// Counts a run that has ended.
    pub fn ran(&self, run: &Run) {
        let (handler, group) = (run.handler, || run.partition.clone());
        let results = [RunResult::Success, RunResult::Panicked];
        let results = results.map(|result| (result, ResultLabels { handler, group: group(), result: result.as_str() }));
        // A series that begins at 0 shows its first panic as an increase.
        for (result, labels) in &results {
            self.runs.get_or_create(labels).inc_by(u64::from(*result == run.result));
        }
        let items = ItemLabels { handler, group: group() };
        self.items.get_or_create(&items).inc_by(run.items as u64);
        self.remember(results.map(|(_, labels)| Series::Result(labels)).into_iter().chain([Series::Items(items)]));
    }

    /// Records how long a cycle of a handler took, for all partitions together.
    pub fn cycled(&self, handler: &'static str, duration: Duration) {
        self.cycles.get_or_create(&HandlerLabels { handler }).observe(duration.as_secs_f64());
    }

    /// Runs after the series are created. A concurrent `forget` then leaves labels without a series, never a series without
    /// labels.
    fn remember(&self, series: impl IntoIterator<Item = Series>) {
        self.in_use().extend(series);
    }

    fn in_use(&self) -> MutexGuard<'_, HashSet<Series>> {
        self.series.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the partitions that have series.
    pub fn partitions(&self) -> BTreeSet<String> {
        self.in_use().iter().map(|series| series.group().clone()).collect()
    }

    /// Removes all series of a partition.
    pub fn forget(&self, partition: &str) {
        let forgotten: Vec<Series> = self.in_use().extract_if(|series| series.group() == partition).collect();
        for series in &forgotten {
            match series {
                Series::Result(labels) => {
                    self.outcomes.remove(labels);
                    self.runs.remove(labels);
                }
                Series::Items(labels) => _ = self.items.remove(labels),
                Series::Phase(labels) => _ = self.phases.remove(labels),
                Series::End(labels) => _ = self.ends.remove(labels),
            }
        }
    }

    pub fn dropped_event(&self) {
        self.dropped_events.inc();
    }

    pub fn leads(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// Records how often the lease has changed its holder.
    pub fn lease_transitions(&self, transitions: i32) {
        self.transitions.get_or_create(&vec![]).set(transitions.into());
    }

    /// Records how long no leader had renewed the lease when this replica acquired it.
    pub fn took_over(&self, after: Duration) {
        self.takeover.set(after.as_secs_f64());
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
mod tests;
