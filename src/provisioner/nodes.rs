//! Decides which nodes belong to a scaling group and accept kernels, and names the reason for each node that does not.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::refusal::NodeCounts;
use crate::api::{Amount, ResourceName, ScalingGroup};
use crate::views::{NodeView, Taint};

/// Why a node does not take a kernel.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rejection {
    NotReady,
    Cordoned,
    Tainted(String),
    NotDesignated,
    Architecture,
    /// The node cannot reach the volume of this claim.
    VolumeElsewhere(String),
    /// The node lacks this resource. The amounts are what is free and what the kernel requests. When nodes are counted
    /// together, the first amount is the largest among them.
    Lacks(ResourceName, Amount, Amount),
    Occupied,
    KeptPrivate,
    /// It runs a replica of the same deployment, and replicas must not share a node.
    HasReplica,
}

impl std::fmt::Display for Rejection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotReady => f.write_str("not ready"),
            Self::Cordoned => f.write_str("cordoned"),
            Self::Tainted(key) => write!(f, "tainted {key}"),
            Self::NotDesignated => f.write_str("not designated"),
            Self::Architecture => f.write_str("architecture"),
            Self::VolumeElsewhere(claim) => write!(f, "cannot reach the volume of claim {claim}"),
            Self::Lacks(name, left, wanted) => write!(f, "{name} {left} of {wanted} needed"),
            Self::Occupied => f.write_str("not empty, and the session is private"),
            Self::KeptPrivate => f.write_str("occupied by a private session"),
            Self::HasReplica => f.write_str("runs another replica of the deployment, whose spread is Required"),
        }
    }
}

impl Rejection {
    /// Returns what would have to change before a node could ever take the kernel.
    pub fn needs(&self) -> &'static str {
        match self {
            Self::NotDesignated => "designated nodes that are in the scaling group",
            Self::Architecture => "another architecture, or nodes of that architecture in the scaling group",
            Self::VolumeElsewhere(_) => "a node in the scaling group that can reach the volume",
            _ => "a smaller request, or a larger node in the scaling group",
        }
    }
}

/// Below this many nodes, and below this share, the nodes themselves are at fault.
const OUTAGE_NODES: usize = 3;
const OUTAGE_PERCENT: usize = 55;

/// Why silence proves nothing about single nodes: most nodes of a scaling group are not ready, so the network or the API server
/// is broken. Nothing is then counted as lost. A node that came back within `lost_after` still belongs to the outage, so that
/// those that come back a little later are not lost meanwhile.
pub fn outage<'n>(
    nodes: impl IntoIterator<Item = &'n NodeView>,
    group: &ScalingGroup,
    lost_after: Duration,
    now: DateTime<Utc>,
) -> Option<String> {
    let (mut all, mut silent, mut back) = (0, 0, 0);
    let recently = now - TimeDelta::from_std(lost_after).unwrap_or_default();
    for node in nodes.into_iter().filter(|node| in_group(node, group)) {
        all += 1;
        silent += usize::from(!node.ready);
        back += usize::from(node.ready && node.back_since.is_some_and(|since| since > recently));
    }
    let affected = silent + back;
    let is_outage = silent > 0 && affected >= OUTAGE_NODES && affected * 100 >= all * OUTAGE_PERCENT;
    let back = if back > 0 { format!(" and {back} have just come back") } else { String::new() };
    is_outage.then(|| {
        format!("{silent} of {all} nodes of the scaling group are not ready{back}: the network or the API server may be at fault")
    })
}

/// Whether a node belongs to a scaling group.
pub fn in_group(node: &NodeView, group: &ScalingGroup) -> bool {
    node.has_labels(&group.spec.node_selector)
}

/// Whether the scaling group tolerates a taint, or the taint does not keep pods away.
fn tolerated(taint: &Taint, group: &ScalingGroup) -> bool {
    if taint.effect == "PreferNoSchedule" {
        return true;
    }
    group.spec.pod.tolerations.iter().any(|toleration| {
        let effect = toleration.effect.as_deref().unwrap_or_default();
        let key = toleration.key.as_deref().unwrap_or_default();
        let exists = toleration.operator.as_deref() == Some("Exists");
        (effect.is_empty() || effect == taint.effect)
            && (key == taint.key || (key.is_empty() && exists))
            && (exists || toleration.value.as_deref().unwrap_or_default() == taint.value)
    })
}

/// Returns why a node takes no kernel of its scaling group at all, or None if it does.
pub fn closed(node: &NodeView, group: &ScalingGroup) -> Option<Rejection> {
    if node.unschedulable {
        return Some(Rejection::Cordoned);
    }
    if !node.ready || node.stale {
        return Some(Rejection::NotReady);
    }
    let taint = node.taints.iter().find(|taint| !tolerated(taint, group));
    taint.map(|taint| Rejection::Tainted(taint.key.clone()))
}

/// Counts rejections by reason: at most six reasons, the most frequent first. `closed` nodes take no kernel at all now.
/// Nodes that lack the same resource are counted together, and the reason shows the largest free amount among them.
pub fn count(rejections: impl Iterator<Item = Rejection>, closed: usize) -> NodeCounts {
    let mut groups: BTreeMap<Rejection, (usize, Amount)> = BTreeMap::new();
    let mut total = 0;
    for rejection in rejections {
        let (rejection, left) = match rejection {
            Rejection::Lacks(name, left, wanted) => (Rejection::Lacks(name, Amount::ZERO, wanted), left),
            other => (other, Amount::ZERO),
        };
        let (count, max_left) = groups.entry(rejection).or_default();
        *count += 1;
        *max_left = left.max(*max_left);
        total += 1;
    }
    let with_max = |(rejection, (count, max_left))| match rejection {
        Rejection::Lacks(name, _, wanted) => (Rejection::Lacks(name, max_left, wanted), count),
        other => (other, count),
    };
    let mut ranked: Vec<(Rejection, usize)> = groups.into_iter().map(with_max).collect();
    ranked.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let more: usize = ranked.iter().skip(MAX_REASONS).map(|(_, count)| count).sum();
    let reported = ranked.into_iter().take(MAX_REASONS).map(|(rejection, count)| (rejection.to_string(), count));
    let rest = (more > 0).then(|| ("other reasons".to_owned(), more));
    NodeCounts { total, closed, reasons: reported.chain(rest).collect() }
}

const MAX_REASONS: usize = 6;

impl std::fmt::Display for NodeCounts {
    /// `2 of 3: cpu 1 of 4 needed; 1 of 3: cordoned`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts: Vec<String> =
            self.reasons.iter().map(|(reason, count)| format!("{count} of {}: {reason}", self.total)).collect();
        f.write_str(&parts.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_that_lack_the_same_resource_are_counted_together() {
        let lacks = |left: i64| Rejection::Lacks(ResourceName::Memory, Amount::from_units(left), Amount::from_units(4096));
        let rejections = (1..=40).map(lacks).chain([Rejection::NotReady, Rejection::NotReady]);
        assert_eq!(count(rejections, 2).to_string(), "40 of 42: memory 40 of 4Ki needed; 2 of 42: not ready");
    }

    #[test]
    fn most_nodes_not_ready_is_an_outage_and_one_or_two_never_are() {
        let group = serde_json::from_value(serde_json::json!({})).expect("a group");
        let group = ScalingGroup::new("default", group);
        let now = DateTime::from_timestamp(1_700_000_000, 0).expect("a time");
        let outage_of = |ready: usize, back: (usize, i64), silent: usize| {
            let back_since = Some(now - TimeDelta::seconds(back.1));
            let steady = (0..ready).map(|_| NodeView { ready: true, ..NodeView::default() });
            let returned = (0..back.0).map(|_| NodeView { ready: true, back_since, ..NodeView::default() });
            let silent = (0..silent).map(|_| NodeView::default());
            let nodes: Vec<NodeView> = steady.chain(returned).chain(silent).collect();
            outage(&nodes, &group, Duration::from_secs(60), now).is_some()
        };
        let silent = |ready, silent| outage_of(ready, (0, 0), silent);
        assert_eq!([silent(0, 2), silent(3, 3), silent(2, 3), silent(0, 3)], [false, false, true, true]);
        assert!(outage_of(2, (6, 59), 2), "most nodes have just come back, and two are a little later");
        assert!(!outage_of(2, (6, 61), 2), "the others are back for long");
        assert!(!outage_of(0, (8, 10), 0), "all are back");
    }
}
