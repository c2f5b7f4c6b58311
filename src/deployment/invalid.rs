//! Why a deployment's template cannot run.

/// The field, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid(pub String);
