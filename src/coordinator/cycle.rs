//! The cycle of one handler: marked sessions of all groups, decided, carried out and committed (rules §3).

use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::future::{BoxFuture, join_all};
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use tokio::task::JoinSet;

use super::hooks::Hooks;
use super::item::Work;
use super::judge::paused_until;
use super::locks::{Held, Locks};
use super::marks::{Mark, Marks};
use super::post_processors::{self, Processed, Real};
use super::recorder::step;
use super::tasks::{Task, Tasks, task};
use crate::api::{SessionUid, SubStep, SubStepResult};
use crate::cluster::commit::Committer;
use crate::cluster::effects::Effects;
use crate::cluster::events::Events;
use crate::cluster::snapshot::Batch;
use crate::cluster::world::{World, uid_of};
use crate::lifecycle::{Failure, Reason, Timing};
use crate::metrics::{Metrics, Run, RunResult, group_label};
use crate::provisioner::LedgerSnapshot;
use crate::session::handlers::{Decide, HANDLERS, Handler, HandlerName, Verdict};
use crate::session::snapshot::{SessionItem, Snapshot};

/// How many sessions of one group are worked on at once.
pub(super) const CONCURRENCY: usize = 32;

/// Runs all handlers while this replica leads.
pub struct Coordinator {
    pub world: Arc<World>,
    pub marks: Arc<Marks>,
    pub effects: Effects,
    pub committer: Committer,
    pub events: Events,
    pub timing: Arc<Timing>,
    pub metrics: Metrics,
    pub hooks: Hooks,
    pub(super) locks: Locks,
    /// The sessions of which something that remains could not be settled, and how many times in a row.
    pub(super) sync_failures: Mutex<HashMap<(HandlerName, SessionUid), i32>>,
}

impl Coordinator {
    pub fn new(effects: Effects, committer: Committer, events: Events, metrics: Metrics, hooks: Hooks) -> Self {
        let world = effects.world.clone();
        let (marks, timing) = (world.marks.clone(), world.timing.clone());
        Self {
            world,
            marks,
            effects,
            committer,
            events,
            timing,
            metrics,
            hooks,
            locks: Locks::default(),
            sync_failures: Mutex::default(),
        }
    }

    /// Starts every handler's loop; they run as long as the set lives.
    pub fn start(self: Arc<Self>, tasks: &mut JoinSet<()>) {
        for handler in HANDLERS {
            let coordinator = self.clone();
            tasks.spawn(async move { coordinator.run(handler).await });
        }
        let coordinator = self.clone();
        tasks.spawn(async move { coordinator.run_sync().await });
        let coordinator = self.clone();
        tasks.spawn(async move { coordinator.run_facts().await });
        let coordinator = self.clone();
        tasks.spawn(async move { coordinator.run_lingering().await });
        tasks.spawn(async move { self.marks.run_timer().await });
    }

    async fn run(self: Arc<Self>, handler: &'static Handler) {
        let mut long =
            tokio::time::interval_at(tokio::time::Instant::now() + self.timing.long_cycle_initial, self.timing.long_cycle);
        let mut late = FuturesUnordered::new();
        loop {
            tokio::select! {
                () = self.wait(handler.name, &mut long) => {}
                Some(()) = late.next() => continue,
            }
            let mark = self.marks.take(handler.name);
            let mut cycle = std::pin::pin!(self.cycle(handler, mark));
            let rest = loop {
                tokio::select! {
                    rest = &mut cycle => break rest,
                    Some(()) = late.next() => {}
                }
            };
            late.extend(rest);
        }
    }

    /// Until the handler is marked, or its long cycle is due. Marks that come together are taken together.
    pub(super) async fn wait(&self, name: HandlerName, long: &mut tokio::time::Interval) {
        tokio::select! {
            () = self.marks.marked(name) => tokio::time::sleep(self.timing.coalesce).await,
            _ = long.tick() => self.marks.all(name),
        }
    }

    /// One cycle. A run that does not get its lock puts its mark back. When the lock's lifetime is over, what was not begun
    /// is marked again, and what is not done, such as a write whose outcome stays unknown, is given back to go on beside
    /// the cycles that follow, its sessions still claimed: one session never stops a handler for the others.
    async fn cycle(&self, handler: &'static Handler, mark: Mark) -> Option<BoxFuture<'_, ()>> {
        let Some((_held, mark)) = take_lock(&self.locks, &self.marks, handler, mark, self.timing.lock_lifetime).await else {
            tokio::time::sleep(self.timing.short_cycle).await;
            return None;
        };
        let start = Instant::now();
        let batches = self.world.batches(handler, &mark);
        if batches.is_empty() {
            return None;
        }
        let mut ledger = matches!(handler.decide, Decide::All(_)).then(|| self.world.ledger_snapshot());
        let mut decided = vec![];
        for batch in batches {
            let batch = self.leave_paused(handler, batch, &mark.urgent);
            let began = Instant::now();
            let (verdicts, result) = decide(handler, &batch, ledger.as_mut());
            let run = Run { handler: handler.name, group: group_label(&batch.snapshot), result, began };
            decided.push((self.leave_quiet(handler, batch, verdicts), run));
        }
        if let Some(ledger) = ledger {
            self.world.keep_cursors(ledger);
        }
        // Of a very long queue, to decide takes long too.
        let explaining = self.timing.explaining.max(start.elapsed());
        let groups = decided.into_iter().map(|(tasks, run)| async move {
            self.group(handler, tasks, start, explaining).await;
            self.metrics.ran(&run);
        });
        let mut work = join_all(groups).map(|_| ()).boxed();
        match tokio::time::timeout_at((start + self.timing.lock_lifetime).into(), &mut work).await {
            Ok(()) => None,
            Err(_) => Some(work),
        }
    }

    /// Sessions whose last fault is too fresh wait for their time.
    fn leave_paused(&self, handler: &Handler, mut batch: Batch, urgent: &HashSet<SessionUid>) -> Batch {
        let now = batch.snapshot.now;
        let paused = |item: &SessionItem| paused_until(handler, &item.session, now).filter(|_| !urgent.contains(&item.uid()));
        batch.items.retain(|item| match paused(item) {
            None => true,
            Some(until) => {
                let uid = uid_of(&item.session);
                self.marks.at(handler.name, &uid, until);
                self.world.unclaim(&uid);
                false
            }
        });
        batch
    }

    /// Sessions of which there is nothing to do or to tell are given back at once: of a long queue, nearly all.
    fn leave_quiet(&self, handler: &'static Handler, batch: Batch, verdicts: Vec<Verdict>) -> Tasks {
        let shared = shared_steps(handler, &batch);
        let Batch { snapshot, items } = batch;
        let mut tasks = Tasks { snapshot, shared, doing: vec![], explaining: vec![] };
        for (item, verdict) in items.into_iter().zip(verdicts) {
            match task(handler, &tasks.snapshot, &item, &verdict) {
                Task::Do => tasks.doing.push((item, verdict)),
                Task::Tell => tasks.explaining.push((item, verdict)),
                Task::Nothing => {
                    let uid = item.uid();
                    if let Some(wake) = verdict.wake_at {
                        self.marks.at(handler.name, &uid, wake);
                    }
                    self.tell_observed(&item);
                    self.world.unclaim(&uid);
                }
            }
        }
        tasks
    }

    /// What does something goes first. Those for whom nothing is done are told why for a moment, which is theirs however
    /// much there is to do; the rest of them after the next look at all, so that who can be placed does not wait for that.
    async fn group(&self, handler: &'static Handler, tasks: Tasks, start: Instant, moment: Duration) {
        let Tasks { snapshot, shared, doing, explaining } = tasks;
        let deadline = start + self.timing.lock_lifetime;
        let mut work = std::pin::pin!(self.work_on(handler, &snapshot, &shared, doing, deadline));
        let turn = start + self.timing.lock_lifetime.saturating_sub(moment);
        let done = tokio::time::timeout_at(turn.into(), &mut work).await;
        let tell = self.work_on(handler, &snapshot, &shared, explaining, deadline.min(Instant::now() + moment));
        match done {
            Ok(()) => tell.await,
            Err(_) => _ = futures::join!(work, tell),
        }
    }

    /// What is not begun before the deadline is marked again, even while all that was begun is stuck.
    async fn work_on(
        &self,
        handler: &'static Handler,
        snapshot: &Snapshot,
        shared: &[SubStep],
        items: Vec<(SessionItem, Verdict)>,
        deadline: Instant,
    ) {
        let mut items = items.into_iter();
        let mut under_way = FuturesUnordered::new();
        let mut processed = Processed::default();
        while Instant::now() < deadline {
            while under_way.len() < CONCURRENCY
                && let Some((item, verdict)) = items.next()
            {
                under_way.push(self.work(handler, snapshot, shared, item, verdict, deadline));
            }
            match tokio::time::timeout_at(deadline.into(), under_way.next()).await {
                Ok(Some(one)) => processed.merge(one),
                Ok(None) | Err(_) => break,
            }
        }
        for (item, _) in items {
            let uid = item.uid();
            // It had no pause, or its pause was ended.
            self.marks.urgent(handler.name, &uid);
            self.world.unclaim(&uid);
        }
        self.post_process(&processed);
        while let Some(late) = under_way.next().await {
            self.post_process(&late);
        }
    }

    async fn work(
        &self,
        handler: &'static Handler,
        snapshot: &Snapshot,
        shared: &[SubStep],
        item: SessionItem,
        verdict: Verdict,
        deadline: Instant,
    ) -> Processed {
        let uid = item.uid();
        let processed = Work::new(self, handler, snapshot.clone(), item, shared).until(deadline).finish(verdict).await;
        self.world.unclaim(&uid);
        processed
    }

    pub(super) fn post_process(&self, processed: &Processed) {
        post_processors::run(processed, &Real { marks: &self.marks, world: &self.world });
    }
}

/// The handler's lock, and what it is to look at; what cannot be looked at for want of the lock is marked again.
async fn take_lock(locks: &Locks, marks: &Marks, handler: &Handler, mark: Mark, lifetime: Duration) -> Option<(Held, Mark)> {
    if let Some(held) = locks.take(handler.lock, lifetime).await {
        return Some((held, mark));
    }
    tracing::warn!(handler = %handler.name, "its lock was not to be had; it is tried again");
    marks.add(handler.name, mark);
    None
}

/// What was done for all sessions of a batch together: schedule-sessions looks at all who wait, and at all nodes.
fn shared_steps(handler: &Handler, batch: &Batch) -> Vec<SubStep> {
    match handler.decide {
        Decide::All(_) if handler.name == HandlerName::ScheduleSessions => {
            let detail = format!("sessions: {}, nodes: {}", batch.items.len(), batch.snapshot.nodes.len());
            vec![step("sequence", SubStepResult::Success, None, detail, batch.snapshot.now)]
        }
        _ => vec![],
    }
}

/// The handler's verdicts, and whether it came to them. One that panics fails all its items; one that only changes kernels
/// changes none.
fn decide(handler: &Handler, batch: &Batch, ledger: Option<&mut LedgerSnapshot>) -> (Vec<Verdict>, RunResult) {
    let decided = catch_unwind(AssertUnwindSafe(|| match (handler.decide, ledger) {
        (Decide::Each(decide), _) => batch.items.iter().map(|item| decide(&batch.snapshot, item)).collect(),
        (Decide::All(decide), Some(ledger)) => decide(&batch.snapshot, ledger, &batch.items),
        (Decide::All(_), None) => vec![],
    }));
    match decided {
        Ok(verdicts) => (verdicts, RunResult::Success),
        Err(_) => {
            tracing::error!(handler = %handler.name, group = %batch.snapshot.group_name, "the handler panicked");
            let failure = Failure::fault(Reason::HandlerPanicked, format!("{} panicked", handler.name));
            let failed = if handler.waits { Verdict::idle() } else { Verdict::failure(failure) };
            (batch.items.iter().map(|_| failed.clone()).collect(), RunResult::Panicked)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{SessionPhase, SessionResult};
    use crate::session::handlers::testing::{item, session_in, snapshot};
    use crate::session::handlers::{Outcome, Transitions};

    fn frail(waits: bool) -> Handler {
        Handler {
            name: HandlerName::ScheduleSessions,
            targets: &[SessionPhase::Pending],
            transitions: Transitions::NONE,
            lock: None,
            trace: None,
            waits,
            decide: Decide::Each(|snapshot, _| {
                assert!(snapshot.group_name.as_str() != "gpu", "as planned");
                Verdict::success().result(SessionResult::Success)
            }),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn dl_003_a_handler_that_waits_for_its_lock_too_long_is_marked_for_the_next_cycle() {
        let (locks, marks, lifetime) = (Locks::default(), Marks::default(), Duration::from_secs(30));
        let handler = crate::session::handlers::row(HandlerName::ScheduleSessions).expect("a row");
        let mark = || Mark::of([SessionUid("one".into())]);
        let (held, given) = take_lock(&locks, &marks, handler, mark(), lifetime).await.expect("it is free");
        assert!(given == mark() && !marks.is_marked(handler.name));
        let asked = tokio::time::Instant::now();
        assert!(take_lock(&locks, &marks, handler, mark(), lifetime).await.is_none());
        assert_eq!(asked.elapsed().as_secs(), 30);
        assert_eq!(marks.take(handler.name), mark());
        drop(held);
    }

    #[test]
    fn cp_006_dp_003_empty_input_gives_an_empty_result() {
        for handler in HANDLERS {
            let batch = Batch { snapshot: snapshot(vec![]), items: vec![] };
            let (verdicts, result) = decide(handler, &batch, Some(&mut LedgerSnapshot::default()));
            assert!(verdicts.is_empty() && result == RunResult::Success, "{}", handler.name);
        }
    }

    #[test]
    fn sc_co_014_an_error_in_one_group_leaves_the_others_alone() {
        let outcomes = |handler: &Handler, group: &str| {
            let mut snapshot = snapshot(vec![]);
            snapshot.group_name = group.into();
            let items = vec![item(session_in(SessionPhase::Pending), &[]), item(session_in(SessionPhase::Pending), &[])];
            decide(handler, &Batch { snapshot, items }, None)
        };
        let (failed, result) = outcomes(&frail(false), "gpu");
        assert_eq!(result, RunResult::Panicked);
        assert_eq!(failed.len(), 2, "all its items fail");
        assert!(failed.iter().all(|v| matches!(&v.outcome, Outcome::Failure(f) if f.reason == Reason::HandlerPanicked)));
        let (unchanged, result) = outcomes(&frail(true), "gpu");
        assert_eq!((unchanged.len(), result), (2, RunResult::Panicked));
        assert!(unchanged.iter().all(|v| matches!(v.outcome, Outcome::Idle) && v.effects.is_empty()), "no kernel is changed");
        let (passed, result) = outcomes(&frail(false), "default");
        assert_eq!(result, RunResult::Success);
        assert!(passed.iter().all(|v| matches!(v.outcome, Outcome::Success { .. })));
    }
}
