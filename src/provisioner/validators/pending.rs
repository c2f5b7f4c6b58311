//! No more sessions wait for a tenant, and for no more resources, than its policy allows: those made first count first,
//! and those beyond the limit are not looked at until some of them are gone.

use super::{Check, Context, Validator};
use crate::api::{Amount, ResourceList, ResourceName, Resources};
use crate::lifecycle::{Cause, Reason};
use crate::provisioner::candidate::Candidate;
use crate::provisioner::refusal::Blocker;
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

pub static VALIDATOR: Validator = Validator { name: "pending", check: Check::Waiting(check) };

fn check(_: &Context<'_>, candidate: &Candidate<'_>) -> Vec<Blocker> {
    let mut found = vec![];
    for ahead in candidate.ahead {
        let tenant = &ahead.tenant;
        let blocker =
            |message| Blocker::new(VALIDATOR.name, Cause::Quota, Reason::PendingLimitExceeded, message).of(tenant.to_string());
        if let Some(count) = ahead.too_many() {
            let message = format!("{tenant} has {} sessions waiting before this one of {count}", ahead.sessions);
            found.push(blocker(message).counting_units(1, ahead.sessions, count));
        }
        for (name, requested, limit) in ahead.beyond(&candidate.class.total) {
            let used = ahead.resources.amount(name);
            let message = format!("{tenant}: {name} {requested} requested, {used} of {limit} waited for already");
            found.push(blocker(message).counting(Some(name.clone()), requested, used, limit));
        }
    }
    found
}
