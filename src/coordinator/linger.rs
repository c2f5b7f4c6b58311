//! Commits that may wait a moment. That kernels are being prepared is told together with what comes of it, if that comes
//! soon: a write less for each session. A crash meanwhile costs nothing, for its effects are done again idempotently.

use std::sync::Arc;

use chrono::Utc;
use futures::StreamExt;

use super::cycle::{CONCURRENCY, Coordinator};
use super::item::Work;
use crate::api::{HistoryResult, SessionPhase, SessionUid};
use crate::session::handlers::HandlerName;

/// Whether what was done may wait to be committed: only that pods are made and pull their images, for it tells of no
/// failure and changes neither allocation nor result.
pub(super) fn may_linger(handler: HandlerName, reached: &[SessionPhase], results: &[HistoryResult]) -> bool {
    matches!(
        (handler, reached, results),
        (HandlerName::CheckPrecondition, [SessionPhase::Preparing], [HistoryResult::Success])
            | (HandlerName::PromoteToPulling, [SessionPhase::Pulling], [HistoryResult::Success])
    )
}

impl Coordinator {
    /// Commits what lingered for long enough without anything that came of it.
    pub(super) async fn run_lingering(self: Arc<Self>) {
        loop {
            self.marks.marked(HandlerName::CommitLingering).await;
            let mark = self.marks.take(HandlerName::CommitLingering);
            let work = mark.sessions.into_iter().map(|uid| self.commit_lingering(uid));
            futures::stream::iter(work).for_each_concurrent(CONCURRENCY, |work| work).await;
        }
    }

    pub(super) fn linger_until_later(&self, uid: &SessionUid) {
        let pause = chrono::TimeDelta::from_std(self.timing.linger).unwrap_or_default();
        self.marks.at(HandlerName::CommitLingering, uid, Utc::now() + pause);
    }

    async fn commit_lingering(&self, uid: SessionUid) {
        let Some(waited) = self.world.lingers(&uid) else { return };
        let early = waited < self.timing.linger * 5 && self.world.is_in_rush();
        // Where a handler is at work on it, that one commits, or leaves it for the next time.
        if early || !self.world.claim(&uid) {
            self.linger_until_later(&uid);
            return;
        }
        let seen = self.world.look_again(&uid).filter(|_| self.world.lingers(&uid).is_some());
        if let Some(work) = seen.and_then(|(snapshot, item)| Work::lingering(self, snapshot, item)) {
            work.commit().await;
        }
        self.world.unclaim(&uid);
    }
}
