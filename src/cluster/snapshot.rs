//! Takes snapshots out of the world: the items a handler is asked about, and what remains of sessions.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::world::{Inner, Slice, World};
use crate::api::*;
use crate::coordinator::marks::Mark;
use crate::provisioner::{Ahead, Dependency, LedgerSnapshot};
use crate::session::handlers::{Handler, HandlerName};
use crate::session::kernels::{Evidence, KernelItem, allocated_nodes, judge, kernel_name, service_name};
use crate::session::pending::{self, Pending};
use crate::session::queue;
use crate::session::records::Remains;
use crate::session::snapshot::{SessionItem, Snapshot, created_at};
use crate::session::usage::usage;
use crate::views::{Liveness, PodView};
use crate::views::{Tenancy, Tenant};

/// The items of one scaling group.
pub struct Batch {
    pub snapshot: Snapshot,
    pub items: Vec<SessionItem>,
}

/// What remains of one session, with what its effects need to know.
pub struct RemainsOf {
    pub uid: SessionUid,
    pub namespace: String,
    pub name: String,
    pub session: Option<Arc<Session>>,
    /// Of one that cannot be read and is being deleted.
    unreadable: Option<ObjectMeta>,
    pub group: Option<Arc<ScalingGroup>>,
    pub group_name: GroupName,
    pub kernels: Vec<Arc<Kernel>>,
    pub pods: Vec<Arc<PodView>>,
    liveness: HashMap<NodeName, Liveness>,
    image_timeout: Duration,
    now: DateTime<Utc>,
}

impl RemainsOf {
    pub fn view(&self) -> Remains<'_> {
        Remains {
            session: self.session.as_deref(),
            unreadable: self.unreadable.as_ref(),
            kernels: self.kernels.clone(),
            pods: self.pods.clone(),
            liveness: self.liveness.clone(),
            image_timeout: self.image_timeout,
            now: self.now,
        }
    }
}

impl World {
    /// The marked sessions in a handler's phases, by group; each is claimed for the caller, who gives it back.
    /// Those at which another handler is at work are marked again when that one is done.
    pub fn batches(&self, handler: &Handler, mark: &Mark) -> Vec<Batch> {
        let mut inner = self.lock();
        let mut wanted: BTreeMap<GroupName, Vec<SessionUid>> = BTreeMap::new();
        let (mut marked, now) = (inner.marked(handler, mark), Utc::now());
        marked.retain(|(_, uid)| match inner.quarantined.get(uid).filter(|until| now < **until) {
            None => !inner.unreadable.contains_key(uid),
            Some(until) => {
                self.marks.at(handler.name, uid, *until);
                false
            }
        });
        let held_up = inner.held_up(handler, &marked);
        for (group, uid) in marked {
            if inner.claimed.contains(&uid) {
                let urgent = mark.urgent.contains(&uid);
                inner.waits_for.entry(uid).or_default().insert((handler.name, urgent));
            } else if !held_up.contains(&group) {
                wanted.entry(group).or_default().push(uid);
            }
        }
        let timing = self.timing.clone();
        let mut ahead = if handler.name == HandlerName::ScheduleSessions { inner.ahead() } else { HashMap::new() };
        let mut batches = vec![];
        for (group, uids) in wanted {
            let snapshot = inner.snapshot(&group, &timing);
            let mut items: Vec<SessionItem> = uids.iter().filter_map(|uid| inner.item(&snapshot, uid)).collect();
            if !ahead.is_empty() {
                items.iter_mut().for_each(|item| item.ahead = ahead.remove(&item.uid()).unwrap_or_default());
            }
            for (item, at) in items.iter().filter_map(|item| Some((item, item.judged_anew_at()?))) {
                self.marks.at(handler.name, &item.uid(), at);
            }
            inner.claimed.extend(items.iter().map(SessionItem::uid));
            batches.push(Batch { snapshot, items });
        }
        batches
    }

    /// A session as it is now, in its group's snapshot.
    pub fn look_again(&self, uid: &SessionUid) -> Option<(Snapshot, SessionItem)> {
        let mut inner = self.lock();
        let group = inner.place.get(uid)?.0.clone();
        let snapshot = inner.snapshot(&group, &self.timing);
        let item = inner.item(&snapshot, uid)?;
        Some((snapshot, item))
    }

    /// What is taken, for one cycle.
    pub fn ledger_snapshot(&self) -> LedgerSnapshot {
        let mut inner = self.lock();
        let tenancy = inner.tenancy();
        inner.ledger.snapshot(&tenancy)
    }

    /// What a cycle leaves for the next.
    pub fn keep_cursors(&self, ledger: LedgerSnapshot) {
        self.lock().ledger.keep_cursors(ledger);
    }

    /// Waits until what tenants use may have changed.
    pub async fn usage_to_publish(&self) {
        self.usage_changed.notified().await;
    }

    /// What tenants use may have changed.
    pub fn mark_usage(&self) {
        self.usage_changed.notify_one();
    }

    /// What every tenant uses now.
    pub fn usage(&self) -> (Arc<Tenancy>, BTreeMap<Tenant, TenantStatus>) {
        let mut inner = self.lock();
        let tenancy = inner.tenancy();
        let ledger = inner.ledger.snapshot(&tenancy);
        let mut pending: HashMap<Tenant, i64> = HashMap::new();
        let waiting = inner.index.values().filter_map(|phases| phases.get(&SessionPhase::Pending)).flatten();
        for session in waiting.filter_map(|uid| inner.session(uid)) {
            for tenant in tenancy.tenants(&session.spec.access_key, session.metadata.namespace.as_deref().unwrap_or_default()) {
                *pending.entry(tenant).or_default() += 1;
            }
        }
        drop(inner);
        let usage = usage(&tenancy, &ledger, &pending);
        (tenancy, usage)
    }

    /// The status of every group this operator looks after whose status says something else.
    pub fn changed_groups(&self) -> Vec<(GroupName, ScalingGroupStatus)> {
        let mut inner = self.lock();
        let nodes = inner.node_views();
        let mut changed = vec![];
        for ((_, name), group) in inner.groups.iter().filter(|((_, name), _)| self.looks_after(&name.as_str().into())) {
            let name = GroupName::from(name.as_str());
            let phases = inner.index.get(&name);
            let of = |phase| phases.and_then(|phases| phases.get(&phase)).into_iter().flatten();
            let waiting = of(SessionPhase::Pending).filter_map(|uid| inner.session(uid)).map(Arc::as_ref);
            let holding = SessionPhase::LIVE.into_iter().filter(|phase| phase.holds_resources());
            let running = holding.map(|phase| of(phase).count()).sum::<usize>();
            let status = queue::status(group, nodes.values().map(Arc::as_ref), waiting, whole(running));
            if group.status.as_ref() != Some(&status) {
                changed.push((name, status));
            }
        }
        changed
    }

    /// What remains of the marked sessions.
    pub fn remains(&self, mark: &Mark) -> Vec<RemainsOf> {
        let mut inner = self.lock();
        let known: BTreeSet<SessionUid> = if mark.all {
            inner.pods_of.keys().chain(inner.kernels_of.keys()).chain(inner.unreadable.keys()).cloned().collect()
        } else {
            mark.sessions.iter().cloned().collect()
        };
        let timing = self.timing.clone();
        // Whose group cannot be read is the concern of who looks after all of them, and only once it is to go.
        let goes = |meta: &ObjectMeta| meta.deletion_timestamp.is_some() && self.is_whole();
        let concerned = known.into_iter().filter(|uid| inner.unreadable.get(uid).is_none_or(goes)).collect::<Vec<_>>();
        concerned.into_iter().filter_map(|uid| inner.remains_of(uid, &timing)).collect()
    }
}

impl Inner {
    /// What waits before each session, where a policy limits that.
    fn ahead(&mut self) -> HashMap<SessionUid, Vec<Ahead>> {
        let tenancy = self.tenancy();
        if !pending::is_limited(tenancy.policies.values()) {
            return HashMap::new();
        }
        let waiting = self.index.values().filter_map(|phases| phases.get(&SessionPhase::Pending)).flatten();
        let pending = waiting.filter_map(|uid| {
            let created_at = created_at(self.session(uid)?);
            Some(Pending { uid, created_at, class: self.class_of.get(uid)? })
        });
        pending::ahead(&tenancy, pending.collect())
    }

    fn marked(&self, handler: &Handler, mark: &Mark) -> Vec<(GroupName, SessionUid)> {
        if mark.all {
            let of_group = |(group, phases): (&GroupName, &HashMap<SessionPhase, BTreeSet<SessionUid>>)| {
                let uids = handler.targets.iter().filter_map(|phase| phases.get(phase)).flatten();
                uids.map(|uid| (group.clone(), uid.clone())).collect::<Vec<_>>()
            };
            return self.index.iter().flat_map(of_group).collect();
        }
        let placed = mark.sessions.iter().filter_map(|uid| Some((uid, self.place.get(uid)?)));
        let asked = placed.filter(|(_, (_, phase))| handler.targets.contains(phase));
        let mut marked: Vec<_> = asked.map(|(uid, (group, _))| (group.clone(), uid.clone())).collect();
        if handler.name == HandlerName::ScheduleSessions {
            // Who has the highest priority can only be told among all who wait.
            let top_only = |group: &&GroupName| self.looks_at_the_top_only(group);
            let groups: BTreeSet<GroupName> = marked.iter().map(|(group, _)| group).filter(top_only).cloned().collect();
            marked.retain(|(group, _)| !groups.contains(group));
            for group in groups {
                let waiting = self.index.get(&group).and_then(|phases| phases.get(&SessionPhase::Pending));
                marked.extend(waiting.into_iter().flatten().map(|uid| (group.clone(), uid.clone())));
            }
        }
        marked
    }

    /// The groups in which nobody can tell who is first, since another handler is at work on some who wait.
    fn held_up(&self, handler: &Handler, marked: &[(GroupName, SessionUid)]) -> BTreeSet<GroupName> {
        let schedules = handler.name == HandlerName::ScheduleSessions;
        let claimed = marked.iter().filter(|(_, uid)| schedules && self.claimed.contains(uid));
        claimed.map(|(group, _)| group).filter(|group| self.looks_at_the_top_only(group)).cloned().collect()
    }

    pub(super) fn looks_at_the_top_only(&self, group: &GroupName) -> bool {
        self.group(group).is_some_and(|group| group.spec.top_priority_only)
    }

    fn item(&self, snapshot: &Snapshot, uid: &SessionUid) -> Option<SessionItem> {
        let session = self.session(uid)?.clone();
        let status = session.status.as_ref();
        let (namespace, name) = self.key_of.get(uid)?;
        let nodes = allocated_nodes(&session);
        let generation = status.map_or(0, |status| status.allocation_generation);
        let slots = expand(&session.spec.kernels);
        let kernels = slots.iter().map(|slot| {
            let node = nodes.get(slot.hostname.as_str()).map(|node| (*node).clone());
            let key = node.as_ref().map(|_| (namespace.clone(), kernel_name(name, &uid.0, &slot.hostname, generation)));
            let pod = key.as_ref().and_then(|key| self.our_pod(key)).cloned();
            let record = key.as_ref().and_then(|key| self.kernels.get(key)).cloned();
            let state = judge(&Evidence {
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
            let found = self.sessions.get(&(namespace.clone(), other.clone()));
            let is_met = status.is_some_and(|status| status.met_dependencies.contains(other));
            let state = match found.map(|found| (found.phase(), found)) {
                _ if is_met => Dependency::Met,
                None => Dependency::Missing,
                Some((SessionPhase::Pending, _)) if self.waits_for_itself(&session, other) => Dependency::Circular,
                Some((phase, found)) => {
                    Dependency::Is(phase, found.status.as_ref().map(|status| status.result).unwrap_or_default())
                }
            };
            (other.clone(), state)
        });
        Some(SessionItem {
            dependencies: dependencies.collect(),
            names_resolve: slots.len() <= 1 || self.names_resolve(uid, &kernels),
            is_published: self.own_slices(uid).next().is_some(),
            pods_left: self.pods_of.get(uid).map_or(0, BTreeSet::len),
            class: self.class_of.get(uid)?.clone(),
            holding: self.ledger.holding(uid).cloned(),
            ahead: vec![],
            is_awaited: self.is_awaited(&session),
            stored: self.committed(uid)?.clone(),
            session: session.clone(),
            kernels,
        })
    }

    /// The slices of the session's own Service. The label alone proves nothing: a Service of somebody else may carry it.
    fn own_slices(&self, uid: &SessionUid) -> impl Iterator<Item = &Slice> {
        let own = self.key_of.get(uid).map(|(namespace, name)| (namespace, service_name(name)));
        let keys = self.slices_of.get(uid).into_iter().flatten();
        let slices = keys.filter_map(|key| Some((&key.0, self.slices.get(key)?)));
        let is_own = move |(namespace, slice): &(&String, &Slice)| {
            own.as_ref().is_some_and(|(there, service)| there == namespace && *service == slice.service)
        };
        slices.filter(is_own).map(|(_, slice)| slice)
    }

    fn names_resolve(&self, uid: &SessionUid, kernels: &[KernelItem]) -> bool {
        let listed: BTreeSet<&str> = self.own_slices(uid).flat_map(|slice| &slice.hostnames).map(String::as_str).collect();
        kernels.iter().all(|kernel| listed.contains(kernel.hostname.as_str()))
    }

    fn remains_of(&mut self, uid: SessionUid, timing: &Arc<crate::lifecycle::Timing>) -> Option<RemainsOf> {
        let kernels: Vec<_> =
            self.kernels_of.get(&uid).into_iter().flatten().filter_map(|key| self.kernels.get(key)).cloned().collect();
        let pods: Vec<_> = self.pods_of.get(&uid).into_iter().flatten().filter_map(|key| self.our_pod(key)).cloned().collect();
        let unreadable = self.unreadable.get(&uid).cloned();
        // As it is committed: what is of no use to a status that is only being written may be of use again.
        let session = self.committed(&uid).filter(|_| unreadable.is_none()).cloned();
        let namespace = unreadable.as_ref().and_then(|meta| meta.namespace.clone());
        let namespace = namespace.or_else(|| kernels.first().and_then(|kernel| kernel.metadata.namespace.clone()));
        let namespace = namespace.or_else(|| pods.first().map(|pod| pod.namespace.clone()))?;
        let place = self.place.get(&uid).map(|(group, _)| group.clone());
        let group_name = place.or_else(|| kernels.first().map(|kernel| kernel.spec.scaling_group.clone())).unwrap_or_default();
        let snapshot = self.snapshot(&group_name, timing);
        let nodes = pods.iter().filter_map(|pod| pod.node.clone());
        let liveness = nodes.map(|node| (node.clone(), snapshot.liveness(&node))).collect();
        Some(RemainsOf {
            name: session.as_ref().and_then(|session| session.metadata.name.clone()).unwrap_or_default(),
            namespace,
            group: snapshot.group.clone(),
            group_name,
            session,
            unreadable,
            liveness,
            image_timeout: snapshot.image_timeout(),
            now: snapshot.now,
            kernels,
            pods,
            uid,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cluster::world::Scope;
    use crate::provisioner::testing::waiting;
    use crate::session::handlers::row;
    use crate::session::handlers::testing::{group, kernel_of, session_in};

    #[test]
    fn nobody_passes_one_of_higher_priority_that_another_handler_is_at_work_on() {
        let world = World::new(Arc::default(), Arc::default(), Scope::default());
        let group = group(json!({"topPriorityOnly": true}));
        world.lock().groups.upsert((String::new(), "default".into()), 1, Arc::new(group));
        for (name, priority) in [("first", 20), ("second", 10)] {
            let mut session = waiting(name, json!({"scalingGroup": "default", "priority": priority}));
            session.metadata.uid = Some(name.into());
            world.upsert_session(session);
        }
        let schedule = row(HandlerName::ScheduleSessions).expect("a row");
        let all = Mark { all: true, ..Mark::default() };
        let first = SessionUid("first".into());
        assert!(world.claim(&first));
        assert_eq!(world.batches(schedule, &all).len(), 0);
        world.unclaim(&first);
        let together: Vec<usize> = world.batches(schedule, &all).iter().map(|batch| batch.items.len()).collect();
        assert_eq!(together, [2]);
    }

    #[test]
    fn what_is_of_use_to_a_session_is_judged_by_what_is_committed_of_it() {
        let world = World::new(Arc::default(), Arc::default(), Scope::default());
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
    fn who_names_no_group_is_taken_by_one_that_comes_later() {
        let world = World::new(Arc::default(), Arc::default(), Scope::default());
        let mut session = waiting("early", json!({}));
        session.metadata.uid = Some("early".into());
        world.upsert_session(session);
        let schedule = row(HandlerName::ScheduleSessions).expect("a row");
        let all = Mark { all: true, ..Mark::default() };
        let groups = || world.batches(schedule, &all).into_iter().map(|batch| batch.snapshot.group_name).collect::<Vec<_>>();
        assert_eq!(groups(), [GroupName::none()]);
        world.unclaim(&SessionUid("early".into()));
        let mut group = ScalingGroup::new("late", serde_json::from_value(json!({})).expect("a group"));
        group.metadata.name = Some("late".into());
        world.lock().groups.upsert((String::new(), "late".into()), 1, Arc::new(group));
        world.begin();
        assert_eq!(groups(), ["late".into()]);
    }
}
