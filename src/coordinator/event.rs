//! Events: one for each commit, about all its steps together.

use std::sync::Arc;

use crate::api::Reason;
use crate::lifecycle::{Phase, Subject};

/// An Event on an object.
#[derive(Clone, Debug)]
pub struct Event<S: Subject> {
    pub object: Arc<S::Object>,
    /// The last handler.
    pub action: &'static str,
    pub warning: bool,
    /// Why, or the phase that was reached.
    pub reason: EventReason<S::Phase>,
    pub message: String,
    pub from: S::Phase,
    /// The phases that were reached, in their order. Empty if the phase stayed.
    pub reached: Vec<S::Phase>,
}

/// The reason of an Event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventReason<P> {
    Reason(Reason),
    Reached(P),
}

impl<S: Subject> Event<S> {
    /// The phase after the commit.
    pub fn to(&self) -> S::Phase {
        self.reached.last().copied().unwrap_or(self.from)
    }

    /// Returns the text of the Event: `Pending → Scheduled: message`.
    pub fn note(&self) -> String {
        let phases: Vec<&str> = [self.from].iter().chain(&self.reached).map(|phase| phase.as_str()).collect();
        let moved = (!self.reached.is_empty()).then(|| phases.join(" → "));
        let message = Some(self.message.clone()).filter(|message| !message.is_empty());
        moved.into_iter().chain(message).collect::<Vec<_>>().join(": ")
    }

    /// One Event for this step and a later one of the same commit. A failure that a transition follows is left to the history. A
    /// warning stays one.
    pub(super) fn followed_by(self, later: Self) -> Self {
        if self.reached.is_empty() {
            return later;
        }
        let reached = [self.reached.clone(), later.reached.clone()].concat();
        let (from, action) = (self.from, later.action);
        let said = if self.warning && !later.warning { self } else { later };
        Self { from, action, reached, ..said }
    }
}
