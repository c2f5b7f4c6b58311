//! Every volume claim that a session mounts is there, in its namespace, and allows what it is mounted for.

use super::{Check, Context, Subject, Validator};
use crate::lifecycle::Reason;
use crate::provisioner::refusal::Blocker;
use crate::session::volumes::Mount;

pub static VALIDATOR: Validator = Validator { name: "claims", check: Check::Kind(check) };

fn check(context: &Context<'_>, subject: &Subject<'_>) -> Vec<Blocker> {
    subject.kind.mounts.iter().filter_map(|mount| blocker(context, mount)).collect()
}

fn blocker(context: &Context<'_>, Mount { claim, read_only }: &Mount) -> Option<Blocker> {
    let (name, namespace) = (&claim.name, &claim.namespace);
    let (reason, message) = match context.tenancy.claims.get(claim) {
        None => (Reason::VolumeClaimNotFound, format!("volume claim {name} does not exist in namespace {namespace}")),
        Some(view) if view.deleting => (Reason::VolumeClaimNotFound, format!("volume claim {name} is being deleted")),
        Some(view) if view.read_only && !read_only => {
            (Reason::VolumeReadOnly, format!("volume claim {name} is for reading only, and is mounted for writing"))
        }
        Some(_) => return None,
    };
    Some(Blocker::fault(VALIDATOR.name, reason, message).of(format!("volume claim {name}")))
}
