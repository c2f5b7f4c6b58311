//! What is seen of a replica: its session, its main pod, and whether that serves.

use chrono::{DateTime, Utc};

use crate::api::{Reason, Session, SessionPhase};
use crate::views::{MainState, PodView};

/// The session of a replica, as far as its route needs it.
#[derive(Clone, Debug, PartialEq)]
pub enum Replica {
    /// There is no session of this route.
    Absent,
    /// The session is on its way.
    Starting,
    Running,
    /// The session ends or has ended: why, in words.
    Ending {
        ended: bool,
        reason: Reason,
        message: String,
    },
}

impl Replica {
    pub fn of(session: Option<&Session>) -> Self {
        let Some(session) = session else { return Self::Absent };
        let phase = session.phase();
        if phase.is_ending() || session.is_deleted() {
            let status = session.status.as_ref();
            let reason = status.and_then(|status| status.reason).unwrap_or(Reason::Deleted);
            let message =
                status.and_then(|status| status.message.clone()).unwrap_or_else(|| "the session is being deleted".into());
            return Self::Ending { ended: phase.is_terminal(), reason, message };
        }
        if phase == SessionPhase::Running { Self::Running } else { Self::Starting }
    }

    /// Whether nothing of it runs any more.
    pub fn has_ended(&self) -> bool {
        matches!(self, Self::Absent | Self::Ending { ended: true, .. })
    }
}

/// When the main container of a pod started.
pub fn started_at(pod: &PodView) -> Option<DateTime<Utc>> {
    match &pod.main {
        MainState::Running { since } => *since,
        MainState::Unknown | MainState::Waiting { .. } | MainState::Ended { .. } => None,
    }
}

/// The kubelet's last words on the health check of a pod.
pub fn last_words(pod: &PodView) -> String {
    match &pod.warning {
        Some((reason, message)) => format!("{reason}: {message}"),
        None => "the kubelet has not reported why".into(),
    }
}
