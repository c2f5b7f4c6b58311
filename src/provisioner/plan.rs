//! Splits a request into parts that fit on one node, and refuses requests that the scaling group could never hold.

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

/// The parts of a request, in the order of allocation.
pub struct Plan {
    pub steps: Vec<Part>,
    /// Nothing is freed within a cycle, so a refusal holds until the cycle ends.
    pub refused: Option<Arc<Refusal>>,
}

/// Kernels of one role, or all kernels of a SingleNode session together.
pub struct Part {
    /// Names the part in messages.
    subject: String,
    pub resources: Resources,
    pub request: PoolRequest,
    /// One list for each placement. The kernels of a list go to the same node.
    pub hostnames: Vec<Vec<String>>,
}

/// Returns the plan for a request.
pub fn plan(scope: &Scope<'_>, pool: &Pool<'_>, request: &Request) -> Plan {
    let refused = |refusal: Option<Refusal>| Plan { steps: vec![], refused: refusal.map(Arc::new) };
    if let Some(missing) = request.kernels.iter().find_map(|kernel| missing_nodes(scope, kernel)) {
        return refused(Refusal::of(vec![missing]));
    }
    let kernels: Vec<KernelRequest> = request.kernels.iter().map(|kernel| with_overhead(scope, kernel)).collect();
    let hostnames = |kernel: &KernelRequest| (1..=kernel.replicas).map(|index| hostname(&kernel.role, index)).collect::<Vec<_>>();
    let steps: Vec<Part> = match request.mode {
        ClusterMode::SingleNode => match combined(&kernels) {
            Err(blocker) => return refused(Refusal::of(vec![*blocker])),
            Ok(sum) => vec![Part {
                subject: subject("the session", scope),
                request: pool.request(scope.tenancy, request, &sum),
                resources: sum.resources,
                hostnames: vec![kernels.iter().flat_map(hostnames).collect()],
            }],
        },
        ClusterMode::MultiNode => {
            let part = |kernel: &KernelRequest| Part {
                subject: subject(&kernel.role, scope),
                request: pool.request(scope.tenancy, request, kernel),
                resources: kernel.resources.clone(),
                hostnames: hostnames(kernel).into_iter().map(|name| vec![name]).collect(),
            };
            kernels.iter().map(part).collect()
        }
    };
    let unfit = unfit_cause(scope);
    let refused = steps.iter().find_map(|part| unfit_part(pool, part, unfit)).or_else(|| unfit_sum(pool, &steps, unfit));
    Plan { steps, refused: refused.map(Arc::new) }
}

/// Adds the overhead of the RuntimeClass to a kernel's request.
fn with_overhead(scope: &Scope<'_>, kernel: &KernelRequest) -> KernelRequest {
    let mut kernel = kernel.clone();
    kernel.resources.add(&scope.overhead);
    kernel
}

fn subject(name: &str, scope: &Scope<'_>) -> String {
    match &scope.group.spec.pod.runtime_class_name {
        Some(class) if !scope.overhead.is_zero() => format!("{name}, with the overhead of RuntimeClass {class},"),
        Some(_) | None => name.to_owned(),
    }
}

/// Combines all kernels into one request to one node.
fn combined(kernels: &[KernelRequest]) -> Result<KernelRequest, Box<Blocker>> {
    let mut sum = KernelRequest {
        role: String::new(),
        replicas: 1,
        resources: Resources::default(),
        architecture: None,
        designated: vec![],
        claims: BTreeSet::new(),
    };
    for kernel in kernels {
        sum.claims.extend(kernel.claims.iter().cloned());
        sum.resources.add(&kernel.resources.times(i64::from(kernel.replicas)));
        if kernel.architecture.is_some() && sum.architecture.is_some() && kernel.architecture != sum.architecture {
            let message = "the kernels of a SingleNode session name different architectures";
            return Err(Box::new(
                contradiction(message).needing("one architecture for all its kernels, or clusterMode MultiNode"),
            ));
        }
        sum.architecture = sum.architecture.or_else(|| kernel.architecture.clone());
        if sum.designated.is_empty() {
            sum.designated.clone_from(&kernel.designated);
        } else if !kernel.designated.is_empty() {
            sum.designated.retain(|node| kernel.designated.contains(node));
            if sum.designated.is_empty() {
                let message = "the kernels of a SingleNode session designate different nodes";
                return Err(Box::new(contradiction(message).needing("one node for all its kernels, or clusterMode MultiNode")));
            }
        }
    }
    Ok(sum)
}

/// Only a changed spec can resolve it.
fn contradiction(message: impl Into<String>) -> Blocker {
    Blocker::fault("nodes", Reason::NoAvailableNode, message)
}

/// A request that no node can hold waits for other nodes, unless the scaling group sets `failUnfit`.
fn unfit_cause(scope: &Scope<'_>) -> Cause {
    if scope.group.spec.fail_unfit { Cause::Fault } else { Cause::Hold }
}

fn unfit(cause: Cause, message: impl Into<String>) -> Blocker {
    Blocker::new("nodes", cause, Reason::NoAvailableNode, message)
}

/// A designated node that does not exist may be under repair, or not have joined yet.
fn missing_nodes(scope: &Scope<'_>, kernel: &KernelRequest) -> Option<Blocker> {
    let designated = &kernel.designated;
    if designated.is_empty() || designated.iter().any(|node| scope.all_nodes.contains_key(node)) {
        return None;
    }
    let names = designated.iter().map(NodeName::as_str).collect::<Vec<_>>().join(", ");
    let message = format!("{}: none of its designated nodes exists: {names}", kernel.role);
    Some(Blocker::hold("nodes", Reason::DesignatedNodeNotFound, message).needing(format!("one of these nodes to join: {names}")))
}

/// Refuses a part that the nodes of the scaling group could not hold, even empty and ready. A scaling group without nodes
/// refuses nothing here.
fn unfit_part(pool: &Pool<'_>, part: &Part, cause: Cause) -> Option<Refusal> {
    let wanted = whole(part.hostnames.len());
    let mut holds: i64 = 0;
    for index in 0..pool.len() {
        holds = holds.saturating_add(pool.count_when_empty(index, &part.request));
        if holds >= wanted {
            return None; // usually after a few nodes
        }
    }
    if pool.is_empty() {
        return None;
    }
    if holds > 0 {
        let (nodes, subject) = (pool.len(), &part.subject);
        let message = format!("all {nodes} nodes of the scaling group, even empty, hold {holds} of {wanted} {subject} kernels");
        return Refusal::of(vec![unfit(cause, message).needing("fewer or smaller kernels, or more nodes in the scaling group")]);
    }
    let rejections: Vec<Rejection> = (0..pool.len()).filter_map(|index| pool.permanent_rejection(index, &part.request)).collect();
    let needs: BTreeSet<&str> = rejections.iter().map(Rejection::needs).collect();
    let needs = needs.into_iter().collect::<Vec<_>>().join("; or ");
    let counts = count(rejections.into_iter(), pool.closed());
    let message = format!("{} fits no node of the scaling group, even an empty one: {counts}", part.subject);
    let refusal = Refusal::of(vec![unfit(cause, message).needing(needs)])?;
    Some(Refusal { nodes: Some(counts), ..refusal })
}

/// Refuses a request that exceeds the sum of all nodes of the scaling group, even empty and ready.
fn unfit_sum(pool: &Pool<'_>, steps: &[Part], cause: Cause) -> Option<Refusal> {
    let mut total = Resources::default();
    for part in steps {
        total.add(&part.resources.times(whole(part.hostnames.len())));
    }
    let (name, wanted, had) = pool.capacity.lacking(&total).filter(|_| !pool.is_empty())?;
    let message = format!("{name} {wanted} requested, all {} nodes of the scaling group together have {had}", pool.len());
    Refusal::of(vec![unfit(cause, message).needing("a smaller session, or more nodes in the scaling group")])
}

/// Refuses a part that no node has enough free resources for. If the session's status already reports that, the nodes are
/// not counted again.
pub fn refuse(pool: &Pool<'_>, steps: &[Part], part: &Part, own: &[Index], reported: bool) -> Refusal {
    // Freed resources help only if the nodes that take kernels now could hold the session when empty.
    let requests = steps.iter().map(|part| (&part.request, whole(part.hostnames.len())));
    let cause = if pool.open_nodes_hold(requests) { Cause::Capacity } else { Cause::Hold };
    let rejections = (0..pool.len()).filter_map(|index| pool.rejection(index, &part.request, own));
    let counts = (!reported || cause == Cause::Hold).then(|| count(rejections, pool.closed()));
    let message = match &counts {
        _ if pool.is_empty() => "the scaling group has no nodes".to_owned(),
        None => format!("no node has enough free resources for {} ({})", part.subject, part.resources),
        Some(counts) => format!("no node has enough free resources for {} ({}): {counts}", part.subject, part.resources),
    };
    let blockers = vec![Blocker::new("nodes", cause, Reason::NoAvailableNode, message.clone())];
    Refusal { cause: Some(cause), reason: Reason::NoAvailableNode, message, blockers, nodes: counts }
}
