//! Who waits in a scaling group, as its status tells it: how many, by priority and reason, and since when. Pure.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::snapshot::created_at;
use super::views::AgentView;
use crate::api::{ScalingGroup, ScalingGroupStatus, Session, WaitingByPriority, WaitingByReason};
use crate::provisioner::in_group;

/// The status of a group; what it says besides stays as it is.
pub fn status<'w>(
    group: &ScalingGroup,
    agents: impl Iterator<Item = &'w AgentView>,
    waiting: impl Iterator<Item = &'w Session>,
    running: i64,
) -> ScalingGroupStatus {
    let mut status =
        ScalingGroupStatus { sessions_running: running, conditions: conditions(group), ..ScalingGroupStatus::default() };
    for agent in agents.filter(|agent| in_group(agent, group)) {
        status.agents += 1;
        status.agents_ready += i64::from(agent.takes_pods());
    }
    let mut by_priority: BTreeMap<Reverse<i32>, i64> = BTreeMap::new();
    let mut by_reason: BTreeMap<&str, i64> = BTreeMap::new();
    for session in waiting {
        status.sessions_pending += 1;
        *by_priority.entry(Reverse(session.priority())).or_default() += 1;
        let reason = session.status.as_ref().and_then(|status| status.reason.as_deref());
        *by_reason.entry(reason.unwrap_or("new")).or_default() += 1;
        status.oldest_waiting_since = [status.oldest_waiting_since, created_at(session)].into_iter().flatten().min();
    }
    let priority = |(Reverse(priority), sessions)| WaitingByPriority { priority, sessions };
    status.waiting_by_priority = by_priority.into_iter().map(priority).collect();
    let reason = |(reason, sessions): (&str, i64)| WaitingByReason { reason: reason.to_owned(), sessions };
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
    use crate::session::handlers::testing::{agent, session};

    #[test]
    fn those_who_wait_are_counted_by_priority_and_reason() {
        let group = ScalingGroup::new("g", serde_json::from_value(json!({})).expect("a group"));
        let mut down = agent("b", 4);
        down.ready = false;
        let agents = [agent("a", 4), down];
        let mut quota = session(json!({"priority": 50}));
        quota.status = Some(crate::api::SessionStatus { reason: Some("quota-exceeded".into()), ..Default::default() });
        let waiting = [session(json!({})), quota.clone(), quota];
        let status = status(&group, agents.iter(), waiting.iter(), 7);
        assert_eq!((status.agents, status.agents_ready, status.sessions_running, status.sessions_pending), (2, 1, 7, 3));
        let by_priority: Vec<_> = status.waiting_by_priority.iter().map(|w| (w.priority, w.sessions)).collect();
        assert_eq!(by_priority, [(50, 2), (10, 1)]);
        let by_reason: Vec<_> = status.waiting_by_reason.iter().map(|w| (w.reason.as_str(), w.sessions)).collect();
        assert_eq!(by_reason, [("new", 1), ("quota-exceeded", 2)]);
    }
}
