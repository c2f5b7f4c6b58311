//! The limits of a session's time: its own, and those of its tenants' policies. Pure.

use std::sync::Arc;

use super::holding::account_of;
use crate::api::{ResourcePolicy, ResourcePolicySpec, Session};
use crate::views::{Tenancy, Tenant};

/// Returns the shortest of a session's own limit and those of its tenants' policies, and whose it is. A replica has none: its
/// deployment decides when it ends.
pub fn shortest(
    tenancy: &Tenancy,
    session: &Session,
    own: Option<i64>,
    of_policy: impl Fn(&ResourcePolicySpec) -> Option<i64>,
) -> Option<(i64, String)> {
    if session.deployment_uid().is_some() {
        return None;
    }
    let own = own.map(|seconds| (seconds, "the session".to_owned()));
    let policies = policies(tenancy, session).filter_map(|(tenant, policy)| Some((of_policy(&policy.spec)?, tenant.to_string())));
    own.into_iter().chain(policies).min_by_key(|(seconds, _)| *seconds)
}

/// Returns the policies of a session's tenants.
pub fn policies(tenancy: &Tenancy, session: &Session) -> impl Iterator<Item = (Tenant, Arc<ResourcePolicy>)> {
    let tenants = tenancy.tenants_of(&account_of(session));
    tenants.into_iter().filter_map(|tenant| {
        let policy = tenancy.policy_of(&tenant).ok().flatten()?;
        Some((tenant, policy))
    })
}
