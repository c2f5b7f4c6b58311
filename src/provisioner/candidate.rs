//! A waiting session as the provisioner sees it.

use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::ahead::Ahead;
use super::equivalence_class::EquivalenceClass;
use crate::api::{NodeName, Reason, SessionPhase, SessionResult};

/// The state of a session that another session depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dependency {
    /// It once ended with Success, and the waiting session has recorded that.
    Met,
    /// It does not exist.
    Missing,
    /// The sessions depend on each other, perhaps through further sessions, so none of them could ever start.
    Circular,
    Is(SessionPhase, Option<SessionResult>),
}

/// A waiting session.
pub struct Candidate<'c> {
    pub class: &'c Arc<EquivalenceClass>,
    /// Namespace and name. They order sessions that are equal otherwise.
    pub name: (&'c str, &'c str),
    /// The effective priority.
    pub priority: i32,
    pub created_at: Option<DateTime<Utc>>,
    pub starts_at: Option<DateTime<Utc>>,
    /// Whether its user has suspended it.
    pub suspended: bool,
    /// The sessions it depends on.
    pub dependencies: &'c [(String, Dependency)],
    /// Nodes that failed the session. They are tried last.
    pub avoided: Vec<&'c NodeName>,
    /// Why it cannot use its SessionTemplate.
    pub template_problem: Option<&'c (Reason, String)>,
    /// The older waiting sessions of each tenant that limits waiting sessions.
    pub ahead: &'c [Ahead],
    /// Whether its status recently reported that no node has enough free resources. The rejected nodes are then not counted
    /// again.
    pub recently_reported: bool,
}

impl Candidate<'_> {
    /// Returns the creation time in microseconds since 1970.
    pub fn created_micros(&self) -> i64 {
        self.created_at.map_or(0, |created_at| created_at.timestamp_micros())
    }

    /// Whether the session waits for its user, its start time or another session, and not for free resources.
    pub fn is_not_due(&self, now: DateTime<Utc>) -> bool {
        let is_open = |dependency: &Dependency| match dependency {
            Dependency::Missing => true,
            Dependency::Met | Dependency::Circular => false,
            Dependency::Is(phase, _) => !phase.is_terminal(),
        };
        self.suspended || self.starts_at.is_some_and(|due| now < due) || self.dependencies.iter().any(|(_, state)| is_open(state))
    }
}
