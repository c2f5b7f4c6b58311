//! Hooks of a transition: gates that may keep one object from it, and notices that follow it (docs/lifecycle.md).

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use kube::ResourceExt;

use crate::api::Reason;
use crate::lifecycle::{Failure, Item, Subject};

/// A transition, as a hook sees it.
pub struct Transition<S: Subject, H> {
    pub host: Arc<H>,
    pub snapshot: S::Snapshot,
    pub item: S::Item,
    pub to: S::Phase,
}

impl<S: Subject, H> Clone for Transition<S, H> {
    fn clone(&self) -> Self {
        Self { host: self.host.clone(), snapshot: self.snapshot.clone(), item: self.item.clone(), to: self.to }
    }
}

/// What a hook does. Its error is a message for people.
pub type Run<S, H> = Arc<dyn Fn(Transition<S, H>) -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// One hook and the phases it is for.
pub struct Hook<S: Subject, H> {
    pub name: &'static str,
    pub on: fn(S::Phase) -> bool,
    pub run: Run<S, H>,
}

impl<S: Subject, H> Clone for Hook<S, H> {
    fn clone(&self) -> Self {
        Self { name: self.name, on: self.on, run: self.run.clone() }
    }
}

impl<S: Subject, H> Hook<S, H> {
    pub fn new<F>(
        name: &'static str,
        on: fn(S::Phase) -> bool,
        run: impl Fn(Transition<S, H>) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        Self { name, on, run: Arc::new(move |transition| Box::pin(run(transition))) }
    }
}

/// All hooks of a kind.
pub struct Hooks<S: Subject, H> {
    /// Run before the commit. A gate that fails or takes too long keeps its object, and no other, in its phase.
    pub gates: Vec<Hook<S, H>>,
    /// Run after the commit. A notice that fails is logged and changes nothing.
    pub notices: Vec<Hook<S, H>>,
}

impl<S: Subject, H> Clone for Hooks<S, H> {
    fn clone(&self) -> Self {
        Self { gates: self.gates.clone(), notices: self.notices.clone() }
    }
}

impl<S: Subject, H> std::fmt::Debug for Hooks<S, H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = |hooks: &[Hook<S, H>]| hooks.iter().map(|hook| hook.name).collect::<Vec<_>>();
        f.debug_struct("Hooks").field("gates", &names(&self.gates)).field("notices", &names(&self.notices)).finish()
    }
}

impl<S: Subject, H: Send + Sync + 'static> Hooks<S, H> {
    pub fn none() -> Self {
        Self { gates: vec![], notices: vec![] }
    }

    /// Whether every gate of a phase lets the object pass.
    pub async fn pass_gates(
        &self,
        to: S::Phase,
        transition: impl Fn() -> Transition<S, H>,
        limit: Duration,
    ) -> Result<(), Failure> {
        let failed = run_all(&self.gates, to, "gate", transition, limit).await;
        let Some((name, error)) = failed.into_iter().next() else { return Ok(()) };
        Err(Failure::fault(Reason::HookFailed, format!("hook {name} keeps it from {to}: {error}")))
    }

    /// Runs the notices of a transition that is committed.
    pub async fn notify(&self, to: S::Phase, transition: impl Fn() -> Transition<S, H>, limit: Duration) {
        run_all(&self.notices, to, "notify", transition, limit).await;
    }
}

/// Runs the hooks of a phase at the same time, each within its time. Returns which failed, and how.
async fn run_all<S: Subject, H: Send + Sync + 'static>(
    hooks: &[Hook<S, H>],
    to: S::Phase,
    kind: &str,
    transition: impl Fn() -> Transition<S, H>,
    limit: Duration,
) -> Vec<(&'static str, String)> {
    let hooks: Vec<&Hook<S, H>> = hooks.iter().filter(|hook| (hook.on)(to)).collect();
    if hooks.is_empty() {
        return vec![];
    }
    let transition = &transition();
    let running = hooks.into_iter().map(|hook| async move {
        let run = AssertUnwindSafe(async { (hook.run)(transition.clone()).await }).catch_unwind();
        match tokio::time::timeout(limit, run).await {
            Ok(Ok(Ok(()))) => None,
            Ok(Ok(Err(error))) => Some((hook.name, error)),
            Ok(Err(_)) => Some((hook.name, "it panicked".to_owned())),
            Err(_) => Some((hook.name, format!("no answer within {} s", limit.as_secs_f32()))),
        }
    });
    let failed: Vec<_> = join_all(running).await.into_iter().flatten().collect();
    let object = transition.item.object();
    for (hook, error) in &failed {
        tracing::warn!(
            kind = S::NAME, name = %object.name_any(), namespace = object.namespace(), hook, %to, "a {kind} hook failed: {error}"
        );
    }
    failed
}
