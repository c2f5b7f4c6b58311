//! Takes snapshots of the stores: the items that a handler decides on, and the remains of sessions. Taking one changes
//! only the claims.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use chrono::Utc;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::api::*;
use crate::cluster::store::state::State;
use crate::cluster::store::stores::Slice;
use crate::cluster::store::world::World;
use crate::coordinator::Claim;
use crate::coordinator::host::Batch;
use crate::coordinator::marks::Mark;
use crate::lifecycle::{Timing, created_at};
use crate::provisioner::{Ahead, Dependency, LedgerSnapshot};
use crate::session::handlers::Handler;
use crate::session::kernels::{Evidence, KernelItem, allocated_nodes, kernel_name, service_name, state_of};
use crate::session::pending::{self, Pending};
use crate::session::queue;
use crate::session::remains::Remains;
use crate::session::sessions::Sessions;
use crate::session::snapshot::{SessionItem, Snapshot};
use crate::session::template;
use crate::session::usage::usage;
use crate::views::{Liveness, Tenancy, Tenant};

type Marked = Vec<(Option<GroupName>, SessionUid)>;

impl World {
    /// Claims the marked sessions in a handler's phases. Returns them by scaling group. A session that another handler has
    /// claimed is marked again when its claim is dropped.
    pub fn claim(&self, handler: &Handler, mark: &Mark<SessionUid>) -> Vec<Batch<Sessions>> {
        let state = self.lock();
        let (mut marked, now) = (state.marked(handler, mark), Utc::now());
        marked.retain(|(_, uid)| match state.quarantined.get(uid).filter(|until| now < **until) {
            None => !state.unreadable.contains_key(uid),
            Some(until) => {
                self.marks.handlers.at(handler.name, uid, *until);
                false
            }
        });
        let claimed = self.claim_marked(&state, handler, mark, marked);
        let mut ahead = if handler.settings.ranks_queue { state.ahead() } else { HashMap::new() };
        let mut batches = vec![];
        for (group, sessions) in claimed {
            let snapshot = state.snapshot(&group, &self.timing);
            let mut batch = Batch { snapshot, items: vec![], claims: vec![] };
            for (uid, claim) in sessions {
                let Some(mut item) = state.item(&batch.snapshot, &uid) else { continue };
                item.ahead = ahead.remove(&uid).unwrap_or_default();
                if let Some(at) = item.changes_at() {
                    self.marks.handlers.at(handler.name, &uid, at);
                }
                batch.items.push(item);
                batch.claims.push(claim);
            }
            batches.push(batch);
        }
        batches
    }

    /// Claims sessions by scaling group. With `topPriorityOnly`, the first session is unknown while another handler has
    /// claimed a session of the queue, so the whole queue waits.
    fn claim_marked(
        &self,
        state: &State,
        handler: &Handler,
        mark: &Mark<SessionUid>,
        marked: Marked,
    ) -> BTreeMap<Option<GroupName>, Vec<(SessionUid, Claim<Sessions>)>> {
        let mut claimed: BTreeMap<_, Vec<_>> = BTreeMap::new();
        let mut incomplete = HashSet::new();
        for (group, uid) in marked {
            let whole_queue = handler.settings.ranks_queue && state.top_priority_only(&group);
            let retry_mark = || Mark {
                all: whole_queue,
                urgent: mark.urgent.iter().filter(|urgent| whole_queue || **urgent == uid).cloned().collect(),
                ..Mark::of([uid.clone()])
            };
            match self.claims().claim_or_wait(&uid, handler.name, retry_mark) {
                Some(claim) => claimed.entry(group).or_default().push((uid, claim)),
                None if whole_queue => _ = incomplete.insert(group),
                None => {}
            }
        }
        claimed.retain(|group, _| !incomplete.contains(group));
        claimed
    }

    /// Returns a new snapshot of a session's scaling group, with the session.
    pub fn look_again(&self, uid: &SessionUid) -> Option<(Snapshot, SessionItem)> {
        let state = self.lock();
        let snapshot = state.snapshot(&state.index.place(uid)?.0, &self.timing);
        let item = state.item(&snapshot, uid)?;
        Some((snapshot, item))
    }

    /// Returns a copy of the ledger for one cycle.
    pub fn ledger_snapshot(&self) -> LedgerSnapshot {
        let state = self.lock();
        state.ledger.snapshot(&state.tenancy())
    }

    /// Keeps the round-robin positions of a cycle for the next one.
    pub fn keep_cursors(&self, ledger: LedgerSnapshot) {
        self.lock().ledger.keep_cursors(ledger);
    }

    /// Returns the tenants and the usage of each.
    pub fn usage(&self) -> (Arc<Tenancy>, BTreeMap<Tenant, TenantStatus>) {
        let state = self.lock();
        let tenancy = state.tenancy();
        let ledger = state.ledger.snapshot(&tenancy);
        let mut pending: HashMap<Tenant, i64> = HashMap::new();
        for session in state.index.in_phase(SessionPhase::Pending).filter_map(|(_, uid)| state.session(uid)) {
            for tenant in tenancy.tenants(&session.spec.access_key, session.metadata.namespace.as_deref().unwrap_or_default()) {
                *pending.entry(tenant).or_default() += 1;
            }
        }
        drop(state);
        let usage = usage(&tenancy, &ledger, &pending);
        (tenancy, usage)
    }

    /// Returns this operator's scaling groups whose status has to change, with the new status.
    pub fn changed_groups(&self) -> Vec<(GroupName, ScalingGroupStatus)> {
        let state = self.lock();
        let mut changed = vec![];
        for ((_, name), group) in state.stores.groups.iter().filter(|((_, name), _)| self.manages(&name.as_str().into())) {
            let name = Some(GroupName::from(name.as_str()));
            let status = state.queue_status(group, &name);
            if group.status.as_ref() != Some(&status) {
                changed.extend(name.map(|name| (name, status)));
            }
        }
        changed
    }

    /// Returns the remains of the marked sessions.
    pub fn remains(&self, mark: &Mark<SessionUid>) -> Vec<Remains> {
        let state = self.lock();
        let known: BTreeSet<SessionUid> = if mark.all {
            let index = &state.index;
            index.pods_of.owners().chain(index.kernels_of.owners()).chain(state.unreadable.keys()).cloned().collect()
        } else {
            mark.objects.iter().cloned().collect()
        };
        // The scaling group of an unreadable session is unknown, so only an operator of all scaling groups removes it.
        let is_removable = |meta: &ObjectMeta| meta.deletion_timestamp.is_some() && self.manages_all_groups();
        let selected = known.into_iter().filter(|uid| state.unreadable.get(uid).is_none_or(is_removable));
        selected.filter_map(|uid| state.remains_of(uid, &self.timing)).collect()
    }
}

impl State {
    /// Returns the present status of a scaling group: its nodes and its queue.
    pub fn queue_status(&self, group: &ScalingGroup, name: &Option<GroupName>) -> ScalingGroupStatus {
        let nodes = self.node_views();
        let waiting = self.index.sessions(name, SessionPhase::Pending).filter_map(|uid| self.session(uid)).map(Arc::as_ref);
        let holding = SessionPhase::LIVE.into_iter().filter(|phase| phase.holds_resources());
        let running = holding.map(|phase| self.index.sessions(name, phase).count()).sum::<usize>();
        queue::status(group, nodes.values().map(Arc::as_ref), waiting, whole(running))
    }

    /// Returns the pending sessions ahead of each session, where a policy limits them.
    fn ahead(&self) -> HashMap<SessionUid, Vec<Ahead>> {
        let tenancy = self.tenancy();
        if !pending::is_limited(tenancy.policies.values()) {
            return HashMap::new();
        }
        let pending = self.index.in_phase(SessionPhase::Pending).filter_map(|(_, uid)| {
            let created_at = created_at(&**self.session(uid)?);
            Some(Pending { uid, created_at, class: self.index.class_of.get(uid)? })
        });
        pending::ahead(&tenancy, pending.collect())
    }

    fn marked(&self, handler: &Handler, mark: &Mark<SessionUid>) -> Marked {
        if mark.all {
            let in_phase = handler.targets.iter().flat_map(|phase| self.index.in_phase(*phase));
            return in_phase.map(|(group, uid)| (group.clone(), uid.clone())).collect();
        }
        let placed = mark.objects.iter().filter_map(|uid| Some((uid, self.index.place(uid)?)));
        let targeted = placed.filter(|(_, (_, phase))| handler.targets.contains(phase));
        let mut marked: Marked = targeted.map(|(uid, (group, _))| (group.clone(), uid.clone())).collect();
        if handler.settings.ranks_queue {
            // The highest priority is known only among all pending sessions.
            let ranked = marked.iter().map(|(group, _)| group).filter(|group| self.top_priority_only(group));
            let ranked: BTreeSet<Option<GroupName>> = ranked.cloned().collect();
            marked.retain(|(group, _)| !ranked.contains(group));
            for group in ranked {
                let waiting = handler.targets.iter().flat_map(|phase| self.index.sessions(&group, *phase));
                marked.extend(waiting.map(|uid| (group.clone(), uid.clone())));
            }
        }
        marked
    }

    fn top_priority_only(&self, group: &Option<GroupName>) -> bool {
        group.as_ref().and_then(|group| self.group(group)).is_some_and(|group| group.spec.top_priority_only)
    }

    fn item(&self, snapshot: &Snapshot, uid: &SessionUid) -> Option<SessionItem> {
        let session = self.session(uid)?.clone();
        let status = session.status.as_ref();
        let (namespace, name) = self.index.key_of.get(uid)?;
        let nodes = allocated_nodes(&session);
        let generation = status.map_or(0, |status| status.allocation_generation);
        let slots = expand(&session.spec.kernels);
        let kernels = slots.iter().map(|slot| {
            let node = nodes.get(slot.hostname.as_str()).map(|node| (*node).clone());
            let key = node.as_ref().map(|_| (namespace.clone(), kernel_name(name, &uid.0, &slot.hostname, generation)));
            let pod = key.as_ref().and_then(|key| self.our_pod(key)).cloned();
            let record = key.as_ref().and_then(|key| self.stores.kernels.get(key)).cloned();
            let state = state_of(&Evidence {
                session: &session,
                allocated: node.is_some(),
                pod: pod.as_deref(),
                record: record.as_deref(),
                image_timeout: snapshot.image_timeout(),
                now: snapshot.now,
            });
            let liveness = node.as_ref().map_or(Liveness::Alive, |node| snapshot.liveness(node));
            KernelItem { hostname: slot.hostname.clone(), node, liveness, state, pod, record }
        });
        let kernels: Vec<KernelItem> = kernels.collect();
        let dependencies = session.spec.depends_on.iter().map(|other| {
            let found = self.stores.sessions.get(&(namespace.clone(), other.clone()));
            let is_met = status.is_some_and(|status| status.met_dependencies.contains(other));
            let state = match found.map(|found| (found.phase(), found)) {
                _ if is_met => Dependency::Met,
                None => Dependency::Missing,
                Some((SessionPhase::Pending, _)) if self.waits_for_itself(&session, other) => Dependency::Circular,
                Some((phase, found)) => Dependency::Is(phase, found.status.as_ref().and_then(|status| status.result)),
            };
            (other.clone(), state)
        });
        Some(SessionItem {
            dependencies: dependencies.collect(),
            names_resolve: slots.len() <= 1 || self.names_resolve(uid, &kernels),
            is_published: self.own_slices(uid).next().is_some(),
            pods_left: self.index.pods_of.count(uid),
            class: self.index.class_of.get(uid)?.clone(),
            holding: self.ledger.holding(uid).cloned(),
            ahead: vec![],
            usage: self.usage_of.get(uid).copied(),
            template: template::to_record(&session, self.template_of(&session).map(Arc::as_ref)),
            is_awaited: self.is_awaited(&session),
            stored: self.committed(uid)?.clone(),
            session: session.clone(),
            kernels,
        })
    }

    /// Returns the EndpointSlices of the session's own Service. The label alone proves nothing, because tenants can set it.
    fn own_slices(&self, uid: &SessionUid) -> impl Iterator<Item = &Slice> {
        let own = self.index.key_of.get(uid).map(|(namespace, name)| (namespace, service_name(name)));
        let keys = self.index.slices_of.of(uid);
        let slices = keys.filter_map(|key| Some((&key.0, self.stores.slices.get(key)?)));
        let is_own = move |(namespace, slice): &(&String, &Slice)| {
            own.as_ref().is_some_and(|(own_namespace, service)| own_namespace == namespace && *service == slice.service)
        };
        slices.filter(is_own).map(|(_, slice)| slice)
    }

    fn names_resolve(&self, uid: &SessionUid, kernels: &[KernelItem]) -> bool {
        let listed: BTreeSet<&str> = self.own_slices(uid).flat_map(|slice| &slice.hostnames).map(String::as_str).collect();
        kernels.iter().all(|kernel| listed.contains(kernel.hostname.as_str()))
    }

    fn remains_of(&self, uid: SessionUid, timing: &Arc<Timing>) -> Option<Remains> {
        let kernels: Vec<_> = self.index.kernels_of.of(&uid).filter_map(|key| self.stores.kernels.get(key)).cloned().collect();
        let pods: Vec<_> = self.index.pods_of.of(&uid).filter_map(|key| self.our_pod(key)).cloned().collect();
        let unreadable = self.unreadable.get(&uid).cloned();
        // The committed status counts here. If an assumed write fails, the objects that it gives up are needed again.
        let session = self.committed(&uid).filter(|_| unreadable.is_none()).cloned();
        let namespace = unreadable.as_ref().and_then(|meta| meta.namespace.clone());
        let namespace = namespace.or_else(|| kernels.first().and_then(|kernel| kernel.metadata.namespace.clone()));
        let namespace = namespace.or_else(|| pods.first().map(|pod| pod.namespace.clone()))?;
        let of_session = self.index.place(&uid).and_then(|(group, _)| group.clone());
        let group_name = of_session.or_else(|| kernels.first().map(|kernel| kernel.spec.scaling_group.clone()));
        let snapshot = self.snapshot(&group_name, timing);
        let nodes = pods.iter().filter_map(|pod| pod.node.clone());
        let liveness = nodes.map(|node| (node.clone(), snapshot.liveness(&node))).collect();
        let is_leaving = self.session(&uid).is_some_and(|session| session.is_leaving());
        Some(Remains { liveness, uid, namespace, session, unreadable, is_leaving, kernels, pods, snapshot })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cluster::store::world::Scope;
    use crate::lifecycle::Subject;
    use crate::provisioner::testing::waiting;
    use crate::session::handlers::HandlerName;
    use crate::session::handlers::testing::{group, kernel_of, session_in};
    use crate::views::PodRef;

    #[test]
    fn no_session_passes_one_of_higher_priority_that_another_handler_has_claimed() {
        let world = World::new(Arc::default(), Scope::default());
        let group = group(json!({"topPriorityOnly": true}));
        world.lock().stores.groups.upsert((String::new(), "default".into()), 1, Arc::new(group));
        for (name, priority) in [("first", 20), ("second", 10)] {
            let mut session = waiting(name, json!({"scalingGroup": "default", "priority": priority}));
            session.metadata.uid = Some(name.into());
            world.upsert_session(session);
        }
        let schedule = Sessions::row(HandlerName::ScheduleSessions).expect("a row");
        let all = Mark::all();
        let first = SessionUid("first".into());
        let claim = world.claim_one(&first).expect("it is free");
        assert_eq!(world.claim(schedule, &all).len(), 0);
        world.marks.handlers.take(schedule.name);
        drop(claim);
        assert_eq!(world.marks.handlers.take(schedule.name), all, "the whole queue has waited");
        let batch_sizes: Vec<usize> = world.claim(schedule, &all).iter().map(|batch| batch.items.len()).collect();
        assert_eq!(batch_sizes, [2]);
    }

    #[test]
    fn the_remains_of_a_session_follow_its_committed_status_and_not_an_assumed_one() {
        let world = World::new(Arc::default(), Scope::default());
        let session = session_in(SessionPhase::Creating);
        let uid = SessionUid(session.metadata.uid.clone().expect("a uid"));
        let mut reset = session.clone();
        reset.status = Some(SessionStatus::default());
        world.upsert_session(session.clone());
        let mut kernel = kernel_of(&session);
        kernel.metadata.namespace = session.metadata.namespace.clone().or(Some("ns".into()));
        world.upsert_kernel(kernel);
        world.assume(&Arc::new(reset));
        let remains = world.remains(&Mark::all()).remove(0);
        assert_eq!((remains.uid, remains.session.map(|session| session.phase())), (uid, Some(SessionPhase::Creating)));
    }

    #[test]
    fn a_released_pod_is_not_released_again_before_the_watch_reports_its_removal() {
        let world = World::new(Arc::default(), Scope::default());
        let session = session_in(SessionPhase::Terminating);
        let name = crate::session::handlers::testing::pod_of(&session).name;
        let uid = session.metadata.uid.clone().expect("a uid");
        world.upsert_session(session);
        let labels = json!({LABEL_SESSION_UID: uid, LABEL_KERNEL: "main1", LABEL_GENERATION: "1"});
        let pod = json!({
            "metadata": {"name": name, "namespace": "ns", "uid": "p", "resourceVersion": "7", "labels": labels,
                         "finalizers": [FINALIZER_POD], "deletionTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"nodeName": "node-1", "containers": [{"name": "main"}]}, "status": {"phase": "Failed"},
        });
        world.upsert_pod(&serde_json::from_value(pod).expect("a pod"));
        let releases = || {
            let effects = crate::session::records::sync(&world.remains(&Mark::all())[0]);
            effects.into_iter().filter(|effect| effect.name() == "release-pod").count()
        };
        assert_eq!(releases(), 1);
        world.pod_released(&PodRef { namespace: "ns".into(), name, uid: "p".into() });
        assert_eq!(releases(), 0);
    }

    #[test]
    fn a_session_that_names_no_scaling_group_is_assigned_to_one_that_is_created_later() {
        let world = World::new(Arc::default(), Scope::default());
        let mut session = waiting("early", json!({}));
        session.metadata.uid = Some("early".into());
        world.upsert_session(session);
        let schedule = Sessions::row(HandlerName::ScheduleSessions).expect("a row");
        let all = Mark::all();
        let groups = || world.claim(schedule, &all).into_iter().map(|batch| batch.snapshot.group_name).collect::<Vec<_>>();
        assert_eq!(groups(), [None]);
        let mut group = ScalingGroup::new("late", serde_json::from_value(json!({})).expect("a group"));
        group.metadata.name = Some("late".into());
        world.lock().stores.groups.upsert((String::new(), "late".into()), 1, Arc::new(group));
        world.begin();
        assert_eq!(groups(), [Some("late".into())]);
    }
}
