//! What follows a handler's run on one group: the next handlers are marked, and usage that changed is published (rules §3).

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::marks::{Mark, Marks};
use crate::api::{AccessKey, HistoryResult, SessionPhase, SessionUid};
use crate::cluster::world::World;
use crate::session::handlers::HandlerName;

/// What a run on one group came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Processed {
    /// The phases that sessions actually reached, and which did.
    pub reached: BTreeSet<(SessionPhase, SessionUid)>,
    /// Whose sessions succeeded or failed.
    pub access_keys: BTreeSet<AccessKey>,
    /// Whether anything succeeded or failed; skips alone do not count.
    pub did_anything: bool,
}

impl Processed {
    pub fn add(&mut self, result: HistoryResult, key: &AccessKey) {
        if result != HistoryResult::Skipped {
            self.did_anything = true;
            self.access_keys.insert(key.clone());
        }
    }

    pub fn merge(&mut self, other: Self) {
        self.reached.extend(other.reached);
        self.access_keys.extend(other.access_keys);
        self.did_anything |= other.did_anything;
    }
}

/// What post-processors act on.
pub trait Ports {
    fn mark(&self, handler: HandlerName, mark: Mark);
    fn usage_changed(&self, keys: &BTreeSet<AccessKey>);
}

/// The operator's own.
pub struct Real<'a> {
    pub marks: &'a Marks,
    pub world: &'a World,
}

impl Ports for Real<'_> {
    fn mark(&self, handler: HandlerName, mark: Mark) {
        self.marks.add(handler, mark);
    }

    fn usage_changed(&self, _keys: &BTreeSet<AccessKey>) {
        // Published are all tenants whose usage differs from what stands there.
        self.world.mark_usage();
    }
}

/// One link of the chain.
type PostProcessor = (&'static str, fn(&Processed, &dyn Ports));

const CHAIN: [PostProcessor; 2] = [("mark-next", mark_next), ("publish-usage", publish_usage)];

/// Runs all of them, each apart from the others, if there was any success or failure.
pub fn run(processed: &Processed, ports: &dyn Ports) {
    run_chain(&CHAIN, processed, ports);
}

fn run_chain(chain: &[PostProcessor], processed: &Processed, ports: &dyn Ports) {
    if !processed.did_anything {
        return;
    }
    for (name, process) in chain {
        if catch_unwind(AssertUnwindSafe(|| process(processed, ports))).is_err() {
            tracing::error!(post_processor = name, "it panicked; the others are run all the same");
        }
    }
}

/// Which handler is next once sessions reached a phase.
fn next_handler(phase: SessionPhase) -> Option<HandlerName> {
    match phase {
        SessionPhase::Scheduled => Some(HandlerName::CheckPrecondition),
        SessionPhase::Prepared => Some(HandlerName::StartSessions),
        SessionPhase::Terminating => Some(HandlerName::TerminateSessions),
        SessionPhase::Deprioritizing => Some(HandlerName::DeprioritizeSessions),
        SessionPhase::Terminated => Some(HandlerName::ScheduleSessions),
        _ => None,
    }
}

/// Each phase that was reached marks once; an end frees something, so that everyone who waits is looked at.
fn mark_next(processed: &Processed, ports: &dyn Ports) {
    let phases: BTreeSet<SessionPhase> = processed.reached.iter().map(|(phase, _)| *phase).collect();
    for phase in phases {
        let Some(handler) = next_handler(phase) else { continue };
        let mark = match phase {
            SessionPhase::Terminated => Mark::all(),
            _ => {
                let sessions = processed.reached.iter().filter(|(reached, _)| *reached == phase).map(|(_, uid)| uid.clone());
                Mark::of(sessions)
            }
        };
        ports.mark(handler, mark);
    }
}

fn publish_usage(processed: &Processed, ports: &dyn Ports) {
    if !processed.access_keys.is_empty() {
        ports.usage_changed(&processed.access_keys);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[derive(Default)]
    struct Told {
        marks: RefCell<Vec<(HandlerName, Mark)>>,
        keys: RefCell<Vec<BTreeSet<AccessKey>>>,
    }

    impl Ports for Told {
        fn mark(&self, handler: HandlerName, mark: Mark) {
            self.marks.borrow_mut().push((handler, mark));
        }
        fn usage_changed(&self, keys: &BTreeSet<AccessKey>) {
            self.keys.borrow_mut().push(keys.clone());
        }
    }

    fn processed(reached: &[(SessionPhase, &str)], results: &[(HistoryResult, &str)]) -> Processed {
        let mut all = Processed::default();
        all.reached.extend(reached.iter().map(|(phase, uid)| (*phase, SessionUid((*uid).into()))));
        for (result, key) in results {
            all.add(*result, &AccessKey((*key).into()));
        }
        all
    }

    fn marked(processed: &Processed) -> Vec<(HandlerName, Mark)> {
        let told = Told::default();
        run(processed, &told);
        told.marks.into_inner()
    }

    #[test]
    fn sc_co_020_scheduled_sessions_mark_check_precondition_once() {
        let two = processed(
            &[(SessionPhase::Scheduled, "a"), (SessionPhase::Scheduled, "b")],
            &[(HistoryResult::Success, "k"), (HistoryResult::Success, "k")],
        );
        let marks = marked(&two);
        assert_eq!(marks.len(), 1);
        assert_eq!(marks[0].0, HandlerName::CheckPrecondition);
        assert_eq!(marks[0].1.sessions.len(), 2);
        let ended = processed(&[(SessionPhase::Terminated, "a")], &[(HistoryResult::Success, "k")]);
        assert_eq!(marked(&ended), [(HandlerName::ScheduleSessions, Mark::all())]);
        for (phase, handler) in [
            (SessionPhase::Prepared, HandlerName::StartSessions),
            (SessionPhase::Terminating, HandlerName::TerminateSessions),
            (SessionPhase::Deprioritizing, HandlerName::DeprioritizeSessions),
        ] {
            let one = Mark::of([SessionUid("a".into())]);
            assert_eq!(marked(&processed(&[(phase, "a")], &[(HistoryResult::Success, "k")])), [(handler, one)]);
        }
    }

    #[test]
    fn sc_co_021_a_phase_without_a_next_handler_marks_none() {
        use SessionPhase::{Cancelled, Creating, Error, Pending, Preparing, Pulling, Running};
        for phase in [Pending, Preparing, Pulling, Creating, Running, Cancelled, Error] {
            assert!(marked(&processed(&[(phase, "a")], &[(HistoryResult::Success, "k")])).is_empty(), "{phase}");
        }
    }

    #[test]
    fn sc_co_022_where_nothing_was_reached_nothing_is_marked() {
        assert!(marked(&processed(&[], &[(HistoryResult::NeedRetry, "k")])).is_empty());
    }

    #[test]
    fn sc_co_023_usage_of_the_keys_of_successes_and_failures_is_renewed() {
        let told = Told::default();
        let results = [(HistoryResult::Success, "ak1"), (HistoryResult::Success, "ak2"), (HistoryResult::NeedRetry, "ak3")];
        run(&processed(&[], &results), &told);
        let keys = ["ak1", "ak2", "ak3"].map(|key| AccessKey(key.into()));
        assert_eq!(told.keys.into_inner(), [BTreeSet::from(keys)]);
    }

    #[test]
    fn sc_co_024_without_keys_or_by_skips_alone_nothing_is_renewed() {
        let told = Told::default();
        run(&processed(&[(SessionPhase::Scheduled, "a")], &[(HistoryResult::Skipped, "ak1")]), &told);
        run(&Processed { did_anything: true, ..Processed::default() }, &told);
        assert!(told.keys.borrow().is_empty());
        assert!(told.marks.borrow().is_empty());
    }

    #[test]
    fn sc_co_025_all_are_run_and_one_that_panics_stops_no_other() {
        let told = Told::default();
        let chain: [PostProcessor; 3] = [("panics", |_, _| panic!("as planned")), CHAIN[0], CHAIN[1]];
        let one = processed(&[(SessionPhase::Prepared, "a")], &[(HistoryResult::Success, "ak1")]);
        run_chain(&chain, &one, &told);
        assert_eq!(told.marks.borrow().len(), 1);
        assert_eq!(told.keys.borrow().len(), 1);
    }
}
