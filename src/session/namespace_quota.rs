//! Selects the sessions refused by a namespace's ResourceQuota that it would admit now. Pure.

use std::collections::BTreeMap;

use crate::api::{Amount, Resources, Session, SessionUid, requested};
use crate::views::QuotaView;

/// A session's demand on a ResourceQuota when its pods are created.
pub struct Demand {
    pub uid: SessionUid,
    resources: Resources,
    kernels: i64,
}

impl Demand {
    /// Returns the demand of a session. `overhead` is the amount that the RuntimeClass adds to each pod.
    pub fn of(uid: SessionUid, session: &Session, overhead: &Resources) -> Self {
        let kernels = session.spec.kernels.iter().map(|kernel| i64::from(kernel.replicas)).sum();
        let mut resources = requested(session);
        resources.add(&overhead.times(kernels));
        Self { uid, resources, kernels }
    }

    /// Returns the amount that a ResourceQuota counts under this name.
    fn amount(&self, counted: &str) -> Amount {
        let shared = Amount::from_units(i64::from(self.kernels > 1));
        match counted {
            "pods" | "count/pods" => Amount::from_units(self.kernels),
            "services" | "count/services" | "secrets" | "count/secrets" => shared,
            _ => self.resources.get(counted.trim_start_matches("requests.").trim_start_matches("limits.")),
        }
    }
}

/// Returns the waiting sessions that fit into all ResourceQuotas, in order. Each admitted session counts for the next.
pub fn admitted(quotas: &[&QuotaView], waiting: Vec<Demand>) -> Vec<SessionUid> {
    let mut remaining: Vec<BTreeMap<&str, Amount>> =
        quotas.iter().filter(|quota| !quota.is_scoped).map(|quota| remaining_in(quota)).collect();
    let mut admitted = vec![];
    for demand in waiting {
        let fits = |counted: &str, left: Amount| demand.amount(counted).is_zero() || demand.amount(counted) <= left;
        if remaining.iter().all(|quota| quota.iter().all(|(counted, left)| fits(counted, *left))) {
            for quota in &mut remaining {
                quota.iter_mut().for_each(|(counted, left)| *left = left.saturating_sub(demand.amount(counted)));
            }
            admitted.push(demand.uid);
        }
    }
    admitted
}

fn remaining_in(quota: &QuotaView) -> BTreeMap<&str, Amount> {
    let used = |counted: &str| quota.used.get(counted).copied().unwrap_or_default();
    quota.hard.iter().map(|(counted, hard)| (counted.as_str(), hard.saturating_sub(used(counted)))).collect()
}

/// The largest number of sessions evaluated when a ResourceQuota changes.
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

    fn admitted_by(quota: &QuotaView, specs: &[serde_json::Value]) -> Vec<String> {
        let demand = |(n, spec): (usize, &serde_json::Value)| {
            Demand::of(SessionUid(n.to_string()), &session(spec.clone()), &Resources::default())
        };
        let waiting = specs.iter().enumerate().map(demand).collect();
        admitted(&[quota], waiting).into_iter().map(|uid| uid.0).collect()
    }

    #[test]
    fn sessions_are_admitted_until_the_quota_is_full_and_smaller_ones_pass_larger_ones() {
        let specs = [json!({}), gang(), json!({})];
        assert_eq!(admitted_by(&quota(&[("pods", 2)], &[]), &specs), ["0", "2"], "a gang of three does not fit");
        assert_eq!(admitted_by(&quota(&[("pods", 20)], &[("pods", 16)]), &specs), ["0", "1"]);
        assert!(admitted_by(&quota(&[("pods", 4)], &[("pods", 4)]), &specs).is_empty());
        assert_eq!(admitted_by(&quota(&[("requests.cpu", 1), ("limits.cpu", 9)], &[]), &specs), ["0"]);
        assert_eq!(admitted_by(&quota(&[("services", 0)], &[]), &specs), ["0", "2"], "only a gang needs a Service");
        assert_eq!(admitted_by(&quota(&[("persistentvolumeclaims", 0)], &[]), &specs), ["0", "1", "2"]);
    }
}
