//! Every volume claim that a session mounts exists in its namespace and allows the mount, or is created for it.

use super::{Check, Context, Subject, Validator};
use crate::lifecycle::{Cause, Reason};
use crate::provisioner::refusal::Blocker;
use crate::views::Mount;

pub static VALIDATOR: Validator = Validator { name: "claims", check: Check::EquivalenceClass(check) };

fn check(context: &Context<'_>, subject: &Subject<'_>) -> Vec<Blocker> {
    subject.class.mounts.iter().filter_map(|mount| blocker(context, subject, mount)).collect()
}

fn blocker(context: &Context<'_>, subject: &Subject<'_>, mount: &Mount) -> Option<Blocker> {
    let Mount { claim, read_only, .. } = mount;
    let (name, namespace) = (&claim.name, &claim.namespace);
    let object = format!("volume claim {name}");
    let hold = |reason, problem: String, needs: String| (Cause::Hold, reason, problem, needs);
    let (cause, reason, problem, needs) = match context.tenancy.storage.claims.get(claim) {
        None if mount.created_for.is_some() => return None, // it is created before the kernels
        Some(view) if mount.created_for.is_some() && mount.created_for != view.created_for => hold(
            Reason::VolumeClaimExists,
            "exists already, and was not created for this session".into(),
            format!("{object} to be deleted, or another name of the session"),
        ),
        None => {
            let problem = format!("does not exist in namespace {namespace}");
            hold(Reason::VolumeClaimNotFound, problem, format!("{object} to be created"))
        }
        Some(view) if view.deleting => hold(
            Reason::VolumeClaimNotFound,
            "is being deleted".into(),
            format!("{object} to be created again after its deletion"),
        ),
        Some(view) if view.read_only && !read_only => {
            let problem = "is read-only but mounted for writing".into();
            let needs = "readOnly on its mount, or a writable claim".into();
            (Cause::Fault, Reason::VolumeReadOnly, problem, needs)
        }
        Some(view) if view.volume.is_none() && !context.tenancy.storage.waits_for_pod(view) => {
            hold(Reason::VolumeClaimNotBound, "is not bound to a volume".into(), format!("a volume for {object}"))
        }
        Some(view) if view.is_for_one_pod && mount.kernels > 1 => {
            let problem = format!("allows one pod at a time, but {} kernels mount it", mount.kernels);
            (
                Cause::Fault,
                Reason::VolumeClaimInUse,
                problem,
                "one kernel that mounts it, or a claim with another access mode".into(),
            )
        }
        Some(view) if view.is_for_one_pod && context.ledger.claim_users(claim, subject.own) > 0 => {
            let problem = "allows one pod at a time and is in use".into();
            hold(Reason::VolumeClaimInUse, problem, format!("the pod that uses {object} to end"))
        }
        Some(_) => return None,
    };
    Some(Blocker::new(VALIDATOR.name, cause, reason, format!("{object} {problem}")).of(object).needing(needs))
}
