//! Why a session is not given its nodes: everything that stands against it, with numbers and names.

use crate::api::{Amount, ResourceName};
use crate::lifecycle::{Cause, Reason};

/// One thing that stands against a session.
#[derive(Clone, Debug, PartialEq)]
pub struct Blocker {
    /// Which validator says so.
    pub validator: &'static str,
    /// The cause of the failure; None if nothing failed and only its time has not come.
    pub cause: Option<Cause>,
    pub reason: Reason,
    /// What blocks: `keypair alice`, `session other`.
    pub object: Option<String>,
    pub numbers: Option<Numbers>,
    pub message: String,
    /// What would have to change, where the rest does not tell.
    pub needs: Option<String>,
}

/// How much was asked for and why it is too much.
#[derive(Clone, Debug, PartialEq)]
pub struct Numbers {
    /// None where sessions or volumes are counted.
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

    /// Something it needs is stopped or not there yet.
    pub fn hold(validator: &'static str, reason: Reason, message: impl Into<String>) -> Self {
        Self::new(validator, Cause::Hold, reason, message)
    }

    /// No failure: it is not its time yet.
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

    /// Sessions, kernels or volumes.
    pub fn counting_units(self, requested: i64, used: i64, limit: i64) -> Self {
        let units = Amount::from_units;
        self.counting(None, units(requested), units(used), units(limit))
    }

    /// A failed dependency never recovers, so it comes first. Then what only time solves, since the rest may change until
    /// then: faults, holds, quotas, capacity.
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

/// How many nodes fell to which reason, the most frequent first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeCounts {
    pub total: usize,
    /// Of them, those that take no kernel at all now.
    pub closed: usize,
    pub reasons: Vec<(String, usize)>,
}

/// Everything that stands against a session; the gravest decides.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    /// None if it is no failure.
    pub cause: Option<Cause>,
    pub reason: Reason,
    /// All of it, numbered if there is more than one thing.
    pub message: String,
    pub blockers: Vec<Blocker>,
    pub nodes: Option<NodeCounts>,
}

impl Refusal {
    /// Whether it says enough to one who has been told lately, or who has not: then the nodes must be counted.
    pub fn suffices(&self, reported: bool) -> bool {
        reported || self.cause != Some(Cause::Capacity) || self.nodes.is_some()
    }

    /// None if nothing stands against it.
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
