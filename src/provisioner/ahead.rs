//! What waits before a session, for a tenant with a limit on that.

use crate::api::{Amount, ResourceList, ResourceName, Resources};
use crate::views::Tenant;

/// What waits for a tenant before a session, and how much may.
#[derive(Clone, Debug, PartialEq)]
pub struct Ahead {
    pub tenant: Tenant,
    pub sessions: i64,
    pub resources: Resources,
    /// 0 and none are no limit.
    pub max_sessions: Option<i64>,
    pub max_resources: ResourceList,
}

impl Ahead {
    /// The limit of sessions, if as many wait already.
    pub fn too_many(&self) -> Option<i64> {
        self.max_sessions.filter(|limit| *limit > 0 && self.sessions >= *limit)
    }

    /// The resources of which too much would be waited for: how much is asked for, and the limit.
    pub fn beyond<'t>(&self, total: &'t Resources) -> impl Iterator<Item = (&'t ResourceName, Amount, Amount)> {
        total.iter().filter_map(|(name, requested)| {
            let limit = self.max_resources.get(name.as_str())?.amount();
            let sum = self.resources.amount(name).saturating_add(requested);
            (sum > limit).then_some((name, requested, limit))
        })
    }

    /// Whether one that asks for so much may wait besides.
    pub fn admits(&self, total: &Resources) -> bool {
        self.too_many().is_none() && self.beyond(total).next().is_none()
    }
}
