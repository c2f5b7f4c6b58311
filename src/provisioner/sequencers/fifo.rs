//! FIFO: who was made first is looked at first.

use super::Sequencer;

pub static SEQUENCER: Sequencer = Sequencer { share: None, rank: |candidate| candidate.made() };
