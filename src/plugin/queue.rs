//! `queue`: the waiting sessions of a scaling group, in their order.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::fmt;

use chrono::{DateTime, Utc};
use kube::ResourceExt;
use serde::Serialize;

use super::table::{age, table};
use crate::api::{
    AccessKey, GroupName, Reason, ScalingGroup, ScalingGroupStatus, SequencerName, Session, SessionPhase, WaitingByPriority,
    WaitingByReason, requested, whole,
};
use crate::lifecycle::created_at;

/// The queues of some scaling groups.
#[derive(Serialize)]
pub struct Queues(Vec<Queue>);

/// The queue of one scaling group.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Queue {
    group: Option<String>,
    /// Whether the scaling group does not exist.
    missing: bool,
    /// None if the user may not read the scaling group. The places are then unknown.
    state: Option<GroupState>,
    /// The sessions that the user may see: the highest priority first, then in the sequencer's order.
    visible: Vec<Waiting>,
    #[serde(skip)]
    now: DateTime<Utc>,
}

#[derive(Serialize)]
struct GroupState {
    sequencer: SequencerName,
    status: ScalingGroupStatus,
}

#[derive(Serialize)]
struct Waiting {
    place: Option<Place>,
    namespace: String,
    name: String,
    priority: i32,
    keypair: AccessKey,
    /// The sum over its kernels.
    requests: Vec<(String, String)>,
    since: Option<DateTime<Utc>>,
    reason: Reason,
    message: String,
}

/// The place of a session. It is exact only if all sessions of its priority are visible and their order does not depend on
/// usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    pub first: i64,
    pub last: i64,
    pub of: i64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first == self.last {
            true => write!(f, "{} of {}", self.first, self.of),
            false => write!(f, "{}–{} of {}", self.first, self.last, self.of),
        }
    }
}

/// The visible waiting sessions of a scaling group in their order, and the scaling group's counts of all of them.
struct Order<'s> {
    sequencer: SequencerName,
    visible: Vec<&'s Session>,
    counts: Vec<WaitingByPriority>,
}

impl<'s> Order<'s> {
    fn new(name: Option<&str>, group: Option<&ScalingGroup>, sessions: &'s [Session]) -> Self {
        let sequencer = group.map(|group| group.spec.sequencer).unwrap_or_default();
        let mut visible: Vec<&Session> = sessions.iter().filter(|session| waits(session) && group_of(session) == name).collect();
        visible.sort_by_cached_key(|session| (created_at(*session), session.namespace(), session.name_any()));
        if sequencer == SequencerName::Lifo {
            visible.sort_by_key(|session| Reverse(created_at(*session)));
        }
        visible.sort_by_key(|session| Reverse(session.priority()));
        let status = group.and_then(|group| group.status.clone()).unwrap_or_default();
        Self { sequencer, visible, counts: status.waiting_by_priority }
    }

    /// Returns the place of a visible session.
    fn place(&self, index: usize) -> Place {
        let own = self.visible[index].priority();
        let begin = self.visible.partition_point(|other| other.priority() > own);
        let equals = self.visible.partition_point(|other| other.priority() >= own) - begin;
        let count = |wanted: &dyn Fn(i32) -> bool, visible: usize| {
            let counted =
                self.counts.iter().filter(|waiting| wanted(waiting.priority)).map(|waiting| waiting.sessions).sum::<i64>();
            // The visible sessions may be newer than the scaling group's status.
            counted.max(whole(visible))
        };
        let (above, band) = (count(&|other| other > own, begin), count(&|other| other == own, equals));
        // The shares that DRF orders by are not known here.
        let (before, after) = match self.sequencer {
            SequencerName::Fifo | SequencerName::Lifo => (whole(index - begin), whole(begin + equals - index) - 1),
            SequencerName::Drf => (0, 0),
        };
        Place { first: above + before + 1, last: above + band - after, of: count(&|_| true, self.visible.len()) }
    }
}

fn waits(session: &Session) -> bool {
    session.phase() == SessionPhase::Pending
}

fn group_of(session: &Session) -> Option<&str> {
    session.group().map(GroupName::as_str)
}

/// Returns the place of a waiting session, from its scaling group's status and the visible sessions.
pub fn place(session: &Session, group: &ScalingGroup, sessions: &[Session]) -> Option<Place> {
    let order = Order::new(Some(&group.name_any()), Some(group), sessions);
    let index = order.visible.iter().position(|other| other.uid() == session.uid())?;
    Some(order.place(index))
}

/// Returns the queue of the requested scaling group, or of all. If `groups` is None, the scaling groups are those that
/// sessions name.
pub fn view(requested: Option<&str>, groups: Option<&[ScalingGroup]>, sessions: &[Session], now: DateTime<Utc>) -> Queues {
    if let Some(groups) = groups {
        let existing: BTreeSet<String> = groups.iter().map(ResourceExt::name_any).collect();
        let is_missing = |name: &Option<&str>| name.is_none_or(|name| !existing.contains(name));
        let missing: BTreeSet<Option<&str>> = match requested {
            Some(_) => BTreeSet::new(),
            None => sessions.iter().filter(|session| waits(session)).map(group_of).filter(is_missing).collect(),
        };
        let missing = missing.into_iter().map(|name| Queue { missing: true, ..queue(name, None, sessions, now) });
        let queues = groups.iter().map(|group| queue(Some(&group.name_any()), Some(group), sessions, now));
        return Queues(queues.chain(missing).collect());
    }
    let named: BTreeSet<Option<&str>> = match requested {
        Some(name) => BTreeSet::from([Some(name)]),
        None => sessions.iter().filter(|session| session.group().is_some() || waits(session)).map(group_of).collect(),
    };
    Queues(named.into_iter().map(|name| queue(name, None, sessions, now)).collect())
}

fn queue(name: Option<&str>, group: Option<&ScalingGroup>, sessions: &[Session], now: DateTime<Utc>) -> Queue {
    let order = Order::new(name, group, sessions);
    let waiting = |(index, session): (usize, &&Session)| {
        let status = session.status.clone().unwrap_or_default();
        Waiting {
            place: group.map(|_| order.place(index)),
            namespace: session.namespace().unwrap_or_default(),
            name: session.name_any(),
            priority: session.priority(),
            keypair: session.spec.access_key.clone(),
            requests: requested(session).iter().map(|(name, amount)| (name.to_string(), amount.to_string())).collect(),
            since: created_at(*session),
            reason: status.reason.unwrap_or(Reason::NotEvaluated),
            message: status.progress.message.unwrap_or_default(),
        }
    };
    Queue {
        group: name.map(str::to_owned),
        missing: false,
        state: group
            .map(|group| GroupState { sequencer: group.spec.sequencer, status: group.status.clone().unwrap_or_default() }),
        visible: order.visible.iter().enumerate().map(waiting).collect(),
        now,
    }
}

impl Queue {
    fn heading(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(group) = &self.group else {
            return writeln!(f, "no scaling group: these sessions name none, and no scaling group accepts them");
        };
        if self.missing {
            return writeln!(f, "{group}: this scaling group does not exist");
        }
        let Some(GroupState { sequencer, status }) = &self.state else {
            return writeln!(f, "{group}: you may not read this scaling group, so places are unknown");
        };
        writeln!(
            f,
            "{} ({sequencer:?}): {} waiting, {} running, {} of {} nodes ready, the oldest has waited for {}",
            group,
            status.sessions_pending,
            status.sessions_running,
            status.nodes_ready,
            status.nodes,
            age(status.oldest_waiting_since, self.now)
        )?;
        let reason = |w: &WaitingByReason| match w.cause {
            Some(cause) => format!("{} {} ({cause:?})", w.sessions, w.reason),
            None => format!("{} {}", w.sessions, w.reason),
        };
        let reasons: Vec<String> = status.waiting_by_reason.iter().map(reason).collect();
        if reasons.is_empty() { Ok(()) } else { writeln!(f, "  {}", reasons.join(", ")) }
    }
}

impl Queue {
    /// Returns the sessions as a table; `{:#}` adds what they are and request.
    fn table(&self, f: &fmt::Formatter<'_>) -> String {
        let wide = f.alternate();
        let row = |w: &Waiting| {
            let (place, priority) = (w.place.map_or("?".to_owned(), |place| place.to_string()), w.priority.to_string());
            let requests: Vec<String> = w.requests.iter().map(|(name, amount)| format!("{name} {amount}")).collect();
            let own = [place, w.namespace.clone(), w.name.clone(), priority, age(w.since, self.now)];
            let more = [w.keypair.to_string(), requests.join(", ")].into_iter().filter(|_| wide);
            own.into_iter().chain(more).chain([w.reason.to_string(), w.message.clone()]).collect()
        };
        let more = ["KEYPAIR", "REQUESTS"].into_iter().filter(|_| wide);
        let heading = ["PLACE", "NAMESPACE", "NAME", "PRIORITY", "AGE"].into_iter().chain(more).chain(["REASON", "MESSAGE"]);
        table(&heading.collect::<Vec<_>>(), &self.visible.iter().map(row).collect::<Vec<_>>(), f)
    }
}

impl fmt::Display for Queues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for queue in &self.0 {
            queue.heading(f)?;
            if !queue.visible.is_empty() {
                f.write_str(&queue.table(f))?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::session::handlers::testing::{group, session};

    fn waiting(name: &str, priority: i32) -> Session {
        let mut session = session(json!({"priority": priority}));
        session.metadata.name = Some(name.into());
        session.metadata.uid = Some(name.into());
        session
    }

    #[test]
    fn a_place_is_exact_if_all_sessions_are_visible_and_a_range_otherwise() {
        let mut group = group(json!({}));
        let status = json!({"waitingByPriority": [{"priority": 50, "sessions": 3}, {"priority": 10, "sessions": 4}]});
        group.status = Some(serde_json::from_value(status).expect("a status"));
        let sessions = [waiting("a", 10), waiting("b", 10), waiting("c", 50)];
        assert_eq!(place(&sessions[1], &group, &sessions), Some(Place { first: 5, last: 7, of: 7 }));
        group.status = None;
        assert_eq!(place(&sessions[1], &group, &sessions).map(|place| place.to_string()).as_deref(), Some("3 of 3"));
    }

    #[test]
    fn waiting_sessions_are_counted_by_reason_and_cause() {
        let mut group = group(json!({}));
        let with_cause = |cause| json!({"reason": "NoAvailableNode", "cause": cause, "sessions": 2});
        let status =
            json!({"waitingByReason": [{"reason": "NotYetDue", "sessions": 1}, with_cause("Capacity"), with_cause("Fault")]});
        group.status = Some(serde_json::from_value(status).expect("a status"));
        let text = view(None, Some(&[group]), &[], DateTime::UNIX_EPOCH).to_string();
        let wanted = "\n  1 NotYetDue, 2 NoAvailableNode (Capacity), 2 NoAvailableNode (Fault)\n";
        assert!(text.contains(wanted), "{text}");
    }

    #[test]
    fn a_place_follows_the_sequencer_and_spans_the_whole_priority_with_drf() {
        let sessions: Vec<Session> = (0..3)
            .map(|minute| {
                let mut session = waiting(&format!("s{minute}"), 10);
                let time = serde_json::from_value(json!(format!("2026-01-01T00:0{minute}:00Z"))).expect("a time");
                session.metadata.creation_timestamp = Some(time);
                session
            })
            .collect();
        let places = |sequencer| {
            let group = group(json!({"sequencer": sequencer}));
            let place = |session| place(session, &group, &sessions).expect("a place").to_string();
            sessions.iter().map(place).collect::<Vec<_>>()
        };
        assert_eq!(places("FIFO"), ["1 of 3", "2 of 3", "3 of 3"]);
        assert_eq!(places("LIFO"), ["3 of 3", "2 of 3", "1 of 3"]);
        assert_eq!(places("DRF"), ["1–3 of 3"; 3]);
    }

    #[test]
    fn sessions_that_name_a_missing_scaling_group_are_shown_under_its_name() {
        let sessions = [waiting("a", 10)];
        let text = view(None, Some(&[]), &sessions, DateTime::UNIX_EPOCH).to_string();
        assert!(text.contains("default: this scaling group does not exist") && text.contains(" a "), "{text}");
    }

    #[test]
    fn without_permission_to_read_scaling_groups_the_queue_shows_sessions_without_places() {
        let sessions = [waiting("a", 10)];
        let Queues(queues) = view(Some("default"), None, &sessions, DateTime::UNIX_EPOCH);
        assert_eq!((queues.len(), queues[0].visible.len(), queues[0].visible[0].place), (1, 1, None));
        let text = Queues(queues).to_string();
        assert!(text.contains("you may not read this scaling group") && text.contains('?'), "{text}");
    }
}
