//! The hooks of sessions: `batch-start` before Running, and `clean-network` after every terminal phase.

use super::host::SessionHost;
use crate::api::{SessionPhase, SessionType};
use crate::coordinator::hooks;
use crate::coordinator::host::Host;
use crate::lifecycle::EffectError;
use crate::session::effect::Effect;
use crate::session::kernels::KernelItem;
use crate::session::sessions::Sessions;
use crate::session::snapshot::SessionItem;

pub type Hook = hooks::Hook<Sessions, SessionHost>;
pub type Hooks = hooks::Hooks<Sessions, SessionHost>;
pub type Transition = hooks::Transition<Sessions, SessionHost>;

impl Default for Hooks {
    fn default() -> Self {
        Self {
            gates: vec![Hook::new("batch-start", |to| to == SessionPhase::Running, batch_start)],
            notices: vec![Hook::new("clean-network", SessionPhase::is_terminal, clean_network)],
        }
    }
}

/// Succeeds if the main kernel of a Batch session has started, in a snapshot taken now.
async fn batch_start(transition: Transition) -> Result<(), String> {
    if transition.item.session.spec.type_ != SessionType::Batch {
        return Ok(());
    }
    match transition.host.look_again(&transition.item.uid()) {
        Some((_, now)) => main_runs(&now),
        None => Err("the session is gone".into()),
    }
}

fn main_runs(item: &SessionItem) -> Result<(), String> {
    match item.kernels.iter().find(|kernel| kernel.is_main()) {
        Some(main) if !main.phase().is_pre_running() => Ok(()),
        main => Err(main.map_or_else(|| "the session has no main kernel".into(), KernelItem::describe)),
    }
}

/// Deletes the Service through which the kernels of a gang resolved each other's names.
async fn clean_network(transition: Transition) -> Result<(), String> {
    if !transition.item.is_gang() {
        return Ok(());
    }
    match transition.host.run(&transition.snapshot, &transition.item, &Effect::DeleteService).await {
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
    fn batch_start_runs_before_running_and_clean_network_after_every_terminal_phase() {
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
    fn a_batch_session_starts_once_its_main_kernel_runs() {
        let batch = |kernels: &[_]| main_runs(&item(session_in(SessionPhase::Creating), kernels));
        assert_eq!(batch(&[Running]), Ok(()));
        assert!(batch(&[Creating]).is_err_and(|why| why.contains("main1 on node-1 is Creating")));
        assert!(batch(&[]).is_err());
    }
}
