//! The resources that sessions hold, counted by node and by tenant.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::api::{Amount, NodeName, ResourceName, Resources, whole};
use crate::views::{Account, ClaimKey};

/// The resources that one session holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Holding {
    pub account: Account,
    pub private: bool,
    /// Whether the session counts as one of its owner's running sessions.
    pub active: bool,
    /// The volume claims that the session mounts.
    pub claims: BTreeSet<ClaimKey>,
    /// The uid of the deployment whose replica the session is.
    pub deployment: Option<String>,
    /// The resources and the number of kernels on each node.
    pub nodes: BTreeMap<NodeName, (Resources, i64)>,
}

impl Holding {
    /// Returns a holding that covers both: on each node, the larger of the two.
    pub fn with(mut self, other: &Self) -> Self {
        for (node, (resources, kernels)) in &other.nodes {
            let (sum, count) = self.nodes.entry(node.clone()).or_default();
            *sum = sum.max(resources);
            *count = (*count).max(*kernels);
        }
        self.active |= other.active;
        self.private |= other.private;
        self.claims.extend(other.claims.iter().cloned());
        self
    }

    /// Whether it holds anything that `other` does not.
    pub(super) fn exceeds(&self, other: Option<&Self>) -> bool {
        let Some(other) = other else { return true };
        (self.active && !other.active)
            || self
                .nodes
                .iter()
                .any(|(node, (held, _))| other.nodes.get(node).is_none_or(|(kept, _)| kept.lacking(held).is_some()))
    }

    pub(super) fn occupied(&self) -> Occupied {
        let mut resources = Resources::default();
        for (held, _) in self.nodes.values() {
            resources.add(held);
        }
        resources.set(ResourceName::Pods, Amount::ZERO);
        let sessions = i64::from(self.active);
        let volumes = if self.active { whole(self.claims.len()) } else { 0 };
        Occupied { resources, sessions, private_sessions: if self.private { sessions } else { 0 }, volumes }
    }
}

/// The usage of a tenant.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Occupied {
    pub resources: Resources,
    pub sessions: i64,
    /// The private ones among `sessions`.
    pub private_sessions: i64,
    pub volumes: i64,
}

impl Occupied {
    pub(super) fn add(&mut self, other: &Self) {
        self.resources.add(&other.resources);
        self.sessions += other.sessions;
        self.private_sessions += other.private_sessions;
        self.volumes += other.volumes;
    }

    pub(super) fn is_empty(&self) -> bool {
        let counts = [self.sessions, self.private_sessions, self.volumes];
        counts == [0; 3] && self.resources.is_zero()
    }

    pub(super) fn sub(&mut self, other: &Self) {
        self.resources.sub(&other.resources);
        self.sessions -= other.sessions;
        self.private_sessions -= other.private_sessions;
        self.volumes -= other.volumes;
    }
}

/// The usage of a node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Load {
    pub used: Resources,
    /// The part of `used` that never becomes free.
    pub permanent: Resources,
    /// How many sessions hold resources here, and how many of them are private.
    pub sessions: i64,
    pub private: i64,
    /// Foreign pods, without pods of DaemonSets and static pods.
    pub foreign_pods: i64,
    /// The number of kernels of each deployment that has any here.
    pub deployments: BTreeMap<String, i64>,
}

impl Load {
    pub(super) fn add(&mut self, (resources, kernels): &(Resources, i64), holding: &Holding) {
        self.used.add(resources);
        self.count(*kernels, holding, 1);
    }

    pub(super) fn is_empty(&self) -> bool {
        [self.sessions, self.private, self.foreign_pods] == [0; 3] && self.used.is_zero() && self.deployments.is_empty()
    }

    pub(super) fn sub(&mut self, (resources, kernels): &(Resources, i64), holding: &Holding) {
        self.used.sub(resources);
        self.count(*kernels, holding, -1);
    }

    fn count(&mut self, kernels: i64, holding: &Holding, sign: i64) {
        self.sessions += sign;
        self.private += if holding.private { sign } else { 0 };
        if let Some(deployment) = &holding.deployment {
            let count = self.deployments.entry(deployment.clone()).or_default();
            *count += sign * kernels;
            if *count == 0 {
                self.deployments.remove(deployment);
            }
        }
    }
}

/// Adds a user of these volume claims, or removes one with `sign` −1.
pub(super) fn count_claims(users: &mut HashMap<ClaimKey, i64>, claims: &BTreeSet<ClaimKey>, sign: i64) {
    for claim in claims {
        let count = users.entry(claim.clone()).or_default();
        *count += sign;
        if *count == 0 {
            users.remove(claim);
        }
    }
}
