//! The host of deployments and routes: what the engine asks of the cluster for them.

use std::sync::Arc;
use std::time::Duration;

use super::snapshot::Seen;
use crate::cluster::commit::Committer;
use crate::cluster::events::Events;
use crate::cluster::store::world::World;
use crate::cluster::write::Writer;
use crate::coordinator::Claim;
use crate::coordinator::host::{AfterCommit, Batch, Committed, Event, Host};
use crate::coordinator::marks::Mark;
use crate::lifecycle::{EffectError, Handler, Item};

/// Carries out what is decided on deployments or routes.
pub struct ServingHost {
    pub world: Arc<World>,
    pub writer: Writer,
    pub committer: Committer,
    pub events: Events,
}

/// A kind whose effects the host carries out.
pub trait CarriedOut: Seen {
    fn carry_out(
        host: &ServingHost,
        item: &Self::Item,
        effect: &Self::Effect,
    ) -> impl Future<Output = Result<(), EffectError>> + Send;
}

impl<S> Host<S> for ServingHost
where
    S: CarriedOut<Shared = ()>,
{
    fn claim(&self, handler: &'static Handler<S>, mark: &Mark<S::Uid>) -> Vec<Batch<S>> {
        self.world.claim_objects(handler, mark)
    }

    fn claim_one(&self, uid: &S::Uid) -> Option<Claim<S>> {
        self.world.claim_object::<S>(uid)
    }

    fn look_again(&self, uid: &S::Uid) -> Option<(S::Snapshot, S::Item)> {
        self.world.look_at::<S>(uid)
    }

    fn shared(&self) {}

    fn keep(&self, (): ()) {}

    async fn run(&self, _: &S::Snapshot, item: &S::Item, effect: &S::Effect) -> Result<(), EffectError> {
        S::carry_out(self, item, effect).await
    }

    async fn commit(&self, item: &S::Item, before: &Arc<S::Object>, next: S::Status) -> Committed<S> {
        self.committer.commit::<S>(before, item.stored(), next).await
    }

    fn defer(&self, object: &Arc<S::Object>, base: &S::Object, after: AfterCommit<S>) {
        self.world.defer_object::<S>(object, base, after);
    }

    fn deferred(&self, mark: &Mark<S::Uid>) -> Vec<S::Uid> {
        self.world.deferred_objects::<S>(mark)
    }

    fn is_deferred(&self, uid: &S::Uid, handler: S::HandlerName) -> bool {
        self.world.is_object_deferred::<S>(uid, handler)
    }

    fn take_deferred(&self, uid: &S::Uid) -> Option<AfterCommit<S>> {
        self.world.take_deferred_object::<S>(uid)
    }

    fn quarantine(&self, uid: &S::Uid, pause: Duration) {
        self.world.quarantine_object::<S>(uid, pause);
    }

    fn is_busy(&self) -> bool {
        self.world.is_busy()
    }

    fn publish(&self, event: Event<S>) {
        self.events.send(event);
    }
}
