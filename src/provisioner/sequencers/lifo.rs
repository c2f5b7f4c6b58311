//! LIFO: the newest session first.

use super::Sequencer;

pub static SEQUENCER: Sequencer = Sequencer { share: None, rank: |candidate| -candidate.created_micros() };
