//! Routes for unit tests of handlers.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;

use super::{Handler, Outcome, Verdict};
use crate::api::*;
use crate::lifecycle::Timing;
use crate::route::snapshot::{RouteItem, Snapshot};
use crate::views::{MainState, PodView};

pub fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000, 0).expect("a time")
}

pub fn snapshot() -> Snapshot {
    Snapshot {
        now: now(),
        timing: Arc::new(Timing::default()),
        group_name: Some("default".into()),
        group: None,
        outage: None,
        in_eviction: 0,
        healthy: 1,
    }
}

/// The phase that a verdict leads to.
pub fn leads(row: &Handler, verdict: &Verdict) -> Option<RoutePhase> {
    match verdict.outcome {
        Outcome::Success { to } => to.or(row.transitions.success.map(|to| to.phase)),
        Outcome::Failure(_) | Outcome::Skipped(..) | Outcome::Idle => None,
    }
}

/// A replica as a test describes it.
pub struct Replica {
    item: RouteItem,
}

impl Replica {
    pub fn new(phase: RoutePhase) -> Self {
        let spec = json!({"deployment": "d", "session": "d-1", "revision": 1, "ordinal": 0});
        let mut route = Route::new("d-1", serde_json::from_value(spec).expect("a spec"));
        route.metadata.uid = Some("route".into());
        route.metadata.finalizers = Some(vec![FINALIZER_ROUTE.into()]);
        let mut status = RouteStatus::default();
        (status.progress.phase, status.progress.phase_started_at) = (phase, Some(now()));
        route.status = Some(status);
        let spec = json!({"template": session_spec()});
        let deployment = Deployment::new("d", serde_json::from_value(spec).expect("a spec"));
        let template = serde_json::from_value(session_spec()).expect("a spec");
        let item = RouteItem {
            stored: Arc::new(route.clone()),
            route: Arc::new(route),
            deployment: Some(Arc::new(deployment)),
            template: Some(Box::new(template)),
            session: None,
            pod: None,
            node_silent: None,
            node_lost: false,
        };
        Self { item }
    }

    fn status(mut self, change: impl FnOnce(&mut RouteStatus)) -> Self {
        let mut route = (*self.item.route).clone();
        change(route.status.as_mut().expect("a status"));
        self.item.route = Arc::new(route);
        self
    }

    fn pod_with(mut self, change: impl FnOnce(&mut PodView)) -> Self {
        let mut pod = self.item.pod.as_deref().cloned().unwrap_or_default();
        change(&mut pod);
        self.item.pod = Some(Arc::new(pod));
        self
    }

    fn session_with(mut self, change: impl FnOnce(&mut Session)) -> Self {
        let mut session = self.item.session.as_deref().expect("a session").clone();
        change(&mut session);
        self.item.session = Some(Arc::new(session));
        self
    }

    pub fn session(mut self, phase: SessionPhase) -> Self {
        let mut session = Session::new("d-1", serde_json::from_value(session_spec()).expect("a spec"));
        session.metadata.owner_references = Some(vec![Default::default()]);
        let mut status = SessionStatus::default();
        status.progress.phase = phase;
        session.status = Some(status);
        self.item.session = Some(Arc::new(session));
        self
    }

    /// The health check is of this type.
    pub fn check(self, type_: &str) -> Self {
        let check: HealthCheck = serde_json::from_value(json!({"type": type_})).expect("a check");
        self.session_with(|session| session.spec.serving.as_mut().expect("serving").health_check = check)
    }

    pub fn told_to_end(self) -> Self {
        self.session_with(|session| session.spec.desired_state = DesiredState::Terminated)
    }

    pub fn session_grace(self, seconds: i64) -> Self {
        self.session_with(|session| session.spec.termination.grace_period_seconds = seconds)
    }

    pub fn session_forced(self) -> Self {
        self.session_with(|session| session.spec.termination.mode = crate::api::TerminationMode::Forced)
    }

    /// Its main pod runs, and the health check passes or not.
    pub fn pod(self, healthy: bool) -> Self {
        self.pod_with(|pod| {
            pod.ip = Some("10.0.0.1".into());
            pod.main = MainState::Running { since: Some(now()) };
            pod.containers_ready = healthy;
            pod.ready_since = healthy.then(now);
            pod.traffic = Some(true);
        })
    }

    pub fn pod_that_pulls(self) -> Self {
        self.pod_with(|pod| pod.main = MainState::Waiting { reason: "ContainerCreating".into(), message: String::new() })
    }

    /// Its main container started that many seconds ago.
    pub fn started(self, seconds: i64) -> Self {
        self.pod_with(|pod| pod.main = MainState::Running { since: Some(now() - TimeDelta::seconds(seconds)) })
    }

    pub fn out_of_traffic(self) -> Self {
        self.pod_with(|pod| pod.traffic = Some(false))
    }

    pub fn node_silent(mut self, seconds: u64) -> Self {
        self.item.node_silent = Some(Duration::new(seconds, 0));
        self
    }

    pub fn had_session(self) -> Self {
        self.status(|status| status.session_uid = Some("session".into()))
    }

    pub fn served(self) -> Self {
        self.status(|status| {
            status.served_at = Some(now() - TimeDelta::hours(1));
            status.health = Health::Healthy;
        })
    }

    /// Its phase began that many seconds ago.
    pub fn since(self, seconds: i64) -> Self {
        self.status(|status| {
            status.progress.phase_started_at = Some(now() - TimeDelta::seconds(seconds));
            if status.progress.phase == RoutePhase::Unhealthy {
                status.health = Health::Unhealthy;
            }
        })
    }

    /// It became unhealthy so many times in the last minutes.
    pub fn flapped(self, times: usize) -> Self {
        self.status(|status| status.became_unhealthy_at = vec![now() - TimeDelta::minutes(1); times])
    }

    /// Its deployment shall have so many replicas.
    pub fn replicas(mut self, replicas: i32) -> Self {
        let mut deployment = self.item.deployment.as_deref().expect("a deployment").clone();
        deployment.spec.replicas = replicas;
        self.item.deployment = Some(Arc::new(deployment));
        self
    }

    pub fn deleted(mut self) -> Self {
        let mut route = (*self.item.route).clone();
        route.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).ok();
        self.item.route = Arc::new(route);
        self
    }

    pub fn item(self) -> RouteItem {
        self.item
    }
}

fn session_spec() -> serde_json::Value {
    let kernel = json!({"image": "example.com/server:1", "resources": {"cpu": "1", "memory": "1Gi"}});
    json!({"type": "Inference", "accessKey": "alice", "kernels": [kernel], "serving": {"port": 8080}})
}
