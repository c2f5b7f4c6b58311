//! Commits session statuses: phase, attempts, allocation and history in one write that is refused if the session changed.

use std::sync::Arc;

use kube::Api;
use kube::api::PostParams;

use super::world::{World, decides_the_same, key_of};
use super::write::{WriteError, Writer};
use crate::api::{Session, SessionStatus};
use crate::lifecycle::Timing;

/// What became of a commit.
#[derive(Debug)]
pub enum Committed {
    Done(Arc<Session>),
    /// The session changed meanwhile: nothing was written, and no attempt counts.
    Dropped(String),
    /// The API server does not take it: the same would be refused again.
    Refused(String),
}

/// Most times that one status is written again on a newer version of its session.
const MAX_REBASES: usize = 32;

/// Writes statuses.
#[derive(Clone)]
pub struct Committer {
    pub writer: Writer,
    pub world: Arc<World>,
    pub timing: Arc<Timing>,
}

impl Committer {
    /// Writes one status. From before the write until its outcome is known, the world counts it as written, so that
    /// nothing is given away twice.
    /// `base` is what the decision was made on, as the API server had it.
    pub async fn commit(&self, session: &Arc<Session>, base: &Session, status: SessionStatus) -> Committed {
        let mut next = (**session).clone();
        next.status = Some(status);
        next.metadata.managed_fields = None;
        let next = Arc::new(next);
        self.world.assume(&next);
        let committed = self.write(next.clone(), base).await;
        // What was written is in the world by now: in between nothing must look free that is not.
        self.world.settle(&next);
        committed
    }

    /// An unknown outcome is asked again with the same precondition until it is known. A conflict with a change that
    /// no decision depends on, such as an annotation, is written again on the new version: else whoever patches a session in
    /// a loop keeps it as it is for as long as the loop runs.
    async fn write(&self, mut next: Arc<Session>, base: &Session) -> Committed {
        let (namespace, name) = key_of(&next.metadata);
        let api: Api<Session> = Api::namespaced(self.writer.client.clone(), &namespace);
        let mut pause = self.timing.coalesce;
        let mut rebased = 0;
        loop {
            match self.writer.write("session-status", api.replace_status(&name, &PostParams::default(), &next)).await {
                Ok(written) => return Committed::Done(self.world.upsert_session(written)),
                // Without the lease it is not sent; either it is renewed in time, or this process ends.
                Err(error @ (WriteError::Unknown(_) | WriteError::Unreadable(_) | WriteError::Busy(_) | WriteError::Fenced)) => {
                    tracing::warn!(session = %name, %namespace, "commit is asked again: {error}")
                }
                // Perhaps it was our own write whose answer was lost: read what stands.
                Err(WriteError::Conflict(message)) => match self.writer.read(api.get(&name)).await {
                    Ok(read) => {
                        let ours = read.status == next.status && read.metadata.uid == next.metadata.uid;
                        let read = self.world.upsert_session(read);
                        if ours {
                            return Committed::Done(read);
                        }
                        if rebased >= MAX_REBASES || !decides_the_same(base, &read) {
                            return Committed::Dropped(message);
                        }
                        rebased += 1;
                        next = Arc::new(Session { status: next.status.clone(), ..(*read).clone() });
                        self.world.assume(&next);
                        continue;
                    }
                    Err(error @ (WriteError::NotFound(_) | WriteError::Unreadable(_))) => {
                        return Committed::Dropped(error.to_string());
                    }
                    Err(error) => tracing::warn!(session = %name, %namespace, "what stands is asked for again: {error}"),
                },
                Err(WriteError::Refused(message)) => return Committed::Refused(message),
                Err(error @ (WriteError::NotFound(_) | WriteError::AlreadyExists)) => {
                    return Committed::Dropped(error.to_string());
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(self.timing.lock_lifetime);
        }
    }
}
