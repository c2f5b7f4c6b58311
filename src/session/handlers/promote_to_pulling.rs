//! promote-to-pulling: a session is Pulling when any of its kernels pulls its image.

use super::{Decide, Handler, HandlerName, Mode, Settings, To, Transitions, Verdict, trace_kernels};
use crate::api::{KernelPhase, SessionPhase};
use crate::lifecycle::CommitMode;
use crate::session::kernels::KernelItem;
use crate::session::matching::Match;
use crate::session::snapshot::{SessionItem, Snapshot};

pub static ROW: Handler = Handler {
    name: HandlerName::PromoteToPulling,
    targets: &[SessionPhase::Preparing],
    transitions: Transitions { success: To::phase(SessionPhase::Pulling), ..Transitions::NONE },
    mode: Mode::Waits,
    follows: &[],
    commit: CommitMode::Deferred,
    wakes_on: &[],
    lock: None,
    overview: None,
    trace: Some(trace_kernels),
    settings: Settings::NONE,
    decide: Decide::Each(promote),
};

fn promote(_: &Snapshot, item: &SessionItem) -> Verdict {
    if Match::Any.holds(&item.kernels, |kernel: &KernelItem| kernel.phase() == KernelPhase::Pulling) {
        Verdict::success()
    } else {
        Verdict::idle()
    }
}
