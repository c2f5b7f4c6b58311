//! Checks a session against its tenants' limits on waiting sessions.

use crate::api::{Amount, ResourceList, ResourceName, Resources};
use crate::views::Tenant;

/// The waiting sessions of one tenant that are older than a session, and the tenant's limits on them.
#[derive(Clone, Debug, PartialEq)]
pub struct Ahead {
    pub tenant: Tenant,
    pub sessions: i64,
    pub resources: Resources,
    /// 0 and None mean no limit.
    pub max_sessions: Option<i64>,
    pub max_resources: ResourceList,
}

impl Ahead {
    /// Returns the limit on sessions if as many wait already.
    pub fn full_session_limit(&self) -> Option<i64> {
        self.max_sessions.filter(|limit| *limit > 0 && self.sessions >= *limit)
    }

    /// Returns each resource that would exceed its limit, with the request and the limit.
    pub fn exceeded<'t>(&self, total: &'t Resources) -> impl Iterator<Item = (&'t ResourceName, Amount, Amount)> {
        total.iter().filter_map(|(name, requested)| {
            let limit = self.max_resources.get(name.as_str())?.amount();
            let sum = self.resources.amount(name).saturating_add(requested);
            (sum > limit).then_some((name, requested, limit))
        })
    }

    /// Whether a session with this request stays within the limits.
    pub fn admits(&self, total: &Resources) -> bool {
        self.full_session_limit().is_none() && self.exceeded(total).next().is_none()
    }
}
