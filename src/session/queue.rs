//! The status of a scaling group: its pending sessions by priority and by reason, and the age of the oldest. Pure.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::api::{Cause, Reason, ScalingGroup, ScalingGroupStatus, Session, WaitingByPriority, WaitingByReason};
use crate::lifecycle::{created_at, last_attempt};
use crate::provisioner::in_group;
use crate::views::NodeView;

/// Why a session waits, as its status reports it: the reason, and the cause if it is a failure.
type Why = (Option<Reason>, Option<Cause>);

fn why(session: &Session) -> Why {
    let Some(status) = &session.status else { return (None, None) };
    let last = last_attempt(&status.history).filter(|last| last.error_code == status.reason);
    (status.reason, last.and_then(|last| last.cause))
}

/// Returns the keys by which a pending session is counted.
pub fn counted_by(session: &Session) -> (i32, Why) {
    (session.priority(), why(session))
}

/// Returns the next status of a scaling group. Its conditions stay as they are.
pub fn status<'w>(
    group: &ScalingGroup,
    nodes: impl Iterator<Item = &'w NodeView>,
    waiting: impl Iterator<Item = &'w Session>,
    running: i64,
) -> ScalingGroupStatus {
    let mut status =
        ScalingGroupStatus { sessions_running: running, conditions: conditions(group), ..ScalingGroupStatus::default() };
    for node in nodes.filter(|node| in_group(node, group)) {
        status.nodes += 1;
        status.nodes_ready += i64::from(node.takes_pods());
    }
    let mut by_priority: BTreeMap<Reverse<i32>, i64> = BTreeMap::new();
    let mut by_reason: BTreeMap<Why, i64> = BTreeMap::new();
    for session in waiting {
        status.sessions_pending += 1;
        let (priority, why) = counted_by(session);
        *by_priority.entry(Reverse(priority)).or_default() += 1;
        *by_reason.entry(why).or_default() += 1;
        status.oldest_waiting_since = [status.oldest_waiting_since, created_at(session)].into_iter().flatten().min();
    }
    let priority = |(Reverse(priority), sessions)| WaitingByPriority { priority, sessions };
    status.waiting_by_priority = by_priority.into_iter().map(priority).collect();
    let reason = |((reason, cause), sessions): (Why, i64)| WaitingByReason {
        reason: reason.unwrap_or(Reason::NotEvaluated),
        cause,
        sessions,
    };
    status.waiting_by_reason = by_reason.into_iter().map(reason).collect();
    status
}

fn conditions(group: &ScalingGroup) -> Vec<crate::api::Condition> {
    group.status.as_ref().map(|status| status.conditions.clone()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::session::handlers::testing::{node, now, session};

    #[test]
    fn pending_sessions_are_counted_by_priority_and_reason() {
        let group = ScalingGroup::new("g", serde_json::from_value(json!({})).expect("a group"));
        let mut down = node("b", 4);
        down.ready = false;
        let nodes = [node("a", 4), down];
        let reported = |spec, reason: &str, cause: Option<&str>| {
            let mut session = session(spec);
            let result = if cause.is_some() { "NeedRetry" } else { "Skipped" };
            let entry = json!({"handler": "schedule-sessions", "result": result, "from": "Pending", "to": "Pending",
                               "errorCode": reason, "cause": cause, "attempts": 1, "createdAt": now(), "updatedAt": now()});
            session.status = serde_json::from_value(json!({"reason": reason, "history": [entry]})).expect("a status");
            session
        };
        let quota = reported(json!({"priority": 50}), "QuotaExceeded", Some("Quota"));
        let unfit = reported(json!({}), "NoAvailableNode", Some("Fault"));
        let full = reported(json!({}), "NoAvailableNode", Some("Capacity"));
        let behind = reported(json!({}), "BehindPriority", None);
        let waiting = [session(json!({})), quota.clone(), quota, full.clone(), unfit, full, behind];
        let status = status(&group, nodes.iter(), waiting.iter(), 7);
        assert_eq!((status.nodes, status.nodes_ready, status.sessions_running, status.sessions_pending), (2, 1, 7, 7));
        let by_priority: Vec<_> = status.waiting_by_priority.iter().map(|w| (w.priority, w.sessions)).collect();
        assert_eq!(by_priority, [(50, 2), (10, 5)]);
        let by_reason: Vec<_> = status.waiting_by_reason.iter().map(|w| (w.reason.as_str(), w.cause, w.sessions)).collect();
        let expected = [
            ("NotEvaluated", None, 1),
            ("NoAvailableNode", Some(Cause::Capacity), 2),
            ("NoAvailableNode", Some(Cause::Fault), 1),
            ("QuotaExceeded", Some(Cause::Quota), 2),
            ("BehindPriority", None, 1),
        ];
        assert_eq!(by_reason, expected);
    }
}
