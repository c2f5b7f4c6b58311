//! promote-to-prepared: a session all of whose images are there is prepared.

use super::{Decide, Handler, HandlerName, To, Transitions, Verdict};
use crate::api::SessionPhase;
use crate::lifecycle::{Failure, Match, Reason};
use crate::session::kernels::KernelItem;
use crate::session::snapshot::{SessionItem, Snapshot};

pub static ROW: Handler = Handler {
    name: HandlerName::PromoteToPrepared,
    targets: &[SessionPhase::Preparing, SessionPhase::Pulling],
    transitions: Transitions { success: To::phase(SessionPhase::Prepared), ..Transitions::NONE },
    lock: None,
    waits: true,
    decide: Decide::Each(promote),
};

fn promote(_: &Snapshot, item: &SessionItem) -> Verdict {
    if let Some(failure) = kernel_failure(item) {
        return Verdict::failure(failure);
    }
    if Match::NotAny.holds(&item.kernels, |kernel: &KernelItem| kernel.phase().is_pre_prepared()) {
        Verdict::success()
    } else {
        Verdict::idle()
    }
}

/// What keeps a session from being promoted: a kernel that ends, or an image that is tried again after an error.
/// Ended kernels are detect-termination's to act on; here they only keep the session where it is.
pub(super) fn kernel_failure(item: &SessionItem) -> Option<Failure> {
    let retrying: Vec<_> = item.kernels.iter().filter(|kernel| kernel.state.pull_retrying).map(KernelItem::describe).collect();
    if !retrying.is_empty() {
        return Some(Failure::fault(Reason::ImagePullFailed, retrying.join("; ")));
    }
    None
}

/// Whether a kernel ends or has ended, which no promotion may overlook.
pub(super) fn is_ending(item: &SessionItem) -> bool {
    item.kernels.iter().any(|kernel| kernel.phase().is_terminal() || kernel.phase() == crate::api::KernelPhase::Terminating)
}
