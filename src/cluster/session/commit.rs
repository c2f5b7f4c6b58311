//! Commits session statuses: phase, attempts, allocation and history in one write that is refused if the session changed.

use std::sync::Arc;

use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};

use crate::api::{Session, SessionStatus};
use crate::cluster::store::identity::{decides_the_same, key_of};
use crate::cluster::store::world::World;
use crate::cluster::write::{WriteError, Writer};
use crate::coordinator::host::Committed;
use crate::lifecycle::Timing;
use crate::session::sessions::Sessions;

/// Writes statuses.
#[derive(Clone)]
pub struct Committer {
    pub writer: Writer,
    pub world: Arc<World>,
    pub timing: Arc<Timing>,
}

impl Committer {
    /// Writes one status. From before the write until its outcome is known, the status counts as written, so that nothing is
    /// given away twice. `base` is the session that the decision was made on, as the API server had it.
    pub async fn commit(&self, session: &Arc<Session>, base: &Session, status: SessionStatus) -> Committed<Sessions> {
        let mut next = (**session).clone();
        next.status = Some(status);
        next.metadata.managed_fields = None;
        let next = Arc::new(next);
        self.world.assume(&next);
        let committed = self.write(&next, base).await;
        // What was written is in the world by now: in between nothing must look free that is not.
        self.world.settle(&next);
        committed
    }

    /// A write of unknown outcome is sent again with the same precondition until the outcome is known. After a conflict with a
    /// change that no decision depends on, such as an annotation, the status is sent as a patch: the API server then compares
    /// what matters. Otherwise a user who patches a session in a loop would keep it from changing.
    async fn write(&self, next: &Arc<Session>, base: &Session) -> Committed<Sessions> {
        let (namespace, name) = key_of(&next.metadata);
        let api: Api<Session> = Api::namespaced(self.writer.client.clone(), &namespace);
        let mut pause = self.timing.coalesce;
        let mut by_patch = false;
        loop {
            let written = match by_patch {
                false => self.writer.write("session-status", api.replace_status(&name, &PostParams::default(), next)).await,
                true => {
                    let params = PatchParams::default();
                    let patch = Patch::Json::<()>(status_patch(base, next));
                    self.writer.write("session-status", api.patch_status(&name, &params, &patch)).await
                }
            };
            match written {
                Ok(written) => return Committed::Done(self.world.upsert_session(written)),
                // Without the lease it is not sent; either it is renewed in time, or this process ends.
                Err(error @ (WriteError::Unknown(_) | WriteError::Unreadable(_) | WriteError::Busy(_) | WriteError::Fenced)) => {
                    tracing::warn!(session = %name, %namespace, "the commit is sent again: {error}")
                }
                Err(error @ (WriteError::Conflict(_) | WriteError::Refused(_)))
                    if by_patch || matches!(error, WriteError::Conflict(_)) =>
                {
                    match self.compare(&api, &name, next, base).await {
                        Some(Current::Ours(read)) => return Committed::Done(read),
                        Some(Current::Unchanged) if !by_patch => {
                            by_patch = true;
                            continue;
                        }
                        // Every test of the patch holds: the API server refused it for another reason.
                        Some(Current::Unchanged) => return Committed::Refused(error.to_string()),
                        Some(Current::Changed) => return Committed::Dropped(error.to_string()),
                        None => {}
                    }
                }
                Err(WriteError::Refused(message) | WriteError::Conflict(message)) => return Committed::Refused(message),
                Err(error @ (WriteError::NotFound(_) | WriteError::AlreadyExists)) => {
                    return Committed::Dropped(error.to_string());
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(self.timing.lock_lifetime);
        }
    }

    /// Compares the session at the API server with the one this commit began from. Returns None if no answer came.
    async fn compare(&self, api: &Api<Session>, name: &str, next: &Session, base: &Session) -> Option<Current> {
        match self.writer.read(api.get(name)).await {
            Ok(read) => {
                // Perhaps it was our own write whose answer was lost.
                let ours = read.status == next.status && read.metadata.uid == next.metadata.uid;
                let read = self.world.upsert_session(read);
                Some(match ours {
                    true => Current::Ours(read),
                    false if decides_the_same(base, &read) => Current::Unchanged,
                    false => Current::Changed,
                })
            }
            Err(WriteError::NotFound(_) | WriteError::Unreadable(_)) => Some(Current::Changed),
            Err(error) => {
                tracing::warn!(session = %name, "the session is read again: {error}");
                None
            }
        }
    }
}

/// The session at the API server after a status could not be written.
enum Current {
    Ours(Arc<Session>),
    /// The session is the same to every decision.
    Unchanged,
    Changed,
}

/// Replaces the status if the session is still the one that the decision was made on.
fn status_patch(base: &Session, next: &Session) -> json_patch::Patch {
    let operations = serde_json::json!([
        {"op": "test", "path": "/metadata/uid", "value": base.metadata.uid},
        {"op": "test", "path": "/metadata/generation", "value": base.metadata.generation},
        {"op": "test", "path": "/status", "value": base.status},
        {"op": "add", "path": "/status", "value": next.status},
    ]);
    serde_json::from_value(operations).unwrap_or_default()
}
