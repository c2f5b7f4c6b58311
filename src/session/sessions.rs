//! The type that stands for sessions as a subject of the engine.

/// Sessions: the first subject of the engine.
#[derive(Clone, Copy, Debug)]
pub struct Sessions;
