//! The SessionTemplate that a session names exists, and the session fits it.

use super::{Candidate, Check, Context, Validator};
use crate::lifecycle::{Cause, Reason};
use crate::provisioner::refusal::Blocker;

pub static VALIDATOR: Validator = Validator { name: "template", check: Check::Waiting(check) };

fn check(_: &Context<'_>, candidate: &Candidate<'_>) -> Vec<Blocker> {
    let Some((reason, message)) = candidate.template_problem else { return vec![] };
    let needs = if *reason == Reason::TemplateNotFound { "the SessionTemplate" } else { "a session that fits its template" };
    vec![Blocker::new(VALIDATOR.name, Cause::Hold, *reason, message.clone()).needing(needs)]
}
