//! Every volume claim that a session mounts is there, in its namespace, and allows what it is mounted for.

use super::{Check, Context, Subject, Validator};
use crate::lifecycle::{Cause, Reason};
use crate::provisioner::refusal::Blocker;
use crate::session::volumes::Mount;

pub static VALIDATOR: Validator = Validator { name: "claims", check: Check::Kind(check) };

fn check(context: &Context<'_>, subject: &Subject<'_>) -> Vec<Blocker> {
    subject.kind.mounts.iter().filter_map(|mount| blocker(context, mount)).collect()
}

fn blocker(context: &Context<'_>, Mount { claim, read_only }: &Mount) -> Option<Blocker> {
    let (name, namespace) = (&claim.name, &claim.namespace);
    let object = format!("volume claim {name}");
    let hold = |reason, words: String, needs: String| (Cause::Hold, reason, words, needs);
    let (cause, reason, words, needs) = match context.tenancy.claims.get(claim) {
        None => {
            let words = format!("does not exist in namespace {namespace}");
            hold(Reason::VolumeClaimNotFound, words, format!("{object} to be created"))
        }
        Some(view) if view.deleting => {
            hold(Reason::VolumeClaimNotFound, "is being deleted".into(), format!("{object} to be created again once it is gone"))
        }
        Some(view) if view.read_only && !read_only => {
            let words = "is for reading only, and is mounted for writing".into();
            let needs = "readOnly on its mount, or a claim that can be written to".into();
            (Cause::Fault, Reason::VolumeReadOnly, words, needs)
        }
        Some(_) => return None,
    };
    Some(Blocker::new(VALIDATOR.name, cause, reason, format!("{object} {words}")).of(object).needing(needs))
}
