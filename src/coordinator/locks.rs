//! In-process locks between handlers, under the leader's lease (rules §3).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use crate::session::handlers::LockId;

/// One lock per id. A guard gives its lock back when it is dropped, also by an error or a panic.
pub struct Locks(BTreeMap<LockId, Arc<RwLock<()>>>);

impl Default for Locks {
    fn default() -> Self {
        let ids = [LockId::Pending, LockId::Preparing, LockId::Creating, LockId::Terminating];
        Self(ids.into_iter().map(|id| (id, Arc::default())).collect())
    }
}

/// What a handler holds while it runs; nothing, for one without a lock.
#[derive(Debug)]
pub enum Held {
    Nothing,
    Lock(#[expect(dead_code, reason = "held for its drop")] OwnedRwLockWriteGuard<()>),
    Share(#[expect(dead_code, reason = "held for its drop")] OwnedRwLockReadGuard<()>),
}

impl Locks {
    /// Takes the lock a handler names, waiting at most `lifetime`; None if it was not to be had.
    pub async fn take(&self, id: Option<LockId>, lifetime: Duration) -> Option<Held> {
        let Some(lock) = id.and_then(|id| self.0.get(&id)) else { return Some(Held::Nothing) };
        tokio::time::timeout(lifetime, lock.clone().write_owned()).await.ok().map(Held::Lock)
    }

    /// For a handler that follows another within one commit: kept out by the handler's own cycle, and keeping it out, but
    /// not by other sessions that follow likewise. Taken only if that is possible at once.
    pub fn try_share(&self, id: Option<LockId>) -> Option<Held> {
        let Some(lock) = id.and_then(|id| self.0.get(&id)) else { return Some(Held::Nothing) };
        lock.clone().try_read_owned().ok().map(Held::Share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sc_co_012_every_lock_that_a_handler_names_is_there_for_thirty_seconds_at_most() {
        let (locks, lifetime) = (Locks::default(), crate::lifecycle::Timing::default().lock_lifetime);
        assert_eq!(lifetime, Duration::from_secs(30));
        for handler in crate::session::handlers::HANDLERS {
            let held = locks.take(handler.lock, lifetime).await;
            assert_eq!(matches!(held, Some(Held::Lock(_))), handler.lock.is_some(), "{}", handler.name);
        }
    }

    #[tokio::test]
    async fn dl_001_a_free_lock_is_taken_and_given_back() {
        let locks = Locks::default();
        let held = locks.take(Some(LockId::Pending), Duration::ZERO).await;
        assert!(matches!(held, Some(Held::Lock(_))));
        drop(held);
        assert!(locks.try_share(Some(LockId::Pending)).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn dl_002_of_two_only_one_runs_and_the_other_waits() {
        let locks = Arc::new(Locks::default());
        let held = locks.take(Some(LockId::Pending), Duration::ZERO).await;
        assert!(locks.try_share(Some(LockId::Pending)).is_none());
        assert!(locks.try_share(Some(LockId::Creating)).is_some(), "another id is another lock");
        let waiting = tokio::spawn({
            let locks = locks.clone();
            async move { locks.take(Some(LockId::Pending), Duration::from_secs(30)).await.is_some() }
        });
        tokio::time::sleep(Duration::from_secs(29)).await;
        assert!(!waiting.is_finished());
        drop(held);
        assert!(waiting.await.expect("no panic"));
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_for_a_lock_is_bounded_by_its_lifetime() {
        let locks = Locks::default();
        let _held = locks.take(Some(LockId::Pending), Duration::ZERO).await;
        assert!(locks.take(Some(LockId::Pending), Duration::from_secs(30)).await.is_none());
    }

    #[tokio::test]
    async fn followers_share_a_lock_and_keep_its_handler_out() {
        let locks = Locks::default();
        let first = locks.try_share(Some(LockId::Creating));
        let second = locks.try_share(Some(LockId::Creating));
        assert!(first.is_some() && second.is_some());
        assert!(locks.take(Some(LockId::Creating), Duration::ZERO).await.is_none());
        drop((first, second));
        assert!(locks.take(Some(LockId::Creating), Duration::ZERO).await.is_some());
    }

    #[tokio::test]
    async fn sc_co_013_a_handler_without_a_lock_takes_none() {
        assert!(matches!(Locks::default().take(None, Duration::ZERO).await, Some(Held::Nothing)));
    }
}
