//! A copy of the ledger for one cycle. It counts the cycle's own allocations at once.

use std::collections::HashMap;

use super::holding::{Holding, Load, Occupied, count_claims};
use crate::api::{GroupName, NodeName};
use crate::views::ClaimKey;
use crate::views::Tenant;

/// A session's own holding, and the tenants that it counts for.
pub struct Own<'h> {
    pub holding: &'h Holding,
    pub tenants: Vec<Tenant>,
}

/// The usage of all nodes and tenants in one cycle.
#[derive(Clone, Debug, Default)]
pub struct LedgerSnapshot {
    pub(super) loads: HashMap<NodeName, Load>,
    pub(super) tenants: HashMap<Tenant, Occupied>,
    pub(super) claim_users: HashMap<ClaimKey, i64>,
    /// The node that round robin chose last in each scaling group.
    pub cursors: HashMap<GroupName, NodeName>,
}

impl LedgerSnapshot {
    pub fn load(&self, node: &NodeName) -> Option<&Load> {
        self.loads.get(node)
    }

    /// Returns a tenant's usage.
    pub fn tenant(&self, tenant: &Tenant) -> Occupied {
        self.tenants.get(tenant).cloned().unwrap_or_default()
    }

    /// Returns a tenant's usage without a session's own holding.
    pub fn occupied(&self, tenant: &Tenant, own: Option<&Own<'_>>) -> Occupied {
        let mut occupied = self.tenant(tenant);
        if let Some(own) = own.filter(|own| own.tenants.contains(tenant)) {
            occupied.sub(&own.holding.occupied());
        }
        occupied
    }

    /// Returns how many pods and sessions use a volume claim, without a session's own use.
    pub fn claim_users(&self, claim: &ClaimKey, own: Option<&Own<'_>>) -> i64 {
        let users = self.claim_users.get(claim).copied().unwrap_or_default();
        users - i64::from(own.is_some_and(|own| own.holding.claims.contains(claim)))
    }

    /// Subtracts a session's holding from its tenants' usage. The usage of its nodes stays.
    pub fn give_back(&mut self, own: &Own<'_>) {
        let occupied = own.holding.occupied();
        for tenant in &own.tenants {
            if let Some(sum) = self.tenants.get_mut(tenant) {
                sum.sub(&occupied);
            }
        }
    }

    /// Adds the allocation of a session of these tenants.
    pub fn take<'t>(&mut self, tenants: impl IntoIterator<Item = &'t Tenant>, holding: &Holding) {
        let occupied = holding.occupied();
        for tenant in tenants {
            match self.tenants.get_mut(tenant) {
                Some(sum) => sum.add(&occupied),
                None => _ = self.tenants.insert(tenant.clone(), occupied.clone()),
            }
        }
        count_claims(&mut self.claim_users, &holding.claims, 1);
        for (node, share) in &holding.nodes {
            match self.loads.get_mut(node) {
                Some(load) => load.add(share, holding),
                None => self.loads.entry(node.clone()).or_default().add(share, holding),
            }
        }
    }
}
