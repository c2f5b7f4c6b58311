//! The tasks on kernels: sync-kernels and record-kernels. Each works session by session, even if the session is gone.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::StreamExt;
use tokio::task::JoinSet;

use super::effects::EffectContext;
use super::host::SessionHost;
use crate::api::SessionUid;
use crate::cluster::store::marks::KernelTask;
use crate::coordinator::marks::{Marks, Pace, long_cycle};
use crate::coordinator::yield_to_work;
use crate::lifecycle::{Timing, backoff};
use crate::session::effect::Effect;
use crate::session::records;
use crate::session::remains::Remains;

/// The largest number of sessions whose kernels are synced in parallel.
const CONCURRENCY: usize = 32;

/// The largest number of kernels of one session that are synced in parallel.
const MAX_PARALLEL_KERNELS: usize = 8;

/// Runs the tasks on kernels.
pub struct KernelTasks {
    host: Arc<SessionHost>,
    marks: Arc<Marks<KernelTask, SessionUid>>,
    timing: Arc<Timing>,
    /// How many times in a row a task failed for a session.
    failures: Mutex<HashMap<(KernelTask, SessionUid), i32>>,
}

impl KernelTasks {
    pub fn new(host: Arc<SessionHost>) -> Self {
        let (marks, timing) = (host.world.marks.kernels.clone(), host.world.timing.clone());
        Self { host, marks, timing, failures: Mutex::default() }
    }

    /// Starts the tasks. They run until the set is dropped.
    pub fn start(self: Arc<Self>, tasks: &mut JoinSet<()>) {
        let kernels = self.clone();
        tasks.spawn(async move { kernels.run_sync().await });
        let kernels = self.clone();
        tasks.spawn(async move { kernels.run_record().await });
        tasks.spawn(async move { self.marks.run_timer().await });
    }

    async fn run_sync(&self) {
        let (mut long_cycle, mut pace) = (long_cycle(&self.timing), Pace::new(self.timing.coalesce));
        loop {
            self.marks.wait(KernelTask::Sync, &mut long_cycle, &pace).await;
            let mark = self.marks.take(KernelTask::Sync);
            let remains = self.host.world.remains(&mark);
            if mark.all {
                let known: HashSet<&SessionUid> = remains.iter().map(|remains| &remains.uid).collect();
                self.failures().retain(|(_, uid), _| known.contains(uid));
            }
            let work = remains.iter().map(|remains| self.carry_out(remains, KernelTask::Sync, records::sync(remains)));
            futures::stream::iter(work).for_each_concurrent(CONCURRENCY, |work| work).await;
            pace.ended();
        }
    }

    /// Records one session after the other, and yields to other work.
    async fn run_record(&self) {
        loop {
            self.marks.marked(KernelTask::Record).await;
            let mark = self.marks.take(KernelTask::Record);
            for remains in self.host.world.remains(&mark) {
                yield_to_work(&*self.host, &self.timing).await;
                self.carry_out(&remains, KernelTask::Record, records::progress(&remains)).await;
            }
        }
    }

    fn failures(&self) -> MutexGuard<'_, HashMap<(KernelTask, SessionUid), i32>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs effects, and schedules a retry if one fails. Effects on different kernels run at once.
    async fn carry_out(&self, remains: &Remains, task: KernelTask, effects: Vec<Effect>) {
        let context = EffectContext {
            namespace: remains.namespace.clone(),
            session: remains.session.clone(),
            group: remains.snapshot.group.clone(),
            group_name: remains.snapshot.group_name.clone(),
        };
        let (mut of_kernels, mut others) = (BTreeMap::<String, Vec<Effect>>::new(), vec![]);
        for effect in effects {
            match effect.is_of_one_kernel() {
                true => of_kernels.entry(effect.target()).or_default().push(effect),
                false => others.push(effect),
            }
        }
        let kernels = futures::stream::iter(of_kernels.into_values()).map(|effects| self.run_in_order(&context, effects));
        let failed: Vec<bool> = kernels.buffer_unordered(MAX_PARALLEL_KERNELS).collect().await;
        let mut failed = failed.contains(&true);
        for effect in others {
            failed |= !self.run(&context, &effect).await;
        }
        let (mut failures, key) = (self.failures(), (task, remains.uid.clone()));
        if !failed {
            failures.remove(&key);
            return;
        }
        let times = failures.entry(key).or_default();
        *times = times.saturating_add(1);
        let pause = backoff(self.timing.fault_backoff, self.timing.fault_backoff_max, *times);
        self.marks.after(task, &remains.uid, pause);
    }

    /// Runs the effects on one kernel. A pod is released only after its end is recorded, and an absence is recorded only after it
    /// is confirmed. Returns whether one failed.
    async fn run_in_order(&self, context: &EffectContext, effects: Vec<Effect>) -> bool {
        let mut failed = false;
        for effect in &effects {
            let depends = matches!(effect, Effect::ReleasePod(_) | Effect::RecordKernel(_));
            if !(failed && depends) {
                failed |= !self.run(context, effect).await;
            }
        }
        failed
    }

    /// Runs an effect. Returns whether it succeeded.
    async fn run(&self, context: &EffectContext, effect: &Effect) -> bool {
        let done = self.host.effects.run(context, effect).await;
        if let Err(error) = &done {
            let (namespace, target) = (&context.namespace, effect.target());
            tracing::debug!(%namespace, target, effect = effect.name(), "{error:?}");
        }
        done.is_ok()
    }
}
