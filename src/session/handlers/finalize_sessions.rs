//! finalize-sessions: removes sessions that have ended, when they were deleted or their time to live is over.

use super::{Decide, Handler, HandlerName, Transitions, Verdict};
use crate::api::{FINALIZER_SESSION, SessionPhase};
use crate::session::effect::Effect;
use crate::session::snapshot::{SessionItem, Snapshot};

pub static ROW: Handler = Handler {
    name: HandlerName::FinalizeSessions,
    targets: &[SessionPhase::Terminated, SessionPhase::Cancelled, SessionPhase::Error],
    transitions: Transitions::NONE,
    lock: None,
    waits: true,
    decide: Decide::Each(finalize),
};

fn finalize(snapshot: &Snapshot, item: &SessionItem) -> Verdict {
    let metadata = &item.session.metadata;
    if item.session.is_deleted() {
        let held = metadata.finalizers.iter().flatten().any(|name| name == FINALIZER_SESSION);
        // Its pods go first; sync-kernels sees to that.
        let effects = if held && item.pods_left == 0 { vec![Effect::ReleaseSession] } else { vec![] };
        return Verdict::idle().effects(effects);
    }
    // What the hook of the transition did not do, since it failed or the operator ended meanwhile.
    let leftover = if item.is_published { vec![Effect::DeleteService] } else { vec![] };
    let finished = item.session.status.as_ref().and_then(|status| status.finished_at).or(item.status_since());
    let due = item.session.spec.ttl_seconds_after_finished.zip(finished).map(|(ttl, finished)| {
        finished + chrono::TimeDelta::from_std(snapshot.timing.configured(i64::from(ttl))).unwrap_or_default()
    });
    match due {
        Some(due) if snapshot.now >= due => Verdict::idle().effects(vec![Effect::DeleteSession]),
        due => Verdict::idle().effects(leftover).wake_at(due),
    }
}
