//! `explain`: why a session is in its state, and what would have to change.

use std::fmt;

use chrono::{DateTime, Utc};
use kube::ResourceExt;
use serde::Serialize;

use super::queue::{Place, place};
use super::table::{age, clock};
use crate::api::{HistoryResult, Reason, ScalingGroup, Session, SessionPhase, SessionResult, Waiting};
use crate::lifecycle::created_at;
use crate::lifecycle::printable;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    namespace: String,
    name: String,
    phase: SessionPhase,
    since: Option<DateTime<Utc>>,
    reason: Option<Reason>,
    message: Option<String>,
    result: Option<SessionResult>,
    place: Option<Place>,
    waiting: Option<Waiting>,
    /// The ready nodes and all nodes of its scaling group now.
    nodes_ready: Option<(i64, i64)>,
    attempts: i32,
    /// None while the session only waits for another session or for sessions of higher priority.
    next_attempt_at: Option<DateTime<Utc>>,
    kernels_ready: Option<String>,
    nodes: Option<String>,
    #[serde(skip)]
    now: DateTime<Utc>,
}

pub fn view(session: &Session, group: Option<&ScalingGroup>, sessions: &[Session], now: DateTime<Utc>) -> Explanation {
    let status = session.status.clone().unwrap_or_default();
    let progress = status.progress;
    let group = group.filter(|_| progress.phase == SessionPhase::Pending);
    // A skipped session has no next attempt, except at its start time.
    let skipped = progress.history.last().is_some_and(|last| last.result == HistoryResult::Skipped);
    let next_attempt_at = if skipped { session.spec.starts_at } else { progress.next_attempt_at };
    Explanation {
        namespace: session.namespace().unwrap_or_default(),
        name: session.name_any(),
        phase: progress.phase,
        since: progress.phase_started_at.or_else(|| created_at(session)),
        reason: progress.reason,
        message: progress.message,
        result: status.result,
        place: group.and_then(|group| place(session, group, sessions)),
        waiting: status.waiting,
        nodes_ready: group.and_then(|group| group.status.as_ref()).map(|status| (status.nodes_ready, status.nodes)),
        attempts: progress.attempts,
        next_attempt_at,
        kernels_ready: status.kernels_ready,
        nodes: status.nodes,
        now,
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = age(self.since, self.now);
        writeln!(f, "{}/{} has been {} for {since}{}", self.namespace, self.name, self.phase, result(self.result))?;
        if let Some(place) = &self.place {
            writeln!(f, "place in the queue: {place}")?;
        }
        if let Some(reason) = &self.reason {
            writeln!(f, "reason: {reason}: {}", printable(self.message.as_deref().unwrap_or_default()))?;
        }
        for blocker in self.waiting.iter().flat_map(|waiting| &waiting.blockers) {
            writeln!(f, "  {} ({}) needs: {}", blocker.check, blocker.reason, printable(&blocker.needs))?;
        }
        if let Some(nodes) = self.waiting.as_ref().and_then(|waiting| waiting.nodes.as_ref()) {
            writeln!(f, "  of {} nodes:", nodes.total)?;
            for reason in &nodes.reasons {
                writeln!(f, "    {:>4}  {}", reason.nodes, printable(&reason.reason))?;
            }
        }
        if let Some(waiting) = &self.waiting {
            writeln!(f, "evaluated {} ago; re-evaluated on every change", age(Some(waiting.evaluated_at), self.now))?;
        }
        if let Some((ready, nodes)) = self.nodes_ready {
            writeln!(f, "nodes of its scaling group ready now: {ready} of {nodes}")?;
        }
        if let Some(next) = self.next_attempt_at.filter(|next| *next > self.now) {
            writeln!(f, "attempts: {}; next retry at {}", self.attempts, clock(next, self.now))?;
        }
        if let Some(nodes) = &self.nodes {
            writeln!(f, "kernels running: {} on {nodes}", self.kernels_ready.as_deref().unwrap_or("?"))?;
        }
        Ok(())
    }
}

fn result(result: Option<SessionResult>) -> String {
    result.map_or_else(String::new, |result| format!(", with result {result:?}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::session::handlers::testing::{group, now, session};

    fn at(second: u32) -> String {
        format!("1970-01-01T00:59:{second:02}Z")
    }

    #[test]
    fn a_waiting_session_is_shown_with_what_would_have_to_change_and_its_next_retry() {
        let mut session = session(json!({}));
        let waiting = json!({
            "evaluatedAt": at(50),
            "blockers": [{"check": "nodes", "reason": "NoAvailableNode", "needs": "free resources on a node"}],
            "nodes": {"total": 40, "reasons": [{"nodes": 12, "reason": "cpu 3 of 4 needed"}, {"nodes": 8, "reason": "not ready"}]},
        });
        let status = json!({
            "phase": "Pending", "phaseStartedAt": at(30), "reason": "NoAvailableNode", "message": "no \u{1b}[2Jnode",
            "waiting": waiting, "attempts": 2, "nextAttemptAt": "1970-01-01T01:02:00Z",
        });
        session.status = Some(serde_json::from_value(status).expect("a status"));
        let mut group = group(json!({}));
        group.status = Some(serde_json::from_value(json!({"nodesReady": 32, "nodes": 40})).expect("a status"));
        let text = view(&session, Some(&group), std::slice::from_ref(&session), now()).to_string();
        let wanted = [
            "ns/s has been Pending for 30s",
            "place in the queue: 1 of 1",
            "reason: NoAvailableNode: no  [2Jnode",
            "  nodes (NoAvailableNode) needs: free resources on a node",
            "  of 40 nodes:",
            "      12  cpu 3 of 4 needed",
            "       8  not ready",
            "evaluated 10s ago; re-evaluated on every change",
            "nodes of its scaling group ready now: 32 of 40",
            "attempts: 2; next retry at 01:02:00",
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), wanted);
    }

    #[test]
    fn an_ended_session_is_shown_with_its_result_and_reason_only() {
        let mut session = session(json!({}));
        let status = json!({
            "phase": "Terminated", "phaseStartedAt": at(30), "result": "Error", "reason": "NodeLost", "message": "node a is lost",
            "nodes": "a", "kernelsReady": "0/1",
        });
        session.status = Some(serde_json::from_value(status).expect("a status"));
        let group = group(json!({}));
        let text = view(&session, Some(&group), &[], now()).to_string();
        let wanted = [
            "ns/s has been Terminated for 30s, with result Error",
            "reason: NodeLost: node a is lost",
            "kernels running: 0/1 on a",
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), wanted);
    }
}
