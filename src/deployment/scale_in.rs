//! Scaling in: which replicas end first.

use std::cmp::Reverse;
use std::collections::HashMap;

use super::snapshot::Replica;
use crate::api::{ANNOTATION_DELETION_COST, RoutePhase};

/// Replicas in the order in which they end: without a node, unhealthy, being checked, on their way, running. Within a class: the
/// lowest `sokovan.dev/deletion-cost`, the lowest priority, the node with the most replicas, the newest.
pub fn in_order<'r>(replicas: &[&'r Replica]) -> Vec<&'r Replica> {
    let mut on_node: HashMap<_, usize> = HashMap::new();
    replicas.iter().filter_map(|replica| replica.node.as_ref()).for_each(|node| *on_node.entry(node).or_default() += 1);
    let key = |replica: &&Replica| {
        let crowd = replica.node.as_ref().and_then(|node| on_node.get(node)).copied().unwrap_or_default();
        (class(replica), deletion_cost(replica), priority(replica), Reverse(crowd), Reverse(replica.route.spec.ordinal))
    };
    let mut ordered = replicas.to_vec();
    ordered.sort_by_key(key);
    ordered
}

fn class(replica: &Replica) -> i32 {
    match replica.phase() {
        _ if replica.node.is_none() => 0,
        RoutePhase::Unhealthy => 1,
        RoutePhase::HealthChecking => 2,
        RoutePhase::Provisioning => 3,
        RoutePhase::Running => 4,
        RoutePhase::Evicting | RoutePhase::Terminating | RoutePhase::Terminated | RoutePhase::Failed => 0,
    }
}

fn deletion_cost(replica: &Replica) -> i64 {
    let annotations = replica.route.metadata.annotations.as_ref();
    annotations.and_then(|all| all.get(ANNOTATION_DELETION_COST)).and_then(|cost| cost.parse().ok()).unwrap_or(0)
}

fn priority(replica: &Replica) -> i32 {
    replica.session.as_ref().map_or(0, |session| session.spec.priority)
}
