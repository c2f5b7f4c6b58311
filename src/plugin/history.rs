//! `history`: what was tried for a session, when, how often, and step by step.

use std::fmt;

use kube::ResourceExt;
use serde::Serialize;

use crate::api::{HistoryEntry, Session, SubStepResult};
use crate::lifecycle::printable;

#[derive(Serialize)]
pub struct History {
    name: String,
    dropped: i32,
    entries: Vec<HistoryEntry>,
}

pub fn view(session: &Session) -> History {
    let status = session.status.clone().unwrap_or_default();
    History { name: session.name_any(), dropped: status.history_dropped, entries: status.history }
}

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.entries.is_empty() {
            return writeln!(f, "nothing was tried for {} yet", self.name);
        }
        if self.dropped > 0 {
            writeln!(f, "({} earlier entries were dropped)", self.dropped)?;
        }
        for entry in &self.entries {
            let moved = if entry.from == entry.to { entry.from.clone() } else { format!("{} → {}", entry.from, entry.to) };
            let times = if entry.attempts > 1 { format!(" ×{}", entry.attempts) } else { String::new() };
            let last = if entry.attempts > 1 { format!(", last {}", entry.updated_at.format("%H:%M:%S")) } else { String::new() };
            let at = entry.created_at.format("%Y-%m-%d %H:%M:%S%.3f");
            writeln!(f, "{at}{last}  {}  {moved}  {:?}{times}", entry.phase, entry.result)?;
            if !entry.message.is_empty() {
                writeln!(f, "    {}", printable(&entry.message))?;
            }
            for step in &entry.steps {
                let took = (step.ended_at - step.started_at).num_milliseconds();
                let failed = if step.result == SubStepResult::Failure { " failed" } else { "" };
                writeln!(f, "    - {}{failed}, {took} ms: {}", step.name, printable(&step.detail))?;
            }
        }
        Ok(())
    }
}
