//! A finding about a deployment, and what findings are made from. Pure.

use chrono::{DateTime, Utc};
use kube::ResourceExt;
use serde::Serialize;

use super::fetch::Parts;
use super::target::arguments;
use crate::api::{Deployment, DeploymentStatus, Reason, Route, RoutePhase, Session, SessionPhase};

/// One thing that keeps a deployment from its desired state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What does not hold, with numbers.
    pub what: String,
    pub since: Option<DateTime<Utc>>,
    /// The objects that it concerns, and what they report.
    pub details: Vec<String>,
    /// What happens next, or what would change it.
    pub next: String,
}

/// What is seen of a deployment.
pub struct Seen<'s> {
    pub deployment: &'s Deployment,
    pub status: &'s DeploymentStatus,
    pub parts: &'s Parts,
    pub now: DateTime<Utc>,
}

impl<'s> Seen<'s> {
    /// Name and namespace of the deployment, as arguments of a command.
    pub fn arguments(&self) -> String {
        arguments(self.deployment)
    }

    pub fn desired(&self) -> i32 {
        self.deployment.spec.replicas
    }

    pub fn routes(&self) -> impl Iterator<Item = &'s Route> {
        self.parts.routes.iter().flatten()
    }

    pub fn sessions(&self) -> impl Iterator<Item = &'s Session> {
        self.parts.sessions.iter().flatten()
    }

    pub fn session(&self, route: &Route) -> Option<&'s Session> {
        self.sessions().find(|session| session.name_any() == route.spec.session)
    }

    /// The routes that count as replicas.
    pub fn counted(&self) -> impl Iterator<Item = &'s Route> {
        let leaves = |route: &Route| self.status.leaving.contains(&route.name_any());
        self.routes()
            .filter(move |route| !route.phase().is_ending() && route.metadata.deletion_timestamp.is_none() && !leaves(route))
    }

    /// Counted routes that serve nobody, apart from those whose session waits in the queue.
    pub fn stuck(&self, phases: &[RoutePhase]) -> Vec<&'s Route> {
        let waits = |route: &Route| self.session(route).is_some_and(is_waiting);
        self.counted().filter(|route| phases.contains(&route.phase()) && !waits(route)).collect()
    }
}

/// Whether a session waits in the queue, and why is known.
pub fn is_waiting(session: &Session) -> bool {
    let reason = session.status.as_ref().and_then(|status| status.reason);
    session.phase() == SessionPhase::Pending
        && session.metadata.deletion_timestamp.is_none()
        && reason.is_some_and(|reason| reason != Reason::NotEvaluated)
}
