//! Commits that may wait a moment. That kernels are being prepared or ended is told together with what comes of it, if
//! that comes soon: a write less for each session. A crash meanwhile costs nothing, for its effects are done again idempotently.

use std::sync::Arc;

use futures::StreamExt;

use super::cycle::{CONCURRENCY, Coordinator};
use super::item::Work;
use crate::api::{HistoryResult, SessionPhase, SessionUid};
use crate::session::handlers::HandlerName;

/// Whether what was done may wait to be committed: only that pods are made, pull their images or are deleted, for it
/// tells of no failure and changes neither allocation nor result.
pub(super) fn may_linger(handler: HandlerName, reached: &[SessionPhase], results: &[HistoryResult]) -> bool {
    matches!(
        (handler, reached, results),
        (HandlerName::CheckPrecondition, [SessionPhase::Preparing], [HistoryResult::Success])
            | (HandlerName::PromoteToPulling, [SessionPhase::Pulling], [HistoryResult::Success])
            | (HandlerName::TerminateSessions, [], [HistoryResult::Success])
    )
}

impl Coordinator {
    /// Commits what lingered for long enough without anything that came of it; in a rush one after the other, slowly.
    pub(super) async fn run_lingering(self: Arc<Self>) {
        loop {
            self.marks.marked(HandlerName::CommitLingering).await;
            let mark = self.marks.take(HandlerName::CommitLingering);
            let mut uids = mark.sessions.into_iter();
            while let Some(uid) = uids.next() {
                if self.give_way().await {
                    self.commit_lingering(uid).await;
                    continue;
                }
                let rest = std::iter::once(uid).chain(uids.by_ref()).map(|uid| self.commit_lingering(uid));
                futures::stream::iter(rest).for_each_concurrent(CONCURRENCY, |work| work).await;
            }
        }
    }

    /// What only tells people goes behind the work: while many sessions are on their way, at a slow pace. True in a rush.
    pub(super) async fn give_way(&self) -> bool {
        let rush = self.world.is_in_rush();
        if rush {
            tokio::time::sleep(self.timing.rush_pace).await;
        }
        rush
    }

    pub(super) fn linger_until_later(&self, uid: &SessionUid) {
        self.marks.after(HandlerName::CommitLingering, uid, self.timing.linger);
    }

    async fn commit_lingering(&self, uid: SessionUid) {
        if !self.world.lingers(&uid) {
            return;
        }
        // Where a handler is at work on it, that one commits, or leaves it for the next time.
        if !self.world.claim(&uid) {
            self.linger_until_later(&uid);
            return;
        }
        let seen = self.world.look_again(&uid).filter(|_| self.world.lingers(&uid));
        if let Some(work) = seen.and_then(|(snapshot, item)| Work::lingering(self, snapshot, item)) {
            work.commit().await;
        }
        self.world.unclaim(&uid);
    }
}
