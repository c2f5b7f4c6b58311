//! Which sessions that a namespace's ResourceQuota refused would be let in now. Pure.

use std::collections::BTreeMap;

use crate::api::{Amount, Resources, Session, SessionUid, requested};
use crate::views::QuotaView;

/// A session's demand on a quota when its pods are created.
pub struct Demand {
    pub uid: SessionUid,
    resources: Resources,
    kernels: i64,
}

impl Demand {
    /// `overhead` is what the RuntimeClass adds to each pod.
    pub fn of(uid: SessionUid, session: &Session, overhead: &Resources) -> Self {
        let kernels = session.spec.kernels.iter().map(|kernel| i64::from(kernel.replicas)).sum();
        let mut resources = requested(session);
        resources.add(&overhead.times(kernels));
        Self { uid, resources, kernels }
    }

    /// How much of what a quota counts by this name.
    fn amount(&self, counted: &str) -> Amount {
        let shared = Amount::from_units(i64::from(self.kernels > 1));
        match counted {
            "pods" | "count/pods" => Amount::from_units(self.kernels),
            "services" | "count/services" | "secrets" | "count/secrets" => shared,
            _ => self.resources.get(counted.trim_start_matches("requests.").trim_start_matches("limits.")),
        }
    }
}

/// The waiting sessions that the quotas have room for, one after the other, in their order.
pub fn admitted(quotas: &[&QuotaView], waiting: Vec<Demand>) -> Vec<SessionUid> {
    let mut left: Vec<BTreeMap<&str, Amount>> =
        quotas.iter().filter(|quota| !quota.is_scoped).map(|quota| left_of(quota)).collect();
    let mut admitted = vec![];
    for demand in waiting {
        let fits = |counted: &str, left: Amount| demand.amount(counted).is_zero() || demand.amount(counted) <= left;
        if left.iter().all(|quota| quota.iter().all(|(counted, left)| fits(counted, *left))) {
            for quota in &mut left {
                quota.iter_mut().for_each(|(counted, left)| *left = left.saturating_sub(demand.amount(counted)));
            }
            admitted.push(demand.uid);
        }
    }
    admitted
}

fn left_of(quota: &QuotaView) -> BTreeMap<&str, Amount> {
    let used = |counted: &str| quota.used.get(counted).copied().unwrap_or_default();
    quota.hard.iter().map(|(counted, hard)| (counted.as_str(), hard.saturating_sub(used(counted)))).collect()
}

/// How many sessions are considered at most when a quota changes.
pub const MAX_CONSIDERED: usize = 1000;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::session::handlers::testing::{gang, session};

    fn quota(hard: &[(&str, i64)], used: &[(&str, i64)]) -> QuotaView {
        let amounts = |list: &[(&str, i64)]| list.iter().map(|(name, n)| ((*name).to_owned(), Amount::from_units(*n))).collect();
        QuotaView { hard: amounts(hard), used: amounts(used), is_scoped: false }
    }

    fn let_in(quota: &QuotaView, specs: &[serde_json::Value]) -> Vec<String> {
        let demand = |(n, spec): (usize, &serde_json::Value)| {
            Demand::of(SessionUid(n.to_string()), &session(spec.clone()), &Resources::default())
        };
        let waiting = specs.iter().enumerate().map(demand).collect();
        admitted(&[quota], waiting).into_iter().map(|uid| uid.0).collect()
    }

    #[test]
    fn as_many_are_let_in_as_the_quota_has_room_for_and_smaller_ones_pass() {
        let specs = [json!({}), gang(), json!({})];
        assert_eq!(let_in(&quota(&[("pods", 2)], &[]), &specs), ["0", "2"], "a gang of three does not fit");
        assert_eq!(let_in(&quota(&[("pods", 20)], &[("pods", 16)]), &specs), ["0", "1"]);
        assert!(let_in(&quota(&[("pods", 4)], &[("pods", 4)]), &specs).is_empty());
        assert_eq!(let_in(&quota(&[("requests.cpu", 1), ("limits.cpu", 9)], &[]), &specs), ["0"]);
        assert_eq!(let_in(&quota(&[("services", 0)], &[]), &specs), ["0", "2"], "only a gang needs a Service");
        assert_eq!(let_in(&quota(&[("persistentvolumeclaims", 0)], &[]), &specs), ["0", "1", "2"]);
    }
}
