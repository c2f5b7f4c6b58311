//! Hooks of a transition: gates that may keep one session from it, and notices that only hear of it (rules §3).

use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, join_all};

use crate::api::{SessionPhase, SessionType};
use crate::cluster::effects::{EffectError, Effects, Subject};
use crate::lifecycle::{Failure, Reason};
use crate::session::effect::Effect;
use crate::session::kernels::KernelItem;
use crate::session::snapshot::SessionItem;

/// A transition that a hook is told of.
#[derive(Clone)]
pub struct Transition {
    pub effects: Effects,
    pub subject: Subject,
    pub item: SessionItem,
    pub to: SessionPhase,
}

/// What a hook does; its error is in words for people.
pub type Run = Arc<dyn Fn(Transition) -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// One hook and the phases it is for.
#[derive(Clone)]
pub struct Hook {
    pub name: &'static str,
    pub on: fn(SessionPhase) -> bool,
    pub run: Run,
}

impl Hook {
    pub fn new<F>(name: &'static str, on: fn(SessionPhase) -> bool, run: impl Fn(Transition) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        Self { name, on, run: Arc::new(move |transition| Box::pin(run(transition))) }
    }
}

/// All hooks.
#[derive(Clone)]
pub struct Hooks {
    /// Run before the commit; one that fails or takes too long keeps that session, and only it, where it is.
    pub gates: Vec<Hook>,
    /// Run after the commit; one that fails is logged and changes nothing.
    pub notices: Vec<Hook>,
}

impl Default for Hooks {
    fn default() -> Self {
        Self {
            gates: vec![Hook::new("batch-start", |to| to == SessionPhase::Running, batch_start)],
            notices: vec![Hook::new("clean-network", SessionPhase::is_terminal, clean_network)],
        }
    }
}

impl std::fmt::Debug for Hooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = |hooks: &[Hook]| hooks.iter().map(|hook| hook.name).collect::<Vec<_>>();
        f.debug_struct("Hooks").field("gates", &names(&self.gates)).field("notices", &names(&self.notices)).finish()
    }
}

impl Hooks {
    /// Whether every gate of a phase lets the transition to it pass.
    pub async fn pass_gates(
        &self,
        to: SessionPhase,
        transition: impl Fn() -> Transition,
        limit: Duration,
    ) -> Result<(), Failure> {
        let failed = run_all(&self.gates, to, "gate", transition, limit).await;
        let Some((name, error)) = failed.into_iter().next() else { return Ok(()) };
        Err(Failure::fault(Reason::HookFailed, format!("hook {name} keeps it from {to}: {error}")))
    }

    /// Tells of a transition that is committed.
    pub async fn notify(&self, to: SessionPhase, transition: impl Fn() -> Transition, limit: Duration) {
        run_all(&self.notices, to, "notify", transition, limit).await;
    }
}

/// Those of the phase, side by side, each within its time; returns which failed, and how.
async fn run_all(
    hooks: &[Hook],
    to: SessionPhase,
    kind: &str,
    transition: impl Fn() -> Transition,
    limit: Duration,
) -> Vec<(&'static str, String)> {
    let concerned: Vec<&Hook> = hooks.iter().filter(|hook| (hook.on)(to)).collect();
    if concerned.is_empty() {
        return vec![];
    }
    let transition = &transition();
    let running = concerned.into_iter().map(|hook| async move {
        match tokio::time::timeout(limit, (hook.run)(transition.clone())).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some((hook.name, error)),
            Err(_) => Some((hook.name, format!("no answer within {} s", limit.as_secs_f32()))),
        }
    });
    let failed: Vec<_> = join_all(running).await.into_iter().flatten().collect();
    let (session, namespace) = (transition.item.name(), transition.item.namespace());
    for (hook, error) in &failed {
        tracing::warn!(%session, %namespace, hook, %to, "a {kind} hook failed: {error}");
    }
    failed
}

/// A batch session runs once its main kernel does, by what is known at this very moment.
async fn batch_start(transition: Transition) -> Result<(), String> {
    let session = &transition.item.session;
    if session.spec.type_ != SessionType::Batch {
        return Ok(());
    }
    let Some((_, now)) = transition.effects.world.look_again(&transition.item.uid()) else {
        return Err("the session is gone".into());
    };
    main_runs(&now)
}

fn main_runs(item: &SessionItem) -> Result<(), String> {
    match item.kernels.iter().find(|kernel| kernel.is_main()) {
        Some(main) if !main.phase().is_pre_running() => Ok(()),
        main => Err(main.map_or_else(|| "it has no main kernel".into(), KernelItem::describe)),
    }
}

/// The names by which an ended gang's kernels found each other are of no use any more.
async fn clean_network(transition: Transition) -> Result<(), String> {
    if !transition.item.is_gang() {
        return Ok(());
    }
    match transition.effects.run(&transition.subject, &Effect::DeleteService).await {
        Ok(()) | Err(EffectError::Fenced) => Ok(()),
        Err(EffectError::Wait(why) | EffectError::Again(why)) => Err(why),
        Err(EffectError::Failed(failure)) => Err(failure.message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::KernelPhase::{Creating, Running};
    use crate::session::handlers::testing::{item, session_in};

    #[test]
    fn a_batch_starts_at_running_and_the_network_is_cleaned_at_every_end() {
        let hooks = Hooks::default();
        let [start] = &hooks.gates[..] else { panic!("one gate") };
        let [clean] = &hooks.notices[..] else { panic!("one notice") };
        assert_eq!((start.name, clean.name), ("batch-start", "clean-network"));
        use SessionPhase::*;
        for phase in [Scheduled, Preparing, Pulling, Prepared, Creating, Running, Terminating, Deprioritizing, Pending] {
            assert_eq!(((start.on)(phase), (clean.on)(phase)), (phase == Running, false), "{phase}");
        }
        for phase in [Terminated, Cancelled, Error] {
            assert_eq!(((start.on)(phase), (clean.on)(phase)), (false, true), "{phase}");
        }
    }

    #[test]
    fn a_batch_starts_once_its_main_kernel_runs() {
        let batch = |kernels: &[_]| main_runs(&item(session_in(SessionPhase::Creating), kernels));
        assert_eq!(batch(&[Running]), Ok(()));
        assert!(batch(&[Creating]).is_err_and(|why| why.contains("main1 on node-1 is Creating")));
        assert!(batch(&[]).is_err());
    }
}
