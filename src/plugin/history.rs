//! `history`: what was tried for an object, when, how often, and step by step.

use std::fmt;

use serde::Serialize;

use crate::api::{HistoryEntry, Progress, SubStepResult};
use crate::lifecycle::printable;

#[derive(Serialize)]
pub struct History {
    kind: &'static str,
    name: String,
    dropped: i32,
    entries: Vec<HistoryEntry>,
}

pub fn view<P>(kind: &'static str, name: String, progress: Option<&Progress<P>>) -> History {
    let (dropped, entries) = progress.map(|progress| (progress.history_dropped, progress.history.clone())).unwrap_or_default();
    History { kind, name, dropped, entries }
}

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.entries.is_empty() {
            return writeln!(f, "{} {} has no history yet", self.kind, self.name);
        }
        if self.dropped > 0 {
            writeln!(f, "({} earlier entries were dropped)", self.dropped)?;
        }
        for entry in &self.entries {
            let moved = if entry.from == entry.to { entry.from.clone() } else { format!("{} → {}", entry.from, entry.to) };
            let times = if entry.attempts > 1 { format!(" ×{}", entry.attempts) } else { String::new() };
            let last = if entry.attempts > 1 { format!(", last {}", entry.updated_at.format("%H:%M:%S")) } else { String::new() };
            let time = entry.created_at.format("%Y-%m-%d %H:%M:%S%.3f");
            writeln!(f, "{time}{last}  {}  {moved}  {:?}{times}", entry.handler, entry.result)?;
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::SessionPhase;

    #[test]
    fn entries_are_shown_with_attempts_and_steps_and_the_number_of_dropped_entries() {
        let none: Option<&Progress<SessionPhase>> = None;
        assert_eq!(view("session", "s".into(), none).to_string(), "session s has no history yet\n");
        let at = |second: u32| format!("2026-01-01T00:00:{second:02}.500Z");
        let progress = json!({"phase": "Scheduled", "historyDropped": 3, "history": [
            {"handler": "schedule-sessions", "result": "NeedRetry", "from": "Pending", "to": "Pending", "message": "no node",
             "attempts": 4, "createdAt": at(1), "updatedAt": at(9), "steps": [
                {"name": "select", "result": "Failure", "detail": "none", "startedAt": at(8), "endedAt": at(9)}]},
            {"handler": "schedule-sessions", "result": "Success", "from": "Pending", "to": "Scheduled", "attempts": 1,
             "createdAt": at(10), "updatedAt": at(10)},
        ]});
        let progress: Progress<SessionPhase> = serde_json::from_value(progress).expect("progress");
        let wanted = [
            "(3 earlier entries were dropped)",
            "2026-01-01 00:00:01.500, last 00:00:09  schedule-sessions  Pending  NeedRetry ×4",
            "    no node",
            "    - select failed, 1000 ms: none",
            "2026-01-01 00:00:10.500  schedule-sessions  Pending → Scheduled  Success",
        ];
        assert_eq!(view("session", "s".into(), Some(&progress)).to_string().lines().collect::<Vec<_>>(), wanted);
    }
}
