//! Builders of sessions, items and snapshots for the tests of handlers.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::TimeDelta;
use serde_json::json;

use crate::api::*;
use crate::lifecycle::{Reason, Timing};
use crate::provisioner::EquivalenceClasses;
use crate::session::handlers::{Outcome, Verdict};
use crate::session::kernels::{KernelItem, KernelState, kernel_name};
use crate::session::snapshot::{SessionItem, Snapshot};
pub use crate::views::testing::{node, now, tenancy};
use crate::views::{Liveness, NodeView, PodView, Tenancy};

pub fn session(spec: serde_json::Value) -> Session {
    let mut full = json!({"accessKey": "key", "scalingGroup": "default", "kernels": [kernel(1)]});
    if let (Some(full), Some(spec)) = (full.as_object_mut(), spec.as_object()) {
        full.extend(spec.clone());
    }
    let mut session = Session::new("s", serde_json::from_value(full).expect("a session spec"));
    session.metadata.namespace = Some("ns".into());
    session.metadata.uid = Some("uid-s".into());
    session
}

pub fn kernel(cpu: i64) -> serde_json::Value {
    json!({"role": "main", "image": "i", "resources": {"cpu": cpu, "memory": "1Gi"}})
}

pub fn gang() -> serde_json::Value {
    json!({"kernels": [kernel(1), {"role": "sub", "replicas": 2, "image": "i", "resources": {"cpu": 1, "memory": "1Gi"}}],
           "clusterMode": "MultiNode"})
}

pub fn group(spec: serde_json::Value) -> ScalingGroup {
    ScalingGroup::new("default", serde_json::from_value(spec).expect("a group"))
}

/// Returns a session of one kernel that entered this phase a minute ago. It is allocated on node-1 in terminal
/// phases and in phases that hold resources.
pub fn session_in(phase: SessionPhase) -> Session {
    let mut session = session(json!({}));
    put(&mut session, phase, TimeDelta::minutes(1));
    session
}

/// Puts a session into a phase that it entered `ago`.
pub fn put(session: &mut Session, phase: SessionPhase, ago: TimeDelta) {
    let allocated = phase.holds_resources() || phase.is_terminal();
    let slots = expand(&session.spec.kernels).into_iter().map(|slot| slot.hostname);
    let allocation = slots.map(|kernel| KernelAllocation { kernel, node: "node-1".into() }).collect();
    let progress = Progress { phase, phase_started_at: Some(now() - ago), ..Progress::default() };
    session.status = Some(SessionStatus {
        progress,
        allocation_generation: i64::from(allocated),
        allocation: if allocated { allocation } else { vec![] },
        ..SessionStatus::default()
    });
}

pub fn pod_of(session: &Session) -> PodView {
    PodView {
        namespace: "ns".into(),
        name: kernel_name("s", "uid-s", "main1", 1),
        uid: "uid-pod".into(),
        session_uid: SessionUid(session.metadata.uid.clone().unwrap_or_default()),
        kernel: "main1".into(),
        generation: 1,
        node: Some("node-1".into()),
        bound: true,
        ..PodView::default()
    }
}

pub fn kernel_of(session: &Session) -> Kernel {
    let spec = serde_json::from_value(json!({
        "session": "s", "sessionUid": session.metadata.uid, "role": "main", "index": 1, "localRank": 0,
        "hostname": "main1", "allocationGeneration": 1, "scalingGroup": "default", "node": "node-1",
        "image": "i", "resources": {"cpu": 1}
    }));
    let mut kernel = Kernel::new(&kernel_name("s", "uid-s", "main1", 1), spec.expect("a kernel spec"));
    kernel.metadata.uid = Some("uid-kernel".into());
    kernel
}

/// Returns an item whose kernels are in these phases, in order.
pub fn item(session: Session, phases: &[KernelPhase]) -> SessionItem {
    let slots = expand(&session.spec.kernels);
    let kernels = slots.iter().zip(phases).map(|(slot, phase)| KernelItem {
        hostname: slot.hostname.clone(),
        node: Some("node-1".into()),
        liveness: Liveness::Alive,
        state: KernelState { phase: *phase, ..KernelState::default() },
        pod: Some(Arc::new(PodView { kernel: slot.hostname.clone(), ..pod_of(&session) })),
        record: Some(Arc::new(kernel_of(&session))),
    });
    let kernels = kernels.collect();
    let class = EquivalenceClasses::default().of(&session);
    let session = Arc::new(session);
    SessionItem {
        stored: session.clone(),
        session,
        kernels,
        dependencies: vec![],
        names_resolve: true,
        is_published: false,
        pods_left: 0,
        class,
        holding: None,
        ahead: vec![],
        usage: None,
        template: None,
        is_awaited: false,
    }
}

/// Changes the view of a kernel's pod.
pub fn change_pod(kernel: &mut KernelItem, with: impl FnOnce(&mut PodView)) {
    with(Arc::make_mut(kernel.pod.as_mut().expect("a pod")));
}

/// Returns the cause and reason of a verdict that is a failure.
pub fn failure(verdict: &Verdict) -> Option<(Cause, Reason)> {
    match &verdict.outcome {
        Outcome::Failure(failure) => Some((failure.cause, failure.reason)),
        _ => None,
    }
}

/// Returns a snapshot with one node, whose only keypair has this resource policy.
pub fn limited(policy: serde_json::Value) -> Snapshot {
    let mut world = snapshot(vec![node("node-1", 4)]);
    let mut tenancy: Tenancy = (*world.tenancy).clone();
    let policy = serde_json::from_value(policy).expect("a policy");
    tenancy.policies.insert("policy".into(), Arc::new(ResourcePolicy::new("policy", policy)));
    let keypair = serde_json::from_value(json!({"user": "user", "resourcePolicy": "policy"})).expect("a keypair");
    tenancy.keypairs.insert("key".into(), Arc::new(Keypair::new("key", keypair)));
    world.tenancy = Arc::new(tenancy);
    world
}

/// Returns a snapshot of one active tenant, the scaling group `default`, and these nodes.
pub fn snapshot(nodes: Vec<NodeView>) -> Snapshot {
    let nodes: BTreeMap<_, _> = nodes.into_iter().map(|node| (node.name.clone(), Arc::new(node))).collect();
    Snapshot {
        now: now(),
        timing: Arc::new(Timing::default()),
        group: Some(Arc::new(group(json!({})))),
        group_name: Some("default".into()),
        nodes: Arc::new(nodes),
        tenancy: Arc::new(tenancy()),
    }
}
