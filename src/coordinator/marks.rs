//! Which handler should look at which sessions: set by watch events and post-processors, taken by cycles.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::Notify;

use crate::api::{SessionPhase, SessionUid};
use crate::session::handlers::{HANDLERS, HandlerName};

/// What a handler is to look at.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mark {
    /// Everything.
    pub all: bool,
    /// These, if not everything.
    pub sessions: HashSet<SessionUid>,
    /// The marked sessions whose pause is over, because the object that their last failure was about has changed.
    pub urgent: HashSet<SessionUid>,
}

impl Mark {
    pub fn all() -> Self {
        Self { all: true, ..Self::default() }
    }

    pub fn is_empty(&self) -> bool {
        !self.all && self.sessions.is_empty()
    }

    /// These sessions.
    pub fn of(sessions: impl IntoIterator<Item = SessionUid>) -> Self {
        Self { sessions: sessions.into_iter().collect(), ..Self::default() }
    }

    pub fn covers(&self, uid: &SessionUid) -> bool {
        self.all || self.sessions.contains(uid)
    }

    fn merge(&mut self, other: Self) {
        self.all |= other.all;
        self.urgent.extend(other.urgent);
        if self.all {
            self.sessions.clear();
        } else {
            self.sessions.extend(other.sessions);
        }
    }
}

#[derive(Default)]
struct Inner {
    marks: HashMap<HandlerName, Mark>,
    /// Marks for later, the earliest first; and when each is due, so that none is kept twice.
    timed: BTreeSet<(DateTime<Utc>, (HandlerName, SessionUid))>,
    due: HashMap<(HandlerName, SessionUid), DateTime<Utc>>,
}

/// The marks of all handlers.
pub struct Marks {
    inner: Mutex<Inner>,
    wake: HashMap<HandlerName, Notify>,
    timer: Notify,
}

impl Default for Marks {
    fn default() -> Self {
        let wake = HandlerName::ALL.into_iter().map(|name| (name, Notify::new())).collect();
        Self { inner: Mutex::default(), wake, timer: Notify::new() }
    }
}

impl Marks {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn add(&self, handler: HandlerName, mark: Mark) {
        if mark.is_empty() {
            return;
        }
        self.lock().marks.entry(handler).or_default().merge(mark);
        if let Some(wake) = self.wake.get(&handler) {
            wake.notify_one();
        }
    }

    pub fn one(&self, handler: HandlerName, uid: &SessionUid) {
        self.add(handler, Mark::of([uid.clone()]));
    }

    /// Marks a session, and ends its pause.
    pub fn urgent(&self, handler: HandlerName, uid: &SessionUid) {
        self.add(handler, Mark { urgent: HashSet::from([uid.clone()]), ..Mark::of([uid.clone()]) });
    }

    pub fn all(&self, handler: HandlerName) {
        self.add(handler, Mark::all());
    }

    /// Marks a session for every handler that is asked about its phase.
    pub fn session(&self, uid: &SessionUid, phase: SessionPhase) {
        for handler in HANDLERS.iter().filter(|handler| handler.targets.contains(&phase)) {
            self.one(handler.name, uid);
        }
        self.one(HandlerName::SyncKernels, uid);
    }

    /// Marks a session for later; an earlier time for the same replaces a later one.
    pub fn at(&self, handler: HandlerName, uid: &SessionUid, time: DateTime<Utc>) {
        let mut inner = self.lock();
        let key = (handler, uid.clone());
        if inner.due.get(&key).is_some_and(|due| *due <= time) {
            return;
        }
        if let Some(later) = inner.due.insert(key.clone(), time) {
            inner.timed.remove(&(later, key.clone()));
        }
        inner.timed.insert((time, key));
        drop(inner);
        self.timer.notify_one();
    }

    /// Drops what is set for later of a session that is gone.
    pub fn forget(&self, uid: &SessionUid) {
        let mut inner = self.lock();
        for key in HandlerName::ALL.map(|handler| (handler, uid.clone())) {
            if let Some(time) = inner.due.remove(&key) {
                inner.timed.remove(&(time, key));
            }
        }
    }

    /// Marks a session for after a pause.
    pub fn after(&self, handler: HandlerName, uid: &SessionUid, pause: Duration) {
        self.at(handler, uid, Utc::now() + TimeDelta::from_std(pause).unwrap_or_default());
    }

    /// Takes a handler's mark; what is marked from now on is for the next cycle.
    pub fn take(&self, handler: HandlerName) -> Mark {
        self.lock().marks.remove(&handler).unwrap_or_default()
    }

    pub fn is_marked(&self, handler: HandlerName) -> bool {
        self.lock().marks.contains_key(&handler)
    }

    /// Waits until a handler is marked.
    pub async fn marked(&self, handler: HandlerName) {
        let Some(wake) = self.wake.get(&handler) else { return };
        while !self.is_marked(handler) {
            wake.notified().await;
        }
    }

    /// Sets timed marks when they are due, for ever.
    pub async fn run_timer(&self) {
        loop {
            let next = self.fire(Utc::now());
            let pause = next.and_then(|next| (next - Utc::now()).to_std().ok()).unwrap_or(Duration::ZERO);
            match next {
                None => self.timer.notified().await,
                Some(_) => tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = self.timer.notified() => {}
                },
            }
        }
    }

    /// Sets what is due; returns when the next is.
    fn fire(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let mut inner = self.lock();
        let mut fired = vec![];
        while inner.timed.first().is_some_and(|(time, ..)| *time <= now)
            && let Some((_, key)) = inner.timed.pop_first()
        {
            inner.due.remove(&key);
            fired.push(key);
        }
        let next = inner.timed.first().map(|(time, ..)| *time);
        drop(inner);
        for (handler, uid) in fired {
            self.one(handler, &uid);
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeDelta;

    const HANDLER: HandlerName = HandlerName::ScheduleSessions;

    #[test]
    fn marks_gather_until_they_are_taken() {
        let marks = Marks::default();
        marks.one(HANDLER, &SessionUid("a".into()));
        marks.one(HANDLER, &SessionUid("b".into()));
        assert_eq!(marks.take(HANDLER).sessions.len(), 2);
        assert!(marks.take(HANDLER).is_empty());
        marks.one(HANDLER, &SessionUid("a".into()));
        marks.all(HANDLER);
        assert_eq!(marks.take(HANDLER), Mark::all());
    }

    #[test]
    fn a_timed_mark_fires_once_and_at_its_earliest_time() {
        let marks = Marks::default();
        let uid = SessionUid("a".into());
        let start = DateTime::UNIX_EPOCH;
        marks.at(HANDLER, &uid, start + TimeDelta::seconds(20));
        marks.at(HANDLER, &uid, start + TimeDelta::seconds(10));
        marks.at(HANDLER, &uid, start + TimeDelta::seconds(30));
        assert_eq!(marks.fire(start + TimeDelta::seconds(9)), Some(start + TimeDelta::seconds(10)));
        assert!(marks.take(HANDLER).is_empty());
        marks.fire(start + TimeDelta::seconds(10));
        assert!(marks.take(HANDLER).covers(&uid));
        marks.fire(start + TimeDelta::seconds(60));
        assert!(marks.take(HANDLER).is_empty());
    }

    #[test]
    fn nothing_is_kept_for_a_session_that_is_gone() {
        let marks = Marks::default();
        let (gone, other) = (SessionUid("gone".into()), SessionUid("other".into()));
        let later = DateTime::UNIX_EPOCH + TimeDelta::days(7);
        for uid in [&gone, &other] {
            marks.at(HANDLER, uid, later);
        }
        marks.forget(&gone);
        let kept = marks.lock().timed.clone();
        assert_eq!(kept.into_iter().collect::<Vec<_>>(), [(later, (HANDLER, other.clone()))]);
        marks.fire(later);
        assert!(marks.take(HANDLER).covers(&other));
    }
}
