//! The launcher: the effects that start a session's kernels. Pure.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};

use super::effect::{Effect, Gate, Launch, PodRef};
use super::kernels::allocated_nodes;
use super::snapshot::{SessionItem, Snapshot};
use crate::api::{ImagePullPolicy, KernelSlot, NodeName, expand};
use crate::views::{GateState, PodView};

/// Creates the pods of a session that has its nodes, its claims, and the keys that the kernels of a gang share.
pub fn prepare(snapshot: &Snapshot, item: &SessionItem) -> Vec<Effect> {
    let shared = if item.is_gang() { vec![Effect::ConfirmServiceName, Effect::CreateSshSecret] } else { vec![] };
    let claims = item.session.spec.claims.iter().map(|template| Effect::CreateClaim(Box::new(template.clone())));
    shared.into_iter().chain(claims).chain(launches(snapshot, item)).collect()
}

/// Returns one launch for each kernel that has a node.
fn launches(snapshot: &Snapshot, item: &SessionItem) -> impl Iterator<Item = Effect> {
    let nodes = allocated_nodes(&item.session);
    let generation = item.session.status.as_ref().map_or(0, |status| status.allocation_generation);
    let gate = gate(snapshot, item, &nodes);
    expand(&item.session.spec.kernels).into_iter().filter_map(move |slot| {
        let node = (*nodes.get(slot.hostname.as_str())?).clone();
        Some(Effect::Launch(Box::new(Launch {
            name: item.kernel_name(&slot.hostname),
            template: slot.template.clone(),
            index: slot.index,
            local_rank: slot.local_rank,
            hostname: slot.hostname,
            node,
            generation,
            in_gang: item.is_gang(),
            gate,
        })))
    })
}

/// The same gate holds all kernels of a session: an image that one node lacks holds up those that have theirs, too.
fn gate(snapshot: &Snapshot, item: &SessionItem, nodes: &BTreeMap<&str, &NodeName>) -> Gate {
    let has_image = |slot: KernelSlot<'_>| {
        let node = nodes.get(slot.hostname.as_str()).and_then(|node| snapshot.nodes.get(*node));
        let pulls = slot.template.image_pull_policy == ImagePullPolicy::Always;
        !pulls && node.is_some_and(|node| node.images.has(&slot.template.image))
    };
    match item.session.spec.start_together {
        _ if !item.is_gang() => Gate::None,
        _ if !expand(&item.session.spec.kernels).into_iter().all(has_image) => Gate::Images,
        true => Gate::Names,
        false => Gate::None,
    }
}

/// Opens the closed gates, so that all kernels start at the same moment.
pub fn start(item: &SessionItem) -> Vec<Effect> {
    let pods = item.kernels.iter().filter_map(|kernel| kernel.pod.as_ref());
    let closed = pods.filter(|pod| pod.gate.is_some() && !pod.gate_opened);
    closed.map(|pod| Effect::OpenGate(PodRef::from(&**pod))).collect()
}

/// Reminds the kubelets that have not seen an open gate for too long, and returns when the next of them is due. A kubelet may just be
/// slow, so it has longer while no other gate of the session has let its kernel start.
pub fn remind(snapshot: &Snapshot, item: &SessionItem) -> (Vec<Effect>, Option<DateTime<Utc>>) {
    let pods = || item.kernels.iter().filter_map(|kernel| kernel.pod.as_deref()).filter(|pod| pod.is_live() && pod.gate_opened);
    let others_passed = pods().any(|pod| pod.gate == Some(GateState::Passed));
    let delay = if others_passed { snapshot.timing.missed_gate } else { snapshot.timing.late };
    let (Some(since), Ok(delay)) = (item.phase_started_at(), TimeDelta::from_std(delay)) else { return (vec![], None) };
    let due_at = |pod: &PodView| {
        // Anybody who may change the pod could have written another time.
        let reminded = pod.gate_reminded_at.filter(|last| *last <= snapshot.now);
        reminded.map_or(since + delay, |last| last + delay.max(last - since))
    };
    let (due, later): (Vec<&PodView>, Vec<&PodView>) =
        pods().filter(|pod| pod.gate == Some(GateState::Running)).partition(|pod| due_at(pod) <= snapshot.now);
    let effects = due.into_iter().map(|pod| Effect::RemindKubelet(PodRef::from(pod))).collect();
    (effects, later.into_iter().map(due_at).min())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::core::v1::ContainerImage;

    use super::*;
    use crate::session::handlers::testing::{gang, item, node, put, session, snapshot};
    use crate::views::Images;

    /// The gate of a gang of three on one node that reports these images.
    fn gate_with(images: &[&str], spec: serde_json::Value) -> Gate {
        let mut spec = spec;
        spec["clusterMode"] = "MultiNode".into();
        let mut session = session(spec);
        put(&mut session, crate::api::SessionPhase::Scheduled, chrono::TimeDelta::seconds(1));
        let mut world = snapshot(vec![]);
        let names = Some(images.iter().map(|name| (*name).to_owned()).collect());
        let images = Images::reported(&[ContainerImage { names, size_bytes: None }]);
        let node = crate::views::NodeView { images, ..node("node-1", 4) };
        world.nodes = Arc::new([(node.name.clone(), Arc::new(node))].into());
        let effects = prepare(&world, &item(session, &[]));
        let gates: Vec<Gate> =
            effects.iter().filter_map(|e| if let Effect::Launch(l) = e { Some(l.gate) } else { None }).collect();
        assert!(gates.iter().all(|gate| *gate == gates[0]), "{gates:?}");
        gates[0]
    }

    #[test]
    fn a_gang_waits_for_images_only_where_a_node_may_lack_one() {
        let present = ["docker.io/library/i:latest"];
        assert_eq!(gate_with(&[], gang()), Gate::Images);
        assert_eq!(gate_with(&present, gang()), Gate::Names);
        let mut other = gang();
        other["kernels"][1]["image"] = "j".into();
        assert_eq!(gate_with(&present, other), Gate::Images, "one kernel's image is missing");
        let mut always = gang();
        always["kernels"][1]["imagePullPolicy"] = "Always".into();
        assert_eq!(gate_with(&present, always), Gate::Images);
    }

    #[test]
    fn kernels_that_need_not_start_together_have_a_gate_only_for_their_first_pulls() {
        let mut alone = gang();
        alone["startTogether"] = false.into();
        assert_eq!(gate_with(&["docker.io/library/i:latest"], alone.clone()), Gate::None);
        assert_eq!(gate_with(&[], alone), Gate::Images);
        assert_eq!(gate_with(&[], serde_json::json!({})), Gate::None, "a single kernel waits for nobody");
    }
}
