//! promote-to-prepared: a session all of whose images are there, and whose kernels can find each other, is prepared.

use super::{Decide, Handler, HandlerName, To, Transitions, Verdict};
use crate::api::SessionPhase;
use crate::lifecycle::{Failure, Match, Reason};
use crate::session::kernels::KernelItem;
use crate::session::snapshot::{SessionItem, Snapshot};

pub static ROW: Handler = Handler {
    name: HandlerName::PromoteToPrepared,
    targets: &[SessionPhase::Preparing, SessionPhase::Pulling],
    transitions: Transitions { success: To::phase(SessionPhase::Prepared), ..Transitions::NONE },
    lock: None,
    waits: true,
    decide: Decide::Each(promote),
};

fn promote(_: &Snapshot, item: &SessionItem) -> Verdict {
    if let Some(failure) = kernel_failure(item) {
        return Verdict::failure(failure);
    }
    let images_there = Match::NotAny.holds(&item.kernels, |kernel: &KernelItem| kernel.phase().is_pre_prepared());
    if images_there && item.names_resolve { Verdict::success() } else { Verdict::idle() }
}

/// What keeps a session from being promoted: a kernel that ends, or an image that is tried again after an error.
/// Ended kernels are detect-termination's to act on; here they only keep the session where it is.
pub(super) fn kernel_failure(item: &SessionItem) -> Option<Failure> {
    let retrying: Vec<_> = item.kernels.iter().filter(|kernel| kernel.state.pull_retrying).map(KernelItem::describe).collect();
    if !retrying.is_empty() {
        return Some(Failure::fault(Reason::ImagePullFailed, retrying.join("; ")));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::KernelPhase::{self, Prepared, Pulling, Running};
    use crate::session::handlers::Outcome;
    use crate::session::handlers::testing::{gang, item, put, session, session_in, snapshot};

    fn promoted(kernels: &[KernelPhase]) -> Verdict {
        let mut session = session(gang());
        put(&mut session, SessionPhase::Pulling, chrono::TimeDelta::minutes(1));
        promote(&snapshot(vec![]), &item(session, kernels))
    }

    #[test]
    fn pp_001_all_images_there_is_prepared() {
        let verdict = promote(&snapshot(vec![]), &item(session_in(SessionPhase::Pulling), &[Prepared]));
        assert!(matches!(verdict.outcome, Outcome::Success { to: None }));
    }

    #[test]
    fn pp_002_some_still_pulling_is_not() {
        assert!(matches!(promoted(&[Prepared, Prepared, Pulling]).outcome, Outcome::Idle));
    }

    #[test]
    fn pp_003_an_image_that_is_tried_again_after_an_error_is_a_failure_that_names_its_kernel() {
        let mut item = item(session_in(SessionPhase::Pulling), &[Pulling]);
        item.kernels[0].state.pull_retrying = true;
        let Outcome::Failure(failure) = promote(&snapshot(vec![]), &item).outcome else { panic!("a failure") };
        assert!(failure.message.contains("main1 on node-1"), "{}", failure.message);
    }

    #[test]
    fn a_gang_is_not_prepared_before_its_names_are_listed() {
        let mut session = session(gang());
        put(&mut session, SessionPhase::Pulling, chrono::TimeDelta::minutes(1));
        let mut item = item(session, &[Prepared; 3]);
        item.names_resolve = false;
        assert!(matches!(promote(&snapshot(vec![]), &item).outcome, Outcome::Idle));
    }

    #[test]
    fn pp_004_a_gang_is_prepared_when_all_its_kernels_are() {
        assert!(matches!(promoted(&[Prepared, Prepared, Running]).outcome, Outcome::Success { to: None }));
    }
}
