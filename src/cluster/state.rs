//! The state behind the world: stores by kind, their indexes, and the ledger they add up to.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use chrono::{DateTime, Utc};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::dependencies::dependencies;
use super::events::Told;
use super::table::{Key, Table};
use crate::api::*;
use crate::lifecycle::Timing;
use crate::provisioner::{EquivalenceClass, EquivalenceClasses, Holding, Ledger};
use crate::session::handlers::HandlerName;
use crate::session::holding::holding;
use crate::session::pending;
use crate::session::snapshot::Snapshot;
use crate::views::ForeignPod;
use crate::views::QuotaView;
use crate::views::{ClaimKey, ClaimView, StorageClassView, VolumeView};
use crate::views::{NodeView, PodView};
use crate::views::{RuntimeClassView, Tenancy};

pub(super) enum PodRow {
    Ours(Arc<PodView>),
    Foreign(ForeignPod),
}

/// An EndpointSlice that carries a session's label.
pub(super) struct Slice {
    pub uid: SessionUid,
    /// The Service it is of.
    pub service: String,
    /// The hostnames it lists.
    pub hostnames: BTreeSet<String>,
}

/// What follows a commit once it is made.
#[derive(Default)]
pub struct News {
    /// The events.
    pub told: Vec<Told>,
    /// The phases that were reached.
    pub reached: Vec<SessionPhase>,
    /// What each handler's step came to.
    pub results: Vec<(HandlerName, HistoryResult)>,
}

impl News {
    pub fn append(&mut self, mut later: Self) {
        self.told.append(&mut later.told);
        self.reached.append(&mut later.reached);
        self.results.append(&mut later.results);
    }
}

#[derive(Default)]
pub(super) struct Inner {
    pub sessions: Table<Arc<Session>>,
    pub key_of: HashMap<SessionUid, Key>,
    /// What is being written: counted as if it were written.
    pub assumed: HashMap<SessionUid, Arc<Session>>,
    /// Of what is not being written yet but counted so, what is to follow once it is written.
    pub lingering: HashMap<SessionUid, News>,
    /// What can be read of sessions that cannot: their metadata.
    pub unreadable: HashMap<SessionUid, ObjectMeta>,
    pub index: BTreeMap<GroupName, HashMap<SessionPhase, BTreeSet<SessionUid>>>,
    pub place: HashMap<SessionUid, (GroupName, SessionPhase)>,
    /// Those that wait without a group of their own: where they stand follows from the groups and projects there are.
    pub unplaced: HashSet<SessionUid>,
    pub kernels: Table<Arc<Kernel>>,
    pub kernels_of: HashMap<SessionUid, BTreeSet<Key>>,
    pub pods: Table<PodRow>,
    pub pods_of: HashMap<SessionUid, BTreeSet<Key>>,
    pub slices: Table<Slice>,
    pub slices_of: HashMap<SessionUid, BTreeSet<Key>>,
    pub nodes: Table<Arc<NodeView>>,
    pub groups: Table<Arc<ScalingGroup>>,
    pub domains: Table<Arc<Domain>>,
    pub projects: Table<Arc<Project>>,
    pub users: Table<Arc<User>>,
    pub keypairs: Table<Arc<Keypair>>,
    pub policies: Table<Arc<ResourcePolicy>>,
    pub namespaces: Table<Option<ProjectName>>,
    pub claims: Table<ClaimView>,
    pub volumes: Table<VolumeView>,
    pub storage_classes: Table<StorageClassView>,
    pub runtime_classes: Table<RuntimeClassView>,
    pub quotas: Table<QuotaView>,
    /// The namespaces in which a quota changed since sessions were let in last.
    pub changed_quotas: BTreeSet<String>,
    /// Sessions that a quota refused and that were tried again before their pause was over, and when.
    pub let_in_early: HashMap<SessionUid, Instant>,
    pub ledger: Ledger,
    pub classes: EquivalenceClasses,
    pub class_of: HashMap<SessionUid, Arc<EquivalenceClass>>,
    /// Who depends on a session of this namespace and name, be it there or not.
    pub dependents_of: HashMap<Key, BTreeSet<SessionUid>>,
    /// Sessions that a handler is at work on.
    pub claimed: HashSet<SessionUid>,
    /// The handlers that wait for one who is at work on a session, and whether its pause is over for them.
    pub waits_for: HashMap<SessionUid, BTreeSet<(HandlerName, bool)>>,
    /// Sessions whose statuses the API server does not take, and until when they are left alone.
    pub quarantined: HashMap<SessionUid, DateTime<Utc>>,
    pub tenancy: Option<Arc<Tenancy>>,
    /// The nodes that show no sign of life.
    pub stale: BTreeSet<NodeName>,
    /// When each node's status told last that it is well.
    pub heartbeats: HashMap<NodeName, DateTime<Utc>>,
    pub node_views: Option<Arc<BTreeMap<NodeName, Arc<NodeView>>>>,
}

/// Whether two versions of a session are the same to every decision: they differ in annotations, labels or managed fields
/// at most.
pub fn decides_the_same(one: &Session, other: &Session) -> bool {
    let (a, b) = (&one.metadata, &other.metadata);
    a.uid == b.uid
        && a.generation == b.generation
        && a.deletion_timestamp == b.deletion_timestamp
        && a.finalizers == b.finalizers
        && one.status == other.status
}

pub(super) fn remove_key(of: &mut HashMap<SessionUid, BTreeSet<Key>>, uid: &SessionUid, key: &Key) {
    if let Some(keys) = of.get_mut(uid) {
        keys.remove(key);
        if keys.is_empty() {
            of.remove(uid);
        }
    }
}

pub fn uid_of(session: &Session) -> SessionUid {
    SessionUid(session.metadata.uid.clone().unwrap_or_default())
}

pub fn key_of(meta: &kube::core::ObjectMeta) -> Key {
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

impl Inner {
    /// A session as it stands: as being written, else as seen.
    pub fn session(&self, uid: &SessionUid) -> Option<&Arc<Session>> {
        self.assumed.get(uid).or_else(|| self.committed(uid))
    }

    /// The session as the API server has it, as far as is known.
    pub fn committed(&self, uid: &SessionUid) -> Option<&Arc<Session>> {
        self.sessions.get(self.key_of.get(uid)?)
    }

    /// The group a session names; else the one it was given; else the first that takes it.
    pub fn group_of(&self, session: &Session) -> GroupName {
        session.group().cloned().unwrap_or_else(|| self.first_group_for(session))
    }

    fn first_group_for(&self, session: &Session) -> GroupName {
        let namespace = session.metadata.namespace.clone().unwrap_or_default();
        let project = self.namespaces.get(&(String::new(), namespace)).cloned().flatten();
        let takes = |group: &&Arc<ScalingGroup>| {
            let spec = &group.spec;
            let allowed = spec.projects.is_empty() || project.as_ref().is_some_and(|p| spec.projects.contains(p));
            spec.active && allowed && spec.session_types.contains(&session.spec.type_)
        };
        let names = self.groups.values().filter(takes).filter_map(|group| group.metadata.name.clone());
        names.min().map_or_else(GroupName::none, GroupName)
    }

    /// Those without a group of their own may be another's now.
    pub(super) fn place_the_unplaced(&mut self) {
        for uid in self.unplaced.clone() {
            self.refresh(&uid);
        }
    }

    /// Whether every kind's first list is complete.
    pub(super) fn is_synced(&self) -> bool {
        self.sessions.is_synced()
            && self.kernels.is_synced()
            && self.pods.is_synced()
            && self.slices.is_synced()
            && self.nodes.is_synced()
            && self.groups.is_synced()
            && self.domains.is_synced()
            && self.projects.is_synced()
            && self.users.is_synced()
            && self.keypairs.is_synced()
            && self.policies.is_synced()
            && self.namespaces.is_synced()
            && self.claims.is_synced()
            && self.volumes.is_synced()
            && self.storage_classes.is_synced()
            && self.runtime_classes.is_synced()
            && self.quotas.is_synced()
    }

    /// Counts a status as written; true if that frees a place in the queue, for what it gives back is not free yet.
    pub(super) fn assume(&mut self, session: &Arc<Session>) -> bool {
        let uid = uid_of(session);
        self.assumed.insert(uid.clone(), session.clone());
        self.refresh(&uid)
    }

    /// True if that frees a place in the queue.
    pub(super) fn forget_session(&mut self, session: &Session) -> bool {
        let uid = &uid_of(session);
        self.forget_dependencies(session);
        self.quarantined.remove(uid);
        self.key_of.remove(uid);
        self.assumed.remove(uid);
        self.lingering.remove(uid);
        self.class_of.remove(uid);
        self.unplaced.remove(uid);
        match self.place.remove(uid) {
            Some(place) => self.leave(uid, &place),
            None => false,
        }
    }

    /// True if that frees a place in the queue where those are limited.
    fn leave(&mut self, uid: &SessionUid, (group, phase): &(GroupName, SessionPhase)) -> bool {
        if let Some(uids) = self.index.get_mut(group).and_then(|phases| phases.get_mut(phase)) {
            uids.remove(uid);
        }
        *phase == SessionPhase::Pending && pending::is_limited(self.policies.values())
    }

    /// Brings index and ledger up to what is known of a session; true if it freed something, be it a place in the queue.
    pub(super) fn refresh(&mut self, uid: &SessionUid) -> bool {
        let session = self.session(uid).cloned();
        let mut left_the_queue = false;
        if let Some(session) = &session {
            if !self.class_of.contains_key(uid) {
                self.class_of.insert(uid.clone(), self.classes.of(session));
            }
            for dependency in dependencies(session) {
                self.dependents_of.entry(dependency).or_default().insert(uid.clone());
            }
            let place = (self.group_of(session), session.phase());
            match session.group() {
                None if place.1 == SessionPhase::Pending => self.unplaced.insert(uid.clone()),
                _ => self.unplaced.remove(uid),
            };
            if self.place.get(uid) != Some(&place) {
                if let Some(old) = self.place.insert(uid.clone(), place.clone()) {
                    left_the_queue = self.leave(uid, &old);
                }
                self.index.entry(place.0).or_default().entry(place.1).or_default().insert(uid.clone());
            }
        }
        let overhead = session.as_deref().map(|session| self.overhead_of(session)).unwrap_or_default();
        let pods: Vec<&PodView> =
            self.pods_of.get(uid).into_iter().flatten().filter_map(|key| self.our_pod(key)).map(|pod| &**pod).collect();
        let stored = self.committed(uid).filter(|_| self.assumed.contains_key(uid));
        // What a write gives back is not free before that write is known to be made.
        let kept = stored.and_then(|stored| holding(Some(stored), &pods, &overhead));
        let held = match (holding(session.as_deref(), &pods, &overhead), kept) {
            (Some(held), Some(kept)) => Some(held.with(&kept)),
            (held, kept) => held.or(kept),
        };
        // Of one that is gone, what still runs counts for those it counted for.
        let before = self.ledger.holding(uid).filter(|_| session.is_none());
        let held = held.map(|held| match before {
            Some(before) => Holding { account: before.account.clone(), private: before.private, ..held },
            None => held,
        });
        self.ledger.set_holding(uid, held) || left_the_queue
    }

    pub(super) fn group(&self, name: &GroupName) -> Option<&Arc<ScalingGroup>> {
        self.groups.get(&(String::new(), name.0.clone()))
    }

    /// The overhead of the RuntimeClass of a session's scaling group, per pod.
    pub(super) fn overhead_of(&self, session: &Session) -> Resources {
        let group = session.group().and_then(|group| self.group(group));
        let class = group.and_then(|group| group.spec.pod.runtime_class_name.as_deref());
        class
            .and_then(|class| self.runtime_classes.get(&(String::new(), class.to_owned())))
            .map(|class| class.overhead.clone())
            .unwrap_or_default()
    }

    pub fn our_pod(&self, key: &Key) -> Option<&Arc<PodView>> {
        match self.pods.get(key)? {
            PodRow::Ours(view) => Some(view),
            PodRow::Foreign(_) => None,
        }
    }

    /// Counts holdings again after a change of scaling groups or RuntimeClasses.
    pub(super) fn recount_overheads(&mut self) {
        if !self.is_synced() || self.groups.values().all(|group| group.spec.pod.runtime_class_name.is_none()) {
            return;
        }
        let holding: Vec<SessionUid> =
            self.place.iter().filter(|(_, (_, phase))| phase.holds_resources()).map(|(uid, _)| uid.clone()).collect();
        for uid in holding {
            self.refresh(&uid);
        }
    }

    /// How many groups, tenants, policies and volumes there are that cannot be read.
    fn unreadable_tenants(&self) -> usize {
        self.groups.unreadable()
            + self.domains.unreadable()
            + self.projects.unreadable()
            + self.users.unreadable()
            + self.keypairs.unreadable()
            + self.policies.unreadable()
            + self.namespaces.unreadable()
            + self.claims.unreadable()
            + self.volumes.unreadable()
            + self.storage_classes.unreadable()
            + self.runtime_classes.unreadable()
    }

    pub fn tenancy(&mut self) -> Arc<Tenancy> {
        if let Some(tenancy) = &self.tenancy {
            return tenancy.clone();
        }
        let mut tenancy = Tenancy { unreadable: self.unreadable_tenants(), ..Tenancy::default() };
        for ((_, name), project) in self.namespaces.iter() {
            if let Some(project) = project {
                tenancy.namespaces.insert(name.clone(), project.clone());
            }
        }
        tenancy.projects = self.projects.iter().map(|((_, name), p)| (ProjectName(name.clone()), p.clone())).collect();
        tenancy.domains = self.domains.iter().map(|((_, name), d)| (DomainName(name.clone()), d.clone())).collect();
        tenancy.users = self.users.iter().map(|((_, name), u)| (UserName(name.clone()), u.clone())).collect();
        tenancy.keypairs = self.keypairs.iter().map(|((_, name), k)| (AccessKey(name.clone()), k.clone())).collect();
        tenancy.policies = self.policies.iter().map(|((_, name), p)| (PolicyName(name.clone()), p.clone())).collect();
        let claim = |(namespace, name): &Key| ClaimKey { namespace: namespace.clone(), name: name.clone() };
        tenancy.storage.claims = self.claims.iter().map(|(key, view)| (claim(key), view.clone())).collect();
        tenancy.storage.classes = self.storage_classes.iter().map(|((_, name), view)| (name.clone(), view.clone())).collect();
        tenancy.runtime_classes = self.runtime_classes.iter().map(|((_, name), view)| (name.clone(), view.clone())).collect();
        tenancy.storage.volumes = self.volumes.iter().map(|((_, name), view)| (name.clone(), view.clone())).collect();
        let tenancy = Arc::new(tenancy);
        self.tenancy = Some(tenancy.clone());
        tenancy
    }

    pub(super) fn node_views(&mut self) -> Arc<BTreeMap<NodeName, Arc<NodeView>>> {
        if let Some(node_views) = &self.node_views {
            return node_views.clone();
        }
        let as_known = |node: &Arc<NodeView>| match self.stale.contains(&node.name) {
            true => Arc::new(NodeView { stale: true, ..(**node).clone() }),
            false => node.clone(),
        };
        let node_views = Arc::new(self.nodes.values().map(|node| (node.name.clone(), as_known(node))).collect());
        self.node_views = Some(Arc::clone(&node_views));
        node_views
    }

    /// A deferred commit holds for a version of its session that is the same to every decision.
    pub fn carry_lingering_over(&mut self, uid: &SessionUid, session: &Session) {
        if !self.claimed.contains(uid)
            && self.lingering.contains_key(uid)
            && let Some(assumed) = self.assumed.get_mut(uid)
        {
            *assumed = Arc::new(Session { status: assumed.status.clone(), ..session.clone() });
        }
    }

    /// What lingers of a session that somebody has changed could not be committed any more, and would hide the change.
    /// Where a handler is at work on it, its commit finds that out.
    pub fn forget_lingering(&mut self, uid: &SessionUid) {
        if !self.claimed.contains(uid) && self.lingering.remove(uid).is_some() {
            self.assumed.remove(uid);
        }
    }

    /// Adds what a pod's own status does not have: since when its image cannot be pulled, and the kubelet's last warning.
    pub fn remember(&self, key: &Key, mut pod: PodView) -> PodView {
        let before = match self.pods.get(key) {
            Some(PodRow::Ours(before)) if before.uid == pod.uid => Some(before),
            Some(PodRow::Ours(_) | PodRow::Foreign(_)) | None => None,
        };
        let failing_since = before.and_then(|before| before.image_error_since);
        pod.image_error_since = pod.image_error.is_some().then(|| failing_since.unwrap_or_else(Utc::now));
        // A warning is over once the pod gets on.
        let stands = |before: &&Arc<PodView>| before.ready_to_start == pod.ready_to_start && before.deleting == pod.deleting;
        pod.warning = before.filter(stands).and_then(|before| before.warning.clone());
        pod
    }

    /// The world at this moment, for one group.
    pub fn snapshot(&mut self, group_name: &GroupName, timing: &Arc<Timing>) -> Snapshot {
        Snapshot {
            now: crate::lifecycle::to_millis(Utc::now()),
            timing: timing.clone(),
            group: self.group(group_name).cloned(),
            group_name: group_name.clone(),
            nodes: self.node_views(),
            tenancy: self.tenancy(),
        }
    }
}
