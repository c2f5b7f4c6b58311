//! The handlers of sessions: one file each with its row and its rule, and the table that lists them.

mod check_precondition;
mod deprioritize_sessions;
mod detect_termination;
mod end_sessions;
mod expire_batches;
mod expire_idle;
mod expire_lifetimes;
mod finalize_sessions;
mod late;
mod promote_to_prepared;
mod promote_to_pulling;
mod promote_to_running;
mod promote_to_terminated;
mod reset_unschedulable;
mod row;
mod schedule_sessions;
mod start_sessions;
mod sweep_sessions;
mod sweep_stale_kernels;
mod terminate_sessions;
#[cfg(test)]
pub(crate) mod testing;

pub use row::*;

use super::sessions::Sessions;
use crate::lifecycle::handlers;

handlers! {
    Sessions:
    schedule_sessions => ScheduleSessions,
    check_precondition => CheckPrecondition,
    start_sessions => StartSessions,
    terminate_sessions => TerminateSessions,
    deprioritize_sessions => DeprioritizeSessions,
    sweep_sessions => SweepSessions,
    sweep_stale_kernels => SweepStaleKernels,
    detect_termination => DetectTermination,
    expire_batches => ExpireBatches,
    expire_lifetimes => ExpireLifetimes,
    expire_idle => ExpireIdle,
    promote_to_pulling => PromoteToPulling,
    promote_to_prepared => PromoteToPrepared,
    promote_to_running => PromoteToRunning,
    promote_to_terminated => PromoteToTerminated,
    reset_unschedulable => ResetUnschedulable,
    end_sessions => EndSessions,
    finalize_sessions => FinalizeSessions,
}

#[cfg(test)]
mod tests {
    use super::HandlerName::*;
    use super::*;
    use crate::api::SessionPhase as P;
    use crate::lifecycle::Subject;

    /// The expected row of one handler: name, lock, whether it waits, and its transitions (docs/lifecycle.md#handlers).
    type Line = (HandlerName, Option<LockId>, bool, [Option<To>; 5]);

    #[test]
    fn sc_co_012_sc_co_013_every_handler_has_the_lock_and_the_transitions_of_the_rules() {
        let (to, reset, same) = (To::phase, RESET, None);
        let (pending, ending) = (Some(LockId::Pending), Some(LockId::Terminating));
        // Success, need_retry, expired, give_up, refused by the namespace's ResourceQuota.
        let table: [Line; 18] = [
            (ScheduleSessions, pending, false, [to(P::Scheduled), same, to(P::Terminating), to(P::Deprioritizing), same]),
            (CheckPrecondition, Some(LockId::Preparing), false, [to(P::Preparing), same, reset, to(P::Terminating), reset]),
            (StartSessions, Some(LockId::Creating), false, [to(P::Creating), same, reset, reset, same]),
            (TerminateSessions, ending, false, [same, same, to(P::Terminated), to(P::Terminated), same]),
            (DeprioritizeSessions, None, false, [to(P::Pending), same, same, same, same]),
            (SweepSessions, None, true, [same, same, to(P::Terminating), same, same]),
            (SweepStaleKernels, ending, true, [same; 5]),
            (DetectTermination, None, true, [to(P::Terminating), same, same, same, same]),
            (ExpireBatches, None, true, [to(P::Terminating), same, same, same, same]),
            (ExpireLifetimes, None, true, [to(P::Terminating), same, same, same, same]),
            (ExpireIdle, None, true, [to(P::Terminating), same, same, same, same]),
            (PromoteToPulling, None, true, [to(P::Pulling), same, same, same, same]),
            (PromoteToPrepared, None, true, [to(P::Prepared), same, same, same, same]),
            (PromoteToRunning, None, true, [to(P::Running), same, reset, same, same]),
            (PromoteToTerminated, None, true, [to(P::Terminated), same, same, same, same]),
            (ResetUnschedulable, None, false, [same, reset, same, to(P::Terminating), same]),
            (EndSessions, None, true, [same; 5]),
            (FinalizeSessions, None, true, [same; 5]),
        ];
        for (name, lock, waits, results) in table {
            let row = Sessions::row(name).expect("a row");
            let t = &row.transitions;
            assert_eq!((row.lock, row.waits()), (lock, waits), "{name}");
            assert_eq!([t.success, t.need_retry, t.expired, t.give_up, t.refused], results, "{name}");
        }
    }
}
