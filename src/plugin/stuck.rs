//! Replicas that do not serve: those whose session waits in the queue, and what the others report. Pure.

use chrono::{DateTime, Utc};
use kube::ResourceExt;

use super::finding::{Finding, Seen, is_waiting};
use super::table::age;
use super::target::arguments;
use crate::api::{Cause, Reason, Route, Session, SessionPhase, WhenNoCapacity};
use crate::lifecycle::created_at;

/// The most replicas that one finding names.
const MAX_SHOWN: usize = 3;

/// The first lines, and how many follow.
pub fn shown(lines: impl Iterator<Item = String>) -> Vec<String> {
    let mut lines: Vec<String> = lines.collect();
    let more = lines.len().saturating_sub(MAX_SHOWN);
    lines.truncate(MAX_SHOWN);
    if more > 0 {
        lines.push(format!("and {more} more: kubectl sokovan tree lists all"));
    }
    lines
}

/// A replica, its phase, and the last message about it.
pub fn replica(seen: &Seen<'_>, route: &Route) -> String {
    let progress = route.status.clone().unwrap_or_default().progress;
    let since = age(progress.phase_started_at.or_else(|| created_at(route)), seen.now);
    let mut text = format!("{} (revision {}): {} for {since}", route.name_any(), route.spec.revision, progress.phase);
    // While its session starts, a route has nothing of its own to say.
    let session = seen.session(route).filter(|session| session.phase() != SessionPhase::Running);
    let (reason, message) = match session {
        Some(session) => {
            text.push_str(&format!(", session {}", session.phase()));
            let status = session.status.clone().unwrap_or_default();
            (status.reason, status.progress.message)
        }
        None => (progress.reason, progress.message),
    };
    if let Some(reason) = reason {
        text.push_str(&format!(": {reason}: {}", message.unwrap_or_default()));
    }
    if let Some(warning) = seen.parts.warnings.get(&route.spec.session) {
        text.push_str(&format!("; the last warning: {warning}"));
    }
    text
}

fn reason(session: &Session) -> Option<Reason> {
    session.status.as_ref()?.reason
}

/// Whether a session lacks free resources or quota.
fn lacks_room(session: &Session) -> bool {
    let cause = session.status.as_ref().and_then(|status| status.history.last()).and_then(|last| last.cause);
    matches!(cause, Some(Cause::Capacity | Cause::Quota)) || reason(session) == Some(Reason::NoAvailableNode)
}

/// Replicas whose sessions wait in the queue: a finding for each reason, the most frequent first.
pub fn no_room(seen: &Seen<'_>) -> Vec<Finding> {
    let mut waiting: Vec<&Session> = seen.sessions().filter(|session| is_waiting(session)).collect();
    waiting.sort_by_key(|session| (created_at(*session), session.name_any()));
    let mut by_reason: Vec<Vec<&Session>> = vec![];
    for session in waiting {
        match by_reason.iter_mut().find(|group| group.first().and_then(|first| reason(first)) == reason(session)) {
            Some(group) => group.push(session),
            None => by_reason.push(vec![session]),
        }
    }
    by_reason.sort_by_key(|group| std::cmp::Reverse(group.len()));
    by_reason.iter().filter_map(|group| of_one_reason(seen, group)).collect()
}

fn of_one_reason(seen: &Seen<'_>, sessions: &[&Session]) -> Option<Finding> {
    let first = sessions.first()?;
    let (count, desired) = (sessions.len(), seen.desired());
    let new = seen.status.rollout.as_ref().and(seen.status.deploying_revision);
    let of_new =
        |route: &Route| Some(route.spec.revision) == new && sessions.iter().any(|one| one.name_any() == route.spec.session);
    let revision = new.filter(|_| seen.counted().any(of_new)).map_or_else(String::new, |new| format!(" of revision {new}"));
    let what = match lacks_room(first) {
        true => format!("no room for {count} of {desired} replicas{revision}"),
        false => format!("{count} of {desired} replicas{revision} wait in the queue"),
    };
    let remedy = match (new, seen.deployment.spec.strategy.rolling.when_no_capacity) {
        (Some(_), WhenNoCapacity::Wait) if lacks_room(first) => {
            "add nodes, or set strategy.rolling.whenNoCapacity to ReplaceInPlace"
        }
        _ => "evaluated on every change",
    };
    let next = format!("{remedy}; its place in the queue: kubectl sokovan explain session/{}", arguments(*first));
    Some(Finding { what, since: waits_since(first), details: details(first), next })
}

fn waits_since(session: &Session) -> Option<DateTime<Utc>> {
    session.status.as_ref().and_then(|status| status.phase_started_at).or_else(|| created_at(session))
}

/// Why a session waits, what would have to change, and what the nodes lack.
fn details(session: &Session) -> Vec<String> {
    let status = session.status.clone().unwrap_or_default();
    let reason = status.reason.map_or("", Reason::as_str);
    let mut details = vec![format!("session {}: {reason}: {}", session.name_any(), status.message.clone().unwrap_or_default())];
    let Some(waiting) = status.waiting else { return details };
    details.extend(
        waiting.blockers.iter().map(|blocker| format!("{} ({}) needs: {}", blocker.check, blocker.reason, blocker.needs)),
    );
    if let Some(nodes) = waiting.nodes {
        let reasons: Vec<String> = nodes.reasons.iter().map(|reason| format!("{} {}", reason.nodes, reason.reason)).collect();
        details.push(format!("of {} nodes: {}", nodes.total, reasons.join("; ")));
    }
    details
}
