//! Views of nodes: their resources and their liveness.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::images::Images;
use crate::api::{NodeName, Resources};

#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeView {
    pub name: NodeName,
    pub allocatable: Resources,
    pub architecture: String,
    pub labels: BTreeMap<String, String>,
    pub taints: Vec<Taint>,
    pub unschedulable: bool,
    pub ready: bool,
    pub not_ready_since: Option<DateTime<Utc>>,
    /// Since when it is ready again, if it was not for some time after it had joined.
    pub back_since: Option<DateTime<Utc>>,
    /// Whether its kubelet sends no heartbeats, whatever its status says.
    pub stale: bool,
    pub images: Images,
}

/// A node's taint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taint {
    pub key: String,
    pub value: String,
    pub effect: String,
}

/// Whether a node is alive. See docs/lifecycle.md#lost-nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    Alive,
    /// Not ready, but not for long enough to count as lost. It is lost at `lost_at`.
    Doubtful {
        lost_at: Option<DateTime<Utc>>,
    },
    /// Not ready for too long; its kernels may still run.
    Lost,
    /// Ready by its status, but its kubelet sends no heartbeats; its kernels may still run.
    Stale,
    /// Deleted, or tainted out-of-service: nothing runs there any more.
    Gone,
}

impl Liveness {
    pub fn is_lost(self) -> bool {
        matches!(self, Self::Lost | Self::Stale | Self::Gone)
    }

    /// Describes a lost, stale or deleted node. Returns None for other nodes.
    pub fn trouble(self, node: &str, stale: Duration) -> Option<String> {
        match self {
            Self::Alive | Self::Doubtful { .. } => None,
            Self::Lost => Some(format!("node {node} does not answer")),
            Self::Stale => Some(format!("the kubelet of node {node} has sent no heartbeat for {} s", stale.as_secs())),
            Self::Gone => Some(format!("node {node} is gone")),
        }
    }
}

/// The taint by which an admin declares that nothing runs on a node any more.
pub const TAINT_OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

impl NodeView {
    /// Whether both differ in nothing that decides where a session may run.
    pub fn is_same_place_as(&self, other: &Self) -> bool {
        Self { images: other.images.clone(), ..self.clone() } == *other
    }

    pub fn has_labels(&self, labels: &BTreeMap<String, String>) -> bool {
        labels.iter().all(|(key, value)| self.labels.get(key) == Some(value))
    }

    /// Whether it is ready, alive and not cordoned.
    pub fn takes_pods(&self) -> bool {
        self.ready && !self.stale && !self.unschedulable
    }

    pub fn liveness(&self, lost_after: std::time::Duration, now: DateTime<Utc>) -> Liveness {
        if self.taints.iter().any(|taint| taint.key == TAINT_OUT_OF_SERVICE) {
            return Liveness::Gone;
        }
        if self.ready {
            return if self.stale { Liveness::Stale } else { Liveness::Alive };
        }
        let lost_at = self.not_ready_since.and_then(|since| Some(since + TimeDelta::from_std(lost_after).ok()?));
        if lost_at.is_some_and(|lost_at| lost_at <= now) { Liveness::Lost } else { Liveness::Doubtful { lost_at } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::views::testing::{node, now};

    #[test]
    fn a_node_is_lost_after_its_timeout_and_gone_once_tainted_out_of_service() {
        let minute = std::time::Duration::from_secs(60);
        let alive = node("node-1", 4);
        assert_eq!(alive.liveness(minute, now()), Liveness::Alive);
        assert_eq!(NodeView { stale: true, ..alive.clone() }.liveness(minute, now()), Liveness::Stale);
        let not_ready_for = |seconds| {
            let since = now() - TimeDelta::seconds(seconds);
            NodeView { ready: false, not_ready_since: Some(since), ..alive.clone() }.liveness(minute, now())
        };
        assert_eq!(not_ready_for(59), Liveness::Doubtful { lost_at: Some(now() + TimeDelta::seconds(1)) });
        assert_eq!(not_ready_for(60), Liveness::Lost);
        let taint = Taint { key: TAINT_OUT_OF_SERVICE.into(), value: "nodeshutdown".into(), effect: "NoExecute".into() };
        assert_eq!(NodeView { taints: vec![taint], ..alive.clone() }.liveness(minute, now()), Liveness::Gone);
    }
}
