//! Who is at work on a session, who waits for that, and which sessions are left alone for a while.

use std::time::Duration;

use chrono::{TimeDelta, Utc};

use super::world::World;
use crate::api::SessionUid;
use crate::session::handlers::HandlerName;

impl World {
    /// Claims a session for one who works on it alone; false if it is claimed already.
    pub fn claim(&self, uid: &SessionUid) -> bool {
        self.lock().claimed.insert(uid.clone())
    }

    /// Gives back what a handler is done with, to those who wait for it.
    pub fn unclaim(&self, uid: &SessionUid) {
        let mut inner = self.lock();
        inner.claimed.remove(uid);
        let waiting = inner.waits_for.remove(uid).unwrap_or_default();
        let whole = inner.place.get(uid).is_none_or(|(group, _)| inner.looks_at_the_top_only(group));
        drop(inner);
        for (handler, urgent) in waiting {
            if urgent {
                self.marks.urgent(handler, uid);
            }
            // Where only the highest priority is looked at, all of its group have waited.
            match handler {
                HandlerName::ScheduleSessions if whole => self.marks.all(handler),
                _ => self.marks.one(handler, uid),
            }
        }
    }

    /// Leaves a session alone for a while, or until it changes.
    pub fn quarantine(&self, uid: &SessionUid, pause: Duration) {
        let until = Utc::now() + TimeDelta::from_std(pause).unwrap_or_default();
        self.lock().quarantined.insert(uid.clone(), until);
    }
}
