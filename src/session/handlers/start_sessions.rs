//! start-sessions: opens the gates of a prepared session, so that all its kernels start at once.

use super::{Decide, Handler, HandlerName, LockId, To, Transitions, Verdict};
use crate::api::SessionPhase;
use crate::session::effect::Effect;
use crate::session::kernels::KernelItem;
use crate::session::launcher;
use crate::session::snapshot::{SessionItem, Snapshot};

pub static ROW: Handler = Handler {
    name: HandlerName::StartSessions,
    targets: &[SessionPhase::Prepared],
    transitions: Transitions {
        success: To::phase(SessionPhase::Creating),
        expired: To::PENDING_RESET,
        give_up: To::PENDING_RESET,
        ..Transitions::NONE
    },
    lock: Some(LockId::Creating),
    waits: false,
    decide: Decide::Each(start),
};

/// A kernel that cannot be started fails the whole session.
fn start(_: &Snapshot, item: &SessionItem) -> Verdict {
    if item.kernels.iter().any(KernelItem::is_ending) {
        return Verdict::idle(); // detect-termination's to act on
    }
    if item.is_gang() && !item.names_resolve {
        // Somebody took the Service away, or the slices are not there yet: they mark it again.
        return Verdict::idle().effects(vec![Effect::CreateService]);
    }
    Verdict::success().effects(launcher::start(item))
}
