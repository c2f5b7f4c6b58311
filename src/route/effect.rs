//! Effects as data: the writes and reads that a decision on a route needs. `cluster::serving::route_effects` performs them.

use crate::api::SessionSpec;
use crate::views::PodRef;

/// One write. Every effect is idempotent, so that it can be repeated after a crash.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Creates the session that is the replica.
    CreateSession(Box<SessionSpec>),
    /// Sets whether the Service of the deployment sends requests to the main pod.
    SetTraffic { pod: PodRef, on: bool },
    /// Confirms by a read that the session has no main pod. If it has one, the route is evaluated again.
    ConfirmNoPod,
    /// Tells the session to end. `grace` is in seconds.
    EndSession { grace: i64, forced: bool },
    /// Deletes the session, gracefully.
    DeleteSession,
    /// Removes our finalizer, so that the API server removes the route.
    ReleaseRoute,
}

impl Effect {
    /// Returns its name among the sub-steps of the history.
    pub fn name(&self) -> &'static str {
        match self {
            Self::CreateSession(_) => "create-session",
            Self::SetTraffic { on: true, .. } => "traffic-on",
            Self::SetTraffic { on: false, .. } => "traffic-off",
            Self::ConfirmNoPod => "confirm-no-pod",
            Self::EndSession { .. } => "end-session",
            Self::DeleteSession => "delete-session",
            Self::ReleaseRoute => "release-route",
        }
    }

    /// Returns the object it writes, if that is not the route or its session.
    pub fn target(&self) -> String {
        match self {
            Self::SetTraffic { pod, .. } => pod.name.clone(),
            Self::CreateSession(_) | Self::ConfirmNoPod | Self::EndSession { .. } | Self::DeleteSession | Self::ReleaseRoute => {
                String::new()
            }
        }
    }
}
