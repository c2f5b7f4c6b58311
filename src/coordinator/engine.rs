//! The coordinator itself: a host, marks, locks and hooks, and what its parts share.

use std::sync::Arc;

use super::claims::Claim;
use super::hooks::Hooks;
use super::host::Host;
use super::locks::Locks;
use super::marks::{HandlerMarks, Marks};
use crate::lifecycle::{Subject, Timing, Verdict};
use crate::metrics::Metrics;

/// Most objects of one partition that are worked on at once.
pub(super) const CONCURRENCY: usize = 32;

/// Runs all handlers of a kind while this process holds the lease.
pub struct Coordinator<S: Subject, H: Host<S>> {
    pub(super) host: Arc<H>,
    pub(super) marks: Arc<HandlerMarks<S>>,
    /// The objects whose deferred commit is due.
    pub(super) deferred: Marks<(), S::Uid>,
    pub(super) timing: Arc<Timing>,
    pub(super) metrics: Metrics,
    pub(super) hooks: Hooks<S, H>,
    pub(super) locks: Locks<S>,
}

impl<S: Subject, H: Host<S>> Coordinator<S, H> {
    pub fn new(host: Arc<H>, marks: Arc<HandlerMarks<S>>, timing: Arc<Timing>, metrics: Metrics, hooks: Hooks<S, H>) -> Self {
        Self { host, marks, deferred: Marks::default(), timing, metrics, hooks, locks: Locks::default() }
    }
}

/// An object and what was decided on it. Dropping it gives the object back.
pub(super) struct Decided<S: Subject> {
    pub item: S::Item,
    pub verdict: Verdict<S>,
    pub _claim: Claim<S>,
}
