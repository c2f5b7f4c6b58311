//! Turns a refusal into `status.waiting` of a session: its blockers, and the change that would remove each. Pure.

use chrono::{DateTime, Utc};

use crate::api::{Amount, Waiting, WaitingBlocker, WaitingNodeReason, WaitingNodes, whole};
use crate::lifecycle::{Cause, Reason, truncate};
use crate::provisioner::{Blocker, Refusal};

/// The largest number of blockers in a status.
const MAX_BLOCKERS: usize = 16;
/// The largest `needs`, in bytes.
const MAX_NEEDS: usize = 400;

/// Returns a refusal in the form of a status.
pub fn waiting(refusal: &Refusal, now: DateTime<Utc>) -> Waiting {
    let nodes = refusal.nodes.as_ref().map(|counts| {
        let reason = |(reason, count): &(String, usize)| {
            let mut reason = reason.clone();
            truncate(&mut reason, 128);
            WaitingNodeReason { reason, nodes: whole(*count) }
        };
        WaitingNodes {
            total: whole(counts.total),
            closed: whole(counts.closed),
            reasons: counts.reasons.iter().map(reason).collect(),
        }
    });
    let blockers = refusal.blockers.iter().take(MAX_BLOCKERS).map(|blocker| reported(blocker, nodes.as_ref())).collect();
    Waiting { evaluated_at: now, blockers, nodes }
}

fn reported(blocker: &Blocker, nodes: Option<&WaitingNodes>) -> WaitingBlocker {
    let numbers = blocker.numbers.as_ref();
    WaitingBlocker {
        check: blocker.validator.into(),
        reason: blocker.reason,
        object: blocker.object.clone(),
        resource: numbers.and_then(|numbers| numbers.resource.as_ref()).map(ToString::to_string),
        requested: numbers.map(|numbers| numbers.requested.into()),
        used: numbers.map(|numbers| numbers.used.into()),
        limit: numbers.map(|numbers| numbers.limit.into()),
        needs: needs(blocker, nodes),
    }
}

/// Returns the change that would remove the blocker, in the validator's words if it has any.
fn needs(blocker: &Blocker, nodes: Option<&WaitingNodes>) -> String {
    let mut needs = blocker.needs.clone().unwrap_or_else(|| derived_needs(blocker, nodes));
    truncate(&mut needs, MAX_NEEDS);
    needs
}

/// Derives the change from the blocker's reason and numbers.
fn derived_needs(blocker: &Blocker, nodes: Option<&WaitingNodes>) -> String {
    let object = blocker.object.as_deref().unwrap_or("its owner");
    match (blocker.cause, &blocker.numbers, blocker.reason) {
        (Some(Cause::Quota), Some(numbers), _) => {
            let total = numbers.used.saturating_add(numbers.requested);
            let free = total.saturating_sub(numbers.limit).max(Amount::ZERO);
            let what = numbers.resource.as_ref().map_or("sessions", |name| name.as_str());
            if numbers.requested > numbers.limit {
                format!("the limit of {object} raised to {total} {what}: the session alone exceeds it")
            } else {
                format!("{free} {what} freed by other sessions of {object}, or its limit raised to {total}")
            }
        }
        (Some(Cause::Hold), _, Reason::NoAvailableNode) => match nodes.filter(|nodes| nodes.total > 0) {
            Some(nodes) => {
                format!(
                    "a node back in service ({} of {} are cordoned, tainted or not ready), or a node added",
                    nodes.closed, nodes.total
                )
            }
            None => "nodes added to the scaling group".into(),
        },
        (Some(Cause::Capacity), ..) => {
            "free resources on a node: other sessions ending, or nodes added to the scaling group".into()
        }
        (_, _, Reason::DependencyPending) => format!("{object} to end with Success"),
        (_, _, Reason::DependencyMissing) => format!("{object} to be created, and to end with Success"),
        (_, _, Reason::NotYetDue) => "its start time to be reached".into(),
        (_, _, Reason::BehindPriority) => "sessions of higher priority to get their nodes".into(),
        (Some(Cause::Fault), Some(numbers), _) => {
            format!("a smaller session, or the limit of {object} raised to {}", numbers.used.saturating_add(numbers.requested))
        }
        _ => blocker.message.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ResourceName;

    fn quota(requested: i64, used: i64, limit: i64) -> Blocker {
        let units = Amount::from_units;
        Blocker::new("quota", Cause::Quota, Reason::QuotaExceeded, "over quota").of("keypair alice").counting(
            Some(ResourceName::Cpu),
            units(requested),
            units(used),
            units(limit),
        )
    }

    #[test]
    fn needs_of_a_quota_name_the_missing_amount_or_the_limit_that_the_session_alone_exceeds() {
        assert_eq!(needs(&quota(4, 6, 8), None), "2 cpu freed by other sessions of keypair alice, or its limit raised to 10");
        let alone = needs(&quota(9, 0, 8), None);
        assert_eq!(alone, "the limit of keypair alice raised to 9 cpu: the session alone exceeds it");
    }

    #[test]
    fn other_numbers_are_the_same_report_and_another_blocker_is_not() {
        let now = DateTime::UNIX_EPOCH;
        let report = |blockers| waiting(&Refusal::of(blockers).expect("a refusal"), now);
        let first = report(vec![quota(4, 6, 8)]);
        assert!(first.says_the_same(&report(vec![quota(4, 7, 8)])));
        let missing = Blocker::fault("policies", Reason::PolicyNotFound, "no such policy").of("user bob");
        let both = report(vec![quota(4, 6, 8), missing]);
        assert!(!first.says_the_same(&both));
        assert_eq!(both.blockers[0].reason, Reason::PolicyNotFound, "faults come first");
    }
}
