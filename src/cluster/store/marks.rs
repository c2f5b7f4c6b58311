//! The marks of sessions, for handlers and for the tasks on kernels.

use std::sync::Arc;

use crate::api::{SessionPhase, SessionUid};
use crate::coordinator::marks::{HandlerMarks, Marks};
use crate::session::sessions::Sessions;

/// A task on the kernels and pods of one session. It has no row, because the session may be gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KernelTask {
    /// Records ends, releases ended pods, removes leftovers.
    Sync,
    /// Records that kernels run or why they are late, for people.
    Record,
}

/// All marks of sessions.
#[derive(Default)]
pub struct SessionMarks {
    pub handlers: Arc<HandlerMarks<Sessions>>,
    pub kernels: Arc<Marks<KernelTask, SessionUid>>,
}

impl SessionMarks {
    /// Marks a changed session for every handler of its phase, and its kernels.
    pub fn session(&self, uid: &SessionUid, phase: SessionPhase) {
        self.handlers.object(uid, phase);
        self.kernels.one(KernelTask::Sync, uid);
    }

    pub fn everything(&self) {
        self.handlers.everything();
        self.kernels.all(KernelTask::Sync);
        self.kernels.all(KernelTask::Record);
    }

    /// Drops the timed marks of a session that is gone.
    pub fn forget(&self, uid: &SessionUid) {
        self.handlers.forget(uid);
        self.kernels.forget(uid);
    }
}
