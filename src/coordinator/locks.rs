//! Locks between the handlers of a kind, within the process that holds the lease (docs/lifecycle.md).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use crate::lifecycle::Subject;

/// One lock for each that a row of the table names. A guard frees its lock when it is dropped, also by an error or a panic.
pub struct Locks<S: Subject>(BTreeMap<S::Lock, Arc<RwLock<()>>>);

impl<S: Subject> Default for Locks<S> {
    fn default() -> Self {
        Self(S::table().iter().filter_map(|handler| handler.lock).map(|lock| (lock, Arc::default())).collect())
    }
}

/// What a handler holds while it runs.
#[derive(Debug)]
pub enum Held {
    /// The handler has no lock.
    Nothing,
    Lock(#[expect(dead_code, reason = "held for its drop")] OwnedRwLockWriteGuard<()>),
    Share(#[expect(dead_code, reason = "held for its drop")] OwnedRwLockReadGuard<()>),
}

impl<S: Subject> Locks<S> {
    /// Takes the lock of a handler. Returns None if another handler held it for `lifetime`.
    pub async fn take(&self, lock: Option<S::Lock>, lifetime: Duration) -> Option<Held> {
        let Some(lock) = lock.and_then(|lock| self.0.get(&lock)) else { return Some(Held::Nothing) };
        tokio::time::timeout(lifetime, lock.clone().write_owned()).await.ok().map(Held::Lock)
    }

    /// Shares the lock for a step within the commit of another handler, if no cycle holds the lock. Steps of several objects
    /// share it; a cycle waits until they are done.
    pub fn try_share(&self, lock: Option<S::Lock>) -> Option<Held> {
        let Some(lock) = lock.and_then(|lock| self.0.get(&lock)) else { return Some(Held::Nothing) };
        lock.clone().try_read_owned().ok().map(Held::Share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::Timing;
    use crate::lifecycle::lamps::{LampLock, Lamps};

    const LIFETIME: Duration = Duration::from_secs(30);
    const SOCKET: Option<LampLock> = Some(LampLock::Socket);

    fn locks() -> Locks<Lamps> {
        Locks::default()
    }

    #[tokio::test]
    async fn sc_co_012_every_lock_that_a_handler_names_is_there_for_thirty_seconds_at_most() {
        assert_eq!(Timing::default().lock_lifetime, LIFETIME);
        let locks = locks();
        for handler in Lamps::table() {
            let held = locks.take(handler.lock, LIFETIME).await;
            assert_eq!(matches!(held, Some(Held::Lock(_))), handler.lock.is_some(), "{}", handler.name);
        }
    }

    #[tokio::test]
    async fn dl_001_a_free_lock_is_taken_and_given_back() {
        let locks = locks();
        let held = locks.take(SOCKET, Duration::ZERO).await;
        assert!(matches!(held, Some(Held::Lock(_))));
        drop(held);
        assert!(locks.try_share(SOCKET).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn dl_002_of_two_only_one_runs_and_the_other_waits() {
        let locks = Arc::new(locks());
        let held = locks.take(SOCKET, Duration::ZERO).await;
        assert!(locks.try_share(SOCKET).is_none());
        assert!(locks.try_share(Some(LampLock::Bulb)).is_some(), "another lock");
        let waiting = tokio::spawn({
            let locks = locks.clone();
            async move { locks.take(SOCKET, LIFETIME).await.is_some() }
        });
        tokio::time::sleep(Duration::from_secs(29)).await;
        assert!(!waiting.is_finished());
        drop(held);
        assert!(waiting.await.expect("no panic"));
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_for_a_lock_is_bounded_by_its_lifetime() {
        let locks = locks();
        let _held = locks.take(SOCKET, Duration::ZERO).await;
        assert!(locks.take(SOCKET, LIFETIME).await.is_none());
    }

    #[tokio::test]
    async fn followers_share_a_lock_and_keep_its_handler_out() {
        let locks = locks();
        let (first, second) = (locks.try_share(SOCKET), locks.try_share(SOCKET));
        assert!(first.is_some() && second.is_some());
        assert!(locks.take(SOCKET, Duration::ZERO).await.is_none());
        drop((first, second));
        assert!(locks.take(SOCKET, Duration::ZERO).await.is_some());
    }

    #[tokio::test]
    async fn sc_co_013_a_handler_without_a_lock_takes_none() {
        assert!(matches!(locks().take(None, Duration::ZERO).await, Some(Held::Nothing)));
    }
}
