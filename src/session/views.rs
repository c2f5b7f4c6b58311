//! What we keep of pods and nodes: folded on arrival to the fields that decisions look at.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::volumes::ClaimKey;
use crate::api::{GroupName, NodeName, Resources, SessionUid};
use crate::provisioner::ForeignPod;

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

/// A node, which is an agent here.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AgentView {
    pub name: NodeName,
    pub allocatable: Resources,
    pub architecture: String,
    pub labels: BTreeMap<String, String>,
    pub taints: Vec<Taint>,
    pub unschedulable: bool,
    pub ready: bool,
    /// Since when it is not ready.
    pub not_ready_since: Option<DateTime<Utc>>,
    /// Whether its kubelet shows no sign of life, whatever its status says.
    pub stale: bool,
}

/// A node's taint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taint {
    pub key: String,
    pub value: String,
    pub effect: String,
}

/// Whether an agent can be spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    Alive,
    /// Not ready, but not for long enough to count as lost, which it will be then.
    Doubtful {
        lost_at: Option<DateTime<Utc>>,
    },
    /// Not ready for too long; its kernels may still run.
    Lost,
    /// Ready by its status, but its kubelet shows no sign of life; its kernels may still run.
    Stale,
    /// Its node object is gone or tainted out-of-service: nothing runs there any more.
    Gone,
}

impl Liveness {
    pub fn is_lost(self) -> bool {
        matches!(self, Self::Lost | Self::Stale | Self::Gone)
    }

    /// What is the matter with a node of which this is so, where anything is.
    pub fn trouble(self, node: &str, stale: Duration) -> Option<String> {
        match self {
            Self::Alive | Self::Doubtful { .. } => None,
            Self::Lost => Some(format!("node {node} does not answer")),
            Self::Stale => Some(format!("the kubelet of node {node} has shown no sign of life for {} s", stale.as_secs())),
            Self::Gone => Some(format!("node {node} is gone")),
        }
    }
}

/// The taint by which an admin declares that nothing runs on a node any more.
pub const TAINT_OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

impl AgentView {
    pub fn has_labels(&self, labels: &BTreeMap<String, String>) -> bool {
        labels.iter().all(|(key, value)| self.labels.get(key) == Some(value))
    }

    /// Whether it is well and not cordoned.
    pub fn takes_pods(&self) -> bool {
        self.ready && !self.stale && !self.unschedulable
    }

    pub fn liveness(&self, lost_after: std::time::Duration, now: DateTime<Utc>) -> Liveness {
        if self.taints.iter().any(|taint| taint.key == TAINT_OUT_OF_SERVICE) {
            return Liveness::Gone;
        }
        if self.ready {
            return if self.stale { Liveness::Stale } else { Liveness::Alive };
        }
        let lost_at = self.not_ready_since.and_then(|since| Some(since + TimeDelta::from_std(lost_after).ok()?));
        if lost_at.is_some_and(|at| at <= now) { Liveness::Lost } else { Liveness::Doubtful { lost_at } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::handlers::testing::{agent, now};

    #[test]
    fn an_agent_is_lost_when_its_time_is_over_and_gone_by_an_admins_word() {
        let minute = std::time::Duration::from_secs(60);
        let well = agent("node-1", 4);
        assert_eq!(well.liveness(minute, now()), Liveness::Alive);
        assert_eq!(AgentView { stale: true, ..well.clone() }.liveness(minute, now()), Liveness::Stale);
        let silent = |seconds| {
            let since = now() - TimeDelta::seconds(seconds);
            AgentView { ready: false, not_ready_since: Some(since), ..well.clone() }.liveness(minute, now())
        };
        assert_eq!(silent(59), Liveness::Doubtful { lost_at: Some(now() + TimeDelta::seconds(1)) });
        assert_eq!(silent(60), Liveness::Lost);
        let taint = Taint { key: TAINT_OUT_OF_SERVICE.into(), value: "nodeshutdown".into(), effect: "NoExecute".into() };
        assert_eq!(AgentView { taints: vec![taint], ..well.clone() }.liveness(minute, now()), Liveness::Gone);
    }
}
