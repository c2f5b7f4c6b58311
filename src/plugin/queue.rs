//! `queue`: who waits in a scaling group, in order.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::fmt;

use chrono::{DateTime, Utc};
use kube::ResourceExt;
use serde::Serialize;

use super::table::{age, table};
use crate::api::{
    GroupName, Reason, ScalingGroup, ScalingGroupStatus, SequencerName, Session, SessionPhase, WaitingByPriority,
    WaitingByReason, whole,
};
use crate::lifecycle::created_at;

/// The queues of some groups.
#[derive(Serialize)]
pub struct Queues(Vec<Queue>);

/// One group's queue.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Queue {
    group: Option<String>,
    /// Whether there is no such group.
    missing: bool,
    /// What the group tells; None where its user may not read it, and so places cannot be told.
    told: Option<Told>,
    /// Those its user may see, highest priority first, then as the group's sequencer has it.
    visible: Vec<Waiting>,
    #[serde(skip)]
    now: DateTime<Utc>,
}

#[derive(Serialize)]
struct Told {
    sequencer: SequencerName,
    status: ScalingGroupStatus,
}

#[derive(Serialize)]
struct Waiting {
    place: Option<Place>,
    namespace: String,
    name: String,
    priority: i32,
    since: Option<DateTime<Utc>>,
    reason: Reason,
    message: String,
}

/// Which place a session has: exact only where all of its priority can be seen, and do not come in order of what they use.
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

/// Those who wait in a group, as far as they can be seen, in order; and what the group tells of all of them.
struct Line<'s> {
    sequencer: SequencerName,
    visible: Vec<&'s Session>,
    told: Vec<WaitingByPriority>,
}

impl<'s> Line<'s> {
    fn new(name: Option<&str>, group: Option<&ScalingGroup>, sessions: &'s [Session]) -> Self {
        let sequencer = group.map(|group| group.spec.sequencer).unwrap_or_default();
        let mut visible: Vec<&Session> = sessions.iter().filter(|session| waits(session) && group_of(session) == name).collect();
        visible.sort_by_cached_key(|session| (created_at(*session), session.namespace(), session.name_any()));
        if sequencer == SequencerName::Lifo {
            visible.sort_by_key(|session| Reverse(created_at(*session)));
        }
        visible.sort_by_key(|session| Reverse(session.priority()));
        let status = group.and_then(|group| group.status.clone()).unwrap_or_default();
        Self { sequencer, visible, told: status.waiting_by_priority }
    }

    /// Which place one of the visible has.
    fn place(&self, at: usize) -> Place {
        let own = self.visible[at].priority();
        let begin = self.visible.partition_point(|other| other.priority() > own);
        let equals = self.visible.partition_point(|other| other.priority() >= own) - begin;
        let count = |wanted: &dyn Fn(i32) -> bool, seen: usize| {
            let told: i64 = self.told.iter().filter(|waiting| wanted(waiting.priority)).map(|waiting| waiting.sessions).sum();
            // What can be seen may be newer than what is told.
            told.max(whole(seen))
        };
        let (above, band) = (count(&|other| other > own, begin), count(&|other| other == own, equals));
        // Who has the smallest share is not known here.
        let (before, after) = match self.sequencer {
            SequencerName::Fifo | SequencerName::Lifo => (whole(at - begin), whole(begin + equals - at) - 1),
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

/// The place of a session that waits, from what its group tells and what can be seen.
pub fn place(session: &Session, group: &ScalingGroup, sessions: &[Session]) -> Option<Place> {
    let line = Line::new(Some(&group.name_any()), Some(group), sessions);
    let at = line.visible.iter().position(|other| other.uid() == session.uid())?;
    Some(line.place(at))
}

/// The queue of the group that was asked for, or of all; without groups, of those that sessions name.
pub fn view(asked: Option<&str>, groups: Option<&[ScalingGroup]>, sessions: &[Session], now: DateTime<Utc>) -> Queues {
    if let Some(groups) = groups {
        let there: BTreeSet<String> = groups.iter().map(ResourceExt::name_any).collect();
        let is_missing = |name: &Option<&str>| name.is_none_or(|name| !there.contains(name));
        let strays: BTreeSet<Option<&str>> = match asked {
            Some(_) => BTreeSet::new(),
            None => sessions.iter().filter(|session| waits(session)).map(group_of).filter(is_missing).collect(),
        };
        let strays = strays.into_iter().map(|name| Queue { missing: true, ..queue(name, None, sessions, now) });
        let queues = groups.iter().map(|group| queue(Some(&group.name_any()), Some(group), sessions, now));
        return Queues(queues.chain(strays).collect());
    }
    let named: BTreeSet<Option<&str>> = match asked {
        Some(name) => BTreeSet::from([Some(name)]),
        None => sessions.iter().filter(|session| session.group().is_some() || waits(session)).map(group_of).collect(),
    };
    Queues(named.into_iter().map(|name| queue(name, None, sessions, now)).collect())
}

fn queue(name: Option<&str>, group: Option<&ScalingGroup>, sessions: &[Session], now: DateTime<Utc>) -> Queue {
    let line = Line::new(name, group, sessions);
    let waiting = |(at, session): (usize, &&Session)| {
        let status = session.status.clone().unwrap_or_default();
        Waiting {
            place: group.map(|_| line.place(at)),
            namespace: session.namespace().unwrap_or_default(),
            name: session.name_any(),
            priority: session.priority(),
            since: created_at(*session),
            reason: status.reason.unwrap_or(Reason::NotEvaluated),
            message: status.progress.message.unwrap_or_default(),
        }
    };
    Queue {
        group: name.map(str::to_owned),
        missing: false,
        told: group.map(|group| Told { sequencer: group.spec.sequencer, status: group.status.clone().unwrap_or_default() }),
        visible: line.visible.iter().enumerate().map(waiting).collect(),
        now,
    }
}

impl Queue {
    fn heading(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(group) = &self.group else {
            return writeln!(f, "no scaling group: these sessions name none, and none takes them");
        };
        if self.missing {
            return writeln!(f, "{group}: there is no such scaling group");
        }
        let Some(Told { sequencer, status }) = &self.told else {
            return writeln!(f, "{group}: you may not read this scaling group, so places cannot be told");
        };
        writeln!(
            f,
            "{} ({sequencer:?}): {} waiting, {} running, {} of {} nodes ready, the oldest waits for {}",
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

impl fmt::Display for Queues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for queue in &self.0 {
            queue.heading(f)?;
            let row = |w: &Waiting| {
                let (place, priority) = (w.place.map_or("?".to_owned(), |place| place.to_string()), w.priority.to_string());
                vec![
                    place,
                    w.namespace.clone(),
                    w.name.clone(),
                    priority,
                    age(w.since, queue.now),
                    w.reason.to_string(),
                    w.message.clone(),
                ]
            };
            if !queue.visible.is_empty() {
                let rows: Vec<_> = queue.visible.iter().map(row).collect();
                f.write_str(&table(&["PLACE", "NAMESPACE", "NAME", "PRIORITY", "AGE", "REASON", "MESSAGE"], &rows))?;
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
    fn a_place_is_exact_where_all_can_be_seen_and_a_range_where_not() {
        let mut group = group(json!({}));
        let told = json!({"waitingByPriority": [{"priority": 50, "sessions": 3}, {"priority": 10, "sessions": 4}]});
        group.status = Some(serde_json::from_value(told).expect("a status"));
        let sessions = [waiting("a", 10), waiting("b", 10), waiting("c", 50)];
        assert_eq!(place(&sessions[1], &group, &sessions), Some(Place { first: 5, last: 7, of: 7 }));
        group.status = None;
        assert_eq!(place(&sessions[1], &group, &sessions).map(|place| place.to_string()).as_deref(), Some("3 of 3"));
    }

    #[test]
    fn those_who_wait_are_told_by_reason_and_cause() {
        let mut group = group(json!({}));
        let told = |cause| json!({"reason": "NoAvailableNode", "cause": cause, "sessions": 2});
        let status = json!({"waitingByReason": [{"reason": "NotYetDue", "sessions": 1}, told("Capacity"), told("Fault")]});
        group.status = Some(serde_json::from_value(status).expect("a status"));
        let text = view(None, Some(&[group]), &[], DateTime::UNIX_EPOCH).to_string();
        let wanted = "\n  1 NotYetDue, 2 NoAvailableNode (Capacity), 2 NoAvailableNode (Fault)\n";
        assert!(text.contains(wanted), "{text}");
    }

    #[test]
    fn a_place_follows_the_groups_sequencer_and_is_the_whole_priority_where_shares_decide() {
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
    fn those_who_name_a_group_that_does_not_exist_are_shown_and_told_so() {
        let sessions = [waiting("a", 10)];
        let text = view(None, Some(&[]), &sessions, DateTime::UNIX_EPOCH).to_string();
        assert!(text.contains("default: there is no such scaling group") && text.contains(" a "), "{text}");
    }

    #[test]
    fn without_the_right_to_read_groups_the_queue_shows_whom_it_can_and_no_place() {
        let sessions = [waiting("a", 10)];
        let Queues(queues) = view(Some("default"), None, &sessions, DateTime::UNIX_EPOCH);
        assert_eq!((queues.len(), queues[0].visible.len(), queues[0].visible[0].place), (1, 1, None));
        let text = Queues(queues).to_string();
        assert!(text.contains("you may not read this scaling group") && text.contains('?'), "{text}");
    }
}
