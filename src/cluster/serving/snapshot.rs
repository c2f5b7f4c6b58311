//! Takes snapshots of deployments and routes out of the world. Taking one changes nothing but the claims.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::api::*;
use crate::cluster::commit::Committable;
use crate::cluster::store::identity::{deployment_of, key_of, uid_in, uid_of};
use crate::cluster::store::serving::Served;
use crate::cluster::store::state::State;
use crate::cluster::store::table::Key;
use crate::cluster::store::world::World;
use crate::coordinator::host::Batch;
use crate::coordinator::marks::Mark;
use crate::deployment::definition::Definition;
use crate::deployment::invalid::Invalid;
use crate::deployment::revision::{Content, Revision};
use crate::deployment::snapshot::{DeploymentItem, Replica};
use crate::deployment::{self, Deployments};
use crate::lifecycle::{Handler, Timing, phase_of, to_millis};
use crate::provisioner::{Candidate, Decision, EquivalenceClasses, Refusal, Scope, outage, provision};
use crate::route::snapshot::RouteItem;
use crate::route::{self, Routes};
use crate::session::kernels::kernel_name;
use crate::views::{Liveness, NodeView, PodView};

/// A kind whose snapshots the world takes.
pub trait Seen: Served + Committable {
    fn snapshot(state: &State, timing: &Arc<Timing>, object: &Self::Object) -> Self::Snapshot;
    fn item(state: &State, snapshot: &Self::Snapshot, object: &Arc<Self::Object>, stored: &Arc<Self::Object>) -> Self::Item;
}

impl World {
    /// The marked objects in a handler's phases by deployment, each claimed. An object that another handler has claimed is
    /// marked again when it is given back.
    pub fn claim_objects<S: Seen>(&self, handler: &Handler<S>, mark: &Mark<S::Uid>) -> Vec<Batch<S>> {
        let state = self.lock();
        let now = Utc::now();
        let kind = S::kind(&state.serving);
        let marked: Vec<S::Uid> =
            if mark.all { kind.key_of.keys().cloned().collect() } else { mark.objects.iter().cloned().collect() };
        let mut batches: BTreeMap<DeploymentUid, Batch<S>> = BTreeMap::new();
        for uid in marked {
            let Some(object) = state.object::<S>(&uid).filter(|object| handler.targets.contains(&phase_of::<S>(object))) else {
                continue;
            };
            if let Some(until) = kind.quarantined.get(&uid).filter(|until| now < **until) {
                S::queue(self).marks.at(handler.name, &uid, *until);
                continue;
            }
            let Some(stored) = state.stored::<S>(&uid).filter(|object| S::is_managed(self, &state, object)) else { continue };
            let again = || Mark {
                urgent: mark.urgent.iter().filter(|urgent| **urgent == uid).cloned().collect(),
                ..Mark::of([uid.clone()])
            };
            let Some(claim) = S::queue(self).claims.claim_or_wait(&uid, handler.name, again) else { continue };
            let snapshot = || S::snapshot(&state, &self.timing, object);
            let batch = batches.entry(S::deployment(object));
            let batch = batch.or_insert_with(|| Batch { snapshot: snapshot(), items: vec![], claims: vec![] });
            batch.items.push(S::item(&state, &batch.snapshot, object, stored));
            batch.claims.push(claim);
        }
        batches.into_values().collect()
    }

    /// An object as it is now.
    pub fn look_at<S: Seen>(&self, uid: &S::Uid) -> Option<(S::Snapshot, S::Item)> {
        let state = self.lock();
        let (object, stored) = (state.object::<S>(uid)?, state.stored::<S>(uid)?);
        let snapshot = S::snapshot(&state, &self.timing, object);
        let item = S::item(&state, &snapshot, object, stored);
        Some((snapshot, item))
    }
}

impl Seen for Deployments {
    fn snapshot(state: &State, timing: &Arc<Timing>, object: &Deployment) -> deployment::snapshot::Snapshot {
        let group_name = state.group_of_deployment(object);
        let group = group_name.as_ref().and_then(|name| state.group(name)).cloned();
        deployment::snapshot::Snapshot { now: now(), timing: timing.clone(), group_name, group }
    }

    fn item(
        state: &State,
        snapshot: &deployment::snapshot::Snapshot,
        deployment: &Arc<Deployment>,
        stored: &Arc<Deployment>,
    ) -> DeploymentItem {
        let uid = uid_in::<Self>(deployment);
        let (namespace, name) = key_of(&deployment.metadata);
        let key = (namespace, name);
        let content = state.definition_of(deployment).map(|definition| Content::of(&deployment.spec, &definition));
        let pending = content.as_ref().ok().filter(|_| deployment.phase() == DeploymentPhase::Pending);
        let no_room = pending.and_then(|content| state.no_room(snapshot, deployment, content));
        DeploymentItem {
            replicas: state.replicas_of(&uid),
            revisions: state.revisions_of(&uid),
            service: state.stores.services.get(&key).filter(|row| row.deployment == uid).map(|row| row.service),
            budget: state.stores.budgets.get(&key).filter(|row| row.deployment == uid).map(|row| row.min_available),
            without_route: state.sessions_without_route(&uid, deployment.phase().is_ending()),
            no_room,
            content,
            deployment: deployment.clone(),
            stored: stored.clone(),
        }
    }
}

impl Seen for Routes {
    fn snapshot(state: &State, timing: &Arc<Timing>, object: &Route) -> route::snapshot::Snapshot {
        let uid = Self::deployment(object);
        let deployment = state.object::<Deployments>(&uid);
        let group_name = deployment.and_then(|deployment| state.group_of_deployment(deployment));
        let group = group_name.as_ref().and_then(|name| state.group(name)).cloned();
        let (nodes, now) = (state.node_views(), now());
        let lost_after = |group: &ScalingGroup| timing.configured(group.spec.lost_after_seconds);
        let nodes = nodes.values().map(Arc::as_ref);
        route::snapshot::Snapshot {
            now,
            timing: timing.clone(),
            outage: group.as_ref().and_then(|group| outage(nodes, group, lost_after(group), now)),
            in_eviction: state.routes_of(&uid).filter(|(key, route)| state.is_in_eviction(key, route, &uid)).count(),
            healthy: state.routes_of(&uid).filter(|(_, route)| route.phase() == RoutePhase::Running).count(),
            group_name,
            group,
        }
    }

    fn item(state: &State, snapshot: &route::snapshot::Snapshot, route: &Arc<Route>, stored: &Arc<Route>) -> RouteItem {
        let uid = Self::deployment(route);
        let deployment = state.object::<Deployments>(&uid).cloned();
        let session = state.session_of_route(&key_of(&route.metadata), &uid).cloned();
        let pod = state.main_pod(session.as_deref()).cloned();
        let node = pod.as_ref().and_then(|pod| pod.node.as_ref()).map(|name| state.node_views().get(name).cloned());
        let revision = state.revisions_of(&uid).into_iter().find(|revision| revision.number == route.spec.revision);
        let revision = revision.filter(|_| session.is_none());
        let template = revision
            .zip(deployment.as_ref())
            .and_then(|(revision, deployment)| revision.content.session(&deployment.spec).ok().map(Box::new));
        let silent = node.as_ref().map(|node| node.as_deref().and_then(|node| silent_for(node, snapshot.now)));
        let default = ScalingGroupSpec::lost_after_default();
        let lost_after = snapshot.group.as_ref().map_or(default, |group| group.spec.lost_after_seconds);
        let lost_after = snapshot.timing.configured(lost_after);
        let is_lost = |node: &Option<Arc<NodeView>>| {
            node.as_ref().is_none_or(|node| node.liveness(lost_after, snapshot.now) == Liveness::Gone)
        };
        RouteItem {
            route: route.clone(),
            stored: stored.clone(),
            deployment,
            template,
            session,
            node_silent: silent.flatten(),
            node_lost: node.as_ref().is_some_and(is_lost),
            pod,
        }
    }
}

fn now() -> DateTime<Utc> {
    to_millis(Utc::now())
}

/// For how long a node has not been ready, if it is not.
fn silent_for(node: &NodeView, now: DateTime<Utc>) -> Option<Duration> {
    let since = node.not_ready_since.filter(|_| !node.ready);
    since.map(|since| (now - since).to_std().unwrap_or_default())
}

impl State {
    /// The routes of a deployment, with assumed writes. An end that is not written yet does not count: its successor would be
    /// one replica too many if the write failed.
    fn routes_of(&self, uid: &DeploymentUid) -> impl Iterator<Item = (&Key, &Arc<Route>)> {
        let stored = self.serving.routes_of.of(uid).filter_map(|key| Some((key, self.stores.routes.get(key)?)));
        stored.map(|(key, stored)| {
            let assumed = self.object::<Routes>(&uid_in::<Routes>(stored)).unwrap_or(stored);
            (key, if assumed.phase().is_ending() && !stored.phase().is_ending() { stored } else { assumed })
        })
    }

    /// Whether a replica is being replaced for its health, or has left the traffic to be.
    fn is_in_eviction(&self, key: &Key, route: &Route, uid: &DeploymentUid) -> bool {
        let session = || self.session_of_route(key, uid).map(Arc::as_ref);
        let is_out = || self.main_pod(session()).is_some_and(|pod| pod.traffic == Some(false));
        match route.phase() {
            RoutePhase::Evicting => true,
            RoutePhase::Unhealthy => route.spec.weight > 0 && is_out(),
            _ => false,
        }
    }

    fn replicas_of(&self, uid: &DeploymentUid) -> Vec<Replica> {
        let replica = |(key, route): (&Key, &Arc<Route>)| {
            let session = self.session_of_route(key, uid).cloned();
            let pod = self.main_pod(session.as_deref());
            Replica {
                route: route.clone(),
                node: pod.and_then(|pod| pod.node.clone()),
                listed: pod.is_some_and(|pod| self.is_listed(uid, pod)),
                ready_since: pod.and_then(|pod| pod.ready_since),
                session,
            }
        };
        self.routes_of(uid).map(replica).collect()
    }

    /// Whether an EndpointSlice of the deployment's own Service lists a pod as ready. The label alone proves nothing.
    fn is_listed(&self, uid: &DeploymentUid, pod: &PodView) -> bool {
        let service = self.serving.deployments.key_of.get(uid).map(|(_, name)| name);
        let slices = self.serving.slices_of.of(uid).filter(|(namespace, _)| *namespace == pod.namespace);
        let slices = slices.filter_map(|key| self.stores.traffic_slices.get(key));
        slices.filter(|slice| Some(&slice.service) == service).any(|slice| slice.ready.contains(&pod.name))
    }

    /// The session of a route: the one of its name that belongs to the same deployment.
    fn session_of_route(&self, key: &Key, uid: &DeploymentUid) -> Option<&Arc<Session>> {
        let session = self.stores.sessions.get(key).filter(|session| deployment_of(&session.metadata).as_ref() == Some(uid))?;
        self.session(&uid_of(session))
    }

    /// The pod of a session's main kernel, of its present allocation.
    fn main_pod(&self, session: Option<&Session>) -> Option<&Arc<PodView>> {
        let session = session?;
        let (namespace, name) = key_of(&session.metadata);
        let generation = session.status.as_ref().map_or(0, |status| status.allocation_generation);
        self.our_pod(&(namespace, kernel_name(&name, &uid_of(session).0, MAIN_HOSTNAME, generation)))
    }

    fn revisions_of(&self, uid: &DeploymentUid) -> Vec<Arc<Revision>> {
        let rows = self.serving.revisions_of.of(uid).filter_map(|key| self.stores.revisions.get(key));
        let mut revisions: Vec<Arc<Revision>> = rows.map(|row| row.revision.clone()).collect();
        revisions.sort_by_key(|revision| revision.number);
        revisions
    }

    /// Sessions of a deployment that have no route: those that live, or all if it is ending.
    fn sessions_without_route(&self, uid: &DeploymentUid, all: bool) -> Vec<(String, String)> {
        let keys = self.serving.sessions_of.of(uid).filter(|key| self.stores.routes.get(key).is_none());
        let sessions = keys.filter_map(|key| self.stores.sessions.get(key));
        let wanted = sessions.filter(|session| !session.is_deleted() && (all || !session.phase().is_ending()));
        wanted.map(|session| (session.metadata.name.clone().unwrap_or_default(), uid_of(session).0)).collect()
    }

    /// The model definition of a deployment, from the files that it names.
    fn definition_of(&self, deployment: &Deployment) -> Result<Definition, Invalid> {
        let model = &deployment.spec.model;
        let Some(source) = &model.definition_from else { return Ok(Definition::default()) };
        let namespace = deployment.metadata.namespace.clone().unwrap_or_default();
        let files = self.stores.definitions.get(&(namespace, source.config_map.clone()));
        Definition::read(source, model.variant, files.map(Arc::as_ref))
    }

    /// Why no replica of a deployment could be placed now.
    fn no_room(&self, snapshot: &deployment::snapshot::Snapshot, deployment: &Deployment, content: &Content) -> Option<Refusal> {
        let (group, group_name) = (snapshot.group.as_ref()?, snapshot.group_name.as_ref()?);
        let spec = content.session(&deployment.spec).ok()?;
        let mut session = Session::new(deployment.metadata.name.as_deref().unwrap_or_default(), spec);
        session.metadata.namespace.clone_from(&deployment.metadata.namespace);
        let class = EquivalenceClasses::default().of(&session);
        let (tenancy, nodes) = (self.tenancy(), self.node_views());
        let scope = Scope::new(snapshot.now, group_name, group, &nodes, &tenancy);
        let candidate = Candidate {
            class: &class,
            name: ("", ""),
            priority: session.spec.priority,
            created_at: None,
            starts_at: None,
            suspended: false,
            dependencies: &[],
            avoided: vec![],
            ahead: &[],
            template_problem: None,
            recently_reported: false,
        };
        let mut ledger = self.ledger.snapshot(&tenancy);
        match provision(&scope, &mut ledger, &[candidate]).pop()? {
            Decision::Placed(_) => None,
            Decision::Refused(refusal) => Some((*refusal).clone()),
        }
    }
}
