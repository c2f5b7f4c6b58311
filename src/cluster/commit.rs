//! Commits statuses: phase, attempts and history in one write, which fails if the object changed.

use std::sync::Arc;
use std::time::Instant;

use kube::Resource;
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::object::HasStatus;
use serde::Serialize;

use super::objects::Namespaced;
use super::store::identity::{is_same_for_decisions, key_of, uid_in};
use super::store::serving::Served;
use super::store::world::World;
use super::write::{WriteError, Writer};
use crate::api::Session;
use crate::coordinator::host::Committed;
use crate::lifecycle::{Subject, Timing};
use crate::session::sessions::Sessions;
use crate::views::extract;

/// A kind whose statuses are committed, and where they count before and after.
pub trait Committable: Subject<Object: Namespaced + Serialize, Status: Serialize> {
    /// The name of the write in the metrics.
    const OPERATION: &'static str;
    /// Counts a status that is being written as written.
    fn assume(world: &World, object: &Arc<Self::Object>);
    /// The outcome of the write is known.
    fn settle(world: &World, object: &Arc<Self::Object>);
    fn upsert(world: &World, object: Self::Object) -> Arc<Self::Object>;
}

impl Committable for Sessions {
    const OPERATION: &'static str = "session-status";

    fn assume(world: &World, session: &Arc<Session>) {
        world.assume(session);
    }

    fn settle(world: &World, session: &Arc<Session>) {
        world.settle(session);
    }

    fn upsert(world: &World, session: Session) -> Arc<Session> {
        world.upsert_session(session)
    }
}

impl<S> Committable for S
where
    S: Served<Object: Namespaced + Serialize, Status: Serialize>,
{
    const OPERATION: &'static str = S::STATUS_WRITE;

    fn assume(world: &World, object: &Arc<S::Object>) {
        S::kind_mut(&mut world.lock().serving).overlay.assume(object);
    }

    fn settle(world: &World, object: &Arc<S::Object>) {
        S::kind_mut(&mut world.lock().serving).overlay.settle(&uid_in::<S>(object));
    }

    fn upsert(world: &World, object: S::Object) -> Arc<S::Object> {
        world.upsert_object::<S>(object)
    }
}

/// Writes statuses.
#[derive(Clone)]
pub struct Committer {
    pub writer: Writer,
    pub world: Arc<World>,
    pub timing: Arc<Timing>,
}

impl Committer {
    /// Writes one status. It counts as written from before the write until the outcome is known, so that no resources are
    /// allocated twice. `base` is the API server's version of the object that the decision was based on.
    pub async fn commit<S: Committable>(&self, object: &Arc<S::Object>, base: &S::Object, status: S::Status) -> Committed<S> {
        let mut next = (**object).clone();
        *next.status_mut() = Some(status);
        next.meta_mut().managed_fields = None;
        let next = Arc::new(next);
        S::assume(&self.world, &next);
        let committed = self.write::<S>(&next, base).await;
        // The store already has the written status, so its resources never look free in between.
        S::settle(&self.world, &next);
        committed
    }

    /// Sends a write of unknown outcome again, with the same precondition, until the outcome is known. After a conflict with
    /// a change that matters to no decision, such as an annotation, it sends the status as a patch. The patch tests only the
    /// fields that matter. Otherwise a user could keep an object from changing by patching it in a loop.
    async fn write<S: Committable>(&self, next: &Arc<S::Object>, base: &S::Object) -> Committed<S> {
        let (namespace, name) = key_of(next.meta());
        let api = self.writer.api::<S::Object>(&namespace);
        let mut pause = self.timing.coalesce;
        let mut by_patch = false;
        loop {
            let written = match by_patch {
                false => self.writer.write(S::OPERATION, api.replace_status(&name, &PostParams::default(), next)).await,
                true => {
                    let params = PatchParams::default();
                    let patch = Patch::Json::<()>(status_patch::<S>(base, next));
                    self.writer.write(S::OPERATION, api.patch_status(&name, &params, &patch)).await
                }
            };
            match written {
                Ok(written) => {
                    let version = extract::version(written.meta().resource_version.as_ref());
                    self.world.lag.wrote(&S::Object::kind(&()), version, Instant::now());
                    return Committed::Done(S::upsert(&self.world, written));
                }
                // Nothing is sent without the lease. Either the lease is renewed in time, or this process ends.
                Err(error @ (WriteError::Unknown(_) | WriteError::Unreadable(_) | WriteError::Busy(_) | WriteError::Fenced)) => {
                    tracing::warn!(kind = S::NAME, %name, %namespace, "the commit is sent again: {error}")
                }
                Err(error @ (WriteError::Conflict(_) | WriteError::Refused(_)))
                    if by_patch || matches!(error, WriteError::Conflict(_)) =>
                {
                    match self.compare::<S>(&name, next, base).await {
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

    /// Compares the object at the API server with the base of this commit. Returns None if no answer came.
    async fn compare<S: Committable>(&self, name: &str, next: &S::Object, base: &S::Object) -> Option<Current<S>> {
        let api = self.writer.api::<S::Object>(&key_of(next.meta()).0);
        match self.writer.read(api.get(name)).await {
            Ok(read) => {
                // Our own write may have succeeded and its answer may have been lost.
                let ours = read.status() == next.status() && read.meta().uid == next.meta().uid;
                let read = S::upsert(&self.world, read);
                Some(match ours {
                    true => Current::Ours(read),
                    false if is_same_for_decisions(base, &*read) => Current::Unchanged,
                    false => Current::Changed,
                })
            }
            Err(WriteError::NotFound(_) | WriteError::Unreadable(_)) => Some(Current::Changed),
            Err(error) => {
                tracing::warn!(kind = S::NAME, %name, "the object is read again: {error}");
                None
            }
        }
    }
}

/// The object at the API server after a status could not be written.
enum Current<S: Committable> {
    Ours(Arc<S::Object>),
    /// No field that matters to a decision has changed.
    Unchanged,
    Changed,
}

/// Returns a patch that replaces the status, if the object is still the one that the decision was based on.
fn status_patch<S: Committable>(base: &S::Object, next: &S::Object) -> json_patch::Patch {
    let operations = serde_json::json!([
        {"op": "test", "path": "/metadata/uid", "value": base.meta().uid},
        {"op": "test", "path": "/metadata/generation", "value": base.meta().generation},
        {"op": "test", "path": "/status", "value": base.status()},
        {"op": "add", "path": "/status", "value": next.status()},
    ]);
    serde_json::from_value(operations).unwrap_or_default()
}
