//! Which agents come into question for a request, and why the others do not.

use std::collections::BTreeMap;

use super::{Ledger, Load};
use crate::api::{Amount, NodeName, Resources, ScalingGroup};
use crate::session::views::{AgentView, Taint};

/// Why an agent does not take a request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rejection {
    NotReady,
    Cordoned,
    Tainted(String),
    NotDesignated,
    Architecture,
    /// It lacks this resource; what is left of it, and what the request wants.
    Lacks(String, Amount, Amount),
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
            Self::Lacks(name, left, wanted) => write!(f, "{name} {left} of {wanted} needed"),
            Self::Occupied => f.write_str("not empty, as a private session needs"),
            Self::KeptPrivate => f.write_str("kept for a private session"),
        }
    }
}

/// What a kernel, or a whole session on one agent, asks for.
#[derive(Clone, Debug, Default)]
pub struct Request<'a> {
    pub resources: Resources,
    pub architecture: Option<&'a str>,
    pub designated: &'a [NodeName],
    pub private: bool,
}

/// Whether a node belongs to a group.
pub fn in_group(agent: &AgentView, group: &ScalingGroup) -> bool {
    group.spec.node_selector.iter().all(|(key, value)| agent.labels.get(key) == Some(value))
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

/// Why an agent does not take a request now, or None if it does.
pub fn rejection(agent: &AgentView, load: &Load, group: &ScalingGroup, request: &Request<'_>) -> Option<Rejection> {
    if !request.designated.is_empty() && !request.designated.contains(&agent.name) {
        return Some(Rejection::NotDesignated);
    }
    if request.architecture.is_some_and(|wanted| wanted != agent.architecture) {
        return Some(Rejection::Architecture);
    }
    if agent.unschedulable {
        return Some(Rejection::Cordoned);
    }
    if !agent.ready {
        return Some(Rejection::NotReady);
    }
    if let Some(taint) = agent.taints.iter().find(|taint| !tolerated(taint, group)) {
        return Some(Rejection::Tainted(taint.key.clone()));
    }
    if request.private && (!load.sessions.is_empty() || load.foreign_pods > 0) {
        return Some(Rejection::Occupied);
    }
    if load.sessions.values().any(|private| *private) {
        return Some(Rejection::KeptPrivate);
    }
    let mut left = agent.allocatable.clone();
    left.sub(&load.used);
    left.lacking(&request.resources).map(|(name, wanted, left)| Rejection::Lacks(name.to_owned(), left.max(Amount::ZERO), wanted))
}

/// Why an agent could never take a request, were it empty and well; None if it could.
pub fn never(agent: &AgentView, request: &Request<'_>) -> Option<Rejection> {
    if !request.designated.is_empty() && !request.designated.contains(&agent.name) {
        return Some(Rejection::NotDesignated);
    }
    if request.architecture.is_some_and(|wanted| wanted != agent.architecture) {
        return Some(Rejection::Architecture);
    }
    let lacking = agent.allocatable.lacking(&request.resources);
    lacking.map(|(name, wanted, has)| Rejection::Lacks(name.to_owned(), has, wanted))
}

/// `2 agents: cpu 1 of 4 needed; 1 agent: cordoned`: at most six reasons, the most frequent first.
pub fn summarize(rejections: &[Rejection], total: usize) -> String {
    let mut counts: BTreeMap<&Rejection, usize> = BTreeMap::new();
    for rejection in rejections {
        *counts.entry(rejection).or_default() += 1;
    }
    let mut ranked: Vec<_> = counts.into_iter().collect();
    ranked.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let more = ranked.len().saturating_sub(6);
    let mut parts: Vec<String> =
        ranked.iter().take(6).map(|(rejection, count)| format!("{count} of {total}: {rejection}")).collect();
    if more > 0 {
        parts.push(format!("and {more} more reasons"));
    }
    parts.join("; ")
}

/// The load of an agent, empty if nothing is taken there.
pub fn load_of<'a>(ledger: &'a Ledger, agent: &AgentView, empty: &'a Load) -> &'a Load {
    ledger.load(&agent.name).unwrap_or(empty)
}
