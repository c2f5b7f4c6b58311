//! The terminator: the effects that end a session's kernels, gracefully or by force. Pure.

use super::effect::{Effect, PodRef};
use super::kernels::KernelItem;
use super::snapshot::SessionItem;
use crate::views::Liveness;

/// Deletes the live pods of a session. Kernels that have ended, have no pod or are being deleted need no effect.
pub fn terminate(item: &SessionItem) -> Vec<Effect> {
    let grace = item.session.spec.termination.grace_period_seconds;
    item.kernels.iter().filter_map(|kernel| destroy(kernel, grace)).collect()
}

/// Returns the effect that ends one kernel. A pod is removed by force only when its node is gone, so that nothing can run.
fn destroy(kernel: &KernelItem, grace: i64) -> Option<Effect> {
    let pod = kernel.pod.as_ref().filter(|pod| pod.is_live() && !pod.deleting)?;
    let grace = if kernel.liveness == Liveness::Gone { 0 } else { grace };
    Some(Effect::DeletePod { pod: PodRef::from(&**pod), grace: Some(grace) })
}
