//! Keypair, user, project and domain exist and are active.

use super::{Check, Context, Subject, Validator};
use crate::provisioner::refusal::Blocker;

pub static VALIDATOR: Validator = Validator { name: "owner", check: Check::Kind(check) };

fn check(context: &Context<'_>, subject: &Subject<'_>) -> Vec<Blocker> {
    let inactive = context.tenancy.inactive(&subject.kind.access_key, &subject.kind.namespace);
    let blocker = |failure: crate::lifecycle::Failure| Blocker::fault(VALIDATOR.name, failure.reason, failure.message);
    inactive.into_iter().map(blocker).collect()
}
