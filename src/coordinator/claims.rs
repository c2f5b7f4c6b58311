//! Claims: one handler at a time works on an object. A claim is given back when it is dropped.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::marks::{HandlerMarks, Mark};
use crate::lifecycle::Subject;

/// The marks that wait for one object to be given back.
type Waiting<S> = HashMap<<S as Subject>::HandlerName, Mark<<S as Subject>::Uid>>;

struct Inner<S: Subject> {
    claimed: HashSet<S::Uid>,
    waiting: HashMap<S::Uid, Waiting<S>>,
}

/// The claims on all objects of a kind.
pub struct Claims<S: Subject> {
    inner: Mutex<Inner<S>>,
    marks: Arc<HandlerMarks<S>>,
}

/// One object, claimed.
pub struct Claim<S: Subject> {
    claims: Arc<Claims<S>>,
    uid: S::Uid,
}

impl<S: Subject> Claims<S> {
    pub fn new(marks: Arc<HandlerMarks<S>>) -> Self {
        Self { inner: Mutex::new(Inner { claimed: HashSet::new(), waiting: HashMap::new() }), marks }
    }

    fn lock(&self) -> MutexGuard<'_, Inner<S>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Claims an object. Returns None if it is claimed already.
    pub fn try_claim(self: &Arc<Self>, uid: &S::Uid) -> Option<Claim<S>> {
        let is_free = self.lock().claimed.insert(uid.clone());
        is_free.then(|| Claim { claims: self.clone(), uid: uid.clone() })
    }

    /// Claims an object for a handler. If it is claimed already, the handler gets `mark` once the object is given back.
    pub fn claim_or_wait(
        self: &Arc<Self>,
        uid: &S::Uid,
        handler: S::HandlerName,
        mark: impl FnOnce() -> Mark<S::Uid>,
    ) -> Option<Claim<S>> {
        let mut inner = self.lock();
        if inner.claimed.insert(uid.clone()) {
            return Some(Claim { claims: self.clone(), uid: uid.clone() });
        }
        inner.waiting.entry(uid.clone()).or_default().entry(handler).or_default().merge(mark());
        None
    }

    pub fn is_claimed(&self, uid: &S::Uid) -> bool {
        self.lock().claimed.contains(uid)
    }
}

impl<S: Subject> Drop for Claim<S> {
    fn drop(&mut self) {
        let mut inner = self.claims.lock();
        inner.claimed.remove(&self.uid);
        let waiting = inner.waiting.remove(&self.uid).unwrap_or_default();
        drop(inner);
        for (handler, mark) in waiting {
            self.claims.marks.add(handler, mark);
        }
    }
}
