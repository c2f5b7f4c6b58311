//! Commits session statuses: phase, attempts, allocation and history in one write, which fails if the session changed.

use std::sync::Arc;

use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};

use crate::api::{Session, SessionStatus};
use crate::cluster::store::identity::{is_same_for_decisions, key_of};
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
    /// Writes one status. It counts as written from before the write until the outcome is known, so that no resources are
    /// allocated twice. `base` is the API server's version of the session that the decision was based on.
    pub async fn commit(&self, session: &Arc<Session>, base: &Session, status: SessionStatus) -> Committed<Sessions> {
        let mut next = (**session).clone();
        next.status = Some(status);
        next.metadata.managed_fields = None;
        let next = Arc::new(next);
        self.world.assume(&next);
        let committed = self.write(&next, base).await;
        // The store already has the written status, so its resources never look free in between.
        self.world.settle(&next);
        committed
    }

    /// Sends a write of unknown outcome again, with the same precondition, until the outcome is known. After a conflict with
    /// a change that matters to no decision, such as an annotation, it sends the status as a patch. The patch tests only the
    /// fields that matter. Otherwise a user could keep a session from changing by patching it in a loop.
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
                // Nothing is sent without the lease. Either the lease is renewed in time, or this process ends.
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
                        // All tests of the patch hold, so the API server refused it for another reason.
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

    /// Compares the session at the API server with the base of this commit. Returns None if no answer came.
    async fn compare(&self, api: &Api<Session>, name: &str, next: &Session, base: &Session) -> Option<Current> {
        match self.writer.read(api.get(name)).await {
            Ok(read) => {
                // Our own write may have succeeded and its answer may have been lost.
                let ours = read.status == next.status && read.metadata.uid == next.metadata.uid;
                let read = self.world.upsert_session(read);
                Some(match ours {
                    true => Current::Ours(read),
                    false if is_same_for_decisions(base, &read) => Current::Unchanged,
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
    /// No field that matters to a decision has changed.
    Unchanged,
    Changed,
}

/// Returns a patch that replaces the status, if the session is still the one that the decision was based on.
fn status_patch(base: &Session, next: &Session) -> json_patch::Patch {
    let operations = serde_json::json!([
        {"op": "test", "path": "/metadata/uid", "value": base.metadata.uid},
        {"op": "test", "path": "/metadata/generation", "value": base.metadata.generation},
        {"op": "test", "path": "/status", "value": base.status},
        {"op": "add", "path": "/status", "value": next.status},
    ]);
    serde_json::from_value(operations).unwrap_or_default()
}
