//! The world as watched: stores and indexes, the ledger they add up to, and what we wrote and have not seen yet.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use tokio::sync::Notify;

use super::extract::{self, Extracted};
use super::pauses::about_nodes;
pub(super) use super::state::{Inner, PodRow, Slice, remove_key};
pub use super::state::{News, decides_the_same, key_of, uid_of};
use super::table::Key;
use crate::api::*;
use crate::coordinator::marks::Marks;
use crate::lifecycle::Timing;
use crate::session::handlers::HandlerName;
use crate::session::queue;

/// Which sessions are this operator's.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// These scaling groups; all if none are named.
    pub groups: Vec<GroupName>,
}

impl Scope {
    pub fn is_whole(&self) -> bool {
        self.groups.is_empty()
    }

    fn includes(&self, group: &GroupName) -> bool {
        self.is_whole() || self.groups.contains(group)
    }
}

/// The world as watched.
pub struct World {
    inner: Mutex<Inner>,
    pub marks: Arc<Marks>,
    pub timing: Arc<Timing>,
    /// Told when what tenants use may have changed.
    pub(super) usage_changed: Notify,
    pub(super) quota_changed: Notify,
    scope: Scope,
}

impl World {
    pub fn new(marks: Arc<Marks>, timing: Arc<Timing>, scope: Scope) -> Self {
        Self { inner: Mutex::default(), marks, timing, usage_changed: Notify::new(), quota_changed: Notify::new(), scope }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this operator looks after every session there is.
    pub fn is_whole(&self) -> bool {
        self.scope.is_whole()
    }

    /// Whether this operator looks after a group.
    pub fn looks_after(&self, group: &GroupName) -> bool {
        self.scope.includes(group)
    }

    /// Whether every kind's first list is complete.
    pub fn is_synced(&self) -> bool {
        self.lock().is_synced()
    }

    /// Takes a session in; returns what stands now, which may be newer.
    pub fn upsert_session(&self, session: Session) -> Arc<Session> {
        let uid = uid_of(&session);
        let key = key_of(&session.metadata);
        let version = extract::version(session.metadata.resource_version.as_ref());
        let mut session = session;
        session.metadata.managed_fields = None;
        // Annotations may be large, and no decision depends on one.
        session.metadata.annotations.iter_mut().for_each(|all| all.retain(|name, _| name == ANNOTATION_CREATION_ID));
        let session = Arc::new(session);
        let mut inner = self.lock();
        if !self.scope.includes(&inner.group_of(&session)) {
            inner.sessions.list_seen(&key);
            return session;
        }
        let old = inner.sessions.get(&key).cloned();
        if !inner.sessions.upsert(key.clone(), version, session.clone()) {
            return inner.sessions.get(&key).cloned().unwrap_or(session);
        }
        let was_unreadable = inner.unreadable.remove(&uid).is_some();
        if let Some(old) = old.as_ref().filter(|_| !was_unreadable)
            && decides_the_same(old, &session)
        {
            inner.carry_lingering_over(&uid, &session);
            // Its status may fit now.
            let was_quarantined = inner.quarantined.remove(&uid).is_some();
            drop(inner);
            if was_quarantined {
                self.marks.session(&uid, session.phase());
            }
            return session;
        }
        let (mut freed, appeared) = (false, old.is_none());
        let counted_anew = old.as_ref().is_some_and(|old| queue::counted_by(old) != queue::counted_by(&session));
        match old {
            Some(old) if uid_of(&old) != uid => freed = inner.forget_session(&old), // another of the same name took its place
            Some(old) if old.spec.depends_on != session.spec.depends_on => inner.forget_dependencies(&old),
            _ => {}
        }
        inner.quarantined.remove(&uid);
        inner.forget_lingering(&uid);
        inner.key_of.insert(uid.clone(), key.clone());
        let place = inner.place.get(&uid).cloned();
        freed |= inner.refresh(&uid);
        let moved = inner.place.get(&uid) != place.as_ref();
        // Whether it is there and whether it has ended are all that matters to them.
        let dependents = if appeared || session.phase().is_terminal() { inner.dependents(&key) } else { vec![] };
        let dependencies = inner.dependencies_of(&session);
        drop(inner);
        self.mark_removable(dependencies);
        self.marks.session(&uid, session.phase());
        self.after_change(freed);
        if moved || counted_anew {
            self.mark_usage();
        }
        self.mark_waiting(dependents);
        session
    }

    /// Sessions whose removal may have waited for one that depends on them.
    fn mark_removable(&self, sessions: Vec<SessionUid>) {
        for uid in sessions {
            self.marks.one(HandlerName::FinalizeSessions, &uid);
        }
    }

    fn mark_waiting(&self, sessions: Vec<SessionUid>) {
        for uid in sessions {
            self.marks.one(HandlerName::ScheduleSessions, &uid);
        }
    }

    /// One that cannot be read: it keeps what it holds until it is deleted, and hurts no other.
    pub fn unreadable_session(&self, meta: &kube::core::ObjectMeta) {
        let uid = SessionUid(meta.uid.clone().unwrap_or_default());
        let mut inner = self.lock();
        inner.sessions.list_seen(&key_of(meta));
        inner.unreadable.insert(uid.clone(), meta.clone());
        drop(inner);
        self.marks.one(HandlerName::SyncKernels, &uid);
    }

    pub fn remove_session(&self, meta: &kube::core::ObjectMeta) {
        let key = key_of(meta);
        let mut inner = self.lock();
        let removed = inner.sessions.remove(&key, extract::version(meta.resource_version.as_ref()));
        inner.unreadable.retain(|_, unreadable| key_of(unreadable) != key);
        if let Some(session) = removed {
            let uid = uid_of(&session);
            let left_the_queue = inner.forget_session(&session);
            let freed = inner.refresh(&uid) || left_the_queue;
            let (dependents, dependencies) = (inner.dependents(&key), inner.dependencies_of(&session));
            drop(inner);
            self.mark_removable(dependencies);
            self.mark_waiting(dependents);
            self.marks.forget(&uid);
            self.marks.one(HandlerName::SyncKernels, &uid);
            self.after_change(freed);
            self.mark_usage();
        }
    }

    /// Counts a status that is being written as if it were.
    pub fn assume(&self, session: &Arc<Session>) {
        let freed = self.lock().assume(session);
        self.after_change(freed);
    }

    /// Its outcome is known.
    pub fn settle(&self, session: &Arc<Session>) {
        let uid = uid_of(session);
        let mut inner = self.lock();
        inner.assumed.remove(&uid);
        let freed = inner.refresh(&uid);
        drop(inner);
        self.after_change(freed);
    }

    pub fn upsert_kernel(&self, mut kernel: Kernel) -> Arc<Kernel> {
        kernel.metadata.managed_fields = None;
        let key = key_of(&kernel.metadata);
        let version = extract::version(kernel.metadata.resource_version.as_ref());
        let uid = SessionUid(kernel.spec.session_uid.clone());
        let kernel = Arc::new(kernel);
        let mut inner = self.lock();
        if !self.scope.includes(&kernel.spec.scaling_group) {
            inner.kernels.list_seen(&key);
            return kernel;
        }
        if inner.kernels.upsert(key.clone(), version, kernel.clone()) {
            inner.kernels_of.entry(uid.clone()).or_default().insert(key);
            drop(inner);
            self.mark_related(&uid);
        }
        kernel
    }

    pub fn remove_kernel(&self, meta: &kube::core::ObjectMeta) {
        let key = key_of(meta);
        let mut inner = self.lock();
        let Some(kernel) = inner.kernels.remove(&key, extract::version(meta.resource_version.as_ref())) else { return };
        let uid = SessionUid(kernel.spec.session_uid.clone());
        remove_key(&mut inner.kernels_of, &uid, &key);
        drop(inner);
        self.mark_related(&uid);
    }

    pub fn kernel(&self, namespace: &str, name: &str) -> Option<Arc<Kernel>> {
        self.lock().kernels.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    /// Whether there is a session of this uid, readable or not.
    pub fn knows(&self, uid: &SessionUid) -> bool {
        let inner = self.lock();
        inner.key_of.contains_key(uid) || inner.unreadable.contains_key(uid)
    }

    /// Whether a session has this pod, and keeps it.
    pub fn has_pod(&self, uid: &SessionUid, namespace: &str, name: &str) -> bool {
        match self.lock().pods.get(&(namespace.to_owned(), name.to_owned())) {
            Some(PodRow::Ours(pod)) => pod.session_uid == *uid && !pod.deleting,
            Some(PodRow::Foreign(_)) | None => false,
        }
    }

    pub fn upsert_pod(&self, pod: &Pod) {
        let key = key_of(&pod.metadata);
        let version = extract::version(pod.metadata.resource_version.as_ref());
        let mut inner = self.lock();
        let row = match self.in_scope(inner.verified(extract::pod(pod))) {
            Extracted::Nothing => {
                inner.pods.list_seen(&key);
                drop(inner);
                return self.remove_pod(&key, 0);
            }
            Extracted::Ours(view) => PodRow::Ours(Arc::new(inner.remember(&key, *view))),
            Extracted::Foreign(mut foreign) => {
                foreign.lifetime = inner.trusted_lifetime(&foreign);
                PodRow::Foreign(foreign)
            }
        };
        match row {
            PodRow::Ours(view) => {
                let uid = view.session_uid.clone();
                if !inner.pods.upsert(key.clone(), version, PodRow::Ours(view)) {
                    return;
                }
                inner.pods_of.entry(uid.clone()).or_default().insert(key);
                let freed = inner.refresh(&uid);
                drop(inner);
                self.mark_related(&uid);
                self.after_change(freed);
            }
            PodRow::Foreign(foreign) => {
                let old = match inner.pods.get(&key) {
                    Some(PodRow::Foreign(old)) => Some(old.clone()),
                    _ => None,
                };
                if inner.pods.upsert(key, version, PodRow::Foreign(foreign.clone())) && old.as_ref() != Some(&foreign) {
                    let freed = old.as_ref().is_some_and(|old| foreign.requests.lacking(&old.requests).is_some());
                    if let Some(old) = old {
                        inner.ledger.count_foreign(&old, -1);
                    }
                    inner.ledger.count_foreign(&foreign, 1);
                    drop(inner);
                    self.after_change(freed);
                }
            }
        }
    }

    /// A pod of another operator's group is a foreign one here.
    fn in_scope(&self, folded: Extracted) -> Extracted {
        match folded {
            Extracted::Ours(view) if !self.scope.includes(&view.group) => match &view.node {
                Some(node) if view.is_live() => Extracted::Foreign(view.as_foreign(node)),
                _ => Extracted::Nothing,
            },
            other => other,
        }
    }

    pub fn remove_pod(&self, key: &Key, version: u64) {
        let mut inner = self.lock();
        match inner.pods.remove(key, version) {
            None => {}
            Some(PodRow::Foreign(foreign)) => {
                inner.ledger.count_foreign(&foreign, -1);
                drop(inner);
                self.after_change(true);
            }
            Some(PodRow::Ours(view)) => {
                let uid = view.session_uid.clone();
                remove_key(&mut inner.pods_of, &uid, key);
                let freed = inner.refresh(&uid);
                drop(inner);
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
        let mut inner = self.lock();
        if inner.slices.upsert(key.clone(), version, Slice { uid: uid.clone(), service, hostnames }) {
            inner.slices_of.entry(uid.clone()).or_default().insert(key);
            drop(inner);
            self.mark_related(&uid);
        }
    }

    pub fn remove_slice(&self, key: &Key) {
        let mut inner = self.lock();
        if let Some(slice) = inner.slices.remove(key, 0) {
            remove_key(&mut inner.slices_of, &slice.uid, key);
        }
    }

    pub fn upsert_node(&self, node: &Node) {
        let view = Arc::new(extract::node(node));
        let key = key_of(&node.metadata);
        let version = extract::version(node.metadata.resource_version.as_ref());
        let mut inner = self.lock();
        if let Some(heard) = extract::heartbeat(node) {
            inner.heartbeats.insert(view.name.clone(), heard);
        }
        let old = inner.nodes.get(&key).cloned();
        if !inner.nodes.upsert(key, version, view.clone()) || old.as_ref() == Some(&view) {
            return;
        }
        inner.node_views = None;
        inner.end_pauses(&self.marks, None, about_nodes);
        let health_changed = old.as_ref().is_none_or(|old| old.ready != view.ready || old.taints != view.taints);
        drop(inner);
        self.mark_usage();
        self.marks.all(HandlerName::ScheduleSessions);
        if health_changed {
            self.mark_everything();
        }
    }

    pub fn remove_node(&self, key: &Key, version: u64) {
        let mut inner = self.lock();
        if let Some(node) = inner.nodes.remove(key, version) {
            inner.heartbeats.remove(&node.name);
            inner.node_views = None;
            drop(inner);
            self.mark_usage();
            self.mark_everything();
        }
    }

    /// A change of groups or tenants: whoever waits may have been waiting for it.
    pub(super) fn tenancy_changed(&self, mut inner: MutexGuard<'_, Inner>) {
        if inner.is_synced() {
            inner.place_the_unplaced(); // before that, nobody acts on where they stand
        }
        inner.recheck_lifetimes();
        inner.recount_overheads();
        drop(inner);
        self.mark_usage();
        for handler in [HandlerName::ScheduleSessions, HandlerName::CheckPrecondition, HandlerName::SweepSessions] {
            self.marks.all(handler);
        }
    }

    /// All is known: whatever stands may be looked at.
    pub fn begin(&self) {
        let mut inner = self.lock();
        inner.place_the_unplaced();
        inner.reverify_pods();
        inner.recount_overheads();
        drop(inner);
        self.mark_everything();
    }

    /// Everything is to be looked at.
    pub fn mark_everything(&self) {
        for handler in HandlerName::ALL {
            self.marks.all(handler);
        }
    }

    pub(super) fn after_change(&self, freed: bool) {
        if freed {
            self.mark_usage();
            self.marks.all(HandlerName::ScheduleSessions);
            self.marks.all(HandlerName::CheckPrecondition); // a quota may have kept a session there
        }
    }

    /// Something of a session changed other than itself.
    pub(super) fn mark_related(&self, uid: &SessionUid) {
        let phase = self.lock().place.get(uid).map(|(_, phase)| *phase);
        match phase {
            Some(SessionPhase::Pending) | None => self.marks.one(HandlerName::SyncKernels, uid),
            Some(phase) => self.marks.session(uid, phase),
        }
        self.marks.after(HandlerName::RecordKernels, uid, self.timing.facts);
    }

    /// Whether many sessions are on their way to running.
    pub fn is_busy(&self) -> bool {
        use SessionPhase::{Creating, Prepared, Preparing, Pulling, Scheduled};
        let inner = self.lock();
        let on_the_way = [Scheduled, Preparing, Pulling, Prepared, Creating];
        let moving = inner.index.values().flat_map(|phases| on_the_way.iter().filter_map(|phase| phases.get(phase)));
        moving.map(BTreeSet::len).sum::<usize>() > BUSY
    }
}

/// So many sessions on their way are a rush.
const BUSY: usize = 50;
