//! A group's agents with what is left of each, ordered so that the best one for a kernel is found without looking at all.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::agents::{Rejection, closed};
use super::kind::{KernelRequest, Request};
use super::room::Room;
use super::selectors::Choice;
use crate::api::{Amount, NodeName, ResourceName, Resources, ScalingGroup};
use crate::views::Tenancy;
use crate::views::AgentView;
use crate::views::{ClaimKey, Reach};

/// An agent of the pool, by its place in the order of names.
pub type Index = usize;

/// What is left of the resources an agent's class offers, in their order. More than eight kinds are not compared.
type Rank = [i64; 8];

struct Slot<'a> {
    agent: &'a AgentView,
    closed: Option<Rejection>,
    class: usize,
    /// What is left, in the order of the pool's resources.
    left: Vec<i64>,
    /// What does not become free.
    stays: Resources,
    sessions: i64,
    private: i64,
    foreign_pods: i64,
    /// Kernels of each deployment, where there are any.
    deployments: BTreeMap<String, i64>,
}

/// Agents that offer the same resources: for one kernel, the same number of them would be unused.
struct Class {
    architecture: String,
    /// Which of the pool's resources they offer.
    offers: Vec<usize>,
    /// What is left of those in their order, and which agent.
    order: BTreeSet<(Rank, Index)>,
}

/// A group's agents.
pub struct Pool<'a> {
    resources: Vec<ResourceName>,
    slots: Vec<Slot<'a>>,
    by_name: HashMap<&'a NodeName, Index>,
    classes: Vec<Class>,
    /// What all of them have, with no pods but those that stay.
    pub together: Resources,
    /// Where round robin goes on.
    pub cursor: Index,
}

/// A kernel's wish, in the pool's terms.
pub struct Wish {
    wanted: Vec<i64>,
    /// Of a resource that no agent of the group has.
    unknown: Option<(ResourceName, Amount)>,
    architecture: Option<String>,
    designated: Vec<NodeName>,
    /// For each claim whose volume can be reached from some agents only: which.
    bound: Vec<(String, BTreeSet<Index>)>,
    private: bool,
    pub deployment: Option<String>,
}

impl<'a> Pool<'a> {
    /// The agents of a group that are open to it; the others are kept for telling why not.
    pub fn new(group: &ScalingGroup, agents: &[&'a AgentView], room: &Room) -> Self {
        let names: BTreeSet<&ResourceName> =
            agents.iter().flat_map(|agent| agent.allocatable.iter().map(|(name, _)| name)).collect();
        let resources: Vec<ResourceName> = names.into_iter().cloned().collect();
        let mut pool = Self {
            resources,
            slots: Vec::with_capacity(agents.len()),
            by_name: HashMap::with_capacity(agents.len()),
            classes: vec![],
            together: Resources::default(),
            cursor: 0,
        };
        let mut classes: HashMap<(Vec<usize>, &str), usize> = HashMap::new();
        let mut orders: Vec<Vec<(Rank, Index)>> = vec![];
        for (index, agent) in agents.iter().copied().enumerate() {
            let offered: Vec<i64> = pool.resources.iter().map(|name| agent.allocatable.amount(name).milli()).collect();
            let counted = |at: &usize| offered[*at] > 0 && pool.resources[*at] != ResourceName::Pods;
            let offers: Vec<usize> = (0..offered.len()).filter(counted).collect();
            let architecture = agent.architecture.as_str();
            let class = *classes.entry((offers.clone(), architecture)).or_insert_with(|| {
                pool.classes.push(Class { architecture: architecture.to_owned(), offers, order: BTreeSet::new() });
                orders.push(vec![]);
                orders.len() - 1
            });
            let load = room.load(&agent.name);
            let used = |name: &ResourceName| load.map_or(0, |load| load.used.amount(name).milli());
            let slot = Slot {
                left: pool.resources.iter().zip(&offered).map(|(name, offered)| offered - used(name)).collect(),
                stays: load.map(|load| load.stays.clone()).unwrap_or_default(),
                closed: closed(agent, group),
                sessions: load.map_or(0, |load| load.sessions),
                private: load.map_or(0, |load| load.private),
                foreign_pods: load.map_or(0, |load| load.foreign_pods),
                deployments: load.map(|load| load.deployments.clone()).unwrap_or_default(),
                agent,
                class,
            };
            pool.together.add(&agent.allocatable);
            pool.together.sub(&slot.stays);
            if slot.is_open() {
                orders[class].push((pool.classes[class].rank(&slot.left), index));
            }
            pool.by_name.insert(&agent.name, index);
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
        &self.slots[index].agent.name
    }

    pub fn index_of(&self, name: &NodeName) -> Option<Index> {
        self.by_name.get(name).copied()
    }

    /// How many kernels of a deployment an agent has.
    pub fn replicas(&self, index: Index, deployment: &str) -> i64 {
        self.slots[index].deployments.get(deployment).copied().unwrap_or_default()
    }

    pub fn wish(&self, tenancy: &Tenancy, request: &Request, kernel: &KernelRequest) -> Wish {
        let resources = &kernel.resources;
        let unknown = |(name, amount): &(&ResourceName, Amount)| !amount.is_zero() && self.resources.binary_search(name).is_err();
        Wish {
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
        let reached = |index: &Index| reach.includes(self.slots[*index].agent);
        (reach != Reach::Everywhere).then(|| (claim.name.clone(), (0..self.slots.len()).filter(reached).collect()))
    }

    /// Whether an agent takes the kernel now and may be chosen.
    fn offers(&self, index: Index, Choice { wish, mine, but, .. }: &Choice<'_>) -> bool {
        let slot = &self.slots[index];
        let own = || mine.contains(&index);
        wish.unknown.is_none()
            && slot.closed.is_none()
            && wish.architecture.as_ref().is_none_or(|wanted| *wanted == slot.agent.architecture)
            && (slot.private == 0 || own())
            && (!wish.private || slot.is_empty() || own())
            && slot.left.iter().zip(&wish.wanted).all(|(left, wanted)| wanted <= left)
            && wish.bound.iter().all(|(_, reached)| reached.contains(&index))
            && (wish.designated.is_empty() || wish.designated.contains(&slot.agent.name))
            && !but.contains(&index)
    }

    /// Why an agent does not take the kernel now.
    pub fn rejection(&self, index: Index, wish: &Wish, mine: &[Index]) -> Option<Rejection> {
        let slot = &self.slots[index];
        if let Some(never) = self.misfit(index, wish) {
            return Some(never);
        }
        if slot.closed.is_some() {
            return slot.closed.clone();
        }
        if !mine.contains(&index) {
            if wish.private && !slot.is_empty() {
                return Some(Rejection::Occupied);
            }
            if slot.private > 0 {
                return Some(Rejection::KeptPrivate);
            }
        }
        self.lacking(wish, &slot.left)
    }

    /// Why an agent could never take the kernel, were it empty and well.
    pub fn never(&self, index: Index, wish: &Wish) -> Option<Rejection> {
        let empty: Vec<i64> = self.resources.iter().map(|name| self.slots[index].when_empty(name)).collect();
        self.misfit(index, wish).or_else(|| self.lacking(wish, &empty))
    }

    /// How many such kernels an agent would hold, were it empty and well.
    pub fn holds_empty(&self, index: Index, wish: &Wish) -> i64 {
        if self.misfit(index, wish).is_some() {
            return 0;
        }
        let wanted = self.resources.iter().zip(&wish.wanted).filter(|(_, wanted)| **wanted > 0);
        let times = wanted.map(|(name, wanted)| self.slots[index].when_empty(name).max(0) / wanted);
        times.min().unwrap_or(i64::MAX)
    }

    /// Whether the nodes that take kernels now would hold so many of each wish together, were they empty.
    pub fn open_nodes_hold<'w>(&self, wishes: impl Iterator<Item = (&'w Wish, i64)>) -> bool {
        let open: Vec<Index> = (0..self.slots.len()).filter(|index| self.slots[*index].closed.is_none()).collect();
        let when_empty = |index: &Index| self.resources.iter().map(|name| self.slots[*index].when_empty(name)).collect();
        let mut left: Vec<Vec<i64>> = open.iter().map(when_empty).collect();
        for (wish, mut wanted) in wishes {
            let suitable = open.iter().zip(&mut left).filter(|(index, _)| self.misfit(**index, wish).is_none());
            for (_, left) in suitable {
                let times =
                    left.iter().zip(&wish.wanted).filter(|(_, wanted)| **wanted > 0).map(|(left, wanted)| left.max(&0) / wanted);
                let placed = times.min().unwrap_or(i64::MAX).min(wanted);
                left.iter_mut().zip(&wish.wanted).for_each(|(left, each)| *left -= placed * each);
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

    fn misfit(&self, index: Index, wish: &Wish) -> Option<Rejection> {
        let agent = self.slots[index].agent;
        if !wish.designated.is_empty() && !wish.designated.contains(&agent.name) {
            return Some(Rejection::NotDesignated);
        }
        if wish.architecture.as_ref().is_some_and(|wanted| *wanted != agent.architecture) {
            return Some(Rejection::Architecture);
        }
        if let Some((claim, _)) = wish.bound.iter().find(|(_, reached)| !reached.contains(&index)) {
            return Some(Rejection::VolumeElsewhere(claim.clone()));
        }
        let (name, wanted) = wish.unknown.clone()?;
        Some(Rejection::Lacks(name, Amount::ZERO, wanted))
    }

    fn lacking(&self, wish: &Wish, left: &[i64]) -> Option<Rejection> {
        let at = left.iter().zip(&wish.wanted).position(|(left, wanted)| wanted > left)?;
        let (left, wanted) = (Amount::from_milli(left[at].max(0)), Amount::from_milli(wish.wanted[at]));
        Some(Rejection::Lacks(self.resources[at].clone(), left, wanted))
    }

    /// What an agent is compared by for a kernel: how many of its resources would be unused, and what is left of each
    /// resource of the group, in their order; what it does not offer is nothing left.
    fn key(&self, index: Index, wish: &Wish) -> (usize, &[i64]) {
        let slot = &self.slots[index];
        let compared = self.resources.partition_point(|name| *name < ResourceName::Pods); // pods are last
        (self.classes[slot.class].unused(wish), &slot.left[..compared])
    }

    /// The classes in which a kernel fits at all.
    fn classes_for(&self, wish: &Wish) -> impl Iterator<Item = &Class> {
        let fits = |class: &&Class| {
            let offers = |at: &usize| class.offers.contains(at) || self.resources[*at] == ResourceName::Pods;
            wish.architecture.as_ref().is_none_or(|wanted| *wanted == class.architecture)
                && (0..wish.wanted.len()).filter(|at| wish.wanted[*at] > 0).all(|at| offers(&at))
        };
        self.classes.iter().filter(fits)
    }

    /// Of those that take the kernel: fewest unused resources, then least left, then first by name.
    pub fn tightest(&self, choice: &Choice<'_>) -> Option<Index> {
        let first = |class: &Class| {
            let at_least = (class.rank(&choice.wish.wanted), 0);
            class.order.range(at_least..).map(|(_, index)| *index).find(|index| self.offers(*index, choice))
        };
        self.best(choice, first, |key| key)
    }

    /// Of those that take the kernel: fewest unused resources, then most left, then first by name.
    pub fn roomiest(&self, choice: &Choice<'_>) -> Option<Index> {
        let last = |class: &Class| {
            let at_least = (class.rank(&choice.wish.wanted), 0);
            let (rank, last) = class.order.range(at_least..).rev().find(|(_, index)| self.offers(*index, choice))?;
            let equal = class.order.range((*rank, 0)..=(*rank, *last));
            equal.map(|(_, index)| *index).find(|index| self.offers(*index, choice))
        };
        self.best(choice, last, |(unused, rank)| (unused, Reverse(rank)))
    }

    /// The best by `order` of the designated agents, or of those that are the best of their class.
    fn best<'p, K: Ord>(
        &'p self,
        choice: &Choice<'_>,
        of_class: impl Fn(&Class) -> Option<Index>,
        order: impl Fn((usize, &'p [i64])) -> K,
    ) -> Option<Index> {
        let wish = choice.wish;
        let key = |index: &Index| (order(self.key(*index, wish)), *index);
        if wish.designated.is_empty() {
            return self.classes_for(wish).filter_map(of_class).min_by_key(key);
        }
        let designated = wish.designated.iter().filter_map(|name| self.index_of(name));
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
    pub fn tightness(&self, index: Index, wish: &Wish) -> impl Ord {
        self.key(index, wish)
    }

    /// Counts a kernel in, or out again with `sign` −1.
    pub fn count(&mut self, index: Index, wish: &Wish, sign: i64) {
        let slot = &mut self.slots[index];
        let class = &mut self.classes[slot.class];
        if slot.is_open() {
            class.order.remove(&(class.rank(&slot.left), index));
        }
        for (left, wanted) in slot.left.iter_mut().zip(&wish.wanted) {
            *left -= sign * wanted;
        }
        if let Some(deployment) = &wish.deployment {
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
        self.agent.allocatable.amount(name).milli() - self.stays.amount(name).milli()
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

    fn unused(&self, wish: &Wish) -> usize {
        self.offers.iter().filter(|at| wish.wanted[**at] == 0).count()
    }
}
