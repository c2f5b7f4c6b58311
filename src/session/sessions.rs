//! The kind itself, as the engine names it.

/// Sessions: the first subject of the engine.
#[derive(Clone, Copy, Debug)]
pub struct Sessions;
