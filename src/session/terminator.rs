//! The terminator: what it takes to end a session's kernels, gracefully or by force, as effects. Pure.

use super::effect::{Effect, PodRef};
use super::kernels::KernelItem;
use super::snapshot::SessionItem;
use crate::views::Liveness;

/// Deletes what still lives. Kernels that ended, have no pod, or are being deleted need nothing more.
pub fn terminate(item: &SessionItem) -> Vec<Effect> {
    let grace = item.session.spec.termination.grace_period_seconds;
    item.kernels.iter().filter_map(|kernel| destroy(kernel, grace)).collect()
}

/// What ends one kernel. Only where nothing can run any more is a pod removed by force.
fn destroy(kernel: &KernelItem, grace: i64) -> Option<Effect> {
    let pod = kernel.pod.as_ref().filter(|pod| pod.is_live() && !pod.deleting)?;
    let grace = if kernel.liveness == Liveness::Gone { 0 } else { grace };
    Some(Effect::DeletePod { pod: PodRef::from(&**pod), grace: Some(grace) })
}
