//! Views of pods: pods of kernels, and foreign pods.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};

use super::volumes::ClaimKey;
use crate::api::{GroupName, NodeName, Resources, SessionUid};

/// A kernel's pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodView {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub session_uid: SessionUid,
    /// The uid of its controller, which is the session.
    pub owner_uid: Option<String>,
    pub group: GroupName,
    /// The kernel's role and index, from the pod's label.
    pub kernel: String,
    pub generation: i64,
    /// The node that it is bound to; before that, the node that it is pinned to.
    pub node: Option<NodeName>,
    pub bound: bool,
    pub requests: Resources,
    /// The volume claims it mounts.
    pub claims: BTreeSet<ClaimKey>,
    /// The kubelet's last warning while the pod makes no progress: an Event's reason and message.
    pub warning: Option<(String, String)>,
    pub deleting: bool,
    /// When its deletion was requested, by the API server's clock.
    pub deletion_requested_at: Option<DateTime<Utc>>,
    /// The kubelet reported the status before it knew of the deletion. The observed generation shows that.
    pub reported_before_deletion: bool,
    /// Its condition `DisruptionTarget`, if that is true.
    pub disruption: Option<Disruption>,
    /// Finalizers that are not the operator's.
    pub other_finalizers: Vec<String>,
    /// The grace period in seconds, once it is being deleted.
    pub grace: Option<i64>,
    /// It has the operator's finalizer.
    pub held: bool,
    pub gate: Option<GateState>,
    pub gate_opened: bool,
    /// When its kubelet was last reminded that the gate is open.
    pub gate_reminded_at: Option<DateTime<Utc>>,
    pub main: MainState,
    /// Its sandbox is ready: images can be pulled and containers can start.
    pub ready_to_start: bool,
    pub ended: bool,
    /// Another container runs next to the main one. A webhook, for example, added it.
    pub has_sidecar: bool,
    /// Since when kube-scheduler has refused it, and the message.
    pub unschedulable: Option<(DateTime<Utc>, String)>,
    /// Why an image cannot be pulled: the kubelet's reason and message, from the first container that reports one.
    pub image_error: Option<(String, String)>,
    /// Since when pulling has failed, as this operator observed it.
    pub image_error_since: Option<DateTime<Utc>>,
    pub ip: Option<String>,
    /// Whether its containers are ready. A lost node does not change this.
    pub containers_ready: bool,
    /// Since when the pod is ready, if it is.
    pub ready_since: Option<DateTime<Utc>>,
    /// Whether the Service of its deployment sends it requests. None if it is no replica.
    pub traffic: Option<bool>,
    pub created_at: Option<DateTime<Utc>>,
    /// The reason in the pod's status, for example `Evicted`.
    pub reason: Option<String>,
    pub message: Option<String>,
    pub resource_version: u64,
}

/// Identifies one pod. The uid excludes a later pod of the same name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodRef {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

impl From<&PodView> for PodRef {
    fn from(pod: &PodView) -> Self {
        Self { namespace: pod.namespace.clone(), name: pod.name.clone(), uid: pod.uid.clone() }
    }
}

/// Why Kubernetes ends a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disruption {
    /// The reason of the condition, for example `EvictionByEvictionAPI`.
    pub reason: String,
    pub message: String,
}

/// The state of the gate in a gang's pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateState {
    /// Its image, which is the kernel's, is being pulled.
    Waiting,
    /// It runs, so the image is on the node.
    Running,
    /// It has let the kernel start.
    Passed,
}

/// The state of a pod's main container.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum MainState {
    #[default]
    Unknown,
    Waiting {
        reason: String,
        message: String,
    },
    Running {
        since: Option<DateTime<Utc>>,
    },
    Ended {
        exit_code: i32,
        reason: String,
        message: String,
        started_at: Option<DateTime<Utc>>,
        finished_at: Option<DateTime<Utc>>,
    },
}

impl PodView {
    /// Whether it still uses its requests. It does until its containers have ended.
    pub fn is_live(&self) -> bool {
        !self.ended
    }

    /// Returns the pod as a foreign pod.
    pub fn as_foreign(&self, node: &NodeName) -> ForeignPod {
        ForeignPod {
            namespace: self.namespace.clone(),
            node: node.clone(),
            requests: self.requests.clone(),
            claims: self.claims.clone(),
            ..ForeignPod::default()
        }
    }

    /// Whether its main container is known to have started.
    pub fn has_started(&self) -> bool {
        match &self.main {
            MainState::Running { .. } => true,
            MainState::Ended { started_at, .. } => started_at.is_some_and(|at| at > DateTime::UNIX_EPOCH),
            MainState::Unknown | MainState::Waiting { .. } => false,
        }
    }

    /// Returns how the main container ended, once that ends the kernel. The kubelet reports the container's end before the
    /// pod's. The kernel ends with the pod, unless another container keeps the pod running.
    pub fn main_end(&self) -> Option<&MainState> {
        let is_final = self.ended || self.has_sidecar;
        Some(&self.main).filter(|main| is_final && matches!(main, MainState::Ended { .. }))
    }
}

/// A foreign pod: its usage of its node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ForeignPod {
    pub namespace: String,
    pub node: NodeName,
    pub requests: Resources,
    /// The volume claims it mounts.
    pub claims: BTreeSet<ClaimKey>,
    /// The lifetime that its owner and readiness claim. A tenant can write both.
    pub claimed_lifetime: Lifetime,
    /// The lifetime that it is counted by.
    pub lifetime: Lifetime,
}

/// How long a foreign pod uses its node's resources.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lifetime {
    /// Until it ends. It keeps private sessions off the node.
    #[default]
    Transient,
    /// It is a pod of a DaemonSet or a static pod, and is starting or ending, or its namespace is not trusted.
    NodeBound,
    /// It is a pod of a DaemonSet or a static pod, and its resources never become free.
    Permanent,
}
