//! The session's keypair, user, project and domain exist and are active.

use super::{Check, Context, Subject, Validator};
use crate::api::LABEL_PROJECT;
use crate::lifecycle::Reason;
use crate::provisioner::refusal::Blocker;
use crate::views::Inactive;

pub static VALIDATOR: Validator = Validator { name: "owner", check: Check::EquivalenceClass(check) };

fn check(context: &Context<'_>, subject: &Subject<'_>) -> Vec<Blocker> {
    let inactive = context.tenancy.inactive(&subject.class.access_key, &subject.class.namespace);
    inactive.into_iter().map(blocker).collect()
}

fn blocker(Inactive { object, reason, message }: Inactive) -> Blocker {
    let needs = match reason {
        Reason::NamespaceWithoutProject => format!("the label {LABEL_PROJECT} on {object}, with the project's name"),
        Reason::KeypairNotFound | Reason::UserNotFound | Reason::ProjectNotFound | Reason::DomainNotFound => {
            format!("{object} to be created")
        }
        _ => format!("{object} to be activated"),
    };
    Blocker::hold(VALIDATOR.name, reason, message).of(object).needing(needs)
}
