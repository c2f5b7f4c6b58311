//! The launcher: the effects that start a session's kernels. Pure.

use super::effect::{Effect, Launch, PodRef};
use super::kernels::allocated_nodes;
use super::snapshot::SessionItem;
use crate::api::expand;

/// Creates the kernels and pods of a session that has its nodes, and the objects that a gang shares.
pub fn prepare(item: &SessionItem) -> Vec<Effect> {
    let shared = if item.is_gang() { vec![Effect::CreateService, Effect::CreateSshSecret] } else { vec![] };
    shared.into_iter().chain(launches(item)).collect()
}

/// Returns one launch for each kernel that has a node.
fn launches(item: &SessionItem) -> impl Iterator<Item = Effect> {
    let nodes = allocated_nodes(&item.session);
    let generation = item.session.status.as_ref().map_or(0, |status| status.allocation_generation);
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
            gated: item.is_gang(),
        })))
    })
}

/// Opens the closed gates, so that all kernels start at the same moment.
pub fn start(item: &SessionItem) -> Vec<Effect> {
    let pods = item.kernels.iter().filter_map(|kernel| kernel.pod.as_ref());
    let closed = pods.filter(|pod| pod.gate.is_some() && !pod.gate_opened);
    closed.map(|pod| Effect::OpenGate(PodRef::from(&**pod))).collect()
}
