//! Deployments for unit tests of handlers.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;

use super::{Handler, Outcome, Verdict};
use crate::api::*;
use crate::deployment::definition::Definition;
use crate::deployment::revision::{Content, Revision};
use crate::deployment::snapshot::{DeploymentItem, Replica, ServiceView, Snapshot};
use crate::lifecycle::Timing;
use crate::provisioner::Refusal;

pub fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000, 0).expect("a time")
}

pub fn snapshot() -> Snapshot {
    let group = ScalingGroup::new("default", serde_json::from_value(json!({})).expect("a group"));
    let timing = Arc::new(Timing::default());
    Snapshot { now: now(), timing, group_name: Some("default".into()), group: Some(Arc::new(group)) }
}

/// The phase that a verdict leads to.
pub fn leads(row: &Handler, verdict: &Verdict) -> Option<DeploymentPhase> {
    match verdict.outcome {
        Outcome::Success { to } => to.or(row.transitions.success.map(|to| to.phase)),
        Outcome::Failure(_) | Outcome::Skipped(..) | Outcome::Idle => None,
    }
}

pub fn refusal() -> Refusal {
    Refusal {
        cause: Some(Cause::Capacity),
        reason: Reason::NoAvailableNode,
        message: "no node has enough free resources".into(),
        blockers: vec![],
        nodes: None,
    }
}

/// A deployment as a test describes it. It has one revision, which serves.
pub struct Case {
    item: DeploymentItem,
    /// The revision of the replicas that are added next.
    revision: i64,
}

impl Case {
    pub fn new(replicas: i32) -> Self {
        let ports = json!([{"name": "http", "containerPort": 8080}]);
        let kernel = json!({"image": "example.com/server:1", "resources": {"cpu": "1", "memory": "1Gi"}, "ports": ports});
        let template = json!({"type": "Inference", "accessKey": "alice", "kernels": [kernel]});
        let spec: DeploymentSpec = serde_json::from_value(json!({"template": template, "replicas": replicas})).expect("a spec");
        let content = Content::of(&spec, &Definition::default());
        let mut deployment = Deployment::new("d", spec);
        deployment.metadata.uid = Some("uid".into());
        deployment.metadata.finalizers = Some(vec![FINALIZER_DEPLOYMENT.into()]);
        deployment.status = Some(DeploymentStatus { current_revision: Some(1), ..DeploymentStatus::default() });
        let deployment = Arc::new(deployment);
        let item = DeploymentItem {
            stored: deployment.clone(),
            deployment,
            content: Ok(content.clone()),
            replicas: vec![],
            revisions: vec![Arc::new(Revision { number: 1, name: "d-r1".into(), uid: "r1".into(), content })],
            service: Some(ServiceView { ports: (80, 8080), is_intact: true }),
            budget: None,
            without_route: vec![],
            no_room: None,
        };
        Self { item, revision: 1 }
    }

    fn deployment(mut self, change: impl FnOnce(&mut Deployment)) -> Self {
        let mut deployment = (*self.item.deployment).clone();
        change(&mut deployment);
        self.item.deployment = Arc::new(deployment);
        self
    }

    pub fn spec(self, change: impl Fn(&mut DeploymentSpec)) -> Self {
        let mut case = self.deployment(|deployment| change(&mut deployment.spec));
        case.item.content = Ok(Content::of(case.item.spec(), &Definition::default()));
        case
    }

    pub fn status(self, change: impl FnOnce(&mut DeploymentStatus)) -> Self {
        self.deployment(|deployment| change(deployment.status.as_mut().expect("a status")))
    }

    pub fn phase(self, phase: DeploymentPhase) -> Self {
        self.status(|status| status.phase = phase)
    }

    /// It is Ready, and its numbers are those of its replicas.
    pub fn ready(self) -> Self {
        let case = self.phase(DeploymentPhase::Ready);
        let item = case.item();
        let mut status = item.status().clone();
        status.failures = crate::deployment::failures::counted(&snapshot(), &item, 1).unwrap_or_default();
        crate::deployment::status::numbers(&mut status, &snapshot(), &item);
        Self { item, revision: 1 }.status(|own| *own = status)
    }

    /// A rollout of a revision, without progress for so many seconds.
    pub fn deploying(self, revision: i64, seconds: i64) -> Self {
        let progressed_at = now() - TimeDelta::seconds(seconds);
        self.status(|status| {
            status.deploying_revision = Some(revision);
            status.rollout = Some(Rollout {
                step: RolloutStep::Replacing,
                since: progressed_at,
                progressed_at,
                best: 0,
                paused_at: None,
                message: String::new(),
            });
        })
    }

    /// The replicas that follow are of this revision.
    pub fn of(mut self, revision: i64) -> Self {
        self.revision = revision;
        self
    }

    fn add(mut self, count: i64, phase: RoutePhase, change: impl Fn(&mut Replica, &mut RouteStatus)) -> Self {
        for _ in 0..count {
            let ordinal = i64::try_from(self.item.replicas.len()).expect("few");
            let name = replica_name("d", "uid", self.revision, ordinal);
            let spec = json!({"deployment": "d", "session": name, "revision": self.revision, "ordinal": ordinal});
            let mut route = Route::new(&name, serde_json::from_value(spec).expect("a spec"));
            route.metadata.uid = Some(format!("uid-{ordinal}"));
            let progress = Progress { phase, phase_started_at: Some(now()), ..Progress::default() };
            let mut status = RouteStatus { progress, ..RouteStatus::default() };
            let mut replica =
                Replica { route: Arc::new(route.clone()), session: None, node: None, listed: false, ready_since: None };
            change(&mut replica, &mut status);
            route.status = Some(status);
            if matches!(phase, RoutePhase::Terminating) {
                route.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).ok();
            }
            replica.route = Arc::new(route);
            self.item.replicas.push(replica);
        }
        self
    }

    /// Replicas that have served for so many seconds.
    pub fn running(self, count: i64, seconds: i64) -> Self {
        self.add(count, RoutePhase::Running, |replica, status| {
            replica.node = Some("node-1".into());
            replica.listed = true;
            replica.ready_since = Some(now() - TimeDelta::seconds(seconds));
            status.served_at = replica.ready_since;
            status.phase_started_at = replica.ready_since;
        })
    }

    /// Replicas that run, and that no slice lists: clients do not reach them.
    pub fn unlisted(self, count: i64) -> Self {
        self.add(count, RoutePhase::Running, |replica, status| {
            replica.node = Some("node-3".into());
            status.served_at = Some(now());
        })
    }

    pub fn unhealthy(self, count: i64) -> Self {
        self.add(count, RoutePhase::Unhealthy, |replica, status| {
            replica.node = Some("node-2".into());
            status.served_at = Some(now());
        })
    }

    pub fn evicting(self, count: i64) -> Self {
        self.add(count, RoutePhase::Evicting, |_, _| {})
    }

    pub fn terminating(self, count: i64) -> Self {
        self.add(count, RoutePhase::Terminating, |_, _| {})
    }

    pub fn provisioning(self, count: i64) -> Self {
        self.add(count, RoutePhase::Provisioning, |_, _| {})
    }

    pub fn failed(self, count: i64) -> Self {
        self.add(count, RoutePhase::Failed, |_, status| {
            (status.failed, status.ended_at) = (true, Some(now()));
        })
    }

    /// Replicas whose sessions have found no node for so many seconds.
    pub fn starving(self, count: i64, seconds: i64) -> Self {
        self.add(count, RoutePhase::Provisioning, |replica, _| {
            let spec = json!({"accessKey": "alice", "kernels": []});
            let mut session = Session::new("s", serde_json::from_value(spec).expect("a spec"));
            let created = (now() - TimeDelta::seconds(seconds)).to_rfc3339();
            session.metadata.creation_timestamp = serde_json::from_value(json!(created)).ok();
            let message = Some("no node has enough free resources".into());
            let progress = Progress { reason: Some(Reason::NoAvailableNode), message, ..Progress::default() };
            session.status = Some(SessionStatus { progress, ..SessionStatus::default() });
            replica.session = Some(Arc::new(session));
        })
    }

    /// Replicas whose image cannot be pulled.
    pub fn pulling_in_vain(self, count: i64) -> Self {
        self.add(count, RoutePhase::Provisioning, |replica, _| {
            let spec = json!({"accessKey": "alice", "kernels": []});
            let mut session = Session::new("s", serde_json::from_value(spec).expect("a spec"));
            let (reason, message) = (Some(Reason::ImagePullFailed), Some("no such image".into()));
            let progress = Progress { phase: SessionPhase::Pulling, reason, message, ..Progress::default() };
            session.status = Some(SessionStatus { progress, ..SessionStatus::default() });
            replica.session = Some(Arc::new(session));
        })
    }

    /// Replicas that are decided and not there yet.
    pub fn planned(self, revision: i64, count: i64) -> Self {
        self.status(|status| {
            let planned = (0..count).map(|n| PlannedReplica { name: format!("planned-{n}"), revision, ordinal: 100 + n });
            status.planned = planned.collect();
        })
    }

    /// The first replicas are decided to end.
    pub fn leaving(self, count: usize) -> Self {
        let names = self.item.replicas.iter().take(count).map(|replica| replica.name().to_owned()).collect();
        self.status(|status| status.leaving = names)
    }

    /// A revision with the content of the spec.
    pub fn with_wanted_revision(mut self, number: i64) -> Self {
        let content = self.item.content.clone().expect("content");
        let revision = Revision { number, name: format!("d-r{number}"), uid: format!("r{number}"), content };
        self.item.revisions.push(Arc::new(revision));
        self
    }

    pub fn without_revisions(mut self) -> Self {
        self.item.revisions.clear();
        self
    }

    pub fn without_service(mut self) -> Self {
        self.item.service = None;
        self
    }

    pub fn without_finalizer(self) -> Self {
        self.deployment(|deployment| deployment.metadata.finalizers = None)
    }

    /// A session of the deployment that has no route.
    pub fn without_route(mut self, name: &str) -> Self {
        self.item.without_route.push((name.to_owned(), format!("{name}-uid")));
        self
    }

    pub fn no_room(mut self, refusal: Refusal) -> Self {
        self.item.no_room = Some(refusal);
        self
    }

    pub fn retry(self, value: &str) -> Self {
        let annotations = [(ANNOTATION_RETRY.to_owned(), value.to_owned())];
        self.deployment(|deployment| deployment.metadata.annotations = Some(annotations.into()))
    }

    pub fn deleted(self) -> Self {
        let deleted = serde_json::from_value(json!("2026-01-01T00:00:00Z")).ok();
        self.deployment(|deployment| deployment.metadata.deletion_timestamp = deleted)
    }

    pub fn item(&self) -> DeploymentItem {
        self.item.clone()
    }
}
