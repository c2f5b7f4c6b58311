//! Commits that may wait a moment. That kernels are being prepared or ended, or a spec was seen, is told together with what
//! comes of it, if that comes soon: a write less for each session. A crash meanwhile costs nothing, for its effects are done again idempotently.

use std::sync::Arc;

use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};

use super::cycle::{CONCURRENCY, Coordinator};
use super::item::Work;
use crate::api::{HistoryResult, Session, SessionPhase, SessionUid};
use crate::cluster::world::{News, uid_of};
use crate::session::handlers::HandlerName;
use crate::session::snapshot::SessionItem;
use crate::session::status::observe;

/// Whether what was done may wait to be committed: only that pods are made, pull their images or are deleted, for it
/// tells of no failure and changes neither allocation nor result.
pub(super) fn may_linger(news: &News) -> bool {
    let [(handler, HistoryResult::Success)] = news.results[..] else { return false };
    matches!(
        (handler, &news.reached[..]),
        (HandlerName::CheckPrecondition, [SessionPhase::Preparing])
            | (HandlerName::PromoteToPulling, [SessionPhase::Pulling])
            | (HandlerName::TerminateSessions, [])
    )
}

impl Coordinator {
    /// Commits what lingered for long enough without anything that came of it; in a rush one after the other, slowly.
    pub(super) async fn run_lingering(self: Arc<Self>) {
        // One whose outcome stays unknown goes on beside the others.
        let mut late = FuturesUnordered::new();
        loop {
            tokio::select! {
                () = self.marks.marked(HandlerName::CommitLingering) => {}
                Some(()) = late.next() => continue,
            }
            let mark = self.marks.take(HandlerName::CommitLingering);
            let mut uids = self.world.lingering(&mark).into_iter();
            while let Some(uid) = uids.next() {
                let together =
                    if self.yield_to_work().await { vec![uid] } else { [uid].into_iter().chain(uids.by_ref()).collect() };
                let work = futures::stream::iter(together).map(|uid| self.commit_lingering(uid));
                let mut work = work.for_each_concurrent(CONCURRENCY, |work| work).boxed();
                if tokio::time::timeout(self.timing.lock_lifetime, &mut work).await.is_err() {
                    late.push(work);
                }
            }
        }
    }

    /// What only tells people goes behind the work: while many sessions are on their way, at a slow pace. True in a rush.
    pub(super) async fn yield_to_work(&self) -> bool {
        let busy = self.world.is_busy();
        if busy {
            tokio::time::sleep(self.timing.busy_pace).await;
        }
        busy
    }

    /// That the spec of a session was changed and asks for nothing new is told behind the work.
    pub(super) fn tell_observed(&self, item: &SessionItem) {
        // Of one that waits, the reasons are written anew; of one that goes, nobody asks.
        if !item.is_outdated() || item.phase() == SessionPhase::Pending || item.session.is_deleted() {
            return;
        }
        let mut session = (*item.session).clone();
        session.status.iter_mut().for_each(|status| observe(status, session.metadata.generation));
        self.linger(&Arc::new(session), &item.stored, News::default());
    }

    /// Leaves the commit of a status for a moment: the world goes on as if it were made.
    pub(super) fn linger(&self, session: &Arc<Session>, base: &Session, news: News) {
        self.world.linger(session, base, news);
        self.linger_until_later(&uid_of(session));
    }

    fn linger_until_later(&self, uid: &SessionUid) {
        self.marks.after(HandlerName::CommitLingering, uid, self.timing.linger);
    }

    async fn commit_lingering(&self, uid: SessionUid) {
        // Where a handler is at work on it, that one commits, or leaves it for the next time.
        if !self.world.claim(&uid) {
            self.linger_until_later(&uid);
            return;
        }
        let seen = self.world.look_again(&uid).filter(|_| self.world.lingers(&uid));
        if let Some(work) = seen.and_then(|(snapshot, item)| Work::lingering(self, snapshot, item)) {
            self.post_process(&work.commit().await);
        }
        self.world.unclaim(&uid);
    }
}
