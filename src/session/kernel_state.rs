//! The steps that a kernel's state may take (docs/lifecycle.md#kernel-states).

use crate::api::KernelPhase;

/// Whether a kernel may go from one phase to another in one step. Late and duplicate observations may not, and change
/// nothing.
pub fn may_step(from: KernelPhase, to: KernelPhase) -> bool {
    use KernelPhase::*;
    match to {
        Pending => false,
        Scheduled => from == Pending,
        Preparing => from == Scheduled,
        Pulling => matches!(from, Scheduled | Preparing),
        Prepared => matches!(from, Scheduled | Preparing | Pulling),
        Creating => from == Prepared,
        Running => matches!(from, Prepared | Creating),
        Terminating => !from.is_terminal() && from != Terminating,
        Cancelled => from.is_pre_running(),
        Terminated | Error => !from.is_terminal(),
    }
}

/// Returns the phase of a kernel after an observation: `observed` if steps lead to it, otherwise `from`. Skipped steps are
/// passed through.
pub fn step_to(from: KernelPhase, observed: KernelPhase) -> KernelPhase {
    use KernelPhase::*;
    const PATH: [KernelPhase; 7] = [Pending, Scheduled, Preparing, Pulling, Prepared, Creating, Running];
    let reachable = match (PATH.iter().position(|p| *p == from), PATH.iter().position(|p| *p == observed)) {
        (Some(from), Some(to)) => to > from,
        _ => may_step(from, observed),
    };
    if reachable { observed } else { from }
}

#[cfg(test)]
mod tests {
    use super::*;
    use KernelPhase::*;

    const ALL: [KernelPhase; 11] =
        [Pending, Scheduled, Preparing, Pulling, Prepared, Creating, Running, Terminating, Terminated, Cancelled, Error];

    #[test]
    fn each_kernel_phase_can_be_reached_only_from_the_phases_of_the_table() {
        let from = |to| ALL.into_iter().filter(move |from| may_step(*from, to)).collect::<Vec<_>>();
        assert_eq!(from(Preparing), [Scheduled]);
        assert_eq!(from(Pulling), [Scheduled, Preparing]);
        assert_eq!(from(Prepared), [Scheduled, Preparing, Pulling]);
        assert_eq!(from(Creating), [Prepared]);
        assert_eq!(from(Running), [Prepared, Creating]);
        assert_eq!(from(Cancelled), [Pending, Scheduled, Preparing, Pulling, Prepared, Creating]);
        assert_eq!(from(Terminated), [Pending, Scheduled, Preparing, Pulling, Prepared, Creating, Running, Terminating]);
    }

    #[test]
    fn late_observations_change_nothing_and_skipped_steps_are_passed_through() {
        assert_eq!(step_to(Running, Pulling), Running);
        assert_eq!(step_to(Scheduled, Running), Running);
        assert_eq!(step_to(Terminated, Running), Terminated);
        assert_eq!(step_to(Running, Cancelled), Running);
        assert_eq!(step_to(Pulling, Cancelled), Cancelled);
        assert_eq!(step_to(Terminating, Running), Terminating);
    }
}
