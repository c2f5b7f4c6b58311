//! The type that stands for routes as a subject of the engine.

/// Routes: a subject of the engine.
#[derive(Clone, Copy, Debug)]
pub struct Routes;
