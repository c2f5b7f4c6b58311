//! promote-to-pulling: a session of which any kernel pulls its image is pulling.

use super::{Decide, Handler, HandlerName, To, Transitions, Verdict, trace_kernels};
use crate::api::{KernelPhase, SessionPhase};
use crate::lifecycle::Match;
use crate::session::kernels::KernelItem;
use crate::session::snapshot::{SessionItem, Snapshot};

pub static ROW: Handler = Handler {
    name: HandlerName::PromoteToPulling,
    targets: &[SessionPhase::Preparing],
    transitions: Transitions { success: To::phase(SessionPhase::Pulling), ..Transitions::NONE },
    lock: None,
    trace: Some(trace_kernels),
    waits: true,
    decide: Decide::Each(promote),
};

fn promote(_: &Snapshot, item: &SessionItem) -> Verdict {
    if Match::Any.holds(&item.kernels, |kernel: &KernelItem| kernel.phase() == KernelPhase::Pulling) {
        Verdict::success()
    } else {
        Verdict::idle()
    }
}
