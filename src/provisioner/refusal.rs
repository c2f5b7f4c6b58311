//! The reasons why a session does not get its nodes, with numbers and names.

use crate::api::{Amount, ResourceName};
use crate::lifecycle::{Cause, Reason};

/// One thing that keeps a session in the queue.
#[derive(Clone, Debug, PartialEq)]
pub struct Blocker {
    /// The validator that found it.
    pub validator: &'static str,
    /// The cause of the failure. None if nothing failed and the session only waits for a time or for another session.
    pub cause: Option<Cause>,
    pub reason: Reason,
    /// The object that blocks: `keypair alice`, `session other`.
    pub object: Option<String>,
    pub numbers: Option<Numbers>,
    pub message: String,
    /// What would have to change. None if that follows from the other fields.
    pub needs: Option<String>,
}

/// The amounts behind a blocker.
#[derive(Clone, Debug, PartialEq)]
pub struct Numbers {
    /// None if sessions, kernels or volumes are counted.
    pub resource: Option<ResourceName>,
    pub requested: Amount,
    pub used: Amount,
    pub limit: Amount,
}

impl Blocker {
    pub fn new(validator: &'static str, cause: Cause, reason: Reason, message: impl Into<String>) -> Self {
        Self { validator, cause: Some(cause), reason, object: None, numbers: None, message: message.into(), needs: None }
    }

    pub fn fault(validator: &'static str, reason: Reason, message: impl Into<String>) -> Self {
        Self::new(validator, Cause::Fault, reason, message)
    }

    /// An object that the session needs is inactive or absent.
    pub fn hold(validator: &'static str, reason: Reason, message: impl Into<String>) -> Self {
        Self::new(validator, Cause::Hold, reason, message)
    }

    /// Not a failure: the session waits for a time, another session or a higher priority.
    pub fn not_yet(validator: &'static str, reason: Reason, message: impl Into<String>) -> Self {
        Self { cause: None, ..Self::fault(validator, reason, message) }
    }

    pub fn of(self, object: impl Into<String>) -> Self {
        Self { object: Some(object.into()), ..self }
    }

    pub fn needing(self, needs: impl Into<String>) -> Self {
        Self { needs: Some(needs.into()), ..self }
    }

    pub fn counting(self, resource: Option<ResourceName>, requested: Amount, used: Amount, limit: Amount) -> Self {
        Self { numbers: Some(Numbers { resource, requested, used, limit }), ..self }
    }

    /// Adds numbers of sessions, kernels or volumes.
    pub fn counting_units(self, requested: i64, used: i64, limit: i64) -> Self {
        let units = Amount::from_units;
        self.counting(None, units(requested), units(used), units(limit))
    }

    /// Blockers with the lowest weight come first. A failed dependency never recovers, so it is first. A blocker without a
    /// cause is next, because all others may change until its time comes.
    fn weight(&self) -> u8 {
        match self.cause {
            Some(Cause::Fault) if self.reason == Reason::DependencyFailed => 0,
            None => 1,
            Some(Cause::Fault) => 2,
            Some(Cause::Hold) => 3,
            Some(Cause::Quota) => 4,
            Some(Cause::Capacity) => 5,
        }
    }
}

/// How many nodes were rejected for each reason, the most frequent reason first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeCounts {
    pub total: usize,
    /// The nodes that take no kernel at all now.
    pub closed: usize,
    pub reasons: Vec<(String, usize)>,
}

/// All blockers of a session. The first one decides cause and reason.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    /// None if nothing failed.
    pub cause: Option<Cause>,
    pub reason: Reason,
    /// The messages of all blockers, numbered if there are several.
    pub message: String,
    pub blockers: Vec<Blocker>,
    pub nodes: Option<NodeCounts>,
}

impl Refusal {
    /// Whether it is detailed enough for this session. A session that has not reported missing capacity recently
    /// (`reported`) needs the counts of its nodes.
    pub fn suffices(&self, reported: bool) -> bool {
        reported || self.cause != Some(Cause::Capacity) || self.nodes.is_some()
    }

    /// Returns None if there are no blockers.
    pub fn of(mut blockers: Vec<Blocker>) -> Option<Self> {
        blockers.sort_by_key(Blocker::weight);
        let first = blockers.first()?;
        let message = match blockers.as_slice() {
            [only] => only.message.clone(),
            all => {
                let numbered = all.iter().enumerate().map(|(n, blocker)| format!("({}) {}", n + 1, blocker.message));
                numbered.collect::<Vec<_>>().join("; ")
            }
        };
        Some(Self { cause: first.cause, reason: first.reason, message, blockers, nodes: None })
    }
}
