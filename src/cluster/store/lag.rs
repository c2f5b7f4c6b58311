//! How far the watches are behind: the age of the oldest status write whose version a watch has not delivered yet.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Most writes of one kind that are remembered. More are not needed: the oldest one counts.
const MAX_PENDING: usize = 1000;

#[derive(Default)]
struct Kind {
    /// Whether this operator has written its statuses.
    written: bool,
    /// The newest version that the watch has delivered.
    seen: u64,
    /// The versions not delivered yet, and when they were written.
    pending: BTreeMap<u64, Instant>,
}

/// The name of a kind, as `kube` gives it: without an allocation for each event.
type KindName = Cow<'static, str>;

/// The lag of each kind whose statuses this operator writes.
#[derive(Default)]
pub struct WatchLag(Mutex<HashMap<KindName, Kind>>);

impl WatchLag {
    fn lock(&self) -> MutexGuard<'_, HashMap<KindName, Kind>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a write. The watch may have delivered it already.
    pub fn wrote(&self, kind: &KindName, version: u64, at: Instant) {
        let mut kinds = self.lock();
        let kind = kinds.entry(kind.clone()).or_default();
        kind.written = true;
        if version > kind.seen && kind.pending.len() < MAX_PENDING {
            kind.pending.insert(version, at);
        }
    }

    /// Records that a watch or a list delivered a version. Both have delivered everything older then.
    pub fn seen(&self, kind: &KindName, version: u64) {
        let mut kinds = self.lock();
        let kind = kinds.entry(kind.clone()).or_default();
        kind.seen = kind.seen.max(version);
        kind.pending = kind.pending.split_off(&(kind.seen + 1));
    }

    /// Records that the kind was listed: a list holds everything that was written before.
    pub fn listed(&self, kind: &KindName) {
        self.lock().entry(kind.clone()).or_default().pending.clear();
    }

    /// Returns the lag of each kind. Zero if every write has come back.
    pub fn lags(&self, now: Instant) -> BTreeMap<String, Duration> {
        let age = |kind: &Kind| kind.pending.values().min().map_or(Duration::ZERO, |at| now.saturating_duration_since(*at));
        self.lock().iter().filter(|(_, kind)| kind.written).map(|(name, kind)| (name.to_string(), age(kind))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: KindName = Cow::Borrowed("Session");

    #[test]
    fn a_watch_lags_until_it_has_delivered_the_oldest_write() {
        let (lag, start) = (WatchLag::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        let lags = |now| lag.lags(now).into_values().map(|lag| lag.as_secs()).collect::<Vec<_>>();
        lag.seen(&SESSION, 8);
        assert!(lags(after(9)).is_empty(), "nothing is written yet");
        lag.wrote(&SESSION, 8, after(1));
        assert_eq!(lags(after(9)), [0], "the watch was faster than the first answer");
        lag.wrote(&SESSION, 10, after(1));
        lag.wrote(&SESSION, 12, after(2));
        assert_eq!(lags(after(5)), [4]);
        lag.seen(&SESSION, 11);
        assert_eq!(lags(after(5)), [3]);
        lag.seen(&SESSION, 12);
        assert_eq!(lags(after(5)), [0]);
        lag.wrote(&SESSION, 12, after(6));
        assert_eq!(lags(after(9)), [0], "the watch was faster than the answer to the write");
        lag.wrote(&SESSION, 13, after(7));
        lag.listed(&SESSION);
        assert_eq!(lags(after(9)), [0], "a list has everything");
    }

    #[test]
    fn a_watch_that_stopped_keeps_a_bounded_number_of_writes_and_the_oldest_of_them() {
        let (lag, start) = (WatchLag::default(), Instant::now());
        (1..=2 * MAX_PENDING as u64).for_each(|version| lag.wrote(&SESSION, version, start + Duration::from_secs(version)));
        assert_eq!(lag.lock()["Session"].pending.len(), MAX_PENDING);
        assert_eq!(lag.lags(start + Duration::from_secs(11))["Session"], Duration::from_secs(10));
    }
}
