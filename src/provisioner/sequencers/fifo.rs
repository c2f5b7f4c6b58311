//! FIFO: who was made first is looked at first.

use super::Sequencer;

pub static SEQUENCER: Sequencer = Sequencer { share: None, compare: |a, b| a.created_at.cmp(&b.created_at) };
