//! The kernel state engine: which step a kernel may take from where (rules §1).

use crate::api::KernelPhase;

/// Whether a kernel may go from one phase to another in one step. A late or duplicate event fails this and changes nothing.
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

/// Where a kernel is after it was seen at `seen`: there, if steps lead to it (those skipped are passed through), else where it was.
pub fn step_to(from: KernelPhase, seen: KernelPhase) -> KernelPhase {
    use KernelPhase::*;
    const WAY: [KernelPhase; 7] = [Pending, Scheduled, Preparing, Pulling, Prepared, Creating, Running];
    let reachable = match (WAY.iter().position(|p| *p == from), WAY.iter().position(|p| *p == seen)) {
        (Some(here), Some(there)) => there > here,
        _ => may_step(from, seen),
    };
    if reachable { seen } else { from }
}

#[cfg(test)]
mod tests {
    use super::*;
    use KernelPhase::*;

    const ALL: [KernelPhase; 11] =
        [Pending, Scheduled, Preparing, Pulling, Prepared, Creating, Running, Terminating, Terminated, Cancelled, Error];

    #[test]
    fn guards_of_the_kernel_state_engine() {
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
    fn late_events_change_nothing_and_skipped_steps_are_passed_through() {
        assert_eq!(step_to(Running, Pulling), Running);
        assert_eq!(step_to(Scheduled, Running), Running);
        assert_eq!(step_to(Terminated, Running), Terminated);
        assert_eq!(step_to(Running, Cancelled), Running);
        assert_eq!(step_to(Pulling, Cancelled), Cancelled);
        assert_eq!(step_to(Terminating, Running), Terminating);
    }
}
