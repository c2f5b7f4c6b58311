//! What the operator counts, in Prometheus' notation.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::api::GroupName;
use crate::session::handlers::HandlerName;

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
        Self { registry: Arc::new(registry), writes, outcomes, runs, seconds, dropped_events, leader }
    }
}

impl Metrics {
    pub fn wrote(&self, what: &'static str) {
        self.writes.get_or_create(&Write { write: what }).inc();
    }

    pub fn outcome(&self, handler: &'static str, group: &str, result: &'static str) {
        self.outcomes.get_or_create(&Labels { handler, group: group.to_owned(), result }).inc();
    }

    /// A run is over.
    pub fn ran(&self, run: &Run) {
        let labels = Labels { handler: run.handler.as_str(), group: run.group.as_str().to_owned(), result: run.result.as_str() };
        self.runs.get_or_create(&labels).inc();
        self.seconds.get_or_create(&labels).inc_by(run.began.elapsed().as_secs_f64());
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
    use super::*;

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
