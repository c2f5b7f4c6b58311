//! What the operator counts, in Prometheus' notation.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Write {
    write: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Run {
    handler: &'static str,
    group: String,
    result: &'static str,
}

/// All metrics; cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    writes: Family<Write, Counter>,
    outcomes: Family<Run, Counter>,
    seconds: Family<Run, Counter<f64, AtomicU64>>,
    dropped_events: Counter,
    leader: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("sokovan");
        let (writes, outcomes, seconds) = (Family::default(), Family::default(), Family::default());
        let (dropped_events, leader) = (Counter::default(), Gauge::default());
        registry.register("api_writes", "Writes to the API server, by what is written", writes.clone());
        registry.register("handler_outcomes", "Sessions by handler, scaling group and result", outcomes.clone());
        registry.register("handler_seconds", "Time spent in handlers' cycles", Family::clone(&seconds));
        registry.register("events_dropped", "Events that found no room in the queue", Counter::clone(&dropped_events));
        registry.register("leader", "1 while this replica leads", leader.clone());
        Self { registry: Arc::new(registry), writes, outcomes, seconds, dropped_events, leader }
    }
}

impl Metrics {
    pub fn wrote(&self, what: &'static str) {
        self.writes.get_or_create(&Write { write: what }).inc();
    }

    pub fn outcome(&self, handler: &'static str, group: &str, result: &'static str) {
        self.outcomes.get_or_create(&Run { handler, group: group.to_owned(), result }).inc();
    }

    pub fn took(&self, handler: &'static str, group: &str, time: Duration) {
        let run = Run { handler, group: group.to_owned(), result: "cycle" };
        self.seconds.get_or_create(&run).inc_by(time.as_secs_f64());
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
