//! LIFO: who was made last is looked at first.

use super::Sequencer;

pub static SEQUENCER: Sequencer = Sequencer { share: None, compare: |a, b| b.created_at.cmp(&a.created_at) };
