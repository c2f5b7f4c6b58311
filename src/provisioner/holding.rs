//! What sessions hold: on nodes, and for their tenants.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::api::{Amount, NodeName, ResourceName, Resources, whole};
use crate::views::{Account, ClaimKey};

/// What one session holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Holding {
    pub account: Account,
    pub private: bool,
    /// Whether it counts as one of its owner's running sessions.
    pub active: bool,
    /// The volume claims it mounts.
    pub claims: BTreeSet<ClaimKey>,
    /// The uid of the deployment whose replica it is.
    pub deployment: Option<String>,
    /// Per node, what it takes there and with how many kernels.
    pub nodes: BTreeMap<NodeName, (Resources, i64)>,
}

impl Holding {
    /// What covers both: of each node the larger of the two.
    pub fn with(mut self, other: &Self) -> Self {
        for (node, (taken, kernels)) in &other.nodes {
            let (sum, count) = self.nodes.entry(node.clone()).or_default();
            *sum = sum.max(taken);
            *count = (*count).max(*kernels);
        }
        self.active |= other.active;
        self.private |= other.private;
        self.claims.extend(other.claims.iter().cloned());
        self
    }

    /// Whether it has anything that `other` has not.
    pub(super) fn exceeds(&self, other: Option<&Self>) -> bool {
        let Some(other) = other else { return true };
        (self.active && !other.active)
            || self
                .nodes
                .iter()
                .any(|(node, (taken, _))| other.nodes.get(node).is_none_or(|(kept, _)| kept.lacking(taken).is_some()))
    }

    pub(super) fn occupied(&self) -> Occupied {
        let mut resources = Resources::default();
        for (taken, _) in self.nodes.values() {
            resources.add(taken);
        }
        resources.set(ResourceName::Pods, Amount::ZERO);
        let sessions = i64::from(self.active);
        let volumes = if self.active { whole(self.claims.len()) } else { 0 };
        Occupied { resources, sessions, private_sessions: if self.private { sessions } else { 0 }, volumes }
    }
}

/// What a tenant occupies.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Occupied {
    pub resources: Resources,
    pub sessions: i64,
    /// How many of these are private.
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

    pub(super) fn is_nothing(&self) -> bool {
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

/// What is taken on a node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Load {
    pub used: Resources,
    /// Of it, what does not become free.
    pub permanent: Resources,
    /// How many sessions hold something here, and how many of these are private.
    pub sessions: i64,
    pub private: i64,
    /// Foreign pods other than those of DaemonSets and static ones.
    pub foreign_pods: i64,
    /// How many kernels of each deployment are here, where there are any.
    pub deployments: BTreeMap<String, i64>,
}

impl Load {
    pub(super) fn add(&mut self, (taken, kernels): &(Resources, i64), holding: &Holding) {
        self.used.add(taken);
        self.count(*kernels, holding, 1);
    }

    pub(super) fn is_nothing(&self) -> bool {
        [self.sessions, self.private, self.foreign_pods] == [0; 3] && self.used.is_zero() && self.deployments.is_empty()
    }

    pub(super) fn sub(&mut self, (taken, kernels): &(Resources, i64), holding: &Holding) {
        self.used.sub(taken);
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

/// Counts users of volume claims in, or out with `sign` −1.
pub(super) fn count_claims(users: &mut HashMap<ClaimKey, i64>, claims: &BTreeSet<ClaimKey>, sign: i64) {
    for claim in claims {
        let count = users.entry(claim.clone()).or_default();
        *count += sign;
        if *count == 0 {
            users.remove(claim);
        }
    }
}
