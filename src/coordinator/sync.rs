//! The loop of sync-kernels: records of kernels and leftovers of sessions, pod by pod.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, MutexGuard, PoisonError};

use futures::StreamExt;

use super::cycle::{CONCURRENCY, Coordinator};
use crate::api::SessionUid;
use crate::cluster::effects::Subject;
use crate::cluster::snapshot::RemainsOf;
use crate::lifecycle::backoff;
use crate::session::effect::Effect;
use crate::session::handlers::{HandlerName, facts, sync};

impl Coordinator {
    pub(super) async fn run_sync(self: Arc<Self>) {
        let start = tokio::time::Instant::now() + self.timing.long_cycle_initial;
        let mut long = tokio::time::interval_at(start, self.timing.long_cycle);
        loop {
            self.wait(HandlerName::SyncKernels, &mut long).await;
            let mark = self.marks.take(HandlerName::SyncKernels);
            let remains = self.world.remains(&mark);
            if mark.all {
                let there: HashSet<&SessionUid> = remains.iter().map(|remains| &remains.uid).collect();
                self.failures().retain(|(_, uid), _| there.contains(uid));
            }
            let work = remains.into_iter().map(|remains| self.sync_one(remains));
            futures::stream::iter(work).for_each_concurrent(CONCURRENCY, |work| work).await;
        }
    }

    /// Records that kernels run or what holds them up, one after the other.
    pub(super) async fn run_facts(self: Arc<Self>) {
        loop {
            self.marks.marked(HandlerName::RecordKernels).await;
            let mark = self.marks.take(HandlerName::RecordKernels);
            for remains in self.world.remains(&mark) {
                self.yield_to_work().await;
                self.carry_out(&remains, HandlerName::RecordKernels, facts(&remains.view())).await;
            }
        }
    }

    fn failures(&self) -> MutexGuard<'_, HashMap<(HandlerName, SessionUid), i32>> {
        self.sync_failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn sync_one(&self, remains: RemainsOf) {
        self.carry_out(&remains, HandlerName::SyncKernels, sync(&remains.view())).await;
    }

    async fn carry_out(&self, remains: &RemainsOf, handler: HandlerName, effects: Vec<Effect>) {
        let subject = Subject {
            namespace: remains.namespace.clone(),
            name: remains.name.clone(),
            session: remains.session.clone(),
            group: remains.group.clone(),
            group_name: remains.group_name.clone(),
        };
        // A pod is let go only once its end is recorded, and an absence recorded only once it is confirmed. Nothing else
        // waits for anything: what cannot be settled never holds up the rest.
        let mut failed: HashSet<String> = HashSet::new();
        for effect in &effects {
            let waits = matches!(effect, Effect::ReleasePod(_) | Effect::RecordKernel { .. });
            if waits && failed.contains(&effect.subject()) {
                continue;
            }
            match self.effects.run(&subject, effect).await {
                Ok(()) => {}
                Err(error) => {
                    tracing::debug!(session = %remains.name, namespace = %remains.namespace, effect = effect.name(), "{error:?}");
                    failed.insert(effect.subject());
                }
            }
        }
        let (mut failures, key) = (self.failures(), (handler, remains.uid.clone()));
        if failed.is_empty() {
            failures.remove(&key);
            return;
        }
        let times = failures.entry(key).or_default();
        *times = times.saturating_add(1);
        let pause = backoff(self.timing.fault_backoff, self.timing.fault_backoff_max, *times);
        self.marks.after(handler, &remains.uid, pause);
    }
}
