//! The state of node heartbeats.

use std::collections::{BTreeSet, HashMap};

use chrono::{DateTime, Utc};

use crate::api::NodeName;

/// When the status of each node was last written, by the node's clock.
pub type Statuses = HashMap<NodeName, DateTime<Utc>>;

/// The state of node heartbeats.
#[derive(Default)]
pub struct Heartbeats {
    /// The nodes without a recent heartbeat.
    pub(in crate::cluster) stale: BTreeSet<NodeName>,
    pub(in crate::cluster) statuses: Statuses,
}

impl Heartbeats {
    pub fn is_stale(&self, node: &NodeName) -> bool {
        self.stale.contains(node)
    }

    pub fn heard(&mut self, node: &NodeName, at: DateTime<Utc>) {
        self.statuses.insert(node.clone(), at);
    }

    pub fn forget(&mut self, node: &NodeName) {
        self.statuses.remove(node);
    }
}
