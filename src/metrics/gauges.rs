//! The gauges: numbers that are counted when Prometheus asks.

use std::fmt;
use std::sync::{Arc, OnceLock};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;
use strum::{EnumIter, IntoEnumIterator};

/// A number that is counted when Prometheus asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumIter)]
pub enum Gauge {
    Sessions,
    SessionsPending,
    OldestPending,
    Nodes,
    NodesReady,
    NodesCordoned,
    NodesSilent,
    Allocatable,
    Allocated,
    Deployments,
    Routes,
    WatchLag,
    TenantUsed,
    TenantLimit,
}

impl Gauge {
    fn name(self) -> &'static str {
        match self {
            Self::Sessions => "sessions",
            Self::SessionsPending => "sessions_pending",
            Self::OldestPending => "oldest_pending_seconds",
            Self::Nodes => "nodes",
            Self::NodesReady => "nodes_ready",
            Self::NodesCordoned => "nodes_cordoned",
            Self::NodesSilent => "nodes_silent",
            Self::Allocatable => "allocatable",
            Self::Allocated => "allocated",
            Self::Deployments => "deployments",
            Self::Routes => "routes",
            Self::WatchLag => "watch_lag_seconds",
            Self::TenantUsed => "tenant_used",
            Self::TenantLimit => "tenant_limit",
        }
    }

    fn help(self) -> &'static str {
        match self {
            Self::Sessions => "Sessions by scaling group and phase",
            Self::SessionsPending => "Pending sessions by scaling group, reason and cause",
            Self::OldestPending => "Age of the session that has been pending the longest",
            Self::Nodes => "Nodes of a scaling group",
            Self::NodesReady => "Nodes of a scaling group that are ready and not cordoned",
            Self::NodesCordoned => "Nodes of a scaling group that are cordoned",
            Self::NodesSilent => "Nodes without a recent heartbeat",
            Self::Allocatable => {
                "Allocatable amount of each resource on the nodes of a scaling group, in cores, bytes or devices"
            }
            Self::Allocated => "Amount of each resource that sessions and foreign pods use on the nodes of a scaling group",
            Self::Deployments => "Deployments by phase",
            Self::Routes => "Replicas of deployments by the phase of their routes",
            Self::WatchLag => "Age of the oldest status write that the watch of its kind has not delivered yet",
            Self::TenantUsed => "Amount of each resource that the sessions of a tenant occupy",
            Self::TenantLimit => "Amount of each resource that the sessions of a tenant may occupy",
        }
    }
}

/// One value of a gauge.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    gauge: Gauge,
    labels: Vec<(&'static str, String)>,
    value: f64,
}

impl Sample {
    pub fn new(gauge: Gauge, labels: &[(&'static str, String)], value: f64) -> Self {
        Self { gauge, labels: labels.to_vec(), value }
    }
}

type Count = Box<dyn Fn() -> Vec<Sample> + Send + Sync>;

/// Counts the gauges. Empty until somebody can count.
#[derive(Clone, Default)]
pub(super) struct Census(Arc<OnceLock<Count>>);

impl Census {
    /// Counts in this way from now on. The first call decides.
    pub fn count_by(&self, count: impl Fn() -> Vec<Sample> + Send + Sync + 'static) {
        _ = self.0.set(Box::new(count));
    }
}

impl fmt::Debug for Census {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Census")
    }
}

impl Collector for Census {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let samples = self.0.get().map(|count| count()).unwrap_or_default();
        for gauge in Gauge::iter() {
            let own: Vec<&Sample> = samples.iter().filter(|sample| sample.gauge == gauge).collect();
            if own.is_empty() {
                continue;
            }
            let mut metric = encoder.encode_descriptor(gauge.name(), gauge.help(), None, MetricType::Gauge)?;
            for sample in own {
                metric.encode_family(&sample.labels)?.encode_gauge(&sample.value)?;
            }
        }
        Ok(())
    }
}
