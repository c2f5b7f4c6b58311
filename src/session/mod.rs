//! Sessions: their view in a snapshot, and every decision about them. Pure throughout: no client, no task, no clock.

pub mod effect;
pub mod ends;
pub mod handlers;
pub mod holding;
pub mod idle;
pub mod kernel_record;
mod kernel_state;
pub mod kernels;
pub mod launcher;
pub mod limits;
pub mod matching;
pub mod namespace_quota;
pub mod pending;
pub mod precondition;
pub mod queue;
pub mod records;
pub mod remains;
pub mod sessions;
pub mod snapshot;
pub mod status;
pub mod subject;
pub mod template;
pub mod terminator;
pub mod usage;
pub mod waiting;
