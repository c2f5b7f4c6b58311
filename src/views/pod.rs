//! What is seen of pods: those of kernels, and foreign ones.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};

use super::volumes::ClaimKey;
use crate::api::{GroupName, NodeName, Resources, SessionUid};

/// A pod of ours.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodView {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub session_uid: SessionUid,
    /// The uid of the object that controls it: its kernel.
    pub owner_uid: Option<String>,
    pub group: GroupName,
    /// Role and index, from its label.
    pub kernel: String,
    pub generation: i64,
    /// The node it is bound to, or pinned to as long as it is not bound.
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
    /// Its status is from before its deletion, by the generation that the kubelet had observed.
    pub reported_before_deletion: bool,
    /// Its condition `DisruptionTarget`, if that is true.
    pub disruption: Option<Disruption>,
    /// The finalizers on it that are not ours.
    pub other_finalizers: Vec<String>,
    /// How many seconds it is given to end, once it is being deleted.
    pub grace: Option<i64>,
    /// Our finalizer is on it.
    pub held: bool,
    pub gate: Option<GateState>,
    pub gate_opened: bool,
    pub main: MainState,
    /// Its sandbox stands: containers may start and images be pulled.
    pub ready_to_start: bool,
    pub ended: bool,
    /// A container beside the main one runs, which something added to it.
    pub beside: bool,
    /// Since when kube-scheduler refuses it, and its words.
    pub unschedulable: Option<(DateTime<Utc>, String)>,
    /// Why its image is not to be had: the kubelet's reason and words. From whichever container shows it first.
    pub image_error: Option<(String, String)>,
    /// Since when pulling has failed, as far as this operator has seen it.
    pub image_error_since: Option<DateTime<Utc>>,
    pub ip: Option<String>,
    pub created_at: Option<DateTime<Utc>>,
    /// The pod's own reason and words, for example `Evicted`.
    pub reason: Option<String>,
    pub message: Option<String>,
    pub resource_version: u64,
}

/// Why Kubernetes is about to end a pod, or has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disruption {
    /// As Kubernetes names it: `EvictionByEvictionAPI` …
    pub reason: String,
    pub message: String,
}

/// What is known of a gated pod's gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateState {
    /// Its image, which is the kernel's, is still on its way.
    Waiting,
    /// It runs: the image is there.
    Running,
    /// It let the kernel start.
    Passed,
}

/// What is known of a pod's main container.
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
    /// Whether it still takes what it requested: until its containers have ended.
    pub fn is_live(&self) -> bool {
        !self.ended
    }

    /// The same pod, counted as a foreign one.
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

    /// How its main container ended, once that is the end of its kernel. The kubelet tells of the container before it tells
    /// that the pod has ended: that is waited for, unless something runs on beside it.
    pub fn main_end(&self) -> Option<&MainState> {
        let over = self.ended || self.beside;
        Some(&self.main).filter(|main| over && matches!(main, MainState::Ended { .. }))
    }
}

/// A pod that is not ours: what it takes of its node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ForeignPod {
    pub namespace: String,
    pub node: NodeName,
    pub requests: Resources,
    /// The volume claims it mounts.
    pub claims: BTreeSet<ClaimKey>,
    /// The tenure that its owner and readiness claim. A tenant can write both.
    pub claimed_lifetime: Lifetime,
    /// The tenure that it is counted by.
    pub lifetime: Lifetime,
}

/// How long a foreign pod is to be reckoned with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lifetime {
    /// Until it ends; it stands against a private session.
    #[default]
    Transient,
    /// It belongs to the node (DaemonSet, static), and is coming or going.
    NodeBound,
    /// It belongs to the node, and what it takes does not become free.
    Permanent,
}
