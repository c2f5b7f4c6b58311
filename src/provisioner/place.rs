//! The placement of one session: all of its kernels, or none.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::agents::{Rejection, Request, in_group, load_of, never, rejection, summarize};
use super::ledger::{Holding, Ledger, Load, PODS};
use crate::api::{Amount, ClusterMode, KernelAllocation, NodeName, Resources, ScalingGroup};
use crate::lifecycle::{Cause, Failure, Reason};
use crate::session::holding::claims;
use crate::session::kernels::{KernelSlot, expand};
use crate::session::snapshot::{SessionItem, Snapshot};
use crate::session::views::AgentView;

/// Gives a session its agents and counts them as taken; or says why not, and takes nothing.
pub fn place(snapshot: &Snapshot, ledger: &mut Ledger, item: &SessionItem) -> Result<Vec<KernelAllocation>, Failure> {
    let Some(group) = &snapshot.group else {
        let message = format!("scaling group {} does not exist", snapshot.group_name);
        return Err(Failure::fault(Reason::ScalingGroupNotFound, message));
    };
    let agents = candidates(snapshot, group, item);
    let slots = expand(&item.session.spec.kernels);
    check_designated(snapshot, &slots)?;
    let spec = &item.session.spec;
    let mut taken: BTreeMap<NodeName, (Resources, i64)> = BTreeMap::new();
    let mut allocation = Vec::with_capacity(slots.len());
    match spec.cluster_mode {
        ClusterMode::SingleNode => {
            let request = whole(&slots, spec.private)?;
            let node = pick(&agents, ledger, group, &request, &taken, "the session")?;
            taken.insert(node.clone(), (request.resources, slots.len() as i64));
            allocation.extend(slots.iter().map(|s| KernelAllocation { kernel: s.hostname.clone(), node: node.clone() }));
        }
        ClusterMode::MultiNode => {
            for slot in &slots {
                let request = Request {
                    resources: requests_of(slot),
                    architecture: slot.template.architecture.as_deref(),
                    designated: &slot.template.designated_agents,
                    private: spec.private,
                };
                let node = pick(&agents, ledger, group, &request, &taken, &slot.hostname)?;
                let (sum, count) = taken.entry(node.clone()).or_default();
                sum.add(&request.resources);
                *count += 1;
                allocation.push(KernelAllocation { kernel: slot.hostname.clone(), node });
            }
        }
    }
    let holding = Holding {
        namespace: item.namespace().to_owned(),
        access_key: spec.access_key.clone(),
        private: spec.private,
        active: true,
        volumes: claims(&item.session),
        agents: taken,
    };
    ledger.take(&item.uid(), &snapshot.tenancy.tenants(&item.session), holding);
    Ok(allocation)
}

/// The group's agents by name, those that failed this session last.
fn candidates<'a>(snapshot: &'a Snapshot, group: &ScalingGroup, item: &SessionItem) -> Vec<&'a Arc<AgentView>> {
    let failed = item.session.status.iter().flat_map(|status| &status.failed_agents);
    let avoided: Vec<_> = failed.filter(|agent| agent.until > snapshot.now).map(|agent| &agent.node).collect();
    let (last, first): (Vec<_>, Vec<_>) =
        snapshot.agents.values().filter(|agent| in_group(agent, group)).partition(|agent| avoided.contains(&&agent.name));
    first.into_iter().chain(last).collect()
}

fn requests_of(slot: &KernelSlot<'_>) -> Resources {
    let mut resources = Resources::from(&slot.template.resources);
    resources.set(PODS, Amount::from_units(1));
    resources
}

/// The sum of all kernels, as one request to one agent.
fn whole<'a>(slots: &[KernelSlot<'a>], private: bool) -> Result<Request<'a>, Failure> {
    let mut request = Request { private, ..Request::default() };
    for slot in slots {
        request.resources.add(&requests_of(slot));
        let wanted = slot.template.architecture.as_deref();
        if wanted.is_some() && request.architecture.is_some() && wanted != request.architecture {
            let message = "the kernels of a SingleNode session name different architectures";
            return Err(Failure::fault(Reason::NoAvailableAgent, message));
        }
        request.architecture = request.architecture.or(wanted);
        if !slot.template.designated_agents.is_empty() {
            request.designated = &slot.template.designated_agents;
        }
    }
    Ok(request)
}

/// A designated agent that does not exist is the session's fault: it is told at once.
fn check_designated(snapshot: &Snapshot, slots: &[KernelSlot<'_>]) -> Result<(), Failure> {
    for slot in slots {
        let designated = &slot.template.designated_agents;
        if !designated.is_empty() && !designated.iter().any(|node| snapshot.agents.contains_key(node)) {
            let names = designated.iter().map(NodeName::as_str).collect::<Vec<_>>().join(", ");
            let message = format!("{}: none of its designated agents exists: {names}", slot.hostname);
            return Err(Failure::fault(Reason::DesignatedAgentNotFound, message));
        }
    }
    Ok(())
}

/// The first agent that takes the request, besides what this session took already.
fn pick(
    agents: &[&Arc<AgentView>],
    ledger: &Ledger,
    group: &ScalingGroup,
    request: &Request<'_>,
    taken: &BTreeMap<NodeName, (Resources, i64)>,
    who: &str,
) -> Result<NodeName, Failure> {
    let empty = Load::default();
    let mut rejections = vec![];
    for agent in agents {
        let load = load_of(ledger, agent, &empty);
        let refused = match taken.get(&agent.name) {
            None => rejection(agent, load, group, request),
            Some((own, _)) => {
                let mut load = load.clone();
                load.used.add(own);
                rejection(agent, &load, group, request)
            }
        };
        match refused {
            None => return Ok(agent.name.clone()),
            Some(reason) => rejections.push(reason),
        }
    }
    Err(refuse(agents, request, &rejections, who))
}

/// Whether waiting could help decides the cause.
fn refuse(agents: &[&Arc<AgentView>], request: &Request<'_>, rejections: &[Rejection], who: &str) -> Failure {
    let total = agents.len();
    let nevers: Vec<_> = agents.iter().filter_map(|agent| never(agent, request)).collect();
    if nevers.len() == total {
        let message = format!("{who} fits no agent of the group, even an empty one: {}", summarize(&nevers, total));
        return Failure::fault(Reason::NoAvailableAgent, message);
    }
    let message = format!("no agent has room for {who} ({}): {}", request.resources, summarize(rejections, total));
    Failure::new(Cause::Capacity, Reason::NoAvailableAgent, message)
}
