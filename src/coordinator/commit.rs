//! Writes the status that an object's steps led to, and runs what follows: Events, notices, metrics.

use std::sync::Arc;
use std::time::Instant;

use kube::ResourceExt;
use kube::core::object::HasStatus;

use super::engine::Coordinator;
use super::event::{Event, EventReason};
use super::hooks::Transition;
use super::host::{AfterCommit, Committed, Host};
use crate::api::Reason;
use crate::lifecycle::{HandlerName, HasProgress, Item, Phase, Snapshot, Subject, created_at, phase_of};
use crate::metrics::CommitResult;

/// A status to be written, and what follows.
pub(super) struct Pending<S: Subject> {
    /// The last handler.
    pub handler: Option<S::HandlerName>,
    pub snapshot: S::Snapshot,
    /// The object with the status to be written.
    pub item: S::Item,
    /// The object as the decision saw it. Its version is the precondition of the write.
    pub original: Arc<S::Object>,
    pub after: AfterCommit<S>,
    /// Allocations not reserved by this deadline are dropped: later cycles did not see them.
    pub deadline: Option<Instant>,
}

impl<S: Subject, H: Host<S>> Coordinator<S, H> {
    pub(super) fn transition(&self, snapshot: &S::Snapshot, item: &S::Item, to: S::Phase) -> Transition<S, H> {
        Transition { host: self.host.clone(), snapshot: snapshot.clone(), item: item.clone(), to }
    }

    /// Writes one status for all steps. A conflict drops them, and the object is evaluated again.
    pub(super) async fn commit(&self, pending: Pending<S>) {
        let Pending { handler, snapshot, item, original, after, deadline } = pending;
        let Some(status) = item.object().status().cloned() else { return };
        let (uid, phase) = (item.uid(), phase_of::<S>(&original));
        let again = || handler.iter().for_each(|handler| self.marks.urgent(*handler, &uid));
        let is_late = deadline.is_some_and(|deadline| Instant::now() >= deadline);
        // The commit reserves what it takes in the very moment in which this is asked.
        if is_late && S::takes_more(original.status(), &status) {
            return again();
        }
        let mut all = self.host.take_deferred(&uid).unwrap_or_default();
        all.append(after);
        let (kind, name, namespace) = (S::NAME, original.name_any(), original.namespace());
        let by = handler.as_ref().map_or("", |handler| handler.as_str());
        match self.host.commit(&item, &original, status).await {
            Committed::Done(written) => {
                self.metrics.committed(kind, CommitResult::Written);
                let progress = written.status().map(HasProgress::progress);
                self.count_phase(&snapshot, &original, &written);
                tracing::info!(
                    kind, name, namespace, handler = by, phase = %phase_of::<S>(&written),
                    reason = progress.and_then(|progress| progress.reason).map_or("", Reason::as_str),
                    attempt = progress.map_or(0, |progress| progress.attempts), "committed"
                );
                if let Some(event) = all.event {
                    self.host.publish(event);
                }
                for to in all.reached {
                    self.hooks.notify(to, || self.transition(&snapshot, &item, to), self.timing.hook).await;
                }
                for (handler, result) in all.results {
                    self.metrics.outcome(handler.as_str(), snapshot.partition(), result);
                }
            }
            Committed::Dropped(why) => {
                self.metrics.committed(kind, CommitResult::Dropped);
                tracing::debug!(kind, name, namespace, handler = by, "dropped: {why}");
                self.marks.object(&uid, phase);
                again();
            }
            Committed::Refused(why) => {
                self.metrics.committed(kind, CommitResult::Refused);
                tracing::error!(kind, name, namespace, handler = by, "the API server refuses the status: {why}");
                self.host.publish(refused_status(&original, by, &why));
                self.host.quarantine(&uid, self.timing.fault_backoff_max);
                self.marks.object(&uid, phase);
            }
        }
    }
}

impl<S: Subject, H: Host<S>> Coordinator<S, H> {
    /// Counts the time that an object spent in the phase that it has left. Phases that one commit passes took no time.
    fn count_phase(&self, snapshot: &S::Snapshot, original: &S::Object, written: &S::Object) {
        let (from, to) = (phase_of::<S>(original), phase_of::<S>(written));
        let since = |object: &S::Object| object.status().and_then(|status| status.progress().phase_started_at);
        // An object without a status entered its first phase when it was created.
        let entered = since(original).or_else(|| created_at(original));
        let Some((entered, left)) = entered.zip(since(written)).filter(|_| from != to) else { return };
        let reason = written.status().and_then(|status| status.progress().reason).map_or("", Reason::as_str);
        let end = to.is_terminal().then_some((to.as_str(), reason));
        let seconds = (left - entered).as_seconds_f64();
        self.metrics.left(S::NAME, snapshot.partition(), from.as_str(), seconds.max(0.0), end);
    }
}

/// The Event for a status that cannot say itself that it is refused.
fn refused_status<S: Subject>(original: &Arc<S::Object>, action: &'static str, why: &str) -> Event<S> {
    Event {
        object: original.clone(),
        action,
        warning: true,
        reason: EventReason::Reason(Reason::StatusRefused),
        message: format!("the API server refuses the status, so the {} stays as it is: {why}", S::NAME),
        from: phase_of::<S>(original),
        reached: vec![],
    }
}
