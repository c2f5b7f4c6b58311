//! promote-to-terminated: a session that is ending and all of whose kernels have ended has ended.

use super::{Decide, Handler, HandlerName, To, Transitions, Verdict};
use crate::api::SessionPhase;
use crate::lifecycle::{Match, Reason};
use crate::session::kernels::KernelItem;
use crate::session::snapshot::{SessionItem, Snapshot};

pub static ROW: Handler = Handler {
    name: HandlerName::PromoteToTerminated,
    targets: &[SessionPhase::Terminating],
    transitions: Transitions { success: To::phase(SessionPhase::Terminated), ..Transitions::NONE },
    lock: None,
    waits: true,
    decide: Decide::Each(promote),
};

fn promote(_: &Snapshot, item: &SessionItem) -> Verdict {
    // Who cannot be asked any more counts as ended; what is left there stays counted until it is gone.
    let ended = |kernel: &KernelItem| kernel.phase().is_terminal() || kernel.liveness.is_lost();
    if !Match::All.holds(&item.kernels, ended) {
        return Verdict::idle();
    }
    let lost: Vec<_> = item.kernels.iter().filter(|kernel| !kernel.phase().is_terminal()).map(KernelItem::describe).collect();
    let mut verdict = Verdict::success();
    if !lost.is_empty() {
        verdict = verdict.because(Reason::NodeLost, format!("ended without an answer from the node: {}", lost.join("; ")));
    }
    let main = item.kernels.iter().find(|kernel| kernel.is_main());
    verdict.change.exit_code = main.and_then(|kernel| kernel.state.exit_code);
    verdict
}
