//! What a decision on a deployment sees: the deployment, its replicas and revisions, and what else belongs to it.

use std::sync::{Arc, LazyLock};

use chrono::{DateTime, TimeDelta, Utc};

use super::invalid::Invalid;
use super::revision::{Content, Revision};
use crate::api::{
    Cause, Deployment, DeploymentPhase, DeploymentSpec, DeploymentStatus, DeploymentUid, GroupName, NodeName, Reason, Route,
    RoutePhase, ScalingGroup, Session, SessionPhase,
};
use crate::lifecycle::{Timing, created_at};
use crate::provisioner::Refusal;

/// What decisions on deployments have in common.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub now: DateTime<Utc>,
    pub timing: Arc<Timing>,
    pub group_name: Option<GroupName>,
    pub group: Option<Arc<ScalingGroup>>,
}

/// A deployment's Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceView {
    /// Its port, and the port that this leads to.
    pub ports: (i32, i32),
    /// Whether it is internal and selects the replicas in the traffic.
    pub is_intact: bool,
}

/// One deployment.
#[derive(Clone, Debug)]
pub struct DeploymentItem {
    /// The deployment, with deferred commits.
    pub deployment: Arc<Deployment>,
    /// The deployment as the API server has it.
    pub stored: Arc<Deployment>,
    /// The content that the spec asks for, or what is wrong with the files that it names.
    pub content: Result<Content, Invalid>,
    /// Every route of the deployment.
    pub replicas: Vec<Replica>,
    /// Its revisions, the oldest first.
    pub revisions: Vec<Arc<Revision>>,
    pub service: Option<ServiceView>,
    /// `minAvailable` of its PodDisruptionBudget, if there is one.
    pub budget: Option<i32>,
    /// Sessions of the deployment that have no route: name and uid.
    pub without_route: Vec<(String, String)>,
    /// Why no replica could be placed now, if that was asked for.
    pub no_room: Option<Refusal>,
}

/// One replica: a route, and what is seen of its session and its main pod.
#[derive(Clone, Debug)]
pub struct Replica {
    pub route: Arc<Route>,
    pub session: Option<Arc<Session>>,
    pub node: Option<NodeName>,
    /// Whether an EndpointSlice of the deployment's Service lists its main pod as ready.
    pub listed: bool,
    /// Since when its main pod is ready, if it is.
    pub ready_since: Option<DateTime<Utc>>,
}

impl Replica {
    pub fn name(&self) -> &str {
        self.route.metadata.name.as_deref().unwrap_or_default()
    }

    pub fn phase(&self) -> RoutePhase {
        self.route.phase()
    }

    pub fn revision(&self) -> i64 {
        self.route.spec.revision
    }

    pub fn is_deleted(&self) -> bool {
        self.route.metadata.deletion_timestamp.is_some()
    }

    /// Whether it is one of the replicas that there shall be.
    pub fn is_counted(&self, status: &DeploymentStatus) -> bool {
        !self.phase().is_ending() && !self.is_deleted() && !status.leaving.iter().any(|name| name == self.name())
    }

    /// Whether clients have been able to reach it for long enough.
    pub fn is_available(&self, snapshot: &Snapshot, spec: &DeploymentSpec) -> bool {
        self.phase() == RoutePhase::Running
            && self.listed
            && self.available_at(snapshot, spec).is_none_or(|at| at <= snapshot.now)
    }

    /// When its time of being ready is long enough.
    pub fn available_at(&self, snapshot: &Snapshot, spec: &DeploymentSpec) -> Option<DateTime<Utc>> {
        let long_enough = snapshot.timing.configured(spec.min_ready_seconds);
        Some(self.ready_since? + TimeDelta::from_std(long_enough).unwrap_or_default())
    }

    pub fn has_served(&self) -> bool {
        self.route.status.as_ref().is_some_and(|status| status.served_at.is_some())
    }

    /// Why it does not serve yet, in the words of its session.
    pub fn trouble(&self) -> Option<String> {
        let session = self.session.as_ref().filter(|session| session.phase() != SessionPhase::Running)?;
        let progress = &session.status.as_ref()?.progress;
        let (reason, message) = (progress.reason?, progress.message.as_deref().unwrap_or_default());
        Some(format!("{}: {reason}: {message}", self.name()))
    }

    /// Why its session waits for a node, and since when.
    pub fn waits_for_capacity(&self) -> Option<(DateTime<Utc>, String)> {
        let session = self.session.as_ref().filter(|session| session.phase() == SessionPhase::Pending)?;
        let status = session.status.as_ref()?;
        let cause = status.history.last().and_then(|last| last.cause);
        let lacks_room = matches!(cause, Some(Cause::Capacity | Cause::Quota)) || status.reason == Some(Reason::NoAvailableNode);
        let since = status.phase_started_at.or_else(|| created_at(&**session))?;
        lacks_room.then(|| (since, status.message.clone().unwrap_or_default()))
    }
}

impl DeploymentItem {
    pub fn uid(&self) -> DeploymentUid {
        DeploymentUid(self.deployment.metadata.uid.clone().unwrap_or_default())
    }

    pub fn name(&self) -> &str {
        self.deployment.metadata.name.as_deref().unwrap_or_default()
    }

    pub fn spec(&self) -> &DeploymentSpec {
        &self.deployment.spec
    }

    pub fn phase(&self) -> DeploymentPhase {
        self.deployment.phase()
    }

    pub fn status(&self) -> &DeploymentStatus {
        static NONE: LazyLock<DeploymentStatus> = LazyLock::new(DeploymentStatus::default);
        self.deployment.status.as_ref().unwrap_or(&NONE)
    }

    pub fn is_deleted(&self) -> bool {
        self.deployment.metadata.deletion_timestamp.is_some()
    }

    pub fn revision(&self, number: i64) -> Option<&Revision> {
        self.revisions.iter().map(Arc::as_ref).find(|revision| revision.number == number)
    }

    /// The revision whose content is that of the spec, if it exists.
    pub fn wanted_revision(&self) -> Option<&Revision> {
        let content = self.content.as_ref().ok()?;
        self.revisions.iter().rev().map(Arc::as_ref).find(|revision| revision.content == *content)
    }
}
