//! reset-unschedulable: a session whose pod kube-scheduler refuses goes back to the queue, and that node is avoided.

use super::{Decide, Handler, HandlerName, To, Transitions, Verdict};
use crate::api::SessionPhase;
use crate::lifecycle::{Cause, Failure, Reason};
use crate::session::snapshot::{SessionItem, Snapshot};

pub static ROW: Handler = Handler {
    name: HandlerName::ResetUnschedulable,
    targets: &[SessionPhase::Preparing, SessionPhase::Pulling],
    transitions: Transitions {
        need_retry: To::PENDING_RESET,
        give_up: To::phase(SessionPhase::Terminating),
        ..Transitions::NONE
    },
    lock: None,
    waits: false,
    decide: Decide::Each(reset),
};

fn reset(snapshot: &Snapshot, item: &SessionItem) -> Verdict {
    let limit = chrono::TimeDelta::from_std(snapshot.timing.unschedulable).unwrap_or_default();
    let refused = item.kernels.iter().filter_map(|kernel| {
        let (since, words) = kernel.pod.as_ref()?.unschedulable.as_ref()?;
        Some((kernel, *since + limit, words))
    });
    let Some((kernel, due, words)) = refused.min_by_key(|(_, due, _)| *due) else { return Verdict::idle() };
    if snapshot.now < due {
        return Verdict::idle().wake_at(Some(due));
    }
    let node = kernel.node.as_ref().map_or("?", |node| node.as_str());
    let message = format!("kube-scheduler refuses {} on {node}: {words}", kernel.hostname);
    let mut verdict = Verdict::failure(Failure::new(Cause::Capacity, Reason::Unschedulable, message));
    verdict.change.failed_agents = kernel.node.clone().into_iter().collect();
    verdict
}
