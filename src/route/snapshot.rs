//! What a decision on a route sees: the route, its deployment, its session and its main pod.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::health::Replica;
use crate::api::{
    Deployment, Drain, GroupName, Health, HealthCheckType, Route, RoutePhase, RouteUid, ScalingGroup, Session, SessionSpec,
};
use crate::lifecycle::{Timing, created_at};
use crate::views::{MainState, PodView};

/// What decisions on the routes of one deployment have in common.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub now: DateTime<Utc>,
    pub timing: Arc<Timing>,
    pub group_name: Option<GroupName>,
    pub group: Option<Arc<ScalingGroup>>,
    /// Why the health of replicas is not to be trusted: most nodes of the scaling group are not ready.
    pub outage: Option<String>,
    /// How many replicas of the deployment are being replaced for their health.
    pub in_eviction: usize,
    /// How many replicas of the deployment are healthy.
    pub healthy: usize,
}

/// One route.
#[derive(Clone, Debug)]
pub struct RouteItem {
    /// The route, with deferred commits.
    pub route: Arc<Route>,
    /// The route as the API server has it.
    pub stored: Arc<Route>,
    pub deployment: Option<Arc<Deployment>>,
    /// The session that the route shall have, if its revision is known.
    pub template: Option<Box<SessionSpec>>,
    /// The route's session.
    pub session: Option<Arc<Session>>,
    /// The pod of its main kernel.
    pub pod: Option<Arc<PodView>>,
    /// For how long the pod's node has been silent, if it is.
    pub node_silent: Option<Duration>,
    /// Whether the node was found lost.
    pub node_lost: bool,
}

impl RouteItem {
    pub fn uid(&self) -> RouteUid {
        RouteUid(self.route.metadata.uid.clone().unwrap_or_default())
    }

    pub fn phase(&self) -> RoutePhase {
        self.route.phase()
    }

    pub fn is_deleted(&self) -> bool {
        self.route.metadata.deletion_timestamp.is_some()
    }

    pub fn replica(&self) -> Replica {
        Replica::of(self.session.as_deref())
    }

    /// When the current phase began.
    pub fn since(&self) -> Option<DateTime<Utc>> {
        self.route.status.as_ref().and_then(|status| status.phase_started_at).or_else(|| created_at(&*self.route))
    }

    pub fn drain(&self) -> Drain {
        self.deployment.as_ref().map(|deployment| deployment.spec.drain.clone()).unwrap_or_default()
    }

    pub fn desired_replicas(&self) -> i32 {
        self.deployment.as_ref().map_or(1, |deployment| deployment.spec.replicas)
    }

    /// Whether the route was healthy at some time.
    pub fn has_served(&self) -> bool {
        self.route.status.as_ref().is_some_and(|status| status.served_at.is_some())
    }

    pub fn health(&self) -> Health {
        self.route.status.as_ref().map(|status| status.health).unwrap_or_default()
    }

    /// Whether the Service may send requests to the main pod.
    pub fn is_in_traffic(&self) -> bool {
        self.pod.as_ref().is_some_and(|pod| pod.traffic == Some(true))
    }

    /// Whether the main pod serves, by its kubelet.
    pub fn serves(&self, pod: &PodView) -> bool {
        let serving = self.session.as_ref().and_then(|session| session.spec.serving.as_ref());
        match serving.map(|serving| serving.health_check.type_) {
            Some(HealthCheckType::None) => matches!(pod.main, MainState::Running { .. }),
            Some(HealthCheckType::Http | HealthCheckType::Tcp | HealthCheckType::Grpc) | None => pod.containers_ready,
        }
    }

    /// Host and port of the replica.
    pub fn address(&self) -> Option<String> {
        let port = self.session.as_ref()?.spec.serving.as_ref()?.port;
        Some(format!("{}:{port}", self.pod.as_ref()?.ip.as_ref()?))
    }
}
