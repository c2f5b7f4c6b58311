//! Every resource policy that a tenant names exists. Without it, the tenant's limits are unknown.

use super::{Check, Context, Subject, Validator};
use crate::provisioner::refusal::Blocker;

pub static VALIDATOR: Validator = Validator { name: "policies", check: Check::EquivalenceClass(check) };

fn check(context: &Context<'_>, subject: &Subject<'_>) -> Vec<Blocker> {
    let missing = |tenant: &crate::views::Tenant| {
        let failure = context.tenancy.policy_of(tenant).err()?;
        let needs = format!("that resource policy to be created, or another one named by {tenant}");
        Some(Blocker::hold(VALIDATOR.name, failure.reason, failure.message).of(tenant.to_string()).needing(needs))
    };
    // A policy that was found need not be looked up again.
    let without_policy = subject.tenants.iter().filter(|(_, policy)| policy.is_none());
    without_policy.filter_map(|(tenant, _)| missing(tenant)).collect()
}
