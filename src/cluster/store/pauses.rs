//! Ends the pauses of sessions when the object at fault changes.

use std::sync::Arc;

use chrono::Utc;

use super::state::State;
use crate::api::{Reason, Session, SessionUid};
use crate::coordinator::marks::HandlerMarks;
use crate::lifecycle::{Subject, last_attempt};
use crate::session::handlers::HandlerName;
use crate::session::sessions::Sessions;
use crate::views::VolumeView;

impl State {
    /// Ends the pauses of sessions whose last failure has one of these reasons, in one namespace or in all.
    pub(in crate::cluster) fn end_pauses(
        &self,
        marks: &HandlerMarks<Sessions>,
        namespace: Option<&str>,
        concerns: impl Fn(Reason) -> bool,
    ) {
        for (handler, uid, session) in self.paused(concerns) {
            if namespace.is_none_or(|namespace| session.metadata.namespace.as_deref() == Some(namespace)) {
                marks.urgent(handler, &uid);
            }
        }
    }

    /// Returns the sessions in a pause, with the handlers that evaluate them next.
    pub(super) fn paused(&self, concerns: impl Fn(Reason) -> bool) -> Vec<(HandlerName, SessionUid, Arc<Session>)> {
        let now = Utc::now();
        let mut paused = vec![];
        for handler in Sessions::table().iter().filter(|handler| !handler.waits()) {
            for (_, uid) in handler.targets.iter().flat_map(|phase| self.index.in_phase(*phase)) {
                let Some(session) = self.session(uid) else { continue };
                let Some(status) = session.status.as_ref().filter(|s| s.next_attempt_at.is_some_and(|at| at > now)) else {
                    continue;
                };
                let reason = last_attempt(&status.history).and_then(|last| last.error_code);
                if reason.is_some_and(&concerns) {
                    paused.push((handler.name, uid.clone(), session.clone()));
                }
            }
        }
        paused
    }
}

/// Whether a change of a tenant, a policy or a scaling group may fix this failure.
pub fn about_tenants<V>(_: &V, reason: Reason) -> bool {
    !matches!(reason, Reason::NamespaceQuota | Reason::EffectFailed | Reason::Unschedulable)
}

/// Whether a new node or a change of a node may fix this failure.
pub fn about_nodes(reason: Reason) -> bool {
    use Reason::{AdmissionRefused, Drained, Evicted, NodeLost, PodDeleted, Preempted, Unschedulable};
    matches!(reason, AdmissionRefused | Drained | Evicted | NodeLost | PodDeleted | Preempted | Unschedulable)
}

/// Whether a change of a volume claim or its classes may fix this failure.
pub fn about_volumes<V>(_: &V, reason: Reason) -> bool {
    use Reason::{Unschedulable, VolumeClaimExists, VolumeClaimInUse, VolumeClaimNotBound, VolumeClaimNotFound, VolumeReadOnly};
    matches!(
        reason,
        Unschedulable | VolumeClaimExists | VolumeClaimInUse | VolumeClaimNotBound | VolumeClaimNotFound | VolumeReadOnly
    )
}

/// Whether this volume may fix this failure. Only an available volume can help a waiting session.
pub fn about_free_volumes(volume: &VolumeView, reason: Reason) -> bool {
    volume.is_available && about_volumes(volume, reason)
}
