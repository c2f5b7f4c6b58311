//! The input of one cycle: a scaling group, its nodes and the tenants.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::nodes::in_group;
use crate::api::{GroupName, NodeName, Resources, ScalingGroup};
use crate::views::{NodeView, Tenancy};

pub struct Scope<'s> {
    pub now: DateTime<Utc>,
    pub group_name: &'s GroupName,
    pub group: &'s ScalingGroup,
    /// Every node of the cluster.
    pub all_nodes: &'s BTreeMap<NodeName, Arc<NodeView>>,
    /// The nodes of the scaling group, by name.
    pub nodes: Vec<&'s NodeView>,
    pub tenancy: &'s Tenancy,
    /// The sum of these nodes' allocatable resources.
    pub capacity: Resources,
    /// The overhead of the scaling group's RuntimeClass, per pod.
    pub overhead: Resources,
}

impl<'s> Scope<'s> {
    pub fn new(
        now: DateTime<Utc>,
        group_name: &'s GroupName,
        group: &'s ScalingGroup,
        all_nodes: &'s BTreeMap<NodeName, Arc<NodeView>>,
        tenancy: &'s Tenancy,
    ) -> Self {
        let class = tenancy.runtime_class(group);
        let runs_on = |node: &&NodeView| class.is_none_or(|class| node.has_labels(&class.node_selector));
        let members = all_nodes.values().map(Arc::as_ref).filter(|node| in_group(node, group));
        let nodes: Vec<&NodeView> = members.filter(runs_on).collect();
        let overhead = class.map(|class| class.overhead.clone()).unwrap_or_default();
        let mut capacity = Resources::default();
        nodes.iter().for_each(|node| capacity.add(&node.allocatable));
        Self { now, group_name, group, all_nodes, nodes, tenancy, capacity, overhead }
    }
}
