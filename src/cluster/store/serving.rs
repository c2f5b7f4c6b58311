//! Deployments and routes in the world: their stores, what belongs to them, and the marks that changes set.

use std::sync::Arc;

use chrono::{TimeDelta, Utc};
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::Resource;

use super::identity::{deployment_of, is_same_for_decisions, key_of, uid_in};
use super::overlay::with_status_of;
use super::serving_state::{BudgetRow, KindState, Queue, RevisionRow, ServiceRow, ServingState, TrafficSlice};
use super::state::State;
use super::stores::Stores;
use super::table::{Key, Table};
use super::world::World;
use crate::api::*;
use crate::coordinator::Claim;
use crate::coordinator::host::AfterCommit;
use crate::coordinator::marks::Mark;
use crate::deployment::Deployments;
use crate::deployment::revision::Revision;
use crate::deployment::snapshot::ServiceView;
use crate::lifecycle::{Subject, phase_of};
use crate::route::Routes;
use crate::views::extract;

/// A kind whose objects the world keeps as they are.
pub trait Served: Subject {
    /// The name of a status write in the metrics.
    const STATUS_WRITE: &'static str;
    fn store(stores: &Stores) -> &Table<Arc<Self::Object>>;
    fn store_mut(stores: &mut Stores) -> &mut Table<Arc<Self::Object>>;
    fn kind(serving: &ServingState) -> &KindState<Self>;
    fn kind_mut(serving: &mut ServingState) -> &mut KindState<Self>;
    fn queue(world: &World) -> &Queue<Self>;
    /// The deployment that an object is or belongs to.
    fn deployment(object: &Self::Object) -> DeploymentUid;
    /// Brings the index up to date for an object that appeared or is gone.
    fn index(serving: &mut ServingState, object: &Self::Object, key: &Key, exists: bool);
    /// Whether this operator manages an object.
    fn is_managed(world: &World, state: &State, object: &Self::Object) -> bool;
}

impl Served for Deployments {
    const STATUS_WRITE: &'static str = "deployment-status";

    fn store(stores: &Stores) -> &Table<Arc<Deployment>> {
        &stores.deployments
    }

    fn store_mut(stores: &mut Stores) -> &mut Table<Arc<Deployment>> {
        &mut stores.deployments
    }

    fn kind(serving: &ServingState) -> &KindState<Self> {
        &serving.deployments
    }

    fn kind_mut(serving: &mut ServingState) -> &mut KindState<Self> {
        &mut serving.deployments
    }

    fn queue(world: &World) -> &Queue<Self> {
        &world.deployments
    }

    fn deployment(object: &Deployment) -> DeploymentUid {
        uid_in::<Self>(object)
    }

    fn index(_: &mut ServingState, _: &Deployment, _: &Key, _: bool) {}

    fn is_managed(world: &World, state: &State, object: &Deployment) -> bool {
        world.manages_all_groups() || state.group_of_deployment(object).is_some_and(|group| world.manages(&group))
    }
}

impl Served for Routes {
    const STATUS_WRITE: &'static str = "route-status";

    fn store(stores: &Stores) -> &Table<Arc<Route>> {
        &stores.routes
    }

    fn store_mut(stores: &mut Stores) -> &mut Table<Arc<Route>> {
        &mut stores.routes
    }

    fn kind(serving: &ServingState) -> &KindState<Self> {
        &serving.routes
    }

    fn kind_mut(serving: &mut ServingState) -> &mut KindState<Self> {
        &mut serving.routes
    }

    fn queue(world: &World) -> &Queue<Self> {
        &world.routes
    }

    fn deployment(object: &Route) -> DeploymentUid {
        deployment_of(&object.metadata).unwrap_or_default()
    }

    fn index(serving: &mut ServingState, object: &Route, key: &Key, exists: bool) {
        let uid = Self::deployment(object);
        match exists {
            true => serving.routes_of.insert(uid, key.clone()),
            false => serving.routes_of.remove(&uid, key),
        }
    }

    /// A route goes with its deployment. One whose deployment is gone belongs to an operator of all scaling groups.
    fn is_managed(world: &World, state: &State, object: &Route) -> bool {
        let deployment = state.object::<Deployments>(&Self::deployment(object));
        world.manages_all_groups() || deployment.is_some_and(|deployment| Deployments::is_managed(world, state, deployment))
    }
}

impl State {
    /// An object as it will be once its assumed write is done, or as it is stored.
    pub fn object<S: Served>(&self, uid: &S::Uid) -> Option<&Arc<S::Object>> {
        S::kind(&self.serving).overlay.assumed(uid).or_else(|| self.stored::<S>(uid))
    }

    /// An object as the API server has it, as far as is known.
    pub fn stored<S: Served>(&self, uid: &S::Uid) -> Option<&Arc<S::Object>> {
        S::store(&self.stores).get(S::kind(&self.serving).key_of.get(uid)?)
    }
}

impl World {
    /// Stores an object. Returns the newest known version of it.
    pub fn upsert_object<S: Served>(&self, mut object: S::Object) -> Arc<S::Object> {
        object.meta_mut().managed_fields = None;
        let (uid, key) = (uid_in::<S>(&object), key_of(object.meta()));
        let version = extract::version(object.meta().resource_version.as_ref());
        let object = Arc::new(object);
        let mut state = self.lock();
        let old = S::store(&state.stores).get(&key).cloned();
        if !S::store_mut(&mut state.stores).upsert(key.clone(), version, object.clone()) {
            return S::store(&state.stores).get(&key).cloned().unwrap_or(object);
        }
        if let Some(old) = old.as_ref().filter(|old| uid_in::<S>(old) != uid) {
            state.forget_object::<S>(old, &key);
        }
        S::index(&mut state.serving, &object, &key, true);
        let is_free = !S::queue(self).claims.is_claimed(&uid);
        let kind = S::kind_mut(&mut state.serving);
        kind.key_of.insert(uid.clone(), key);
        kind.quarantined.remove(&uid);
        // If a handler works on the object, its commit finds out that the object changed.
        if is_free {
            match old.filter(|old| is_same_for_decisions(&**old, &*object)) {
                Some(_) => kind.overlay.carry_over(&uid, &object),
                None => kind.overlay.drop_deferred(&uid),
            }
        }
        drop(state);
        self.mark_object::<S>(&object);
        object
    }

    pub fn remove_object<S: Served>(&self, key: &Key, version: u64) {
        let mut state = self.lock();
        let Some(object) = S::store_mut(&mut state.stores).remove(key, version) else { return };
        state.forget_object::<S>(&object, key);
        drop(state);
        S::queue(self).marks.forget(&uid_in::<S>(&object));
        self.mark_object::<S>(&object);
    }

    fn mark_object<S: Served>(&self, object: &S::Object) {
        S::queue(self).marks.object(&uid_in::<S>(object), phase_of::<S>(object));
        self.mark_deployment(&S::deployment(object));
    }

    /// Something of a deployment changed: it and its routes are evaluated.
    pub fn mark_deployment(&self, uid: &DeploymentUid) {
        let phase = self.lock().object::<Deployments>(uid).map(|deployment| deployment.phase());
        if let Some(phase) = phase {
            self.deployments.marks.object(uid, phase);
        }
    }

    /// Something of a session or its pods changed: the route of the same name is evaluated, and its deployment.
    pub(in crate::cluster) fn mark_replica(&self, session: &Session) {
        let Some(uid) = deployment_of(&session.metadata) else { return };
        let state = self.lock();
        let route = state.stores.routes.get(&key_of(&session.metadata)).cloned();
        drop(state);
        if let Some(route) = route {
            self.routes.marks.object(&uid_in::<Routes>(&route), route.phase());
        }
        self.mark_deployment(&uid);
    }

    pub fn upsert_revision(&self, object: &ControllerRevision) {
        let Some(deployment) = deployment_of(&object.metadata) else { return };
        let content = object.data.as_ref().and_then(|data| serde_json::from_value(data.0.clone()).ok());
        let key = key_of(&object.metadata);
        let version = extract::version(object.metadata.resource_version.as_ref());
        let mut state = self.lock();
        let Some(content) = content else { return state.stores.revisions.cannot_read(key) };
        let (name, uid) = (key.1.clone(), object.metadata.uid.clone().unwrap_or_default());
        let revision = Arc::new(Revision { number: object.revision, name, uid, content });
        if state.stores.revisions.upsert(key.clone(), version, RevisionRow { deployment: deployment.clone(), revision }) {
            state.serving.revisions_of.insert(deployment.clone(), key);
        }
        drop(state);
        self.mark_deployment(&deployment);
    }

    pub fn remove_revision(&self, key: &Key, version: u64) {
        let mut state = self.lock();
        let Some(row) = state.stores.revisions.remove(key, version) else { return };
        state.serving.revisions_of.remove(&row.deployment, key);
        drop(state);
        self.mark_deployment(&row.deployment);
    }

    pub fn upsert_service(&self, object: &Service) {
        let Some(deployment) = deployment_of(&object.metadata) else { return };
        let port = object.spec.iter().flat_map(|spec| spec.ports.iter().flatten()).next();
        let ports = port.map(|port| (port.port, integer(port.target_port.as_ref()).unwrap_or(port.port))).unwrap_or_default();
        let version = extract::version(object.metadata.resource_version.as_ref());
        let service = ServiceView { ports, is_intact: is_intact(object) };
        let row = ServiceRow { deployment: deployment.clone(), service };
        self.lock().stores.services.upsert(key_of(&object.metadata), version, row);
        self.mark_deployment(&deployment);
    }

    pub fn remove_service(&self, key: &Key, version: u64) {
        let removed = self.lock().stores.services.remove(key, version);
        removed.iter().for_each(|row| self.mark_deployment(&row.deployment));
    }

    pub fn upsert_budget(&self, object: &PodDisruptionBudget) {
        let Some(deployment) = deployment_of(&object.metadata) else { return };
        let min_available = integer(object.spec.as_ref().and_then(|spec| spec.min_available.as_ref())).unwrap_or(-1);
        let version = extract::version(object.metadata.resource_version.as_ref());
        let row = BudgetRow { deployment: deployment.clone(), min_available };
        self.lock().stores.budgets.upsert(key_of(&object.metadata), version, row);
        self.mark_deployment(&deployment);
    }

    pub fn remove_budget(&self, key: &Key, version: u64) {
        let removed = self.lock().stores.budgets.remove(key, version);
        removed.iter().for_each(|row| self.mark_deployment(&row.deployment));
    }

    pub fn upsert_traffic_slice(&self, slice: &EndpointSlice) {
        let Some(deployment) = deployment_of(&slice.metadata) else { return };
        let ready = slice
            .endpoints
            .iter()
            .flatten()
            .filter(|endpoint| endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true));
        let ready = ready.filter_map(|endpoint| endpoint.target_ref.as_ref()?.name.clone()).collect();
        let service = slice.metadata.labels.as_ref().and_then(|labels| labels.get(LABEL_SERVICE)).cloned().unwrap_or_default();
        let version = extract::version(slice.metadata.resource_version.as_ref());
        let key = key_of(&slice.metadata);
        let mut state = self.lock();
        let row = TrafficSlice { deployment: deployment.clone(), service, ready };
        if state.stores.traffic_slices.upsert(key.clone(), version, row) {
            state.serving.slices_of.insert(deployment.clone(), key);
        }
        drop(state);
        self.mark_deployment(&deployment);
    }

    pub fn remove_traffic_slice(&self, key: &Key, version: u64) {
        let mut state = self.lock();
        let Some(row) = state.stores.traffic_slices.remove(key, version) else { return };
        state.serving.slices_of.remove(&row.deployment, key);
        drop(state);
        self.mark_deployment(&row.deployment);
    }

    pub fn upsert_definition(&self, object: ConfigMap) {
        let (key, version) = (key_of(&object.metadata), extract::version(object.metadata.resource_version.as_ref()));
        let files = Arc::new(object.data.unwrap_or_default());
        let mut state = self.lock();
        let is_same = state.stores.definitions.get(&key).is_some_and(|old| *old == files);
        state.stores.definitions.upsert(key.clone(), version, files);
        drop(state);
        if !is_same {
            self.mark_defined_by(&key);
        }
    }

    pub fn remove_definition(&self, key: &Key, version: u64) {
        let removed = self.lock().stores.definitions.remove(key, version);
        removed.iter().for_each(|_| self.mark_defined_by(key));
    }

    /// The files of a ConfigMap changed: the deployments that name it are evaluated.
    fn mark_defined_by(&self, (namespace, name): &Key) {
        let state = self.lock();
        let named = |deployment: &&Arc<Deployment>| {
            let source = deployment.spec.model.definition_from.as_ref();
            deployment.metadata.namespace.as_ref() == Some(namespace) && source.is_some_and(|source| source.config_map == *name)
        };
        let uids: Vec<DeploymentUid> =
            state.stores.deployments.values().filter(named).map(|deployment| uid_in::<Deployments>(deployment)).collect();
        drop(state);
        uids.iter().for_each(|uid| self.mark_deployment(uid));
    }

    /// Claims an object. Returns None if it is claimed already.
    pub fn claim_object<S: Served>(&self, uid: &S::Uid) -> Option<Claim<S>> {
        S::queue(self).claims.try_claim(uid)
    }

    /// Leaves an object alone for a while, or until it changes.
    pub fn quarantine_object<S: Served>(&self, uid: &S::Uid, pause: std::time::Duration) {
        let until = Utc::now() + TimeDelta::from_std(pause).unwrap_or_default();
        S::kind_mut(&mut self.lock().serving).quarantined.insert(uid.clone(), until);
    }

    /// Counts a deferred status as written. If the object changed since `base`, it is evaluated again instead.
    pub fn defer_object<S: Served>(&self, object: &Arc<S::Object>, base: &S::Object, after: AfterCommit<S>) {
        let uid = uid_in::<S>(object);
        let mut state = self.lock();
        let Some(stored) = state.stored::<S>(&uid).cloned() else { return };
        if is_same_for_decisions(base, &*stored) {
            let overlay = &mut S::kind_mut(&mut state.serving).overlay;
            overlay.deferred.entry(uid).or_default().append(after);
            overlay.assume(&Arc::new(with_status_of::<S>(&stored, object)));
        } else {
            drop(state);
            self.mark_object::<S>(&stored);
        }
    }

    pub fn deferred_objects<S: Served>(&self, mark: &Mark<S::Uid>) -> Vec<S::Uid> {
        let state = self.lock();
        S::kind(&state.serving).overlay.deferred.keys().filter(|uid| mark.covers(uid)).cloned().collect()
    }

    /// Whether a deferred commit contains what this handler did.
    pub fn is_object_deferred<S: Served>(&self, uid: &S::Uid, handler: S::HandlerName) -> bool {
        let state = self.lock();
        let deferred = S::kind(&state.serving).overlay.deferred.get(uid);
        deferred.is_some_and(|after| after.has_done(handler))
    }

    pub fn take_deferred_object<S: Served>(&self, uid: &S::Uid) -> Option<AfterCommit<S>> {
        S::kind_mut(&mut self.lock().serving).overlay.deferred.remove(uid)
    }
}

impl State {
    fn forget_object<S: Served>(&mut self, object: &S::Object, key: &Key) {
        S::index(&mut self.serving, object, key, false);
        let uid = uid_in::<S>(object);
        let kind = S::kind_mut(&mut self.serving);
        kind.overlay.forget(&uid);
        kind.key_of.remove(&uid);
        kind.quarantined.remove(&uid);
    }
}

/// Whether a Service is internal and selects the replicas of its deployment that are in the traffic.
fn is_intact(service: &Service) -> bool {
    let Some(spec) = &service.spec else { return false };
    let name = service.metadata.name.as_deref().unwrap_or_default();
    let wanted = [(LABEL_DEPLOYMENT, name), (LABEL_TRAFFIC, TRAFFIC_ON)];
    let selects = spec.selector.as_ref().is_some_and(|selector| {
        selector.len() == wanted.len() && wanted.iter().all(|(label, value)| selector.get(*label).is_some_and(|is| is == value))
    });
    let is_internal = spec.type_.as_deref().is_none_or(|type_| type_ == "ClusterIP");
    selects && is_internal && spec.external_ips.as_ref().is_none_or(Vec::is_empty)
}

fn integer(value: Option<&IntOrString>) -> Option<i32> {
    match value? {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(_) => None,
    }
}
