//! The watched state of the cluster: stores, indexes, the overlay of assumed writes, and the ledger computed from them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use chrono::{DateTime, Utc};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::heartbeats::Heartbeats;
use super::identity::{dependencies, deployment_of, uid_of};
use super::index::{Index, Place};
use super::overlay::Overlay;
use super::serving_state::ServingState;
use super::stores::Stores;
use super::table::Key;
use crate::api::*;
use crate::lifecycle::Timing;
use crate::provisioner::{Holding, Ledger};
use crate::session::holding::holding;
use crate::session::idle::Usage;
use crate::session::pending;
use crate::session::sessions::Sessions;
use crate::session::snapshot::Snapshot;
use crate::session::template;
use crate::views::{ClaimKey, NodeView, PodView, Tenancy};

/// The watched state of the cluster.
#[derive(Default)]
pub struct State {
    pub stores: Stores,
    pub index: Index,
    pub overlay: Overlay<Sessions>,
    /// Deployments and routes.
    pub serving: ServingState,
    pub ledger: Ledger,
    /// The metadata of sessions that cannot be read.
    pub unreadable: HashMap<SessionUid, ObjectMeta>,
    /// Sessions whose status the API server refuses, and until when handlers leave them alone.
    pub quarantined: HashMap<SessionUid, DateTime<Utc>>,
    pub quota_admission: QuotaAdmission,
    pub heartbeats: Heartbeats,
    /// The measured use of sessions that may not be idle for ever.
    pub usage_of: HashMap<SessionUid, Usage>,
    /// Computed on first use after a change.
    tenancy: OnceLock<Arc<Tenancy>>,
    node_views: OnceLock<Arc<BTreeMap<NodeName, Arc<NodeView>>>>,
}

/// The state of early admission by ResourceQuotas.
#[derive(Default)]
pub struct QuotaAdmission {
    /// The namespaces in which a ResourceQuota changed since the last admission.
    pub(super) changed: BTreeSet<String>,
    /// The refused sessions whose pauses were ended early, and when.
    pub(super) admitted_early: HashMap<SessionUid, Instant>,
}

impl State {
    /// Returns a session with its assumed status if it has one, otherwise the stored session.
    pub fn session(&self, uid: &SessionUid) -> Option<&Arc<Session>> {
        self.overlay.assumed(uid).or_else(|| self.committed(uid))
    }

    /// Returns the last version of a session that the API server has reported.
    pub fn committed(&self, uid: &SessionUid) -> Option<&Arc<Session>> {
        self.stores.sessions.get(self.index.key_of.get(uid)?)
    }

    /// Returns the SessionTemplate that a session names, if it exists.
    pub fn template_of(&self, session: &Session) -> Option<&Arc<SessionTemplate>> {
        let name = &session.spec.template.as_ref()?.name;
        self.stores.templates.get(&(String::new(), name.clone()))
    }

    /// Gives the sessions that wait with a template the kernels of its present version.
    pub(super) fn expand_templates(&mut self) {
        for uid in self.index.templated.clone() {
            let Some(key) = self.index.key_of.get(&uid).cloned() else { continue };
            let Some(old) = self.stores.sessions.get(&key).cloned() else { continue };
            let mut session = (*old).clone();
            template::expand(&mut session, self.template_of(&old).map(Arc::as_ref));
            if session.spec != old.spec {
                self.stores.sessions.replace(&key, Arc::new(session));
                self.index.class_of.remove(&uid);
                self.refresh(&uid);
            }
        }
    }

    /// Returns the scaling group that a session names or was assigned to, otherwise the first that accepts it.
    pub fn group_of(&self, session: &Session) -> Option<GroupName> {
        let first = || self.first_group_for(session.metadata.namespace.as_deref(), session.spec.type_);
        session.group().cloned().or_else(first)
    }

    /// Returns the scaling group of a deployment's sessions.
    pub fn group_of_deployment(&self, deployment: &Deployment) -> Option<GroupName> {
        let given = deployment.spec.template.scaling_group.as_ref();
        let given = given.or_else(|| deployment.status.as_ref()?.scaling_group.as_ref());
        given.cloned().or_else(|| self.first_group_for(deployment.metadata.namespace.as_deref(), SessionType::Inference))
    }

    fn first_group_for(&self, namespace: Option<&str>, type_: SessionType) -> Option<GroupName> {
        let namespace = namespace.unwrap_or_default().to_owned();
        let project = self.stores.namespaces.get(&(String::new(), namespace)).cloned().flatten();
        let accepts = |group: &&Arc<ScalingGroup>| {
            let spec = &group.spec;
            let allowed = spec.projects.is_empty() || project.as_ref().is_some_and(|p| spec.projects.contains(p));
            spec.active && allowed && spec.session_types.contains(&type_)
        };
        let names = self.stores.groups.values().filter(accepts).filter_map(|group| group.metadata.name.clone());
        names.min().map(GroupName)
    }

    /// Assigns the sessions that name no scaling group again. Another scaling group may be the first for them now.
    pub(super) fn assign_scaling_groups(&mut self) {
        for uid in self.index.unassigned.clone() {
            self.refresh(&uid);
        }
    }

    /// Counts a status as written. Returns true when this frees a pending-limit slot. The session's resources stay reserved
    /// until the write is known to have succeeded.
    pub(super) fn assume(&mut self, session: &Arc<Session>) -> bool {
        self.overlay.assume(session);
        self.refresh(&uid_of(session))
    }

    /// Forgets a session. Returns true when this frees a pending-limit slot.
    pub(super) fn forget_session(&mut self, session: &Session) -> bool {
        let uid = &uid_of(session);
        self.forget_dependencies(session);
        self.quarantined.remove(uid);
        self.overlay.forget(uid);
        if let (Some(deployment), Some(key)) = (deployment_of(&session.metadata), self.index.key_of.remove(uid)) {
            self.serving.sessions_of.remove(&deployment, &key);
        }
        self.index.key_of.remove(uid);
        self.index.class_of.remove(uid);
        self.index.unassigned.remove(uid);
        self.index.templated.remove(uid);
        let left = self.index.take_out(uid);
        self.frees_pending_slot(left)
    }

    /// Whether a session that leaves this place frees a pending-limit slot: it was Pending, and a policy limits that.
    fn frees_pending_slot(&self, left: Option<Place>) -> bool {
        left.is_some_and(|(_, phase)| phase == SessionPhase::Pending) && pending::is_limited(self.stores.policies.values())
    }

    /// Brings index and ledger up to date for a session. Returns true when this frees resources or a pending-limit slot.
    pub(super) fn refresh(&mut self, uid: &SessionUid) -> bool {
        let session = self.session(uid).cloned();
        let mut left = None;
        if let Some(session) = &session {
            self.index.classify(uid, session);
            for dependency in dependencies(session) {
                self.index.dependents_of.entry(dependency).or_default().insert(uid.clone());
            }
            let place = (self.group_of(session), session.phase());
            match session.group() {
                None if place.1 == SessionPhase::Pending => self.index.unassigned.insert(uid.clone()),
                _ => self.index.unassigned.remove(uid),
            };
            let status = session.status.as_ref();
            match session.spec.template.is_some() && status.is_none_or(|status| status.template.is_none()) {
                true => self.index.templated.insert(uid.clone()),
                false => self.index.templated.remove(uid),
            };
            left = self.index.put(uid, place);
        }
        let freed_pending_slot = self.frees_pending_slot(left);
        let overhead = session.as_deref().map(|session| self.overhead_of(session)).unwrap_or_default();
        let pods: Vec<&PodView> = self.index.pods_of.of(uid).filter_map(|key| self.our_pod(key)).map(|pod| &**pod).collect();
        let stored = self.committed(uid).filter(|_| self.overlay.assumed(uid).is_some());
        // Resources that an assumed write gives up stay reserved until the write is known to have succeeded.
        let reserved = stored.and_then(|stored| holding(Some(stored), &pods, &overhead));
        let held = match (holding(session.as_deref(), &pods, &overhead), reserved) {
            (Some(held), Some(reserved)) => Some(held.with(&reserved)),
            (held, reserved) => held.or(reserved),
        };
        // Pods of a session that is gone count for the same tenants as before.
        let before = self.ledger.holding(uid).filter(|_| session.is_none());
        let held = held.map(|held| match before {
            Some(before) => Holding { account: before.account.clone(), private: before.private, ..held },
            None => held,
        });
        self.ledger.set_holding(uid, held) || freed_pending_slot
    }

    pub fn group(&self, name: &GroupName) -> Option<&Arc<ScalingGroup>> {
        self.stores.groups.get(&(String::new(), name.0.clone()))
    }

    /// Returns the overhead per pod of the RuntimeClass of a session's scaling group.
    pub fn overhead_of(&self, session: &Session) -> Resources {
        let group = session.group().and_then(|group| self.group(group));
        let class = group.and_then(|group| group.spec.pod.runtime_class_name.as_deref());
        class
            .and_then(|class| self.stores.runtime_classes.get(&(String::new(), class.to_owned())))
            .map(|class| class.overhead.clone())
            .unwrap_or_default()
    }

    pub fn our_pod(&self, key: &Key) -> Option<&Arc<PodView>> {
        self.stores.pods.get(key)?.ours()
    }

    /// Counts holdings again after a change of scaling groups or RuntimeClasses.
    pub(super) fn recount_overheads(&mut self) {
        if !self.stores.is_synced() || self.stores.groups.values().all(|group| group.spec.pod.runtime_class_name.is_none()) {
            return;
        }
        for uid in self.index.holding() {
            self.refresh(&uid);
        }
    }

    /// Discards the computed tenancy after a change.
    pub fn tenancy_changed(&mut self) {
        self.tenancy = OnceLock::new();
    }

    /// Discards the computed views of nodes after a change of nodes or heartbeats.
    pub fn nodes_changed(&mut self) {
        self.node_views = OnceLock::new();
    }

    pub fn tenancy(&self) -> Arc<Tenancy> {
        self.tenancy.get_or_init(|| Arc::new(tenancy(&self.stores))).clone()
    }

    pub fn node_views(&self) -> Arc<BTreeMap<NodeName, Arc<NodeView>>> {
        let view = |node: &Arc<NodeView>| match self.heartbeats.is_stale(&node.name) {
            true => Arc::new(NodeView { stale: true, ..(**node).clone() }),
            false => node.clone(),
        };
        let views = || self.stores.nodes.values().map(|node| (node.name.clone(), view(node))).collect();
        self.node_views.get_or_init(|| Arc::new(views())).clone()
    }

    /// Adds two facts that a pod's status does not have: since when its image pull fails, and the kubelet's last warning.
    pub fn remember(&self, key: &Key, mut pod: PodView) -> PodView {
        let before = self.our_pod(key).filter(|before| before.uid == pod.uid);
        let failing_since = before.and_then(|before| before.image_error_since);
        pod.image_error_since = pod.image_error.is_some().then(|| failing_since.unwrap_or_else(Utc::now));
        // A warning is dropped once the pod makes progress.
        let is_unchanged =
            |before: &&Arc<PodView>| before.ready_to_start == pod.ready_to_start && before.deleting == pod.deleting;
        pod.warning = before.filter(is_unchanged).and_then(|before| before.warning.clone());
        pod
    }

    /// Returns the state of the cluster at this moment, for one scaling group.
    pub fn snapshot(&self, group_name: &Option<GroupName>, timing: &Arc<Timing>) -> Snapshot {
        Snapshot {
            now: crate::lifecycle::to_millis(Utc::now()),
            timing: timing.clone(),
            group: group_name.as_ref().and_then(|name| self.group(name)).cloned(),
            group_name: group_name.clone(),
            nodes: self.node_views(),
            tenancy: self.tenancy(),
        }
    }
}

fn tenancy(stores: &Stores) -> Tenancy {
    let mut tenancy = Tenancy { unreadable: stores.unreadable_tenants(), ..Tenancy::default() };
    for ((_, name), project) in stores.namespaces.iter() {
        if let Some(project) = project {
            tenancy.namespaces.insert(name.clone(), project.clone());
        }
    }
    tenancy.projects = stores.projects.iter().map(|((_, name), p)| (ProjectName(name.clone()), p.clone())).collect();
    tenancy.domains = stores.domains.iter().map(|((_, name), d)| (DomainName(name.clone()), d.clone())).collect();
    tenancy.users = stores.users.iter().map(|((_, name), u)| (UserName(name.clone()), u.clone())).collect();
    tenancy.keypairs = stores.keypairs.iter().map(|((_, name), k)| (AccessKey(name.clone()), k.clone())).collect();
    tenancy.policies = stores.policies.iter().map(|((_, name), p)| (PolicyName(name.clone()), p.clone())).collect();
    let claim = |(namespace, name): &Key| ClaimKey { namespace: namespace.clone(), name: name.clone() };
    tenancy.storage.claims = stores.claims.iter().map(|(key, view)| (claim(key), view.clone())).collect();
    tenancy.storage.classes = stores.storage_classes.iter().map(|((_, name), view)| (name.clone(), view.clone())).collect();
    tenancy.storage.volumes = stores.volumes.iter().map(|((_, name), view)| (name.clone(), view.clone())).collect();
    tenancy.runtime_classes = stores.runtime_classes.iter().map(|((_, name), view)| (name.clone(), view.clone())).collect();
    tenancy
}
