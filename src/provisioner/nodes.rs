//! Which nodes come into question for a kernel, and why the others do not.

use std::collections::BTreeMap;

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
    /// What this claim is bound to cannot be reached from it.
    VolumeElsewhere(String),
    /// It lacks this resource; what is left of it, at most where several are told together, and what the kernel wants.
    Lacks(ResourceName, Amount, Amount),
    Occupied,
    KeptPrivate,
}

impl std::fmt::Display for Rejection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotReady => f.write_str("not ready"),
            Self::Cordoned => f.write_str("cordoned"),
            Self::Tainted(key) => write!(f, "tainted {key}"),
            Self::NotDesignated => f.write_str("not designated"),
            Self::Architecture => f.write_str("architecture"),
            Self::VolumeElsewhere(claim) => write!(f, "volume of claim {claim} not reached from there"),
            Self::Lacks(name, left, wanted) => write!(f, "{name} {left} of {wanted} needed"),
            Self::Occupied => f.write_str("not empty, as a private session needs"),
            Self::KeptPrivate => f.write_str("kept for a private session"),
        }
    }
}

impl Rejection {
    /// What would have to change for a node to take the kernel ever.
    pub fn needs(&self) -> &'static str {
        match self {
            Self::NotDesignated => "designated nodes that are in the group",
            Self::Architecture => "another architecture, or nodes of that one in the group",
            Self::VolumeElsewhere(_) => "a node in the group from which the volume is reached",
            _ => "a smaller request, or a larger node in the group",
        }
    }
}

/// Whether a node belongs to a group.
pub fn in_group(node: &NodeView, group: &ScalingGroup) -> bool {
    node.has_labels(&group.spec.node_selector)
}

/// Whether the group's tolerations cover a taint that keeps pods away.
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

/// Why a node takes no kernel of its group at all, if so.
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

/// At most six reasons, the most frequent first; `closed` of the nodes take no kernel at all now. Of those that lack one
/// thing, the most that any of them has left speaks for all.
pub fn count(rejections: impl Iterator<Item = Rejection>, closed: usize) -> NodeCounts {
    let mut alike: BTreeMap<Rejection, (usize, Amount)> = BTreeMap::new();
    let mut total = 0;
    for rejection in rejections {
        let (rejection, left) = match rejection {
            Rejection::Lacks(name, left, wanted) => (Rejection::Lacks(name, Amount::ZERO, wanted), left),
            other => (other, Amount::ZERO),
        };
        let (count, most) = alike.entry(rejection).or_default();
        *count += 1;
        *most = left.max(*most);
        total += 1;
    }
    let with_most = |(rejection, (count, most))| match rejection {
        Rejection::Lacks(name, _, wanted) => (Rejection::Lacks(name, most, wanted), count),
        other => (other, count),
    };
    let mut ranked: Vec<(Rejection, usize)> = alike.into_iter().map(with_most).collect();
    ranked.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let more: usize = ranked.iter().skip(MAX_REASONS).map(|(_, count)| count).sum();
    let reported = ranked.into_iter().take(MAX_REASONS).map(|(rejection, count)| (rejection.to_string(), count));
    let rest = (more > 0).then(|| ("other reasons".to_owned(), more));
    NodeCounts { total, closed, reasons: reported.chain(rest).collect() }
}

/// Most reasons told of nodes.
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
    fn agents_that_lack_the_same_are_told_together_whatever_each_has_left() {
        let lacks = |left: i64| Rejection::Lacks(ResourceName::Memory, Amount::from_units(left), Amount::from_units(4096));
        let rejections = (1..=40).map(lacks).chain([Rejection::NotReady, Rejection::NotReady]);
        assert_eq!(count(rejections, 2).to_string(), "40 of 42: memory 40 of 4Ki needed; 2 of 42: not ready");
    }
}
