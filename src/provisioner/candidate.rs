//! A waiting session, as the provisioner looks at it.

use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::ahead::Ahead;
use super::equivalence_class::EquivalenceClass;
use crate::api::{NodeName, SessionPhase, SessionResult};

/// How a session stands that another depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dependency {
    /// It ended with Success at some time, which the session that waits has on record.
    Met,
    /// It does not exist.
    Missing,
    /// It waits for the one that depends on it: neither would ever start.
    Circular,
    Is(SessionPhase, Option<SessionResult>),
}

/// A waiting session.
pub struct Candidate<'c> {
    pub class: &'c Arc<EquivalenceClass>,
    /// Tells those apart that are equal in all else: namespace and name.
    pub name: (&'c str, &'c str),
    /// The effective one.
    pub priority: i32,
    pub created_at: Option<DateTime<Utc>>,
    pub starts_at: Option<DateTime<Utc>>,
    /// The sessions it depends on.
    pub dependencies: &'c [(String, Dependency)],
    /// The nodes that failed it, which are tried last.
    pub avoided: Vec<&'c NodeName>,
    /// What waits before it, for each of its tenants that limits it.
    pub ahead: &'c [Ahead],
    /// Whether it has been told lately that no node has room: then the nodes are not counted again.
    pub recently_reported: bool,
}

impl Candidate<'_> {
    /// When it was made, in microseconds since 1970.
    pub fn made(&self) -> i64 {
        self.created_at.map_or(0, |made| made.timestamp_micros())
    }

    /// Whether it waits for its start or for another session, and not for room.
    pub fn awaits_its_time(&self, now: DateTime<Utc>) -> bool {
        let goes_on = |dependency: &Dependency| match dependency {
            Dependency::Missing => true,
            Dependency::Met | Dependency::Circular => false,
            Dependency::Is(phase, _) => !phase.is_terminal(),
        };
        self.starts_at.is_some_and(|due| now < due) || self.dependencies.iter().any(|(_, state)| goes_on(state))
    }
}
