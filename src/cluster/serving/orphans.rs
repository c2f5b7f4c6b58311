//! Ends sessions whose deployment is gone and which the garbage collector left, after `--cascade=orphan` for example.

use std::sync::Arc;

use crate::api::Session;
use crate::cluster::objects::exactly;
use crate::cluster::store::identity::{deployment_of, key_of, uid_of};
use crate::cluster::store::world::World;
use crate::cluster::write::Writer;

/// Looks for such sessions once a long cycle. Never returns.
pub async fn remove(world: Arc<World>, writer: Writer) {
    loop {
        tokio::time::sleep(world.timing.long_cycle).await;
        for session in world.orphaned_sessions() {
            let (namespace, name) = key_of(&session.metadata);
            let params = exactly(Some(uid_of(&session).0));
            match writer.delete::<Session>("session-delete", &namespace, &name, params).await {
                Ok(held) => held.into_iter().for_each(|session| _ = world.upsert_session(session)),
                Err(error) => tracing::warn!(%name, %namespace, "a session without its deployment was not deleted: {error:?}"),
            }
        }
    }
}

impl World {
    /// Sessions of deployments that do not exist. An operator of some scaling groups does not know every deployment.
    fn orphaned_sessions(&self) -> Vec<Arc<Session>> {
        let state = self.lock();
        let is_orphaned = |session: &&Arc<Session>| {
            let deployment = deployment_of(&session.metadata);
            let exists = |uid| state.serving.deployments.key_of.contains_key(&uid);
            let has_route = state.stores.routes.get(&key_of(&session.metadata)).is_some();
            !session.is_deleted() && !has_route && deployment.is_some_and(|uid| !exists(uid))
        };
        let sessions = state.stores.sessions.values().filter(|session| session.group().is_none_or(|group| self.manages(group)));
        sessions.filter(is_orphaned).cloned().collect()
    }
}
