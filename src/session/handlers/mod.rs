//! Every handler: one file each with its row and its rule, and the one table that lists them (rules §4).

mod check_precondition;
mod deprioritize_sessions;
mod detect_termination;
mod end_sessions;
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
mod sync_kernels;
mod terminate_sessions;
#[cfg(test)]
pub(crate) mod testing;

pub use row::*;

/// All handlers. To add one: its file, its name in [`HandlerName`], and a line here.
pub static HANDLERS: [&Handler; 15] = [
    &schedule_sessions::ROW,
    &check_precondition::ROW,
    &start_sessions::ROW,
    &terminate_sessions::ROW,
    &deprioritize_sessions::ROW,
    &sweep_sessions::ROW,
    &sweep_stale_kernels::ROW,
    &detect_termination::ROW,
    &promote_to_pulling::ROW,
    &promote_to_prepared::ROW,
    &promote_to_running::ROW,
    &promote_to_terminated::ROW,
    &reset_unschedulable::ROW,
    &end_sessions::ROW,
    &finalize_sessions::ROW,
];

/// The row of a handler, if it decides on sessions.
pub fn row(name: HandlerName) -> Option<&'static Handler> {
    HANDLERS.iter().copied().find(|handler| handler.name == name)
}

pub use sync_kernels::{facts, sync};
