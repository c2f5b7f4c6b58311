//! Host: the engine's one port to the outside. The cluster implements it for each kind, unit tests with a map.

use std::sync::Arc;
use std::time::Duration;

use super::claims::Claim;
pub use super::event::{Event, EventReason};
use super::marks::Mark;
use crate::api::HistoryResult;
use crate::lifecycle::{EffectError, Handler, Subject};

/// What the engine needs from outside. Every write is refused once the lease is lost.
pub trait Host<S: Subject>: Send + Sync + 'static {
    /// The marked objects in a handler's phases, each claimed. An object at which another handler works is marked again when
    /// that handler is done.
    fn claim(&self, handler: &'static Handler<S>, mark: &Mark<S::Uid>) -> Vec<Batch<S>>;

    /// Claims an object for one task alone. Returns None if it is claimed already.
    fn claim_one(&self, uid: &S::Uid) -> Option<Claim<S>>;

    /// An object as it is now.
    fn look_again(&self, uid: &S::Uid) -> Option<(S::Snapshot, S::Item)>;

    /// What the decisions of one cycle share.
    fn shared(&self) -> S::Shared;

    /// Takes back what a cycle has left of it.
    fn keep(&self, shared: S::Shared);

    /// Carries out one effect. Repeating it changes nothing.
    fn run(
        &self,
        snapshot: &S::Snapshot,
        item: &S::Item,
        effect: &S::Effect,
    ) -> impl Future<Output = Result<(), EffectError>> + Send;

    /// Writes a status in place of the one that was decided on. From the call until the outcome is known, the status counts as
    /// written.
    fn commit(&self, item: &S::Item, before: &Arc<S::Object>, next: S::Status) -> impl Future<Output = Committed<S>> + Send;

    /// Counts a status as written without writing it yet.
    fn defer(&self, object: &Arc<S::Object>, base: &S::Object, after: AfterCommit<S>);

    /// The marked objects with a deferred commit.
    fn deferred(&self, mark: &Mark<S::Uid>) -> Vec<S::Uid>;

    /// Whether a deferred commit contains what this handler did.
    fn is_deferred(&self, uid: &S::Uid, handler: S::HandlerName) -> bool;

    /// Takes what follows a deferred commit, which is about to be written.
    fn take_deferred(&self, uid: &S::Uid) -> Option<AfterCommit<S>>;

    /// Leaves an object alone for a while, or until it changes.
    fn quarantine(&self, uid: &S::Uid, pause: Duration);

    /// Whether many objects are on their way. Writes that only inform people then wait.
    fn is_busy(&self) -> bool;

    /// Sends an Event, without waiting.
    fn publish(&self, event: Event<S>);
}

/// The claimed objects of one partition.
pub struct Batch<S: Subject> {
    pub snapshot: S::Snapshot,
    pub items: Vec<S::Item>,
    /// One for each item, in their order.
    pub claims: Vec<Claim<S>>,
}

/// What became of a commit.
#[derive(Debug)]
pub enum Committed<S: Subject> {
    Done(Arc<S::Object>),
    /// The object changed meanwhile. Nothing was written, and no attempt counts.
    Dropped(String),
    /// The API server refuses the status and would refuse it again.
    Refused(String),
}

/// What follows a commit once it is written.
pub struct AfterCommit<S: Subject> {
    /// One for all its steps.
    pub event: Option<Event<S>>,
    /// The phases that were reached.
    pub reached: Vec<S::Phase>,
    /// The result of each handler's step.
    pub results: Vec<(S::HandlerName, HistoryResult)>,
}

impl<S: Subject> Default for AfterCommit<S> {
    fn default() -> Self {
        Self { event: None, reached: vec![], results: vec![] }
    }
}

impl<S: Subject> AfterCommit<S> {
    /// Whether a handler did something. Its effects may not be visible yet.
    pub fn has_done(&self, handler: S::HandlerName) -> bool {
        self.results.iter().any(|(by, result)| *by == handler && *result != HistoryResult::Skipped)
    }

    pub fn append(&mut self, mut later: Self) {
        if let Some(event) = later.event {
            self.add_event(event);
        }
        self.reached.append(&mut later.reached);
        self.results.append(&mut later.results);
    }

    /// Joins the Event of a step to the Event of the steps before it.
    pub fn add_event(&mut self, event: Event<S>) {
        self.event = Some(match self.event.take() {
            Some(earlier) => earlier.followed_by(event),
            None => event,
        });
    }
}
