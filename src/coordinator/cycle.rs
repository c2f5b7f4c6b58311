//! The cycle of one handler: marked objects, decided by partition, carried out and committed (docs/lifecycle.md).

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::{BoxFuture, join_all};
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use tokio::task::JoinSet;

use super::decide::decide;
use super::engine::{CONCURRENCY, Coordinator, Decided};
use super::host::{Batch, Host};
use super::locks::{Held, Locks};
use super::marks::{HandlerMarks, Mark, Pace, long_cycle};
use super::recorder::shortened;
use super::step::Work;
use crate::api::SubStep;
use crate::lifecycle::{
    Decide, Effects, Handler, HandlerName, Item, Snapshot, Subject, Verdict, classify, paused_until, trace_step,
};
use crate::metrics::Run;

/// The decisions of one partition that lead to something.
struct Decisions<S: Subject> {
    snapshot: S::Snapshot,
    overview: Option<SubStep>,
    /// Objects with effects or a new phase.
    moving: Vec<Decided<S>>,
    /// Objects that keep their phase, and whose status gets a new explanation.
    explained: Vec<Decided<S>>,
}

impl<S: Subject, H: Host<S>> Coordinator<S, H> {
    /// Starts the loop of every handler. The loops run as long as the set lives.
    pub fn start(self: Arc<Self>, tasks: &mut JoinSet<()>) {
        for handler in S::table() {
            let coordinator = self.clone();
            tasks.spawn(async move { coordinator.run(handler).await });
        }
        let coordinator = self.clone();
        tasks.spawn(async move { coordinator.run_deferred().await });
        let coordinator = self.clone();
        tasks.spawn(async move { coordinator.deferred.run_timer().await });
        tasks.spawn(async move { self.marks.run_timer().await });
    }

    async fn run(self: Arc<Self>, handler: &'static Handler<S>) {
        let (mut long_cycle, mut pace) = (long_cycle(&self.timing), Pace::new(self.timing.coalesce));
        let mut late = FuturesUnordered::new();
        loop {
            tokio::select! {
                () = self.marks.wait(handler.name, &mut long_cycle, &pace) => {}
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
            pace.ended();
        }
    }

    /// Runs one cycle. Without its lock, the handler is marked again. When the lifetime of the lock is over, objects not begun
    /// are marked again. Work that has begun, such as a write of unknown outcome, is returned: it goes on in parallel to later
    /// cycles and keeps its claims, so that one object never stops a handler for the others.
    pub(super) async fn cycle(&self, handler: &'static Handler<S>, mark: Mark<S::Uid>) -> Option<BoxFuture<'_, ()>> {
        let Some((_held, mark)) = take_lock(&self.locks, &self.marks, handler, mark, self.timing.lock_lifetime).await else {
            tokio::time::sleep(self.timing.short_cycle).await;
            return None;
        };
        let start = Instant::now();
        let batches = self.host.claim(handler, &mark);
        if batches.is_empty() {
            return None;
        }
        let mut shared = matches!(handler.decide, Decide::All(_)).then(|| self.host.shared());
        let mut decided = vec![];
        for batch in batches {
            let batch = self.leave_paused(handler, batch, &mark.urgent);
            let items = batch.items.len();
            let (verdicts, result) = decide(handler, &batch, shared.as_mut());
            let run = Run { handler: handler.name.as_str(), partition: batch.snapshot.partition().to_owned(), items, result };
            decided.push((self.sort(handler, batch, verdicts), run));
        }
        if let Some(shared) = shared {
            self.host.keep(shared);
        }
        // Deciding on a very long queue takes long, too.
        let explaining = self.timing.explaining.max(start.elapsed());
        let partitions = decided.into_iter().map(|(decisions, run)| async move {
            self.carry_out(handler, decisions, start, explaining).await;
            self.metrics.ran(&run);
        });
        let mut work = join_all(partitions).map(|_| ()).boxed();
        let ended = tokio::time::timeout_at((start + self.timing.lock_lifetime).into(), &mut work).await;
        self.metrics.cycled(handler.name.as_str(), start.elapsed());
        ended.is_err().then_some(work)
    }

    /// Leaves out objects whose last fault is too recent, and marks them for the end of their pause.
    fn leave_paused(&self, handler: &Handler<S>, batch: Batch<S>, urgent: &HashSet<S::Uid>) -> Batch<S> {
        let Batch { snapshot, items, claims } = batch;
        let now = snapshot.now();
        let mut kept = Batch { snapshot, items: vec![], claims: vec![] };
        for (item, claim) in items.into_iter().zip(claims) {
            let uid = item.uid();
            match paused_until::<S>(handler, &item, now).filter(|_| !urgent.contains(&uid)) {
                Some(until) => self.marks.at(handler.name, &uid, until),
                None => {
                    kept.items.push(item);
                    kept.claims.push(claim);
                }
            }
        }
        kept
    }

    /// Sorts the decisions. Objects that need nothing are given back at once: of a long queue, nearly all.
    fn sort(&self, handler: &'static Handler<S>, batch: Batch<S>, verdicts: Vec<Verdict<S>>) -> Decisions<S> {
        let overview = handler.overview.map(|overview| {
            let trace = overview(&batch.snapshot, &batch.items);
            shortened(trace_step(trace, batch.snapshot.now()))
        });
        let mut decisions = Decisions { snapshot: batch.snapshot, overview, moving: vec![], explained: vec![] };
        for ((item, claim), verdict) in batch.items.into_iter().zip(batch.claims).zip(verdicts) {
            let classified = classify(handler, &decisions.snapshot, &item, &verdict, Effects::None);
            let decided = Decided { item, verdict, _claim: claim };
            match classified {
                _ if !decided.verdict.effects.is_empty() => decisions.moving.push(decided),
                Some(classified) if classified.to.is_some() => decisions.moving.push(decided),
                Some(_) => decisions.explained.push(decided),
                None => {
                    if let Some(wake) = decided.verdict.wake_at {
                        self.marks.at(handler.name, &decided.item.uid(), wake);
                    }
                    self.defer_observed(&decided.item);
                }
            }
        }
        decisions
    }

    /// Commits first what makes progress. Explaining why the others wait gets a reserved slice of each cycle. Objects not
    /// explained within it wait for the next cycle, so that they do not delay objects that can make progress.
    async fn carry_out(&self, handler: &'static Handler<S>, decisions: Decisions<S>, start: Instant, slice: Duration) {
        let Decisions { snapshot, overview, moving, explained } = decisions;
        let deadline = start + self.timing.lock_lifetime;
        let mut moves = std::pin::pin!(self.work_on(handler, &snapshot, overview.as_ref(), moving, deadline));
        let reserved = start + self.timing.lock_lifetime.saturating_sub(slice);
        let moved = tokio::time::timeout_at(reserved.into(), &mut moves).await;
        let explain = self.work_on(handler, &snapshot, overview.as_ref(), explained, deadline.min(Instant::now() + slice));
        match moved {
            Ok(()) => explain.await,
            Err(_) => _ = futures::join!(moves, explain),
        }
    }

    /// Works on objects side by side. Objects not begun by the deadline are marked again.
    async fn work_on(
        &self,
        handler: &'static Handler<S>,
        snapshot: &S::Snapshot,
        overview: Option<&SubStep>,
        objects: Vec<Decided<S>>,
        deadline: Instant,
    ) {
        let mut objects = objects.into_iter();
        let mut running = FuturesUnordered::new();
        while Instant::now() < deadline {
            while running.len() < CONCURRENCY
                && let Some(decided) = objects.next()
            {
                running.push(Work::new(self, handler, snapshot.clone(), overview, deadline).finish(decided));
            }
            match tokio::time::timeout_at(deadline.into(), running.next()).await {
                Ok(Some(())) => {}
                Ok(None) | Err(_) => break,
            }
        }
        for left in objects {
            self.marks.urgent(handler.name, &left.item.uid()); // it had no pause, or its pause was over
        }
        while running.next().await.is_some() {}
    }
}

/// The lock of a handler, and its mark. Without the lock, the handler is marked again.
pub(super) async fn take_lock<S: Subject>(
    locks: &Locks<S>,
    marks: &HandlerMarks<S>,
    handler: &Handler<S>,
    mark: Mark<S::Uid>,
    lifetime: Duration,
) -> Option<(Held, Mark<S::Uid>)> {
    if let Some(held) = locks.take(handler.lock, lifetime).await {
        return Some((held, mark));
    }
    tracing::warn!(handler = %handler.name, "the lock is held for longer than its lifetime; trying again");
    marks.add(handler.name, mark);
    None
}
