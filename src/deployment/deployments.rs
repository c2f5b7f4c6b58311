//! The type that stands for deployments as a subject of the engine.

/// Deployments: a subject of the engine.
#[derive(Clone, Copy, Debug)]
pub struct Deployments;
