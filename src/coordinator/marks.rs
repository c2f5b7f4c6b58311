//! Marks: which handler evaluates which objects next. Watch events and commits set them, cycles take them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::Hash;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::Notify;
use tokio::time::{Instant, Interval};

use crate::lifecycle::{Subject, Timing, Trigger};

/// What a handler evaluates next.
#[derive(Clone, Debug, PartialEq)]
pub struct Mark<U: Eq + Hash> {
    /// Every object.
    pub all: bool,
    /// These objects, if not every one.
    pub objects: HashSet<U>,
    /// The marked objects whose pause is over, because the object that their last failure was about has changed.
    pub urgent: HashSet<U>,
}

impl<U: Eq + Hash> Default for Mark<U> {
    fn default() -> Self {
        Self { all: false, objects: HashSet::new(), urgent: HashSet::new() }
    }
}

impl<U: Clone + Eq + Hash> Mark<U> {
    pub fn all() -> Self {
        Self { all: true, ..Self::default() }
    }

    pub fn of(objects: impl IntoIterator<Item = U>) -> Self {
        Self { objects: objects.into_iter().collect(), ..Self::default() }
    }

    /// One object, whose pause is over.
    pub fn urgent(uid: U) -> Self {
        Self { urgent: HashSet::from([uid.clone()]), ..Self::of([uid]) }
    }

    pub fn is_empty(&self) -> bool {
        !self.all && self.objects.is_empty()
    }

    pub fn covers(&self, uid: &U) -> bool {
        self.all || self.objects.contains(uid)
    }

    pub fn merge(&mut self, other: Self) {
        self.all |= other.all;
        self.urgent.extend(other.urgent);
        if self.all {
            self.objects.clear();
        } else {
            self.objects.extend(other.objects);
        }
    }
}

struct Inner<K, U: Eq + Hash> {
    marks: HashMap<K, Mark<U>>,
    /// Marks for later, the earliest first; and when each is due, so that none is kept twice.
    timed: BTreeSet<(DateTime<Utc>, (K, U))>,
    due: HashMap<U, BTreeMap<K, DateTime<Utc>>>,
    wake: HashMap<K, Arc<Notify>>,
}

/// Marks by key, the name of a handler for example.
pub struct Marks<K, U: Eq + Hash> {
    inner: Mutex<Inner<K, U>>,
    timer: Notify,
}

impl<K, U: Eq + Hash> Default for Marks<K, U> {
    fn default() -> Self {
        let inner = Inner { marks: HashMap::new(), timed: BTreeSet::new(), due: HashMap::new(), wake: HashMap::new() };
        Self { inner: Mutex::new(inner), timer: Notify::new() }
    }
}

impl<K: Copy + Eq + Hash + Ord, U: Clone + Eq + Hash + Ord> Marks<K, U> {
    fn lock(&self) -> MutexGuard<'_, Inner<K, U>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn add(&self, key: K, mark: Mark<U>) {
        if mark.is_empty() {
            return;
        }
        let mut inner = self.lock();
        inner.marks.entry(key).or_default().merge(mark);
        inner.wake.entry(key).or_default().notify_one();
    }

    pub fn one(&self, key: K, uid: &U) {
        self.add(key, Mark::of([uid.clone()]));
    }

    /// Marks an object and ends its pause.
    pub fn urgent(&self, key: K, uid: &U) {
        self.add(key, Mark::urgent(uid.clone()));
    }

    pub fn all(&self, key: K) {
        self.add(key, Mark::all());
    }

    /// Marks an object at a time. An earlier time for the same key and object replaces a later one.
    pub fn at(&self, key: K, uid: &U, time: DateTime<Utc>) {
        let mut inner = self.lock();
        let due = inner.due.entry(uid.clone()).or_default();
        if due.get(&key).is_some_and(|due| *due <= time) {
            return;
        }
        if let Some(later) = due.insert(key, time) {
            inner.timed.remove(&(later, (key, uid.clone())));
        }
        inner.timed.insert((time, (key, uid.clone())));
        drop(inner);
        self.timer.notify_one();
    }

    /// Marks an object after a pause.
    pub fn after(&self, key: K, uid: &U, pause: Duration) {
        self.at(key, uid, Utc::now() + TimeDelta::from_std(pause).unwrap_or_default());
    }

    /// Drops the marks for later of an object that is gone.
    pub fn forget(&self, uid: &U) {
        let mut inner = self.lock();
        for (key, time) in inner.due.remove(uid).unwrap_or_default() {
            inner.timed.remove(&(time, (key, uid.clone())));
        }
    }

    /// Takes a key's mark. Later marks are for the next cycle.
    pub fn take(&self, key: K) -> Mark<U> {
        self.lock().marks.remove(&key).unwrap_or_default()
    }

    pub fn is_marked(&self, key: K) -> bool {
        self.lock().marks.contains_key(&key)
    }

    /// Waits until a key is marked.
    pub async fn marked(&self, key: K) {
        let wake = self.lock().wake.entry(key).or_default().clone();
        while !self.is_marked(key) {
            wake.notified().await;
        }
    }

    /// Waits until a key is marked and it is its turn, or its long cycle is due, which marks everything.
    pub async fn wait(&self, key: K, long_cycle: &mut Interval, pace: &Pace) {
        tokio::select! {
            () = self.marked(key) => pace.turn().await,
            _ = long_cycle.tick() => self.all(key),
        }
    }

    /// Sets timed marks when they are due. Never returns.
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

    /// Sets the marks that are due. Returns when the next one is.
    fn fire(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let mut inner = self.lock();
        let mut fired = vec![];
        while inner.timed.first().is_some_and(|(time, ..)| *time <= now)
            && let Some((_, (key, uid))) = inner.timed.pop_first()
        {
            if let Some(due) = inner.due.get_mut(&uid) {
                due.remove(&key);
                if due.is_empty() {
                    inner.due.remove(&uid);
                }
            }
            fired.push((key, uid));
        }
        let next = inner.timed.first().map(|(time, ..)| *time);
        drop(inner);
        for (key, uid) in fired {
            self.one(key, &uid);
        }
        next
    }
}

/// The pause between two cycles, in which marks set close together gather. A cycle after a longer rest begins at once.
pub struct Pace {
    pause: Duration,
    ended: Option<Instant>,
}

impl Pace {
    pub fn new(pause: Duration) -> Self {
        Self { pause, ended: None }
    }

    /// Says that a cycle has ended.
    pub fn ended(&mut self) {
        self.ended = Some(Instant::now());
    }

    async fn turn(&self) {
        if let Some(ended) = self.ended {
            tokio::time::sleep_until(ended + self.pause).await;
        }
    }
}

/// The ticks of a long cycle.
pub fn long_cycle(timing: &Timing) -> Interval {
    tokio::time::interval_at(tokio::time::Instant::now() + timing.long_cycle_initial, timing.long_cycle)
}

/// The marks of all handlers of a kind.
pub struct HandlerMarks<S: Subject>(Marks<S::HandlerName, S::Uid>);

impl<S: Subject> Default for HandlerMarks<S> {
    fn default() -> Self {
        Self(Marks::default())
    }
}

impl<S: Subject> Deref for HandlerMarks<S> {
    type Target = Marks<S::HandlerName, S::Uid>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl<S: Subject> HandlerMarks<S> {
    /// Marks an object for every handler of its phase.
    pub fn object(&self, uid: &S::Uid, phase: S::Phase) {
        for handler in S::table().iter().filter(|handler| handler.targets.contains(&phase)) {
            self.one(handler.name, uid);
        }
    }

    /// Marks these objects for every handler that wakes on a change like this.
    pub fn trigger(&self, trigger: Trigger, mark: Mark<S::Uid>) {
        for handler in S::table().iter().filter(|handler| handler.wakes_on.contains(&trigger)) {
            self.add(handler.name, mark.clone());
        }
    }

    /// Marks every object for every handler.
    pub fn everything(&self) {
        S::table().iter().for_each(|handler| self.all(handler.name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Named = Marks<u8, &'static str>;

    #[test]
    fn marks_gather_until_they_are_taken() {
        let marks = Named::default();
        marks.one(1, &"a");
        marks.urgent(1, &"b");
        let taken = marks.take(1);
        assert_eq!((taken.objects, taken.urgent), (HashSet::from(["a", "b"]), HashSet::from(["b"])));
        assert!(marks.take(1).is_empty());
        marks.one(1, &"a");
        marks.all(1);
        assert_eq!(marks.take(1), Mark::all());
        assert!(!marks.is_marked(2), "each key has marks of its own");
    }

    #[test]
    fn a_timed_mark_fires_once_and_at_its_earliest_time() {
        let marks = Named::default();
        let start = DateTime::UNIX_EPOCH;
        for seconds in [20, 10, 30] {
            marks.at(1, &"a", start + TimeDelta::seconds(seconds));
        }
        assert_eq!(marks.fire(start + TimeDelta::seconds(9)), Some(start + TimeDelta::seconds(10)));
        assert!(marks.take(1).is_empty());
        marks.fire(start + TimeDelta::seconds(10));
        assert!(marks.take(1).covers(&"a"));
        marks.fire(start + TimeDelta::seconds(60));
        assert!(marks.take(1).is_empty());
    }

    #[test]
    fn nothing_is_kept_for_an_object_that_is_gone() {
        let marks = Named::default();
        let later = DateTime::UNIX_EPOCH + TimeDelta::days(7);
        for uid in ["gone", "other"] {
            marks.at(1, &uid, later);
        }
        marks.forget(&"gone");
        assert_eq!(marks.lock().timed.iter().collect::<Vec<_>>(), [&(later, (1, "other"))]);
        marks.fire(later);
        assert!(marks.take(1).covers(&"other"));
        assert!(marks.lock().due.is_empty());
    }
}
