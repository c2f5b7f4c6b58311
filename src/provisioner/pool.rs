//! The nodes of a scaling group with their free resources, ordered so that the best node is found without visiting all.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::equivalence_class::{KernelRequest, Request};
use super::ledger_snapshot::LedgerSnapshot;
use super::nodes::{Rejection, closed};
use crate::api::{Amount, NodeName, ResourceName, Resources, ScalingGroup, Spread};
use crate::views::NodeView;
use crate::views::Tenancy;
use crate::views::{ClaimKey, Reach};

/// A node of the pool, by its position in the order of names.
pub type Index = usize;

/// The free amounts of the resources that a node's class offers, in their order. At most eight resources are compared.
type Rank = [i64; 8];

struct Slot<'a> {
    node: &'a NodeView,
    closed: Option<Rejection>,
    class: usize,
    /// The free amounts, in the order of the pool's resources.
    left: Vec<i64>,
    /// The usage that never becomes free.
    permanent: Resources,
    sessions: i64,
    private: i64,
    foreign_pods: i64,
    /// The number of kernels of each deployment that has any here.
    deployments: BTreeMap<String, i64>,
}

/// Nodes of one architecture that offer the same resources, so that a kernel leaves the same number of them idle.
struct Class {
    architecture: String,
    /// The indexes of the offered resources in the pool's list.
    offers: Vec<usize>,
    /// The open nodes, by their free amounts.
    order: BTreeSet<(Rank, Index)>,
}

/// The nodes of a scaling group.
pub struct Pool<'a> {
    resources: Vec<ResourceName>,
    slots: Vec<Slot<'a>>,
    by_name: HashMap<&'a NodeName, Index>,
    classes: Vec<Class>,
    /// The sum of all nodes' resources without the permanent usage.
    pub capacity: Resources,
    /// The node where round robin continues.
    pub cursor: Index,
}

/// A kernel's request, translated to the pool's lists.
pub struct PoolRequest {
    /// In the order of the pool's resources.
    wanted: Vec<i64>,
    /// A requested resource that no node of the scaling group has.
    unknown: Option<(ResourceName, Amount)>,
    architecture: Option<String>,
    designated: Vec<NodeName>,
    /// The claims whose volumes only some nodes can reach, with these nodes.
    bound: Vec<(String, BTreeSet<Index>)>,
    private: bool,
    pub deployment: Option<String>,
    pub spread: Spread,
}

/// The input of a selector.
pub struct Choice<'c> {
    pub request: &'c PoolRequest,
    /// Nodes that already have a kernel of the session.
    pub own: &'c [Index],
    /// Nodes that must not be chosen.
    pub excluded: &'c [Index],
    /// Whether the selector spreads the kernels of a deployment.
    pub spread: bool,
}

impl<'a> Pool<'a> {
    /// Builds the pool. Closed nodes are in it too, so that a refusal can name the reason of each.
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
            let counted = |index: &usize| offered[*index] > 0 && pool.resources[*index] != ResourceName::Pods;
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

    /// Returns how many nodes take no kernel at all now.
    pub fn closed(&self) -> usize {
        self.slots.iter().filter(|slot| slot.closed.is_some()).count()
    }

    pub fn name(&self, index: Index) -> &'a NodeName {
        &self.slots[index].node.name
    }

    pub fn index_of(&self, name: &NodeName) -> Option<Index> {
        self.by_name.get(name).copied()
    }

    /// Returns how many kernels of a deployment a node has.
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
            spread: request.spread,
        }
    }

    /// Returns the nodes that can reach a claim's volume, or None if all can.
    fn reached(&self, tenancy: &Tenancy, claim: &ClaimKey) -> Option<(String, BTreeSet<Index>)> {
        let reach = tenancy.storage.reach(claim);
        let reaches = |index: &Index| reach.includes(self.slots[*index].node);
        (reach != Reach::Everywhere).then(|| (claim.name.clone(), (0..self.slots.len()).filter(reaches).collect()))
    }

    /// Whether a node runs a replica of the same deployment, and the deployment allows only one there.
    fn has_other_replica(&self, index: Index, request: &PoolRequest) -> bool {
        let deployment = request.deployment.as_deref().filter(|_| request.spread == Spread::Required);
        deployment.is_some_and(|deployment| self.replicas(index, deployment) > 0)
    }

    /// Returns the nodes that have more replicas of the deployment than the node with the fewest, if replicas spread.
    pub fn crowded(&self, choice: &Choice<'_>) -> Vec<Index> {
        let request = choice.request;
        let Some(deployment) = request.deployment.as_deref().filter(|_| request.spread != Spread::None) else { return vec![] };
        let replicas = |index: &Index| self.replicas(*index, deployment);
        let fewest = self.all(choice).map(|index| replicas(&index)).min().unwrap_or_default();
        self.all(choice).filter(|index| replicas(index) > fewest).collect()
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
            && (!self.has_other_replica(index, request) || own())
            && slot.left.iter().zip(&request.wanted).all(|(left, wanted)| wanted <= left)
            && request.bound.iter().all(|(_, reached)| reached.contains(&index))
            && (request.designated.is_empty() || request.designated.contains(&slot.node.name))
            && !excluded.contains(&index)
    }

    /// Returns why a node does not take the kernel now, or None if it does.
    pub fn rejection(&self, index: Index, request: &PoolRequest, own: &[Index]) -> Option<Rejection> {
        let slot = &self.slots[index];
        if let Some(misfit) = self.misfit(index, request) {
            return Some(misfit);
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
            if self.has_other_replica(index, request) {
                return Some(Rejection::HasReplica);
            }
        }
        self.shortage(request, &slot.left)
    }

    /// Returns why a node could not take the kernel even if it were empty and ready.
    pub fn permanent_rejection(&self, index: Index, request: &PoolRequest) -> Option<Rejection> {
        let empty: Vec<i64> = self.resources.iter().map(|name| self.slots[index].when_empty(name)).collect();
        self.misfit(index, request).or_else(|| self.shortage(request, &empty))
    }

    /// Returns how many such kernels a node would hold if it were empty and ready.
    pub fn count_when_empty(&self, index: Index, request: &PoolRequest) -> i64 {
        if self.misfit(index, request).is_some() {
            return 0;
        }
        let wanted = self.resources.iter().zip(&request.wanted).filter(|(_, wanted)| **wanted > 0);
        let times = wanted.map(|(name, wanted)| self.slots[index].when_empty(name).max(0) / wanted);
        times.min().unwrap_or(i64::MAX)
    }

    /// Whether the nodes that take kernels now would hold this many kernels of each request together if they were empty.
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
                    break; // usually after a few nodes
                }
            }
            if wanted > 0 {
                return false;
            }
        }
        true
    }

    /// Returns a mismatch that more free resources would not resolve.
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

    fn shortage(&self, request: &PoolRequest, left: &[i64]) -> Option<Rejection> {
        let index = left.iter().zip(&request.wanted).position(|(left, wanted)| wanted > left)?;
        let (left, wanted) = (Amount::from_milli(left[index].max(0)), Amount::from_milli(request.wanted[index]));
        Some(Rejection::Lacks(self.resources[index].clone(), left, wanted))
    }

    /// Returns the key that nodes are compared by: the number of resources that the kernel leaves idle, and the free amount
    /// of each resource of the scaling group. A resource that the node does not offer counts as 0.
    fn key(&self, index: Index, request: &PoolRequest) -> (usize, &[i64]) {
        let slot = &self.slots[index];
        let compared = self.resources.partition_point(|name| *name < ResourceName::Pods); // pods are last
        (self.classes[slot.class].idle(request), &slot.left[..compared])
    }

    /// Returns the classes whose nodes offer all that a kernel requests.
    fn classes_for(&self, request: &PoolRequest) -> impl Iterator<Item = &Class> {
        let fits = |class: &&Class| {
            let offers = |index: &usize| class.offers.contains(index) || self.resources[*index] == ResourceName::Pods;
            request.architecture.as_ref().is_none_or(|wanted| *wanted == class.architecture)
                && (0..request.wanted.len()).filter(|index| request.wanted[*index] > 0).all(|index| offers(&index))
        };
        self.classes.iter().filter(fits)
    }

    /// Returns the node with the fewest idle resources, then the least left, then the first name.
    pub fn with_least_left(&self, choice: &Choice<'_>) -> Option<Index> {
        let first = |class: &Class| {
            let at_least = (class.rank(&choice.request.wanted), 0);
            class.order.range(at_least..).map(|(_, index)| *index).find(|index| self.offers(*index, choice))
        };
        self.best(choice, first, |key| key)
    }

    /// Returns the node with the fewest idle resources, then the most left, then the first name.
    pub fn with_most_left(&self, choice: &Choice<'_>) -> Option<Index> {
        let last = |class: &Class| {
            let at_least = (class.rank(&choice.request.wanted), 0);
            let (rank, last) = class.order.range(at_least..).rev().find(|(_, index)| self.offers(*index, choice))?;
            let equal = class.order.range((*rank, 0)..=(*rank, *last));
            equal.map(|(_, index)| *index).find(|index| self.offers(*index, choice))
        };
        self.best(choice, last, |(idle, rank)| (idle, Reverse(rank)))
    }

    /// Returns the best node by `order`: of the designated nodes if there are any, else of the best node of each class.
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

    /// Returns the first node from the cursor on that takes the kernel.
    pub fn next(&self, choice: &Choice<'_>) -> Option<Index> {
        let mut all = (self.cursor..self.slots.len()).chain(0..self.cursor.min(self.slots.len()));
        all.find(|index| self.offers(*index, choice))
    }

    /// Returns all nodes that take the kernel, by name.
    pub fn all<'p>(&'p self, choice: &'p Choice<'_>) -> impl Iterator<Item = Index> + 'p {
        (0..self.slots.len()).filter(|index| self.offers(*index, choice))
    }

    /// Returns a key that orders nodes like [`Self::with_least_left`].
    pub fn tightness(&self, index: Index, request: &PoolRequest) -> impl Ord {
        self.key(index, request)
    }

    /// Adds a kernel to a node, or removes it with `sign` −1.
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

    /// Records that a session was placed on a node.
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
    /// Whether the node takes kernels and no private session occupies it.
    fn is_open(&self) -> bool {
        self.closed.is_none() && self.private == 0
    }

    fn is_empty(&self) -> bool {
        self.sessions == 0 && self.foreign_pods == 0
    }

    /// Returns the amount of a resource that the node would have without its transient usage.
    fn when_empty(&self, name: &ResourceName) -> i64 {
        self.node.allocatable.amount(name).milli() - self.permanent.amount(name).milli()
    }
}

impl Class {
    fn rank(&self, left: &[i64]) -> Rank {
        let mut rank = Rank::default();
        for (amount, index) in rank.iter_mut().zip(&self.offers) {
            *amount = left[*index];
        }
        rank
    }

    /// Returns how many offered resources the kernel does not request.
    fn idle(&self, request: &PoolRequest) -> usize {
        self.offers.iter().filter(|index| request.wanted[**index] == 0).count()
    }
}
