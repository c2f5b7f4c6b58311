//! Every resource policy that is referred to exists: without it nobody could say what is allowed.

use super::{Check, Context, Subject, Validator};
use crate::provisioner::refusal::Blocker;

pub static VALIDATOR: Validator = Validator { name: "policies", check: Check::EquivalenceClass(check) };

fn check(context: &Context<'_>, subject: &Subject<'_>) -> Vec<Blocker> {
    let missing = |tenant: &crate::views::Tenant| {
        let failure = context.tenancy.policy_of(tenant).err()?;
        let needs = format!("that resource policy to be created, or another one named by {tenant}");
        Some(Blocker::hold(VALIDATOR.name, failure.reason, failure.message).of(tenant.to_string()).needing(needs))
    };
    // One that was found need not be looked for again.
    let unknown = subject.tenants.iter().filter(|(_, policy)| policy.is_none());
    unknown.filter_map(|(tenant, _)| missing(tenant)).collect()
}
