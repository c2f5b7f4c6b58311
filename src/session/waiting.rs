//! How a refusal is told in a session's status: what stands against it, and what would have to change. Pure.

use chrono::{DateTime, Utc};

use crate::api::{Amount, Waiting, WaitingBlocker, WaitingNodeReason, WaitingNodes, whole};
use crate::lifecycle::{Cause, Reason, truncate};
use crate::provisioner::{Blocker, Refusal};

/// Most blockers told.
const MAX_BLOCKERS: usize = 16;
/// Most bytes of what would have to change.
const MAX_NEEDS: usize = 400;

/// A refusal as a status tells it.
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
    let told = |blocker| told(blocker, nodes.as_ref());
    Waiting { evaluated_at: now, blockers: refusal.blockers.iter().take(MAX_BLOCKERS).map(told).collect(), nodes }
}

fn told(blocker: &Blocker, nodes: Option<&WaitingNodes>) -> WaitingBlocker {
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

/// What would have to change.
fn needs(blocker: &Blocker, nodes: Option<&WaitingNodes>) -> String {
    let mut words = blocker.needs.clone().unwrap_or_else(|| derived(blocker, nodes));
    truncate(&mut words, MAX_NEEDS);
    words
}

/// The same, from what blocks and by how much.
fn derived(blocker: &Blocker, nodes: Option<&WaitingNodes>) -> String {
    let object = blocker.object.as_deref().unwrap_or("its owner");
    match (blocker.cause, &blocker.numbers, blocker.reason) {
        (Some(Cause::Quota), Some(numbers), _) => {
            let total = numbers.used.saturating_add(numbers.requested);
            let free = total.saturating_sub(numbers.limit).max(Amount::ZERO);
            let what = numbers.resource.as_ref().map_or("sessions", |name| name.as_str());
            if numbers.requested > numbers.limit {
                format!("the limit of {object} raised to {total} {what}: the session alone exceeds it")
            } else {
                format!("{free} {what} given back by others of {object}, or its limit raised to {total}")
            }
        }
        (Some(Cause::Hold), _, Reason::NoAvailableNode) => match nodes.filter(|nodes| nodes.total > 0) {
            Some(nodes) => {
                format!(
                    "nodes that are not ready, cordoned or tainted ({} of {}) to come back, or nodes added",
                    nodes.closed, nodes.total
                )
            }
            None => "nodes added to the scaling group".into(),
        },
        (Some(Cause::Capacity), ..) => "room on a node: other sessions ending, or nodes added to the group".into(),
        (_, _, Reason::DependencyPending) => format!("{object} to end with Success"),
        (_, _, Reason::DependencyMissing) => format!("{object} to be created, and to end with Success"),
        (_, _, Reason::NotYetDue) => "its time to come".into(),
        (_, _, Reason::BehindPriority) => "those of higher priority to be placed".into(),
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
    fn a_quota_says_how_much_is_missing_and_whether_waiting_can_help() {
        assert_eq!(needs(&quota(4, 6, 8), None), "2 cpu given back by others of keypair alice, or its limit raised to 10");
        let alone = needs(&quota(9, 0, 8), None);
        assert_eq!(alone, "the limit of keypair alice raised to 9 cpu: the session alone exceeds it");
    }

    #[test]
    fn other_numbers_say_the_same_and_another_blocker_does_not() {
        let now = DateTime::UNIX_EPOCH;
        let told = |blockers| waiting(&Refusal::of(blockers).expect("a refusal"), now);
        let first = told(vec![quota(4, 6, 8)]);
        assert!(first.says_the_same(&told(vec![quota(4, 7, 8)])));
        let missing = Blocker::fault("policies", Reason::PolicyNotFound, "no such policy").of("user bob");
        let both = told(vec![quota(4, 6, 8), missing]);
        assert!(!first.says_the_same(&both));
        assert_eq!(both.blockers[0].reason, Reason::PolicyNotFound, "faults come first");
    }
}
