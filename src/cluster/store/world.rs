//! The watched state of the cluster behind one lock, and the marks that its changes set.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use tokio::sync::Notify;

use super::identity::{deployment_of, is_same_for_decisions, key_of, uid_of};
use super::lag::WatchLag;
use super::marks::{KernelTask, SessionMarks};
use super::pauses::about_nodes;
use super::serving_state::Queue;
use super::state::State;
use super::stores::{PodRow, Slice};
use super::table::Key;
use crate::api::*;
use crate::coordinator::marks::Mark;
use crate::coordinator::{Claim, Claims};
use crate::deployment::Deployments;
use crate::lifecycle::{Timing, Trigger};
use crate::route::Routes;
use crate::session::queue;
use crate::session::sessions::Sessions;
use crate::session::template;
use crate::views::extract::{self, Extracted};

/// The sessions that this operator manages.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// Their scaling groups. Empty means all.
    pub groups: Vec<GroupName>,
}

impl Scope {
    pub fn manages_all_groups(&self) -> bool {
        self.groups.is_empty()
    }

    /// Whether it includes the sessions of this scaling group, or the sessions without one.
    fn includes(&self, group: Option<&GroupName>) -> bool {
        self.manages_all_groups() || group.is_some_and(|group| self.groups.contains(group))
    }
}

/// The watched state, its marks and its claims.
pub struct World {
    state: Mutex<State>,
    pub marks: SessionMarks,
    claims: Arc<Claims<Sessions>>,
    pub timing: Arc<Timing>,
    pub deployments: Queue<Deployments>,
    pub routes: Queue<Routes>,
    /// Notified when the usage of tenants may have changed.
    usage_changed: Notify,
    pub(super) quota_changed: Notify,
    scope: Scope,
    pub lag: WatchLag,
}

impl World {
    pub fn new(timing: Arc<Timing>, scope: Scope) -> Self {
        let marks = SessionMarks::default();
        let claims = Arc::new(Claims::new(marks.handlers.clone()));
        let (usage_changed, quota_changed) = (Notify::new(), Notify::new());
        let (deployments, routes) = (Queue::default(), Queue::default());
        let (state, lag) = (Mutex::default(), WatchLag::default());
        Self { state, marks, claims, timing, deployments, routes, usage_changed, quota_changed, scope, lag }
    }

    pub(in crate::cluster) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Claims a session. Returns None if another handler has claimed it.
    pub fn claim_one(&self, uid: &SessionUid) -> Option<Claim<Sessions>> {
        self.claims.try_claim(uid)
    }

    pub(in crate::cluster) fn claims(&self) -> &Arc<Claims<Sessions>> {
        &self.claims
    }

    /// Excludes a session from all handlers for a while, or until it changes.
    pub fn quarantine(&self, uid: &SessionUid, pause: Duration) {
        let until = Utc::now() + TimeDelta::from_std(pause).unwrap_or_default();
        self.lock().quarantined.insert(uid.clone(), until);
    }

    /// Evaluates again what may have waited for a change outside it.
    fn trigger(&self, trigger: Trigger) {
        self.marks.handlers.trigger(trigger, Mark::all());
        self.deployments.marks.trigger(trigger, Mark::all());
        self.routes.marks.trigger(trigger, Mark::all());
    }

    pub(in crate::cluster) fn mark_everything(&self) {
        self.marks.everything();
        self.deployments.marks.everything();
        self.routes.marks.everything();
    }

    /// Whether this operator manages the sessions of all scaling groups.
    pub fn manages_all_groups(&self) -> bool {
        self.scope.manages_all_groups()
    }

    /// Whether this operator manages the sessions of a scaling group.
    pub fn manages(&self, group: &GroupName) -> bool {
        self.scope.includes(Some(group))
    }

    /// Whether the first list of every kind is complete.
    pub fn is_synced(&self) -> bool {
        self.lock().stores.is_synced()
    }

    /// Stores a session. Returns the stored version, which may be newer.
    pub fn upsert_session(&self, session: Session) -> Arc<Session> {
        let uid = uid_of(&session);
        let key = key_of(&session.metadata);
        let version = extract::version(session.metadata.resource_version.as_ref());
        let mut session = session;
        session.metadata.managed_fields = None;
        // Annotations may be large, and no decision depends on the others.
        let is_read = |name: &String| [ANNOTATION_CREATION_ID, ANNOTATION_KEEP_UNTIL].contains(&name.as_str());
        session.metadata.annotations.iter_mut().for_each(|all| all.retain(|name, _| is_read(name)));
        let mut state = self.lock();
        let found = state.template_of(&session).cloned();
        template::expand(&mut session, found.as_deref());
        let session = Arc::new(session);
        if !self.scope.includes(state.group_of(&session).as_ref()) {
            state.stores.sessions.list_seen(&key);
            return session;
        }
        let old = state.stores.sessions.get(&key).cloned();
        if !state.stores.sessions.upsert(key.clone(), version, session.clone()) {
            return state.stores.sessions.get(&key).cloned().unwrap_or(session);
        }
        let was_unreadable = state.unreadable.remove(&uid).is_some();
        if let Some(old) = old.as_ref().filter(|_| !was_unreadable)
            && is_same_for_decisions(&**old, &*session)
        {
            if !self.claims.is_claimed(&uid) {
                state.overlay.carry_over(&uid, &session);
            }
            // The API server may accept its status now.
            let was_quarantined = state.quarantined.remove(&uid).is_some();
            drop(state);
            if was_quarantined {
                self.marks.session(&uid, session.phase());
            }
            return session;
        }
        let (mut freed, appeared) = (false, old.is_none());
        let counts_changed = old.as_ref().is_some_and(|old| queue::counted_by(old) != queue::counted_by(&session));
        match old {
            Some(old) if uid_of(&old) != uid => freed = state.forget_session(&old), // it was replaced by one of the same name
            Some(old) if old.spec.depends_on != session.spec.depends_on => state.forget_dependencies(&old),
            _ => {}
        }
        state.quarantined.remove(&uid);
        // If a handler has claimed the session, its commit detects the change.
        if !self.claims.is_claimed(&uid) {
            state.overlay.drop_deferred(&uid);
        }
        state.index.key_of.insert(uid.clone(), key.clone());
        if let Some(deployment) = deployment_of(&session.metadata) {
            state.serving.sessions_of.insert(deployment, key.clone());
        }
        let place = state.index.place(&uid).cloned();
        freed |= state.refresh(&uid);
        let moved = state.index.place(&uid) != place.as_ref();
        // Dependents depend only on whether the session exists and whether it has ended.
        let dependents = if appeared || session.phase().is_terminal() { state.dependents(&key) } else { vec![] };
        let dependencies = state.dependencies_of(&session);
        drop(state);
        self.marks.handlers.trigger(Trigger::DependentChanged, Mark::of(dependencies));
        self.marks.session(&uid, session.phase());
        self.after_change(freed);
        if moved || counts_changed {
            self.mark_usage();
        }
        self.marks.handlers.trigger(Trigger::DependencyChanged, Mark::of(dependents));
        self.mark_replica(&session);
        session
    }

    /// Records a session that cannot be read. It keeps its resources until it is deleted, and affects no other session.
    pub fn unreadable_session(&self, meta: &kube::core::ObjectMeta) {
        let uid = SessionUid(meta.uid.clone().unwrap_or_default());
        let mut state = self.lock();
        state.stores.sessions.list_seen(&key_of(meta));
        state.unreadable.insert(uid.clone(), meta.clone());
        drop(state);
        self.marks.kernels.one(KernelTask::Sync, &uid);
    }

    pub fn remove_session(&self, key: &Key, version: u64) {
        let mut state = self.lock();
        let removed = state.stores.sessions.remove(key, version);
        state.unreadable.retain(|_, unreadable| key_of(unreadable) != *key);
        if let Some(session) = removed {
            let uid = uid_of(&session);
            let left_the_queue = state.forget_session(&session);
            let freed = state.refresh(&uid) || left_the_queue;
            let (dependents, dependencies) = (state.dependents(key), state.dependencies_of(&session));
            drop(state);
            self.marks.handlers.trigger(Trigger::DependentChanged, Mark::of(dependencies));
            self.marks.handlers.trigger(Trigger::DependencyChanged, Mark::of(dependents));
            self.marks.forget(&uid);
            self.marks.kernels.one(KernelTask::Sync, &uid);
            self.after_change(freed);
            self.mark_usage();
            self.mark_replica(&session);
        }
    }

    pub fn upsert_kernel(&self, mut kernel: Kernel) -> Arc<Kernel> {
        kernel.metadata.managed_fields = None;
        let key = key_of(&kernel.metadata);
        let version = extract::version(kernel.metadata.resource_version.as_ref());
        let uid = SessionUid(kernel.spec.session_uid.clone());
        let kernel = Arc::new(kernel);
        let mut state = self.lock();
        if !self.scope.includes(Some(&kernel.spec.scaling_group)) {
            state.stores.kernels.list_seen(&key);
            return kernel;
        }
        if state.stores.kernels.upsert(key.clone(), version, kernel.clone()) {
            state.index.kernels_of.insert(uid.clone(), key);
            drop(state);
            self.mark_related(&uid);
        }
        kernel
    }

    pub fn remove_kernel(&self, key: &Key, version: u64) {
        let mut state = self.lock();
        let Some(kernel) = state.stores.kernels.remove(key, version) else { return };
        let uid = SessionUid(kernel.spec.session_uid.clone());
        state.index.kernels_of.remove(&uid, key);
        drop(state);
        self.mark_related(&uid);
    }

    pub fn kernel(&self, namespace: &str, name: &str) -> Option<Arc<Kernel>> {
        self.lock().stores.kernels.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    /// Whether a session of this uid exists, readable or not.
    pub fn knows(&self, uid: &SessionUid) -> bool {
        let state = self.lock();
        state.index.key_of.contains_key(uid) || state.unreadable.contains_key(uid)
    }

    /// Whether a session has this pod, and the pod is not being deleted.
    pub fn has_pod(&self, uid: &SessionUid, namespace: &str, name: &str) -> bool {
        match self.lock().stores.pods.get(&(namespace.to_owned(), name.to_owned())) {
            Some(PodRow::Ours(pod)) => pod.session_uid == *uid && !pod.deleting,
            Some(PodRow::Foreign(_)) | None => false,
        }
    }

    pub fn upsert_pod(&self, pod: &Pod) {
        let key = key_of(&pod.metadata);
        let version = extract::version(pod.metadata.resource_version.as_ref());
        let mut state = self.lock();
        let row = match self.in_scope(state.verified(extract::pod(pod))) {
            Extracted::Nothing => {
                state.stores.pods.list_seen(&key);
                drop(state);
                return self.remove_pod(&key, 0);
            }
            Extracted::Ours(view) => PodRow::Ours(Arc::new(state.remember(&key, *view))),
            Extracted::Foreign(mut foreign) => {
                foreign.lifetime = state.trusted_lifetime(&foreign);
                PodRow::Foreign(foreign)
            }
        };
        match row {
            PodRow::Ours(view) => {
                let uid = view.session_uid.clone();
                if !state.stores.pods.upsert(key.clone(), version, PodRow::Ours(view)) {
                    return;
                }
                state.index.pods_of.insert(uid.clone(), key);
                let freed = state.refresh(&uid);
                drop(state);
                self.mark_related(&uid);
                self.after_change(freed);
            }
            PodRow::Foreign(foreign) => {
                let old = match state.stores.pods.get(&key) {
                    Some(PodRow::Foreign(old)) => Some(old.clone()),
                    _ => None,
                };
                if state.stores.pods.upsert(key, version, PodRow::Foreign(foreign.clone())) && old.as_ref() != Some(&foreign) {
                    let freed = old.as_ref().is_some_and(|old| foreign.requests.lacking(&old.requests).is_some());
                    if let Some(old) = old {
                        state.ledger.count_foreign(&old, -1);
                    }
                    state.ledger.count_foreign(&foreign, 1);
                    drop(state);
                    self.after_change(freed);
                }
            }
        }
    }

    /// Treats a pod of another operator's scaling group as a foreign pod.
    fn in_scope(&self, extracted: Extracted) -> Extracted {
        match extracted {
            Extracted::Ours(view) if !self.scope.includes(Some(&view.group)) => match &view.node {
                Some(node) if view.is_live() => Extracted::Foreign(view.as_foreign(node)),
                _ => Extracted::Nothing,
            },
            other => other,
        }
    }

    pub fn remove_pod(&self, key: &Key, version: u64) {
        let mut state = self.lock();
        match state.stores.pods.remove(key, version) {
            None => {}
            Some(PodRow::Foreign(foreign)) => {
                state.ledger.count_foreign(&foreign, -1);
                drop(state);
                self.after_change(true);
            }
            Some(PodRow::Ours(view)) => {
                let uid = view.session_uid.clone();
                state.index.pods_of.remove(&uid, key);
                let freed = state.refresh(&uid);
                drop(state);
                self.mark_related(&uid);
                self.after_change(freed);
            }
        }
    }

    pub fn upsert_slice(&self, slice: &EndpointSlice) {
        let Some(uid) = slice.metadata.labels.as_ref().and_then(|labels| labels.get(LABEL_SESSION_UID)) else { return };
        let uid = SessionUid(uid.clone());
        let hostnames = slice.endpoints.iter().flatten().filter_map(|endpoint| endpoint.hostname.clone()).collect();
        let service = slice.metadata.labels.as_ref().and_then(|labels| labels.get(LABEL_SERVICE)).cloned().unwrap_or_default();
        let version = extract::version(slice.metadata.resource_version.as_ref());
        let key = key_of(&slice.metadata);
        let mut state = self.lock();
        if state.stores.slices.upsert(key.clone(), version, Slice { uid: uid.clone(), service, hostnames }) {
            state.index.slices_of.insert(uid.clone(), key);
            drop(state);
            self.mark_related(&uid);
        }
    }

    pub fn remove_slice(&self, key: &Key, version: u64) {
        let mut state = self.lock();
        if let Some(slice) = state.stores.slices.remove(key, version) {
            state.index.slices_of.remove(&slice.uid, key);
        }
    }

    pub fn upsert_node(&self, node: &Node) {
        let view = Arc::new(extract::node(node));
        let key = key_of(&node.metadata);
        let version = extract::version(node.metadata.resource_version.as_ref());
        let mut state = self.lock();
        if let Some(heard) = extract::heartbeat(node) {
            state.heartbeats.heard(&view.name, heard);
        }
        let old = state.stores.nodes.get(&key).cloned();
        if !state.stores.nodes.upsert(key, version, view.clone()) || old.as_ref() == Some(&view) {
            return;
        }
        state.nodes_changed();
        if old.as_ref().is_some_and(|old| old.is_same_place_as(&view)) {
            return;
        }
        state.end_pauses(&self.marks.handlers, None, about_nodes);
        let health_changed = old.as_ref().is_none_or(|old| old.ready != view.ready || old.taints != view.taints);
        drop(state);
        self.mark_usage();
        self.trigger(Trigger::NodeChanged);
        if health_changed {
            self.mark_everything();
        }
    }

    pub fn remove_node(&self, key: &Key, version: u64) {
        let mut state = self.lock();
        if let Some(node) = state.stores.nodes.remove(key, version) {
            state.heartbeats.forget(&node.name);
            state.nodes_changed();
            drop(state);
            self.mark_usage();
            self.mark_everything();
        }
    }

    /// Handles a change of scaling groups, tenants or classes, for which any session may have been waiting.
    pub(in crate::cluster) fn tenancy_changed(&self, mut state: MutexGuard<'_, State>) {
        state.tenancy_changed();
        if state.stores.is_synced() {
            state.assign_scaling_groups(); // before that, no handler runs
            state.expand_templates();
        }
        state.recheck_lifetimes();
        state.recount_overheads();
        drop(state);
        self.mark_usage();
        self.trigger(Trigger::TenancyChanged);
    }

    /// Marks everything once all kinds are listed, so that the handlers can begin.
    pub fn begin(&self) {
        let mut state = self.lock();
        state.assign_scaling_groups();
        state.expand_templates();
        state.reverify_pods();
        state.recount_overheads();
        drop(state);
        self.mark_everything();
    }

    pub(in crate::cluster) fn after_change(&self, freed: bool) {
        if freed {
            self.mark_usage();
            self.trigger(Trigger::CapacityFreed);
        }
    }

    /// Marks a session after a change of its pods, kernels or EndpointSlices.
    pub(in crate::cluster) fn mark_related(&self, uid: &SessionUid) {
        let (phase, session) = {
            let state = self.lock();
            (state.index.phase(uid), state.session(uid).cloned())
        };
        session.iter().for_each(|session| self.mark_replica(session));
        match phase {
            Some(SessionPhase::Pending) | None => self.marks.kernels.one(KernelTask::Sync, uid),
            Some(phase) => self.marks.session(uid, phase),
        }
        self.marks.kernels.after(KernelTask::Record, uid, self.timing.kernel_progress);
    }

    /// Whether many sessions are on their way to Running or to their end.
    pub fn is_busy(&self) -> bool {
        use SessionPhase::{Creating, Prepared, Preparing, Pulling, Scheduled, Terminating};
        let state = self.lock();
        let moving = [Scheduled, Preparing, Pulling, Prepared, Creating, Terminating];
        moving.into_iter().map(|phase| state.index.in_phase(phase).count()).sum::<usize>() > BUSY
    }

    /// Waits until the usage of tenants may have changed.
    pub async fn usage_to_publish(&self) {
        self.usage_changed.notified().await;
    }

    /// Records that the usage of tenants may have changed.
    pub fn mark_usage(&self) {
        self.usage_changed.notify_one();
    }
}

/// The operator is busy while more sessions than this are starting.
const BUSY: usize = 50;
