//! The oracle of deployments: what must be true of replicas, routes and traffic at every version. Pure.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::{Resource, ResourceExt};
use sokovan::api::*;
use sokovan::deployment::Deployments;
use sokovan::deployment::revision::Content;
use sokovan::lifecycle::Timing;
use sokovan::route::Routes;
use sokovan::views::extract;

use crate::oracle::{history_step, label};
use crate::record::{Object, Version};
use crate::rest;

/// The annotation of an object that a path disturbs by itself.
pub const BY_HAND: &str = "faults/by-hand";
/// How much later one watch event may be reported than another.
const JITTER: TimeDelta = TimeDelta::milliseconds(300);

/// The objects of deployments at one version: by uid, or by name where the name is enough.
#[derive(Default)]
pub struct Objects {
    pub deployments: BTreeMap<String, Deployment>,
    pub routes: BTreeMap<String, Route>,
    pub sessions: BTreeMap<String, Session>,
    pods: BTreeMap<String, Pod>,
    slices: BTreeMap<String, EndpointSlice>,
    pub services: BTreeMap<String, Service>,
    pub budgets: BTreeMap<String, PodDisruptionBudget>,
    pub revisions: BTreeMap<String, ControllerRevision>,
    /// Since when a pod is out of the traffic.
    off: BTreeMap<String, DateTime<Utc>>,
    /// The pods that clients could reach at some time before their sessions were asked to end.
    reached: BTreeSet<String>,
    /// The names of sessions that were asked to end.
    asked_to_end: BTreeSet<String>,
    /// The names of what somebody else has disturbed: replicas and pods.
    by_hand: BTreeSet<String>,
    /// The session of each route.
    session_of: BTreeMap<String, String>,
    /// What users wrote: the contents of revisions.
    written: Vec<Content>,
    /// The deployments that ended by force.
    forced: BTreeSet<String>,
}

pub fn uid(object: &impl ResourceExt) -> String {
    object.uid().unwrap_or_default()
}

fn replace<K: Resource + Clone>(into: &mut BTreeMap<String, K>, object: &K, deleted: bool) -> Option<K> {
    if deleted { into.remove(&uid(object)) } else { into.insert(uid(object), object.clone()) }
}

pub fn is_deleting(object: &impl ResourceExt) -> bool {
    object.meta().deletion_timestamp.is_some()
}

/// Whether the pod's kubelet reports it ready, and nobody deletes it.
fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let ready = conditions.filter(|condition| condition.type_ == "Ready").any(|condition| condition.status == "True");
    ready && !is_deleting(pod) && !extract::has_ended(pod)
}

fn is_on(pod: &Pod) -> bool {
    label(pod, LABEL_TRAFFIC) == TRAFFIC_ON
}

/// Whether the route is one of the replicas that there shall be.
pub fn is_counted(route: &Route) -> bool {
    !route.phase().is_ending() && !is_deleting(route)
}

/// The available replicas that there must be.
fn floor(spec: &DeploymentSpec) -> i32 {
    let rolling = &spec.strategy.rolling;
    let unavailable = rolling.max_unavailable.rounded_down(spec.replicas);
    let neither = unavailable == 0 && rolling.max_surge.rounded_up(spec.replicas) == 0;
    (spec.replicas - if neither { 1 } else { unavailable }).max(0)
}

pub fn count<T>(items: impl Iterator<Item = T>) -> i32 {
    i32::try_from(items.count()).unwrap_or(i32::MAX)
}

impl Objects {
    fn apply(&mut self, version: &Version) -> Vec<String> {
        let deleted = version.deleted;
        let found = match &version.object {
            Object::Deployment(deployment) => self.deployment(deployment, version),
            Object::Route(route) => self.route(route, deleted),
            Object::Session(session) => self.session(session, deleted),
            Object::Pod(pod) => self.pod(pod, version),
            Object::Revision(revision) => self.revision(revision, deleted),
            Object::Slice(slice) => {
                replace(&mut self.slices, slice, deleted);
                self.note_reached();
                vec![]
            }
            Object::Service(service) => {
                replace(&mut self.services, service, deleted);
                vec![]
            }
            Object::Budget(budget) => {
                replace(&mut self.budgets, budget, deleted);
                vec![]
            }
            Object::Kernel(_) => vec![],
        };
        found.into_iter().map(|violation| format!("version {}: {violation}", version.number)).collect()
    }

    fn named(&self, deployment: &str) -> Option<&Deployment> {
        self.deployments.values().find(|candidate| candidate.name_any() == deployment)
    }

    /// The pods that slices of the deployment's Service list as ready.
    pub fn listed(&self, deployment: &str) -> BTreeSet<String> {
        let slices = self.slices.values().filter(|slice| label(*slice, LABEL_SERVICE) == deployment);
        let endpoints = slices.flat_map(|slice| slice.endpoints.iter().flatten());
        let ready = endpoints.filter(|e| e.conditions.as_ref().is_none_or(|conditions| conditions.ready != Some(false)));
        ready.filter_map(|endpoint| endpoint.target_ref.as_ref()?.name.clone()).collect()
    }

    /// The replicas that clients can reach.
    pub fn available(&self, deployment: &str) -> Vec<&Pod> {
        let listed = self.listed(deployment);
        let pods = self.pods.values().filter(|pod| label(*pod, LABEL_DEPLOYMENT) == deployment);
        pods.filter(|pod| is_ready(pod) && is_on(pod) && listed.contains(&pod.name_any())).collect()
    }

    fn note_reached(&mut self) {
        let names: BTreeSet<&str> = self.deployments.values().filter_map(|d| d.metadata.name.as_deref()).collect();
        let reached = names.iter().flat_map(|name| self.available(name));
        let reached: Vec<String> =
            reached.filter(|pod| !self.asked_to_end.contains(label(*pod, LABEL_SESSION))).map(uid).collect();
        self.reached.extend(reached);
    }

    fn note_by_hand(&mut self, object: &impl ResourceExt) {
        if object.annotations().contains_key(BY_HAND) {
            self.by_hand.insert(object.name_any());
        }
    }

    /// Whether somebody else disturbed the pod or its replica.
    fn is_by_hand(&self, pod: &Pod) -> bool {
        self.by_hand.contains(&pod.name_any()) || self.by_hand.contains(label(pod, LABEL_SESSION))
    }

    fn pod(&mut self, pod: &Pod, version: &Version) -> Vec<String> {
        self.note_by_hand(pod);
        let before = replace(&mut self.pods, pod, version.deleted);
        let deployment = label(pod, LABEL_DEPLOYMENT).to_owned();
        if is_on(pod) {
            self.off.remove(&uid(pod));
        } else {
            self.off.entry(uid(pod)).or_insert(version.seen);
        }
        self.note_reached();
        let Some(before) = before.filter(|_| !deployment.is_empty() && !self.is_by_hand(pod)) else { return vec![] };
        if self.forced.contains(&deployment) {
            return vec![];
        }
        let is_gone = version.deleted || is_deleting(pod);
        let mut found = vec![];
        if is_ready(&before) && is_on(&before) && (is_gone || !is_on(pod)) {
            found.extend(self.below_floor(&deployment, pod));
        }
        if is_gone && !is_deleting(&before) && !extract::has_ended(&before) && self.reached.contains(&uid(pod)) {
            found.extend(self.undrained(&deployment, pod, version.seen));
        }
        found
    }

    /// Checks that enough replicas are left when the operator takes one out of the traffic.
    fn below_floor(&self, name: &str, pod: &Pod) -> Option<String> {
        let deployment = self.named(name)?;
        let ends = is_deleting(deployment) || deployment.spec.desired_state == DeploymentDesiredState::Destroyed;
        let (left, floor) = (count(self.available(name).into_iter()), floor(&deployment.spec));
        (!ends && left < floor)
            .then(|| format!("{} leaves the traffic and {left} available replicas are left, but {floor} must be", pod.name_any()))
    }

    /// Checks that a pod which served is deleted only after it was out of the traffic for its delay.
    fn undrained(&self, name: &str, pod: &Pod, now: DateTime<Utc>) -> Option<String> {
        if is_on(pod) {
            return Some(format!("pod {} is deleted while it is in the traffic", pod.name_any()));
        }
        let seconds = self.named(name).map(|deployment| deployment.spec.drain.delay_seconds)?;
        let delay = TimeDelta::from_std(crate::scene::hasty().configured(seconds)).unwrap_or_default();
        let waited = self.off.get(&uid(pod)).map(|since| now - *since).unwrap_or_default();
        (waited + JITTER < delay).then(|| {
            let (waited, delay) = (waited.num_milliseconds(), delay.num_milliseconds());
            format!("pod {} is deleted {waited} ms after it left the traffic, and its delay is {delay} ms", pod.name_any())
        })
    }

    fn session(&mut self, session: &Session, deleted: bool) -> Vec<String> {
        if label(session, LABEL_DEPLOYMENT_UID).is_empty() {
            return vec![];
        }
        self.note_by_hand(session);
        if session.spec.desired_state == DesiredState::Terminated || is_deleting(session) {
            self.asked_to_end.insert(session.name_any());
        }
        let before = replace(&mut self.sessions, session, deleted);
        if before.is_some() || deleted {
            return vec![];
        }
        let owners = session.owner_references().iter().filter(|owner| owner.kind == "Route");
        let second = owners.filter_map(|owner| {
            let first = self.session_of.insert(owner.uid.clone(), uid(session))?;
            Some(format!("route {} got session {} after session {first}", owner.name, uid(session)))
        });
        second.collect()
    }

    fn route(&mut self, route: &Route, deleted: bool) -> Vec<String> {
        self.note_by_hand(route);
        let before = replace(&mut self.routes, route, deleted);
        let mut found = vec![];
        if before.is_none() && !deleted {
            found.extend(self.too_many(&route.spec.deployment));
            if route.spec.session != route.name_any() {
                found.push(format!("route {} names the session {}", route.name_any(), route.spec.session));
            }
            let of_session = self.routes.values().filter(|other| other.spec.session == route.spec.session).count();
            if of_session > 1 {
                found.push(format!("{of_session} routes of the session {}", route.spec.session));
            }
        }
        let Some(before) = before else { return found };
        let (old, new) = (before.status.clone().unwrap_or_default(), route.status.clone().unwrap_or_default());
        if old == new {
            return found;
        }
        if old.phase.is_terminal() && old.phase != new.phase {
            found.push(format!("route {}: the terminal phase {} changed to {}", route.name_any(), old.phase, new.phase));
        }
        if old.session_uid.is_some() && old.session_uid != new.session_uid {
            found.push(format!("route {}: the session {:?} changed to {:?}", route.name_any(), old.session_uid, new.session_uid));
        }
        let steps = history_step::<Routes>(&old, &new);
        found.extend(steps.into_iter().map(|step| format!("route {}: {step}", route.name_any())));
        found
    }

    /// Checks the number of replicas when one is made. Those that the status lists as leaving do not count.
    fn too_many(&self, name: &str) -> Option<String> {
        let deployment = self.named(name)?;
        let status = deployment.status.clone().unwrap_or_default();
        let desired = deployment.spec.replicas.max(status.desired_replicas);
        let surge = deployment.spec.strategy.rolling.max_surge.rounded_up(desired);
        let own = self.routes.values().filter(|route| route.spec.deployment == name && is_counted(route));
        let counted: Vec<(String, i64)> = own.map(|route| (route.name_any(), route.spec.revision)).collect();
        let staying = count(counted.iter().filter(|(name, _)| !status.leaving.contains(name)));
        (staying > desired + surge).then(|| {
            let (planned, leaving) = (&status.planned, &status.leaving);
            format!(
                "{staying} replicas are counted, and {desired} + {surge} may be: {counted:?}, {planned:?}, leaving {leaving:?}"
            )
        })
    }

    fn deployment(&mut self, deployment: &Deployment, version: &Version) -> Vec<String> {
        let before = replace(&mut self.deployments, deployment, version.deleted);
        let (name, spec) = (deployment.name_any(), &deployment.spec);
        if spec.force {
            self.forced.insert(name.clone());
        }
        let content = Content { template: without_priority(&spec.template), model: spec.model.clone() };
        if !self.written.contains(&content) {
            self.written.push(content);
        }
        let old = before.and_then(|before| before.status).unwrap_or_default();
        let new = deployment.status.clone().unwrap_or_default();
        if old == new || version.deleted {
            return vec![];
        }
        let mut found = vec![];
        if old.phase.is_terminal() && old.phase != new.phase {
            found.push(format!("the terminal phase {} changed to {}", old.phase, new.phase));
        }
        found.extend(history_step::<Deployments>(&old, &new));
        if let Some(revision) = new.current_revision.filter(|_| old.current_revision != new.current_revision) {
            found.extend(self.not_serving(&name, revision, spec.replicas.min(new.desired_replicas)));
        }
        if new.current_revision.is_none() && old.current_revision.is_some() {
            found.push("no revision is current any more".into());
        }
        found.extend(hurried(&old, &new, version.seen));
        found.into_iter().map(|violation| format!("deployment {name}: {violation}")).collect()
    }

    /// Checks that all replicas of a revision serve when it becomes the current one, and that no other is left.
    fn not_serving(&self, name: &str, revision: i64, desired: i32) -> Option<String> {
        let of_revision = |pod: &&Pod| label(*pod, LABEL_REVISION) == revision.to_string();
        let serve = count(self.available(name).into_iter().filter(of_revision));
        let others = self.routes.values().filter(|route| is_counted(route) && route.spec.revision != revision);
        let others = count(others.filter(|route| route.spec.deployment == name));
        (serve < desired || others > 0).then(|| {
            format!("revision {revision} is current, but {serve} of {desired} replicas serve, and {others} of others are counted")
        })
    }

    /// Checks that a revision is what a user wrote, and that it never changes.
    fn revision(&mut self, revision: &ControllerRevision, deleted: bool) -> Vec<String> {
        let name = revision.name_any();
        let content = |revision: &ControllerRevision| {
            let data = revision.data.clone().map(|data| data.0).unwrap_or_default();
            serde_json::from_value::<Content>(data)
                .map(|content| Content { template: without_priority(&content.template), model: content.model })
        };
        let Ok(is) = content(revision) else { return vec![format!("revision {name} cannot be read")] };
        let before = replace(&mut self.revisions, revision, deleted);
        let mut found = vec![];
        if before.is_some_and(|before| before.data != revision.data || before.revision != revision.revision) {
            found.push(format!("revision {name} changed"));
        }
        if !self.written.contains(&is) {
            found.push(format!("revision {name} is not what a user wrote: {}", serde_json::json!(is.model)));
        }
        let mut others = self.revisions.values().filter(|other| other.name_any() != name);
        if !deleted && others.any(|other| content(other).is_ok_and(|content| content == is)) {
            found.push(format!("revision {name} equals another one"));
        }
        found
    }
}

fn without_priority(template: &SessionSpec) -> SessionSpec {
    SessionSpec { priority: 0, ..template.clone() }
}

/// Checks that a replica is not planned before the pause after several failures in a row is over.
fn hurried(old: &DeploymentStatus, new: &DeploymentStatus, now: DateTime<Utc>) -> Option<String> {
    let failures = &new.failures;
    let planned = new.planned.iter().find(|p| p.revision == failures.revision && !old.planned.contains(p))?;
    let last = failures.last_at.filter(|_| failures.count > 1)?;
    let Timing { replacement_backoff, replacement_backoff_max, .. } = crate::scene::hasty();
    let doublings = u32::try_from(failures.count - 2).unwrap_or(0).min(16);
    let pause = replacement_backoff.saturating_mul(1 << doublings).min(replacement_backoff_max);
    let waited = (now - last).to_std().unwrap_or_default();
    (waited < pause).then(|| {
        format!(
            "replica {} is planned {waited:?} after failure {} in a row, and the pause is {pause:?}",
            planned.name, failures.count
        )
    })
}

/// Returns the violations of a sequence of versions, including work left undone at the end.
pub fn violations(versions: &[Version]) -> Vec<String> {
    let mut objects = Objects::default();
    let mut found: Vec<String> = versions.iter().flat_map(|version| objects.apply(version)).collect();
    found.extend(rest::unfinished(&objects));
    found
}

/// Returns the work that remains at the last version.
pub fn at_rest(versions: &[Version]) -> Vec<String> {
    let mut objects = Objects::default();
    versions.iter().for_each(|version| _ = objects.apply(version));
    rest::unfinished(&objects)
}

pub fn describe(deployment: &Deployment) -> String {
    let status = deployment.status.clone().unwrap_or_default();
    let numbers = (status.replicas, status.ready, status.available, status.updated);
    let revisions = (status.current_revision, status.deploying_revision, status.failed_revision);
    let entry = |e: &HistoryEntry| format!("{} {}→{} {:?}×{} {}", e.handler, e.from, e.to, e.result, e.attempts, e.message);
    let history: Vec<String> = status.history.iter().map(entry).collect();
    format!(
        "deployment {}: {} {:?} {:?}, numbers {numbers:?}, revisions {revisions:?}, planned {:?}, leaving {:?}, failures {:?}, history {history:#?}",
        deployment.name_any(),
        status.phase,
        status.reason,
        status.message,
        status.planned,
        status.leaving,
        status.failures,
    )
}

/// Summarizes the last version of each deployment and route, to help to diagnose a violation.
pub fn last_objects(versions: &[Version]) -> Vec<String> {
    let mut last: BTreeMap<String, String> = BTreeMap::new();
    for version in versions {
        match &version.object {
            Object::Deployment(deployment) => _ = last.insert(deployment.name_any(), describe(deployment)),
            Object::Route(route) => {
                let status = route.status.clone().unwrap_or_default();
                let entry = |e: &HistoryEntry| format!("{} {}→{} {:?} {}", e.handler, e.from, e.to, e.result, e.message);
                let history: Vec<String> = status.history.iter().map(entry).collect();
                let state = if version.deleted {
                    "gone"
                } else if is_deleting(&**route) {
                    "deleting"
                } else {
                    ""
                };
                let line = format!("route {} {}: {} {state} {history:#?}", route.name_any(), route.spec.revision, status.phase);
                last.insert(format!("{} route", route.name_any()), line);
            }
            _ => {}
        }
    }
    last.into_values().collect()
}
