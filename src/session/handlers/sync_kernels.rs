//! sync-kernels: records what became of kernels, lets their pods go once that is done, and clears what no session needs.

use crate::session::effect::Effect;
use crate::session::records::{self, Remains};

/// All that is to be done for one session's kernels and pods.
pub fn sync(remains: &Remains<'_>) -> Vec<Effect> {
    let kept = records::for_pods(remains).into_iter().chain(records::for_kernels(remains));
    kept.chain(records::for_unreadable(remains)).collect()
}

/// What people are to see of its kernels, behind all else.
pub fn facts(remains: &Remains<'_>) -> Vec<Effect> {
    records::for_people(remains)
}
