//! How a request is placed: in which parts, and whether the group could ever hold them.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::equivalence_class::{KernelRequest, Request};
use super::nodes::{Rejection, count};
use super::pool::{Index, Pool, PoolRequest};
use super::refusal::{Blocker, Refusal};
use super::scope::Scope;
use crate::api::hostname;
use crate::api::{ClusterMode, NodeName, Resources, whole};
use crate::lifecycle::{Cause, Reason};

/// How a request is placed: one step for each node-sized part of it.
pub struct Plan {
    pub steps: Vec<Part>,
    /// Once refused, refused for the whole cycle.
    pub refused: Option<Arc<Refusal>>,
}

/// Kernels with the same wish; those of a SingleNode session are one.
pub struct Part {
    who: String,
    pub resources: Resources,
    pub request: PoolRequest,
    /// Placed one after the other, each group of hostnames as one.
    pub hostnames: Vec<Vec<String>>,
}

/// The plan for a request.
pub fn plan(scope: &Scope<'_>, pool: &Pool<'_>, request: &Request) -> Plan {
    let refused = |refusal: Option<Refusal>| Plan { steps: vec![], refused: refusal.map(Arc::new) };
    if let Some(missing) = request.kernels.iter().find_map(|kernel| missing_agents(scope, kernel)) {
        return refused(Refusal::of(vec![missing]));
    }
    let kernels: Vec<KernelRequest> = request.kernels.iter().map(|kernel| with_overhead(scope, kernel)).collect();
    let hostnames = |kernel: &KernelRequest| (1..=kernel.replicas).map(|index| hostname(&kernel.role, index)).collect::<Vec<_>>();
    let steps: Vec<Part> = match request.mode {
        ClusterMode::SingleNode => match together(&kernels) {
            Err(blocker) => return refused(Refusal::of(vec![*blocker])),
            Ok(whole) => vec![Part {
                who: who("the session", scope),
                request: pool.request(scope.tenancy, request, &whole),
                resources: whole.resources,
                hostnames: vec![kernels.iter().flat_map(hostnames).collect()],
            }],
        },
        ClusterMode::MultiNode => {
            let part = |kernel: &KernelRequest| Part {
                who: who(&kernel.role, scope),
                request: pool.request(scope.tenancy, request, kernel),
                resources: kernel.resources.clone(),
                hostnames: hostnames(kernel).into_iter().map(|name| vec![name]).collect(),
            };
            kernels.iter().map(part).collect()
        }
    };
    let unfit = unfit_cause(scope);
    let refused = steps.iter().find_map(|part| impossible(pool, part, unfit)).or_else(|| too_much(pool, &steps, unfit));
    Plan { steps, refused: refused.map(Arc::new) }
}

/// A kernel's request with what the RuntimeClass adds to its pod.
fn with_overhead(scope: &Scope<'_>, kernel: &KernelRequest) -> KernelRequest {
    let mut kernel = kernel.clone();
    kernel.resources.add(&scope.overhead);
    kernel
}

fn who(what: &str, scope: &Scope<'_>) -> String {
    match &scope.group.spec.pod.runtime_class_name {
        Some(class) if !scope.overhead.is_zero() => format!("{what}, with the overhead of RuntimeClass {class},"),
        Some(_) | None => what.to_owned(),
    }
}

/// The sum of all kernels, as one request to one node.
fn together(kernels: &[KernelRequest]) -> Result<KernelRequest, Box<Blocker>> {
    let mut whole = KernelRequest {
        role: String::new(),
        replicas: 1,
        resources: Resources::default(),
        architecture: None,
        designated: vec![],
        claims: BTreeSet::new(),
    };
    for kernel in kernels {
        whole.claims.extend(kernel.claims.iter().cloned());
        whole.resources.add(&kernel.resources.times(i64::from(kernel.replicas)));
        if kernel.architecture.is_some() && whole.architecture.is_some() && kernel.architecture != whole.architecture {
            let message = "the kernels of a SingleNode session name different architectures";
            return Err(Box::new(
                contradiction(message).needing("one architecture for all its kernels, or clusterMode MultiNode"),
            ));
        }
        whole.architecture = whole.architecture.or_else(|| kernel.architecture.clone());
        if whole.designated.is_empty() {
            whole.designated.clone_from(&kernel.designated);
        } else if !kernel.designated.is_empty() {
            whole.designated.retain(|node| kernel.designated.contains(node));
            if whole.designated.is_empty() {
                let message = "the kernels of a SingleNode session designate different nodes";
                return Err(Box::new(contradiction(message).needing("one node for all its kernels, or clusterMode MultiNode")));
            }
        }
    }
    Ok(whole)
}

/// Only another spec would fit.
fn contradiction(message: impl Into<String>) -> Blocker {
    Blocker::fault("nodes", Reason::NoAvailableNode, message)
}

/// A request that no node can hold waits for other nodes, unless its scaling group says that it has failed.
fn unfit_cause(scope: &Scope<'_>) -> Cause {
    if scope.group.spec.fail_unfit { Cause::Fault } else { Cause::Hold }
}

fn unfit(cause: Cause, message: impl Into<String>) -> Blocker {
    Blocker::new("nodes", cause, Reason::NoAvailableNode, message)
}

/// A designated node that does not exist may be under repair, or not have joined yet.
fn missing_agents(scope: &Scope<'_>, kernel: &KernelRequest) -> Option<Blocker> {
    let designated = &kernel.designated;
    if designated.is_empty() || designated.iter().any(|node| scope.all_nodes.contains_key(node)) {
        return None;
    }
    let names = designated.iter().map(NodeName::as_str).collect::<Vec<_>>().join(", ");
    let message = format!("{}: none of its designated nodes exists: {names}", kernel.role);
    Some(Blocker::hold("nodes", Reason::DesignatedNodeNotFound, message).needing(format!("one of these nodes to join: {names}")))
}

/// The refusal of a part that all nodes of the group could not hold, even empty and ready. A group without nodes gives none.
fn impossible(pool: &Pool<'_>, part: &Part, cause: Cause) -> Option<Refusal> {
    let wanted = whole(part.hostnames.len());
    let mut holds: i64 = 0;
    for index in 0..pool.len() {
        holds = holds.saturating_add(pool.holds_empty(index, &part.request));
        if holds >= wanted {
            return None; // mostly after a few
        }
    }
    if pool.is_empty() {
        return None;
    }
    if holds > 0 {
        let message = format!("all {} nodes of the group, even empty, hold {holds} of {wanted} {} kernels", pool.len(), part.who);
        return Refusal::of(vec![unfit(cause, message).needing("fewer or smaller kernels, or more nodes in the group")]);
    }
    let nevers: Vec<Rejection> = (0..pool.len()).filter_map(|index| pool.never(index, &part.request)).collect();
    let needs: BTreeSet<&str> = nevers.iter().map(Rejection::needs).collect();
    let needs = needs.into_iter().collect::<Vec<_>>().join("; or ");
    let counts = count(nevers.into_iter(), pool.closed());
    let message = format!("{} fits no node of the group, even an empty one: {counts}", part.who);
    let refusal = Refusal::of(vec![unfit(cause, message).needing(needs)])?;
    Some(Refusal { nodes: Some(counts), ..refusal })
}

/// The refusal of a request that exceeds the sum of all nodes of the group, empty and ready.
fn too_much(pool: &Pool<'_>, steps: &[Part], cause: Cause) -> Option<Refusal> {
    let mut total = Resources::default();
    for part in steps {
        total.add(&part.resources.times(whole(part.hostnames.len())));
    }
    let (name, wanted, had) = pool.capacity.lacking(&total).filter(|_| !pool.is_empty())?;
    let message = format!("all {} nodes of the group have {name} {had} together, {wanted} are requested", pool.len());
    Refusal::of(vec![unfit(cause, message).needing("a smaller session, or more nodes in the group")])
}

/// The refusal when no node takes a kernel now. Nodes are not counted again for a session whose status says so already.
pub fn refuse(pool: &Pool<'_>, steps: &[Part], part: &Part, own: &[Index], reported: bool) -> Refusal {
    // Emptier nodes help only where those that are open could hold all kernels together.
    let requests = steps.iter().map(|part| (&part.request, whole(part.hostnames.len())));
    let cause = if pool.open_nodes_hold(requests) { Cause::Capacity } else { Cause::Hold };
    let rejections = (0..pool.len()).filter_map(|index| pool.rejection(index, &part.request, own));
    let counts = (!reported || cause == Cause::Hold).then(|| count(rejections, pool.closed()));
    let message = match &counts {
        _ if pool.is_empty() => "the scaling group has no nodes".to_owned(),
        None => format!("no node has room for {} ({})", part.who, part.resources),
        Some(counts) => format!("no node has room for {} ({}): {counts}", part.who, part.resources),
    };
    let blockers = vec![Blocker::new("nodes", cause, Reason::NoAvailableNode, message.clone())];
    Refusal { cause: Some(cause), reason: Reason::NoAvailableNode, message, blockers, nodes: counts }
}
