//! What is counted as written and is yet to be: whoever commits the session next writes it with their own.

use std::sync::Arc;

use super::world::{News, World, decides_the_same, uid_of};
use crate::api::{Session, SessionUid};
use crate::coordinator::marks::Mark;
use crate::session::handlers::HandlerName;

impl World {
    /// Counts a status as written that is yet to be. `base` is what it was decided on. A session that was changed meanwhile is
    /// looked at again, since the status would hide the change, unless the change matters to no decision.
    pub fn linger(&self, session: &Arc<Session>, base: &Session, news: News) {
        let uid = uid_of(session);
        let mut inner = self.lock();
        let committed = inner.committed(&uid).cloned();
        match committed {
            Some(committed) if decides_the_same(base, &committed) => {
                inner.lingering.entry(uid).or_default().append(news);
                let assumed = Session { status: session.status.clone(), ..(*committed).clone() };
                let freed = inner.assume(&Arc::new(assumed));
                drop(inner);
                self.after_change(freed);
            }
            Some(committed) => {
                drop(inner);
                self.marks.session(&uid, committed.phase());
            }
            None => {}
        }
    }

    /// The marked sessions of which something lingers.
    pub fn lingering(&self, mark: &Mark) -> Vec<SessionUid> {
        self.lock().lingering.keys().filter(|uid| mark.covers(uid)).cloned().collect()
    }

    pub fn lingers(&self, uid: &SessionUid) -> bool {
        self.lock().lingering.contains_key(uid)
    }

    /// Whether a step of that handler does.
    pub fn lingers_of(&self, uid: &SessionUid, handler: HandlerName) -> bool {
        self.lock().lingering.get(uid).is_some_and(|news| news.results.iter().any(|(by, _)| *by == handler))
    }

    /// What is to follow what lingers; it is about to be written.
    pub fn take_lingering(&self, uid: &SessionUid) -> News {
        self.lock().lingering.remove(uid).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{DesiredState, SessionPhase};
    use crate::cluster::world::Scope;
    use crate::session::handlers::testing::session_in;

    #[test]
    fn what_lingers_is_found_by_whoever_marks_everything_too() {
        let world = World::new(Arc::default(), Arc::default(), Scope::default());
        let session = world.upsert_session(session_in(SessionPhase::Preparing));
        let uid = SessionUid(session.metadata.uid.clone().expect("a uid"));
        world.linger(&session, &session, News::default());
        let one = Mark::of([uid.clone()]);
        for (mark, found) in [(one, vec![uid.clone()]), (Mark::all(), vec![uid]), (Mark::default(), vec![])] {
            assert_eq!(world.lingering(&mark), found);
        }
    }

    #[test]
    fn a_deferred_commit_holds_for_a_version_with_another_annotation() {
        let world = World::new(Arc::default(), Arc::default(), Scope::default());
        let version = |version: &str| {
            let mut session = session_in(SessionPhase::Scheduled);
            session.metadata.resource_version = Some(version.into());
            session.metadata.annotations = Some([("touched".to_owned(), version.to_owned())].into());
            session
        };
        let old = world.upsert_session(version("1"));
        let uid = SessionUid(old.metadata.uid.clone().expect("a uid"));
        world.upsert_session(version("2"));
        let mut next = (*old).clone();
        next.status.as_mut().expect("a status").phase = SessionPhase::Preparing;
        world.linger(&Arc::new(next), &old, News::default());
        world.upsert_session(version("3"));
        let (_, item) = world.look_again(&uid).expect("it is there");
        assert!(world.lingers(&uid));
        let version = item.session.metadata.resource_version.as_deref();
        assert_eq!(
            (item.session.phase(), item.stored.phase(), version),
            (SessionPhase::Preparing, SessionPhase::Scheduled, Some("3"))
        );
    }

    #[test]
    fn what_would_linger_over_a_newer_session_does_not_hide_it() {
        let world = World::new(Arc::default(), Arc::default(), Scope::default());
        let version = |version: &str, desired_state| {
            let mut session = session_in(SessionPhase::Preparing);
            session.metadata.resource_version = Some(version.into());
            session.metadata.generation = version.parse().ok();
            session.spec.desired_state = desired_state;
            session
        };
        let old = world.upsert_session(version("1", DesiredState::Running));
        let uid = SessionUid(old.metadata.uid.clone().expect("a uid"));
        world.upsert_session(version("2", DesiredState::Terminated));
        world.marks.take(HandlerName::EndSessions);
        world.linger(&old, &old, News::default());
        let (_, item) = world.look_again(&uid).expect("it is there");
        assert_eq!(item.session.spec.desired_state, DesiredState::Terminated);
        assert!(!world.lingers(&uid) && world.marks.is_marked(HandlerName::EndSessions));
    }
}
