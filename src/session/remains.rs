//! The remains of a session: its objects at the API server, which may outlive its allocation and itself.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::kernel_record::new_record;
use super::snapshot::Snapshot;
use crate::api::{DesiredState, Kernel, KernelStatus, NodeName, Session, SessionUid, TerminationMode};
use crate::views::{Liveness, PodView};

/// The objects of one session at the API server. The session itself may be gone.
pub struct Remains {
    pub uid: SessionUid,
    pub namespace: String,
    /// None when the session is gone.
    pub session: Option<Arc<Session>>,
    /// The metadata of a session that cannot be read and is being deleted.
    pub unreadable: Option<ObjectMeta>,
    /// Whether the session is removed as soon as its pods are gone, and its records with it.
    pub is_leaving: bool,
    pub kernels: Vec<Arc<Kernel>>,
    pub pods: Vec<Arc<PodView>>,
    pub liveness: HashMap<NodeName, Liveness>,
    pub snapshot: Snapshot,
}

/// How an allocation relates to its session, which decides whether its pods and kernels are kept.
pub enum AllocationState {
    /// The session holds this allocation.
    Current,
    /// The session has ended. Live pods are stopped; ended pods stay for their logs.
    Ended,
    /// The session is gone, has ended and is being deleted, or holds another allocation. Everything is removed.
    Leftover,
}

impl Remains {
    pub fn allocation_state(&self, hostname: &str, generation: i64) -> AllocationState {
        let Some(session) = &self.session else { return AllocationState::Leftover };
        let status = session.status.as_ref();
        let phase = session.phase();
        let is_last = status.is_some_and(|status| {
            status.allocation_generation == generation && status.allocation.iter().any(|a| a.kernel == hostname)
        });
        match is_last {
            false => AllocationState::Leftover,
            true if phase.is_terminal() && session.is_deleted() => AllocationState::Leftover,
            true if phase.is_terminal() => AllocationState::Ended,
            true => AllocationState::Current,
        }
    }

    fn written(&self, pod: &PodView) -> Option<&Arc<Kernel>> {
        self.kernels.iter().find(|kernel| kernel.metadata.name.as_ref() == Some(&pod.name))
    }

    /// Returns the state that is recorded of a pod's kernel. It is empty if nothing is.
    pub fn recorded_state(&self, pod: &PodView) -> KernelStatus {
        self.written(pod).and_then(|kernel| kernel.status.clone()).unwrap_or_default()
    }

    /// Returns the record of a pod's kernel, or a new one if the pod is of the session's last allocation.
    pub fn record_of(&self, pod: &PodView) -> Option<Kernel> {
        if let Some(written) = self.written(pod) {
            return Some((**written).clone());
        }
        match self.allocation_state(&pod.kernel, pod.generation) {
            AllocationState::Current | AllocationState::Ended => self.new_record(&pod.kernel),
            AllocationState::Leftover => None,
        }
    }

    pub fn new_record(&self, hostname: &str) -> Option<Kernel> {
        new_record(self.session.as_deref()?, &self.snapshot.group_name.clone().unwrap_or_default(), hostname)
    }

    /// Whether its user ends it without a grace period.
    pub fn is_forced(&self) -> bool {
        let forced = |session: &Session| {
            let ends = session.is_deleted() || session.spec.desired_state == DesiredState::Terminated;
            ends && session.spec.termination.mode == TerminationMode::Forced
        };
        self.session.as_deref().is_some_and(forced)
    }

    pub fn now(&self) -> DateTime<Utc> {
        self.snapshot.now
    }

    pub fn is_gone(&self, pod: &PodView) -> bool {
        pod.node.as_ref().is_some_and(|node| pod.bound && self.liveness.get(node) == Some(&Liveness::Gone))
    }
}
