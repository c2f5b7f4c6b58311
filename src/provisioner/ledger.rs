//! What is taken: on every node, and by every tenant. Kept up as objects change.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::ledger_snapshot::LedgerSnapshot;
use crate::api::{Amount, GroupName, NodeName, ResourceName, Resources, SessionUid, whole};
use crate::views::{Account, Tenancy, Tenant};
use crate::views::{ClaimKey, ForeignPod, Lifetime};

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
    fn exceeds(&self, other: Option<&Self>) -> bool {
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

    fn is_nothing(&self) -> bool {
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

    fn is_nothing(&self) -> bool {
        [self.sessions, self.private, self.foreign_pods] == [0; 3] && self.used.is_zero() && self.deployments.is_empty()
    }

    fn sub(&mut self, (taken, kernels): &(Resources, i64), holding: &Holding) {
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

/// What is taken, everywhere.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    loads: HashMap<NodeName, Load>,
    holdings: HashMap<SessionUid, Arc<Holding>>,
    by_account: HashMap<Account, Occupied>,
    /// How many pods and sessions use each volume claim.
    claim_users: HashMap<ClaimKey, i64>,
    cursors: HashMap<GroupName, NodeName>,
}

impl Ledger {
    /// A session's holding as it is now, None when it holds nothing any more. True if it gave something back.
    pub fn set_holding(&mut self, uid: &SessionUid, holding: Option<Holding>) -> bool {
        if self.holdings.get(uid).map(|old| &**old) == holding.as_ref() {
            return false;
        }
        let freed = self.holdings.get(uid).is_some_and(|old| old.exceeds(holding.as_ref()));
        if let Some(old) = self.holdings.remove(uid) {
            let occupied = old.occupied();
            if let Some(sum) = self.by_account.get_mut(&old.account) {
                sum.sub(&occupied);
                if sum.is_nothing() {
                    self.by_account.remove(&old.account);
                }
            }
            count_claims(&mut self.claim_users, &old.claims, -1);
            for (node, share) in &old.nodes {
                if let Some(load) = self.loads.get_mut(node) {
                    load.sub(share, &old);
                }
                self.forget_if_empty(node);
            }
        }
        if let Some(new) = holding {
            let occupied = new.occupied();
            self.by_account.entry(new.account.clone()).or_default().add(&occupied);
            count_claims(&mut self.claim_users, &new.claims, 1);
            for (node, share) in &new.nodes {
                self.loads.entry(node.clone()).or_default().add(share, &new);
            }
            self.holdings.insert(uid.clone(), Arc::new(new));
        }
        freed
    }

    /// Counts a foreign pod in, or out with `sign` −1.
    pub fn count_foreign(&mut self, pod: &ForeignPod, sign: i64) {
        count_claims(&mut self.claim_users, &pod.claims, sign.signum());
        let load = self.loads.entry(pod.node.clone()).or_default();
        let count = |sum: &mut Resources| if sign >= 0 { sum.add(&pod.requests) } else { sum.sub(&pod.requests) };
        count(&mut load.used);
        if pod.lifetime == Lifetime::Permanent {
            count(&mut load.permanent);
        }
        load.foreign_pods += if pod.lifetime == Lifetime::Transient { sign.signum() } else { 0 };
        self.forget_if_empty(&pod.node);
    }

    /// Nodes come and go by names that never repeat.
    fn forget_if_empty(&mut self, node: &NodeName) {
        if self.loads.get(node).is_some_and(Load::is_nothing) {
            self.loads.remove(node);
        }
    }

    /// What is taken, for one cycle, with tenants' usage summed by whom it counts for.
    pub fn snapshot(&self, tenancy: &Tenancy) -> LedgerSnapshot {
        let mut tenants: HashMap<Tenant, Occupied> = HashMap::new();
        for (account, occupied) in &self.by_account {
            for tenant in tenancy.tenants_of(account) {
                tenants.entry(tenant).or_default().add(occupied);
            }
        }
        LedgerSnapshot {
            loads: self.loads.clone(),
            tenants,
            claim_users: self.claim_users.clone(),
            cursors: self.cursors.clone(),
        }
    }

    /// Where round robin goes on, as a cycle left it.
    pub fn keep_cursors(&mut self, snapshot: LedgerSnapshot) {
        self.cursors.extend(snapshot.cursors);
    }

    /// What one session holds.
    pub fn holding(&self, uid: &SessionUid) -> Option<&Arc<Holding>> {
        self.holdings.get(uid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::SessionOwner;
    use crate::provisioner::Own;

    fn cpu(units: i64) -> Resources {
        let mut resources = Resources::default();
        resources.set("cpu", Amount::from_units(units));
        resources
    }

    fn holding(node: &str, units: i64) -> Holding {
        Holding {
            account: Account { namespace: "ns".into(), access_key: "key".into(), owner: None },
            active: true,
            nodes: BTreeMap::from([(node.into(), (cpu(units), 1))]),
            ..Holding::default()
        }
    }

    #[test]
    fn holdings_and_foreign_pods_add_up_and_go_again() {
        let mut ledger = Ledger::default();
        let (a, b) = (SessionUid("a".into()), SessionUid("b".into()));
        ledger.set_holding(&a, Some(holding("n", 2)));
        ledger.set_holding(&a, Some(holding("n", 3)));
        ledger.set_holding(&b, Some(holding("n", 1)));
        let foreign = ForeignPod { node: "n".into(), requests: cpu(4), ..ForeignPod::default() };
        ledger.count_foreign(&foreign, 1);
        assert_eq!(ledger.loads.get(&"n".into()).map(|l| l.used.get("cpu")), Some(Amount::from_units(8)));
        ledger.set_holding(&a, None);
        ledger.count_foreign(&foreign, -1);
        assert_eq!(ledger.loads.get(&"n".into()).map(|l| l.used.get("cpu")), Some(Amount::from_units(1)));
    }

    #[test]
    fn while_a_place_changes_hands_both_are_held() {
        let both = holding("old", 2).with(&holding("new", 3)).with(&holding("new", 1));
        let cpu_of = |node: &str| both.nodes.get(&node.into()).map(|(taken, _)| taken.get("cpu"));
        assert_eq!((cpu_of("old"), cpu_of("new")), (Some(Amount::from_units(2)), Some(Amount::from_units(3))));
    }

    #[test]
    fn usage_counts_for_those_it_was_admitted_under_whatever_becomes_of_them() {
        let owner = SessionOwner { user: Some("alice".into()), project: Some("p".into()), domain: Some("d".into()) };
        let account = Account { owner: Some(owner), ..holding("n", 8).account };
        let mut ledger = Ledger::default();
        ledger.set_holding(&SessionUid("a".into()), Some(Holding { account, ..holding("n", 8) }));
        let snapshot = ledger.snapshot(&Tenancy::default());
        for tenant in [Tenant::User("alice".into()), Tenant::Project("p".into()), Tenant::Domain("d".into())] {
            assert_eq!(snapshot.occupied(&tenant, None).resources.get("cpu"), Amount::from_units(8), "{tenant}");
        }
        ledger.set_holding(&SessionUid("a".into()), None);
        assert!(ledger.by_account.is_empty(), "what nobody uses is forgotten");
    }

    #[test]
    fn a_sessions_own_holding_is_left_out_of_what_is_occupied() {
        let mut ledger = Ledger::default();
        let (a, b) = (SessionUid("a".into()), SessionUid("b".into()));
        ledger.set_holding(&a, Some(holding("n", 2)));
        ledger.set_holding(&b, Some(holding("n", 1)));
        let snapshot = ledger.snapshot(&Tenancy::default());
        let tenant = Tenant::Keypair("key".into());
        let own = ledger.holding(&a).map(|own| Own { holding: own, tenants: vec![tenant.clone()] });
        assert_eq!(snapshot.occupied(&tenant, own.as_ref()).resources.get("cpu"), Amount::from_units(1));
        assert_eq!(snapshot.occupied(&tenant, None).sessions, 2);
    }
}
