//! Names the kernels that their session waits for, after a while and again each time the wait has doubled.

use chrono::{DateTime, Utc};

use super::Verdict;
use crate::lifecycle::{Reason, is_over, over_at};
use crate::session::kernels::{KernelItem, describe_all};
use crate::session::snapshot::{SessionItem, Snapshot};

/// Names the kernels of a gang that are not in `state` yet (for example "running"), while others are.
pub(super) fn name_late_in_gang(
    snapshot: &Snapshot,
    item: &SessionItem,
    state: &str,
    is_late: impl Fn(&KernelItem) -> bool,
) -> Verdict {
    let late: Vec<&KernelItem> = item.kernels.iter().filter(|kernel| is_late(kernel)).collect();
    if late.len() == item.kernels.len() {
        return Verdict::idle(); // no kernel is held up by another
    }
    name_late(snapshot, item, &late, snapshot.timing.late, &format!("are not {state}"))
}

/// Names the late kernels of a session, once it has been in its phase for `delay`.
pub(super) fn name_late(
    snapshot: &Snapshot,
    item: &SessionItem,
    late: &[&KernelItem],
    delay: std::time::Duration,
    problem: &str,
) -> Verdict {
    if late.is_empty() {
        return Verdict::idle();
    }
    if !is_over(item.phase_started_at(), Some(delay), snapshot.now) {
        return Verdict::idle().wake_at(over_at(item.phase_started_at(), Some(delay)));
    }
    if let Some(due) = next_report_at(item).filter(|due| snapshot.now < *due) {
        return Verdict::idle().wake_at(Some(due));
    }
    let names = describe_all(late.iter().copied());
    let message = format!("{} of {} kernels {problem}: {names}", late.len(), item.kernels.len());
    Verdict::skipped(Reason::WaitingForKernels, message)
}

/// Returns when the late kernels are named again, if they were named before: when the wait has doubled since then.
fn next_report_at(item: &SessionItem) -> Option<DateTime<Utc>> {
    let last = item.session.status.as_ref()?.history.last()?;
    let was_named = last.error_code == Some(Reason::WaitingForKernels);
    let since = item.phase_started_at()?;
    was_named.then(|| last.updated_at + (last.updated_at - since))
}
