//! Kernels that keep their session waiting are named after a while, and again each time that the wait has doubled.

use chrono::{DateTime, Utc};

use super::Verdict;
use crate::lifecycle::{Reason, is_over, over_at};
use crate::session::kernels::{KernelItem, describe_all};
use crate::session::snapshot::{SessionItem, Snapshot};

/// A gang that waits for some of its kernels while others are `what` already.
pub(super) fn held_up(snapshot: &Snapshot, item: &SessionItem, what: &str, waiting: impl Fn(&KernelItem) -> bool) -> Verdict {
    let late: Vec<&KernelItem> = item.kernels.iter().filter(|kernel| waiting(kernel)).collect();
    if late.len() == item.kernels.len() {
        return Verdict::idle(); // no one is held up by another
    }
    name(snapshot, item, &late, snapshot.timing.held_up, &format!("are not {what}"))
}

/// Names those of a session that are late, once `patience` is over.
pub(super) fn name(
    snapshot: &Snapshot,
    item: &SessionItem,
    late: &[&KernelItem],
    patience: std::time::Duration,
    what: &str,
) -> Verdict {
    if late.is_empty() {
        return Verdict::idle();
    }
    if !is_over(item.phase_started_at(), Some(patience), snapshot.now) {
        return Verdict::idle().wake_at(over_at(item.phase_started_at(), Some(patience)));
    }
    if let Some(again) = named_again_at(item).filter(|again| snapshot.now < *again) {
        return Verdict::idle().wake_at(Some(again));
    }
    let names = describe_all(late.iter().copied());
    let message = format!("{} of {} kernels {what}: {names}", late.len(), item.kernels.len());
    Verdict::skipped(Reason::WaitingForKernels, message)
}

/// When those late are named anew, where they were named already: the wait until then was half of it.
fn named_again_at(item: &SessionItem) -> Option<DateTime<Utc>> {
    let last = item.session.status.as_ref()?.history.last()?;
    let named = last.error_code == Some(Reason::WaitingForKernels);
    let since = item.phase_started_at()?;
    named.then(|| last.updated_at + (last.updated_at - since))
}
