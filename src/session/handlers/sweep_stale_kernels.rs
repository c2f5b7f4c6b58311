//! sweep-stale-kernels: ends kernels that run, or may run, on a node that is gone or does not answer.

use super::{Decide, Handler, HandlerName, LockId, Mode, Settings, Transitions, Verdict};
use crate::api::{Kernel, KernelPhase, KernelStatus, SessionPhase};
use crate::lifecycle::{CommitMode, Reason};
use crate::session::effect::Effect;
use crate::session::kernel_record::new_record;
use crate::session::kernels::KernelItem;
use crate::session::snapshot::{SessionItem, Snapshot};
use crate::views::Liveness;

pub static ROW: Handler = Handler {
    name: HandlerName::SweepStaleKernels,
    targets: &[
        SessionPhase::Preparing,
        SessionPhase::Pulling,
        SessionPhase::Prepared,
        SessionPhase::Creating,
        SessionPhase::Running,
    ],
    transitions: Transitions::NONE,
    mode: Mode::Waits,
    follows: &[],
    commit: CommitMode::Now,
    wakes_on: &[],
    lock: Some(LockId::Terminating),
    overview: None,
    trace: None,
    settings: Settings::NONE,
    decide: Decide::Each(sweep),
};

/// Changes kernels only. detect-termination then ends the session.
fn sweep(snapshot: &Snapshot, item: &SessionItem) -> Verdict {
    let effects: Vec<Effect> = item.kernels.iter().filter_map(|kernel| end_stale(snapshot, item, kernel)).collect();
    Verdict::idle().effects(effects)
}

/// Ends a kernel that runs or may run by now, if its node is gone or does not answer.
fn end_stale(snapshot: &Snapshot, item: &SessionItem, kernel: &KernelItem) -> Option<Effect> {
    let runs = kernel.phase() == KernelPhase::Running || (!kernel.is_ending() && item.may_run(kernel));
    if !runs {
        return None;
    }
    let node = kernel.node.as_ref().map_or("?", |node| node.as_str());
    let message = kernel.liveness.trouble(node, snapshot.timing.stale)?;
    // On a silent node the container may still run, so the kernel is only Terminating. Its resources stay reserved until its
    // pod is gone.
    let phase = if kernel.liveness == Liveness::Gone { KernelPhase::Terminated } else { KernelPhase::Terminating };
    let reason = if kernel.liveness == Liveness::Lost { Reason::NodeLost } else { Reason::StaleKernel };
    let group = snapshot.group_name.clone().unwrap_or_default();
    let record = match &kernel.record {
        Some(record) => (**record).clone(),
        None => new_record(&item.session, &group, &kernel.hostname)?,
    };
    let old = record.status.clone().unwrap_or_default();
    let finished_at = phase.is_terminal().then_some(snapshot.now);
    let status = KernelStatus { phase, reason: Some(reason.as_str().into()), message: Some(message), finished_at, ..old };
    Some(Effect::RecordKernel(Box::new(Kernel { status: Some(status), ..record })))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::handlers::testing::{gang, item, kernel_of, put, session, session_in, snapshot};

    fn swept(liveness: Liveness, phase: KernelPhase) -> Vec<(KernelPhase, Option<String>)> {
        let mut item = item(session_in(SessionPhase::Running), &[phase]);
        item.kernels[0].liveness = liveness;
        let effects = sweep(&snapshot(vec![]), &item).effects;
        effects
            .into_iter()
            .map(|effect| match effect {
                Effect::RecordKernel(kernel) => kernel.status.map(|status| (status.phase, status.reason)).expect("a state"),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn sc_co_016_only_the_failed_kernel_is_marked_terminated_with_its_reason() {
        let mut session = session(gang());
        put(&mut session, SessionPhase::Running, chrono::TimeDelta::minutes(1));
        let mut item = item(session, &[KernelPhase::Running; 3]);
        for kernel in &mut item.kernels {
            let mut record = kernel_of(&item.session);
            record.metadata.name = Some(kernel.hostname.clone());
            kernel.record = Some(std::sync::Arc::new(record));
        }
        item.kernels[1].liveness = Liveness::Gone;
        let verdict = sweep(&snapshot(vec![]), &item);
        let [Effect::RecordKernel(kernel)] = &verdict.effects[..] else { panic!("{:?}", verdict.effects) };
        let status = kernel.status.clone().expect("a state");
        assert_eq!(kernel.metadata.name.as_deref(), Some("sub1"));
        assert_eq!((status.phase, status.reason.as_deref()), (KernelPhase::Terminated, Some("StaleKernel")));
        assert!(matches!(verdict.outcome, crate::session::handlers::Outcome::Idle), "the session is left alone");
    }

    #[test]
    fn sk_001_sk_003_a_kernel_on_a_stale_or_lost_node_is_terminating() {
        let ending = |reason: &str| [(KernelPhase::Terminating, Some(reason.to_owned()))];
        assert_eq!(swept(Liveness::Stale, KernelPhase::Running), ending("StaleKernel"));
        assert_eq!(swept(Liveness::Lost, KernelPhase::Running), ending("NodeLost"));
    }

    #[test]
    fn sk_002_a_kernel_on_a_live_node_is_left_alone() {
        assert!(swept(Liveness::Alive, KernelPhase::Running).is_empty());
        assert!(swept(Liveness::Doubtful { lost_at: None }, KernelPhase::Running).is_empty());
        assert!(swept(Liveness::Lost, KernelPhase::Terminated).is_empty());
    }

    #[test]
    fn a_kernel_whose_node_is_gone_has_ended() {
        let ended = (KernelPhase::Terminated, Some("StaleKernel".to_owned()));
        assert_eq!(swept(Liveness::Gone, KernelPhase::Running), [ended]);
    }
}
