//! terminate-sessions: deletes the pods of a session that is ending.

use super::{Decide, Handler, HandlerName, LockId, To, Transitions, Verdict};
use crate::api::SessionPhase;
use crate::session::effect::{Effect, PodRef};
use crate::session::kernels::KernelItem;
use crate::session::snapshot::{SessionItem, Snapshot};
use crate::session::views::Liveness;

pub static ROW: Handler = Handler {
    name: HandlerName::TerminateSessions,
    targets: &[SessionPhase::Terminating],
    transitions: Transitions {
        expired: To::phase(SessionPhase::Terminated),
        give_up: To::phase(SessionPhase::Terminated),
        ..Transitions::NONE
    },
    lock: Some(LockId::Terminating),
    waits: false,
    decide: Decide::Each(terminate),
};

/// Kernels that ended, have no pod, or are being deleted need nothing more: then there is nothing to tell.
fn terminate(_: &Snapshot, item: &SessionItem) -> Verdict {
    let grace = item.session.spec.termination.grace_period_seconds;
    let effects: Vec<Effect> = item.kernels.iter().filter_map(|kernel| destroy(kernel, grace)).collect();
    if effects.is_empty() { Verdict::idle() } else { Verdict::success().effects(effects) }
}

/// What ends one kernel. Only where nothing can run any more is a pod removed by force.
fn destroy(kernel: &KernelItem, grace: i64) -> Option<Effect> {
    let pod = kernel.pod.as_ref().filter(|pod| pod.is_live() && !pod.deleting)?;
    let grace = if kernel.liveness == Liveness::Gone { 0 } else { grace };
    Some(Effect::DeletePod { pod: PodRef::from(&**pod), grace: Some(grace) })
}
