//! A group's nodes with what is left of each, ordered so that the best one for a kernel is found without looking at all.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::equivalence_class::{KernelRequest, Request};
use super::ledger_snapshot::LedgerSnapshot;
use super::nodes::{Rejection, closed};
use crate::api::{Amount, NodeName, ResourceName, Resources, ScalingGroup};
use crate::views::NodeView;
use crate::views::Tenancy;
use crate::views::{ClaimKey, Reach};

/// A node of the pool, by its place in the order of names.
pub type Index = usize;

/// What is left of the resources a node's class offers, in their order. More than eight kinds are not compared.
type Rank = [i64; 8];

struct Slot<'a> {
    node: &'a NodeView,
    closed: Option<Rejection>,
    class: usize,
    /// What is left, in the order of the pool's resources.
    left: Vec<i64>,
    /// What does not become free.
    permanent: Resources,
    sessions: i64,
    private: i64,
    foreign_pods: i64,
    /// Kernels of each deployment, where there are any.
    deployments: BTreeMap<String, i64>,
}

/// Nodes that offer the same resources: for one kernel, the same number of them would be unused.
struct Class {
    architecture: String,
    /// Which of the pool's resources they offer.
    offers: Vec<usize>,
    /// What is left of those in their order, and which node.
    order: BTreeSet<(Rank, Index)>,
}

/// A group's nodes.
pub struct Pool<'a> {
    resources: Vec<ResourceName>,
    slots: Vec<Slot<'a>>,
    by_name: HashMap<&'a NodeName, Index>,
    classes: Vec<Class>,
    /// What all of them have, with no pods but those that stay.
    pub capacity: Resources,
    /// Where round robin goes on.
    pub cursor: Index,
}

/// A kernel's wish, in the pool's terms.
pub struct PoolRequest {
    wanted: Vec<i64>,
    /// Of a resource that no node of the group has.
    unknown: Option<(ResourceName, Amount)>,
    architecture: Option<String>,
    designated: Vec<NodeName>,
    /// For each claim whose volume can be reached from some nodes only: which.
    bound: Vec<(String, BTreeSet<Index>)>,
    private: bool,
    pub deployment: Option<String>,
}

/// What a strategy chooses for.
pub struct Choice<'c> {
    pub request: &'c PoolRequest,
    /// Nodes of which the session has something already.
    pub own: &'c [Index],
    /// Nodes that are not to be chosen.
    pub excluded: &'c [Index],
    /// Whether the kernels of one deployment are to be spread.
    pub spread: bool,
}

impl<'a> Pool<'a> {
    /// The nodes of a group that are open to it; the others are kept for telling why not.
    pub fn new(group: &ScalingGroup, nodes: &[&'a NodeView], ledger: &LedgerSnapshot) -> Self {
        let names: BTreeSet<&ResourceName> =
            nodes.iter().flat_map(|node| node.allocatable.iter().map(|(name, _)| name)).collect();
        let resources: Vec<ResourceName> = names.into_iter().cloned().collect();
        let mut pool = Self {
            resources,
            slots: Vec::with_capacity(nodes.len()),
            by_name: HashMap::with_capacity(nodes.len()),
            classes: vec![],
            capacity: Resources::default(),
            cursor: 0,
        };
        let mut classes: HashMap<(Vec<usize>, &str), usize> = HashMap::new();
        let mut orders: Vec<Vec<(Rank, Index)>> = vec![];
        for (index, node) in nodes.iter().copied().enumerate() {
            let offered: Vec<i64> = pool.resources.iter().map(|name| node.allocatable.amount(name).milli()).collect();
            let counted = |at: &usize| offered[*at] > 0 && pool.resources[*at] != ResourceName::Pods;
            let offers: Vec<usize> = (0..offered.len()).filter(counted).collect();
            let architecture = node.architecture.as_str();
            let class = *classes.entry((offers.clone(), architecture)).or_insert_with(|| {
                pool.classes.push(Class { architecture: architecture.to_owned(), offers, order: BTreeSet::new() });
                orders.push(vec![]);
                orders.len() - 1
            });
            let load = ledger.load(&node.name);
            let used = |name: &ResourceName| load.map_or(0, |load| load.used.amount(name).milli());
            let slot = Slot {
                left: pool.resources.iter().zip(&offered).map(|(name, offered)| offered - used(name)).collect(),
                permanent: load.map(|load| load.permanent.clone()).unwrap_or_default(),
                closed: closed(node, group),
                sessions: load.map_or(0, |load| load.sessions),
                private: load.map_or(0, |load| load.private),
                foreign_pods: load.map_or(0, |load| load.foreign_pods),
                deployments: load.map(|load| load.deployments.clone()).unwrap_or_default(),
                node,
                class,
            };
            pool.capacity.add(&node.allocatable);
            pool.capacity.sub(&slot.permanent);
            if slot.is_open() {
                orders[class].push((pool.classes[class].rank(&slot.left), index));
            }
            pool.by_name.insert(&node.name, index);
            pool.slots.push(slot);
        }
        for (class, order) in pool.classes.iter_mut().zip(orders) {
            class.order = order.into_iter().collect();
        }
        pool
    }

    pub fn len(&self) -> usize {
        self.slots.len()
    }

    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// How many take no kernel at all now.
    pub fn closed(&self) -> usize {
        self.slots.iter().filter(|slot| slot.closed.is_some()).count()
    }

    pub fn name(&self, index: Index) -> &'a NodeName {
        &self.slots[index].node.name
    }

    pub fn index_of(&self, name: &NodeName) -> Option<Index> {
        self.by_name.get(name).copied()
    }

    /// How many kernels of a deployment a node has.
    pub fn replicas(&self, index: Index, deployment: &str) -> i64 {
        self.slots[index].deployments.get(deployment).copied().unwrap_or_default()
    }

    pub fn request(&self, tenancy: &Tenancy, request: &Request, kernel: &KernelRequest) -> PoolRequest {
        let resources = &kernel.resources;
        let unknown = |(name, amount): &(&ResourceName, Amount)| !amount.is_zero() && self.resources.binary_search(name).is_err();
        PoolRequest {
            wanted: self.resources.iter().map(|name| resources.amount(name).milli()).collect(),
            unknown: resources.iter().find(unknown).map(|(name, amount)| (name.clone(), amount)),
            architecture: kernel.architecture.clone(),
            designated: kernel.designated.clone(),
            bound: kernel.claims.iter().filter_map(|claim| self.reached(tenancy, claim)).collect(),
            private: request.private,
            deployment: request.deployment.clone(),
        }
    }

    /// The nodes from which a claim's volume is, or could be, reached, if that is not all of them.
    fn reached(&self, tenancy: &Tenancy, claim: &ClaimKey) -> Option<(String, BTreeSet<Index>)> {
        let reach = tenancy.storage.reach(claim);
        let reached = |index: &Index| reach.includes(self.slots[*index].node);
        (reach != Reach::Everywhere).then(|| (claim.name.clone(), (0..self.slots.len()).filter(reached).collect()))
    }

    /// Whether a node takes the kernel now and may be chosen.
    fn offers(&self, index: Index, Choice { request, own, excluded, .. }: &Choice<'_>) -> bool {
        let slot = &self.slots[index];
        let own = || own.contains(&index);
        request.unknown.is_none()
            && slot.closed.is_none()
            && request.architecture.as_ref().is_none_or(|wanted| *wanted == slot.node.architecture)
            && (slot.private == 0 || own())
            && (!request.private || slot.is_empty() || own())
            && slot.left.iter().zip(&request.wanted).all(|(left, wanted)| wanted <= left)
            && request.bound.iter().all(|(_, reached)| reached.contains(&index))
            && (request.designated.is_empty() || request.designated.contains(&slot.node.name))
            && !excluded.contains(&index)
    }

    /// Why a node does not take the kernel now.
    pub fn rejection(&self, index: Index, request: &PoolRequest, own: &[Index]) -> Option<Rejection> {
        let slot = &self.slots[index];
        if let Some(never) = self.misfit(index, request) {
            return Some(never);
        }
        if slot.closed.is_some() {
            return slot.closed.clone();
        }
        if !own.contains(&index) {
            if request.private && !slot.is_empty() {
                return Some(Rejection::Occupied);
            }
            if slot.private > 0 {
                return Some(Rejection::KeptPrivate);
            }
        }
        self.lacking(request, &slot.left)
    }

    /// Why a node could never take the kernel, were it empty and well.
    pub fn never(&self, index: Index, request: &PoolRequest) -> Option<Rejection> {
        let empty: Vec<i64> = self.resources.iter().map(|name| self.slots[index].when_empty(name)).collect();
        self.misfit(index, request).or_else(|| self.lacking(request, &empty))
    }

    /// How many such kernels a node would hold, were it empty and well.
    pub fn holds_empty(&self, index: Index, request: &PoolRequest) -> i64 {
        if self.misfit(index, request).is_some() {
            return 0;
        }
        let wanted = self.resources.iter().zip(&request.wanted).filter(|(_, wanted)| **wanted > 0);
        let times = wanted.map(|(name, wanted)| self.slots[index].when_empty(name).max(0) / wanted);
        times.min().unwrap_or(i64::MAX)
    }

    /// Whether the nodes that take kernels now would hold so many of each wish together, were they empty.
    pub fn open_nodes_hold<'w>(&self, requests: impl Iterator<Item = (&'w PoolRequest, i64)>) -> bool {
        let open: Vec<Index> = (0..self.slots.len()).filter(|index| self.slots[*index].closed.is_none()).collect();
        let when_empty = |index: &Index| self.resources.iter().map(|name| self.slots[*index].when_empty(name)).collect();
        let mut left: Vec<Vec<i64>> = open.iter().map(when_empty).collect();
        for (request, mut wanted) in requests {
            let suitable = open.iter().zip(&mut left).filter(|(index, _)| self.misfit(**index, request).is_none());
            for (_, left) in suitable {
                let times = left
                    .iter()
                    .zip(&request.wanted)
                    .filter(|(_, wanted)| **wanted > 0)
                    .map(|(left, wanted)| left.max(&0) / wanted);
                let placed = times.min().unwrap_or(i64::MAX).min(wanted);
                left.iter_mut().zip(&request.wanted).for_each(|(left, each)| *left -= placed * each);
                wanted -= placed;
                if wanted == 0 {
                    break; // mostly after a few
                }
            }
            if wanted > 0 {
                return false;
            }
        }
        true
    }

    fn misfit(&self, index: Index, request: &PoolRequest) -> Option<Rejection> {
        let node = self.slots[index].node;
        if !request.designated.is_empty() && !request.designated.contains(&node.name) {
            return Some(Rejection::NotDesignated);
        }
        if request.architecture.as_ref().is_some_and(|wanted| *wanted != node.architecture) {
            return Some(Rejection::Architecture);
        }
        if let Some((claim, _)) = request.bound.iter().find(|(_, reached)| !reached.contains(&index)) {
            return Some(Rejection::VolumeElsewhere(claim.clone()));
        }
        let (name, wanted) = request.unknown.clone()?;
        Some(Rejection::Lacks(name, Amount::ZERO, wanted))
    }

    fn lacking(&self, request: &PoolRequest, left: &[i64]) -> Option<Rejection> {
        let at = left.iter().zip(&request.wanted).position(|(left, wanted)| wanted > left)?;
        let (left, wanted) = (Amount::from_milli(left[at].max(0)), Amount::from_milli(request.wanted[at]));
        Some(Rejection::Lacks(self.resources[at].clone(), left, wanted))
    }

    /// What a node is compared by for a kernel: how many of its resources would be unused, and what is left of each
    /// resource of the group, in their order; what it does not offer is nothing left.
    fn key(&self, index: Index, request: &PoolRequest) -> (usize, &[i64]) {
        let slot = &self.slots[index];
        let compared = self.resources.partition_point(|name| *name < ResourceName::Pods); // pods are last
        (self.classes[slot.class].unused(request), &slot.left[..compared])
    }

    /// The classes in which a kernel fits at all.
    fn classes_for(&self, request: &PoolRequest) -> impl Iterator<Item = &Class> {
        let fits = |class: &&Class| {
            let offers = |at: &usize| class.offers.contains(at) || self.resources[*at] == ResourceName::Pods;
            request.architecture.as_ref().is_none_or(|wanted| *wanted == class.architecture)
                && (0..request.wanted.len()).filter(|at| request.wanted[*at] > 0).all(|at| offers(&at))
        };
        self.classes.iter().filter(fits)
    }

    /// Of those that take the kernel: fewest unused resources, then least left, then first by name.
    pub fn tightest(&self, choice: &Choice<'_>) -> Option<Index> {
        let first = |class: &Class| {
            let at_least = (class.rank(&choice.request.wanted), 0);
            class.order.range(at_least..).map(|(_, index)| *index).find(|index| self.offers(*index, choice))
        };
        self.best(choice, first, |key| key)
    }

    /// Of those that take the kernel: fewest unused resources, then most left, then first by name.
    pub fn roomiest(&self, choice: &Choice<'_>) -> Option<Index> {
        let last = |class: &Class| {
            let at_least = (class.rank(&choice.request.wanted), 0);
            let (rank, last) = class.order.range(at_least..).rev().find(|(_, index)| self.offers(*index, choice))?;
            let equal = class.order.range((*rank, 0)..=(*rank, *last));
            equal.map(|(_, index)| *index).find(|index| self.offers(*index, choice))
        };
        self.best(choice, last, |(unused, rank)| (unused, Reverse(rank)))
    }

    /// The best by `order` of the designated nodes, or of those that are the best of their class.
    fn best<'p, K: Ord>(
        &'p self,
        choice: &Choice<'_>,
        of_class: impl Fn(&Class) -> Option<Index>,
        order: impl Fn((usize, &'p [i64])) -> K,
    ) -> Option<Index> {
        let request = choice.request;
        let key = |index: &Index| (order(self.key(*index, request)), *index);
        if request.designated.is_empty() {
            return self.classes_for(request).filter_map(of_class).min_by_key(key);
        }
        let designated = request.designated.iter().filter_map(|name| self.index_of(name));
        designated.filter(|index| self.offers(*index, choice)).min_by_key(key)
    }

    /// Of those that take the kernel, the next by name from the cursor on.
    pub fn next(&self, choice: &Choice<'_>) -> Option<Index> {
        let mut all = (self.cursor..self.slots.len()).chain(0..self.cursor.min(self.slots.len()));
        all.find(|index| self.offers(*index, choice))
    }

    /// All that take the kernel, by name.
    pub fn all<'p>(&'p self, choice: &'p Choice<'_>) -> impl Iterator<Item = Index> + 'p {
        (0..self.slots.len()).filter(|index| self.offers(*index, choice))
    }

    /// For comparing those that [`Self::all`] gives: fewest unused, then least left.
    pub fn tightness(&self, index: Index, request: &PoolRequest) -> impl Ord {
        self.key(index, request)
    }

    /// Counts a kernel in, or out again with `sign` −1.
    pub fn count(&mut self, index: Index, request: &PoolRequest, sign: i64) {
        let slot = &mut self.slots[index];
        let class = &mut self.classes[slot.class];
        if slot.is_open() {
            class.order.remove(&(class.rank(&slot.left), index));
        }
        for (left, wanted) in slot.left.iter_mut().zip(&request.wanted) {
            *left -= sign * wanted;
        }
        if let Some(deployment) = &request.deployment {
            *slot.deployments.entry(deployment.clone()).or_default() += sign;
        }
        if slot.is_open() {
            class.order.insert((class.rank(&slot.left), index));
        }
    }

    /// Counts a placed session in.
    pub fn settle(&mut self, index: Index, private: bool) {
        let slot = &mut self.slots[index];
        slot.sessions += 1;
        if private {
            let class = &mut self.classes[slot.class];
            class.order.remove(&(class.rank(&slot.left), index));
            slot.private += 1;
        }
    }
}

impl Slot<'_> {
    /// Whether it takes sessions of all kinds.
    fn is_open(&self) -> bool {
        self.closed.is_none() && self.private == 0
    }

    fn is_empty(&self) -> bool {
        self.sessions == 0 && self.foreign_pods == 0
    }

    /// What it would have of a resource with no pods but those that stay.
    fn when_empty(&self, name: &ResourceName) -> i64 {
        self.node.allocatable.amount(name).milli() - self.permanent.amount(name).milli()
    }
}

impl Class {
    fn rank(&self, left: &[i64]) -> Rank {
        let mut rank = Rank::default();
        for (place, at) in rank.iter_mut().zip(&self.offers) {
            *place = left[*at];
        }
        rank
    }

    fn unused(&self, request: &PoolRequest) -> usize {
        self.offers.iter().filter(|at| request.wanted[**at] == 0).count()
    }
}
