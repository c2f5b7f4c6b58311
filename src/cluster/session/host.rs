//! The host of sessions: gives the engine their snapshots, effects and commits.

use std::sync::Arc;
use std::time::Duration;

use super::effects::{EffectContext, Effects};
use crate::api::{Session, SessionStatus, SessionUid};
use crate::cluster::commit::Committer;
use crate::cluster::events::Events;
use crate::cluster::store::world::World;
use crate::coordinator::Claim;
use crate::coordinator::host::{AfterCommit, Batch, Committed, Event, Host};
use crate::coordinator::marks::Mark;
use crate::lifecycle::EffectError;
use crate::provisioner::LedgerSnapshot;
use crate::session::effect::Effect;
use crate::session::handlers::{Handler, HandlerName};
use crate::session::sessions::Sessions;
use crate::session::snapshot::{SessionItem, Snapshot};

/// The cluster as the engine uses it for sessions.
pub struct SessionHost {
    pub world: Arc<World>,
    pub effects: Effects,
    pub committer: Committer,
    pub events: Events,
}

impl Host<Sessions> for SessionHost {
    fn claim(&self, handler: &'static Handler, mark: &Mark<SessionUid>) -> Vec<Batch<Sessions>> {
        self.world.claim(handler, mark)
    }

    fn claim_one(&self, uid: &SessionUid) -> Option<Claim<Sessions>> {
        self.world.claim_one(uid)
    }

    fn look_again(&self, uid: &SessionUid) -> Option<(Snapshot, SessionItem)> {
        self.world.look_again(uid)
    }

    fn shared(&self) -> LedgerSnapshot {
        self.world.ledger_snapshot()
    }

    fn keep(&self, ledger: LedgerSnapshot) {
        self.world.keep_cursors(ledger);
    }

    async fn run(&self, snapshot: &Snapshot, item: &SessionItem, effect: &Effect) -> Result<(), EffectError> {
        let context = EffectContext {
            namespace: item.namespace().to_owned(),
            session: Some(item.session.clone()),
            group: snapshot.group.clone(),
            group_name: snapshot.group_name.clone(),
        };
        self.effects.run(&context, effect).await
    }

    async fn commit(&self, item: &SessionItem, before: &Arc<Session>, next: SessionStatus) -> Committed<Sessions> {
        self.committer.commit::<Sessions>(before, &item.stored, next).await
    }

    fn defer(&self, session: &Arc<Session>, base: &Session, after: AfterCommit<Sessions>) {
        self.world.defer(session, base, after);
    }

    fn deferred(&self, mark: &Mark<SessionUid>) -> Vec<SessionUid> {
        self.world.deferred(mark)
    }

    fn is_deferred(&self, uid: &SessionUid, handler: HandlerName) -> bool {
        self.world.is_deferred(uid, handler)
    }

    fn take_deferred(&self, uid: &SessionUid) -> Option<AfterCommit<Sessions>> {
        self.world.take_deferred(uid)
    }

    fn quarantine(&self, uid: &SessionUid, pause: Duration) {
        self.world.quarantine(uid, pause);
    }

    fn is_busy(&self) -> bool {
        self.world.is_busy()
    }

    fn publish(&self, event: Event<Sessions>) {
        self.events.send(event);
    }
}
