//! Deferred commits: a step that changes neither allocation nor result is written together with the next step, if that follows
//! soon. A wait is deferred too, if the handler's row says so. The last steps of an object that is about to be removed are written only if that takes long. This saves writes. A crash
//! meanwhile costs nothing: the effects are done again and change nothing.

use std::sync::Arc;

use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use kube::Resource;
use kube::core::object::HasStatus;

use super::commit::Pending;
use super::engine::{CONCURRENCY, Coordinator};
use super::host::{AfterCommit, Host};
use crate::api::HistoryResult;
use crate::lifecycle::{CommitMode, HasProgress, Item, Subject, Timing, is_outdated, observe, phase_of};
use crate::metrics::CommitResult;

/// Whether a commit may wait: one step, of a handler whose row says so, or any successes of an object that is leaving.
pub(super) fn may_be_deferred<S: Subject>(object: &S::Object, after: &AfterCommit<S>) -> bool {
    if S::is_leaving(object) {
        return after.results.iter().all(|(_, result)| *result == HistoryResult::Success);
    }
    let [(handler, result)] = after.results[..] else { return false };
    match (S::row(handler).map(|row| row.commit), result) {
        (Some(CommitMode::Deferred), HistoryResult::Success) | (Some(CommitMode::WaitDeferred), HistoryResult::Skipped) => true,
        (Some(CommitMode::Now | CommitMode::Deferred | CommitMode::WaitDeferred) | None, _) => false,
    }
}

/// Waits a moment while many objects are on their way. Returns true if it waited.
pub async fn yield_to_work<S: Subject>(host: &impl Host<S>, timing: &Timing) -> bool {
    let is_busy = host.is_busy();
    if is_busy {
        tokio::time::sleep(timing.busy_pace).await;
    }
    is_busy
}

impl<S: Subject, H: Host<S>> Coordinator<S, H> {
    /// Writes deferred commits when they are due: slowly one after the other while many objects are on their way.
    pub(super) async fn run_deferred(self: Arc<Self>) {
        // A write of unknown outcome goes on in parallel to later ones.
        let mut late = FuturesUnordered::new();
        loop {
            tokio::select! {
                () = self.deferred.marked(()) => {}
                Some(()) = late.next() => continue,
            }
            let mut uids = self.host.deferred(&self.deferred.take(())).into_iter();
            while let Some(uid) = uids.next() {
                let is_busy = yield_to_work(&*self.host, &self.timing).await;
                let next = if is_busy { vec![uid] } else { [uid].into_iter().chain(uids.by_ref()).collect() };
                let commits = futures::stream::iter(next).map(|uid| self.commit_deferred(uid));
                let mut commits = commits.for_each_concurrent(CONCURRENCY, |commit| commit).boxed();
                if tokio::time::timeout(self.timing.lock_lifetime, &mut commits).await.is_err() {
                    late.push(commits);
                }
            }
        }
    }

    /// Defers the commit that a changed spec was observed, if it asks for nothing else.
    pub(super) fn defer_observed(&self, item: &S::Item) {
        let object = item.object();
        let is_written_anyway = S::is_queued(phase_of::<S>(object)) || object.meta().deletion_timestamp.is_some();
        if !is_outdated::<S>(object) || is_written_anyway {
            return;
        }
        let mut observed = (**object).clone();
        let generation = observed.meta().generation;
        if let Some(status) = observed.status_mut() {
            observe(status.progress_mut(), generation);
        }
        self.defer(item, &Arc::new(observed), AfterCommit::default());
    }

    pub(super) fn defer(&self, item: &S::Item, object: &Arc<S::Object>, after: AfterCommit<S>) {
        let waits = after.results.iter().any(|(_, result)| *result == HistoryResult::Skipped);
        let pause = if waits { self.timing.wait_deferral } else { self.timing.deferral };
        self.metrics.committed(S::NAME, CommitResult::Deferred);
        self.host.defer(object, item.stored(), after);
        self.deferred.after((), &item.uid(), pause);
    }

    pub(super) async fn commit_deferred(&self, uid: S::Uid) {
        // A handler that works on the object writes the deferred commit, or leaves it for later.
        let Some(_claim) = self.host.claim_one(&uid) else {
            self.deferred.after((), &uid, self.timing.deferral);
            return;
        };
        let Some((snapshot, item)) = self.host.look_again(&uid) else { return };
        if let Some(after) = self.host.take_deferred(&uid) {
            let handler = after.results.last().map(|(handler, _)| *handler);
            let original = item.object().clone();
            self.commit(Pending { handler, snapshot, item, original, after, deadline: None }).await;
        }
    }
}
