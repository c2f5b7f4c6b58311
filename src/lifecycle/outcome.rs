//! What a handler says of one item, before it is classified.

pub use crate::api::{Cause, Reason};

/// A failure, before it is classified.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    pub cause: Cause,
    pub reason: Reason,
    /// In words, with numbers and names.
    pub message: String,
}

impl Failure {
    pub fn new(cause: Cause, reason: Reason, message: impl Into<String>) -> Self {
        Self { cause, reason, message: message.into() }
    }

    pub fn fault(reason: Reason, message: impl Into<String>) -> Self {
        Self::new(Cause::Fault, reason, message)
    }
}
