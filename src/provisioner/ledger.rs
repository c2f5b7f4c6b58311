//! The ledger: the usage of every node and every tenant, updated as objects change.

use std::collections::HashMap;
use std::sync::Arc;

use super::holding::{Holding, Load, Occupied, count_claims};
use super::ledger_snapshot::LedgerSnapshot;
use crate::api::{GroupName, NodeName, Resources, SessionUid};
use crate::views::{Account, Tenancy, Tenant};
use crate::views::{ClaimKey, ForeignPod, Lifetime};

/// The usage of all nodes and tenants.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    loads: HashMap<NodeName, Load>,
    holdings: HashMap<SessionUid, Arc<Holding>>,
    by_account: HashMap<Account, Occupied>,
    /// The number of pods and sessions that use each volume claim.
    claim_users: HashMap<ClaimKey, i64>,
    cursors: HashMap<GroupName, NodeName>,
}

impl Ledger {
    /// Replaces a session's holding; None if it holds nothing any more. Returns true if that frees resources.
    pub fn set_holding(&mut self, uid: &SessionUid, holding: Option<Holding>) -> bool {
        if self.holdings.get(uid).map(|old| &**old) == holding.as_ref() {
            return false;
        }
        let freed = self.holdings.get(uid).is_some_and(|old| old.exceeds(holding.as_ref()));
        if let Some(old) = self.holdings.remove(uid) {
            let occupied = old.occupied();
            if let Some(sum) = self.by_account.get_mut(&old.account) {
                sum.sub(&occupied);
                if sum.is_empty() {
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

    /// Adds a foreign pod, or removes it with `sign` −1.
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

    /// Node names do not repeat on clusters that scale, so entries of removed nodes would accumulate.
    fn forget_if_empty(&mut self, node: &NodeName) {
        if self.loads.get(node).is_some_and(Load::is_empty) {
            self.loads.remove(node);
        }
    }

    /// Returns a copy for one cycle. It sums the usage of accounts by the tenants that it counts for.
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

    /// Keeps the round-robin cursors as a cycle left them.
    pub fn keep_cursors(&mut self, snapshot: LedgerSnapshot) {
        self.cursors.extend(snapshot.cursors);
    }

    pub fn holding(&self, uid: &SessionUid) -> Option<&Arc<Holding>> {
        self.holdings.get(uid)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::api::Amount;
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
    fn holdings_and_foreign_pods_are_added_and_removed() {
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
    fn a_session_that_moves_holds_both_nodes() {
        let both = holding("old", 2).with(&holding("new", 3)).with(&holding("new", 1));
        let cpu_of = |node: &str| both.nodes.get(&node.into()).map(|(held, _)| held.get("cpu"));
        assert_eq!((cpu_of("old"), cpu_of("new")), (Some(Amount::from_units(2)), Some(Amount::from_units(3))));
    }

    #[test]
    fn usage_counts_for_the_tenants_at_admission_even_when_they_are_gone() {
        let owner = SessionOwner { user: Some("alice".into()), project: Some("p".into()), domain: Some("d".into()) };
        let account = Account { owner: Some(owner), ..holding("n", 8).account };
        let mut ledger = Ledger::default();
        ledger.set_holding(&SessionUid("a".into()), Some(Holding { account, ..holding("n", 8) }));
        let snapshot = ledger.snapshot(&Tenancy::default());
        for tenant in [Tenant::User("alice".into()), Tenant::Project("p".into()), Tenant::Domain("d".into())] {
            assert_eq!(snapshot.occupied(&tenant, None).resources.get("cpu"), Amount::from_units(8), "{tenant}");
        }
        ledger.set_holding(&SessionUid("a".into()), None);
        assert!(ledger.by_account.is_empty(), "an account without usage is removed");
    }

    #[test]
    fn a_sessions_own_holding_is_excluded_from_its_tenants_usage() {
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
