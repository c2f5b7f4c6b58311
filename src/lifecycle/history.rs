//! History: how attempts are counted, and how an entry joins it (docs/lifecycle.md#history).

use chrono::{DateTime, Utc};

use crate::api::{HistoryEntry, HistoryResult};

/// The failed attempts of a handler in a row.
#[derive(Clone, Copy, Debug)]
pub struct Attempts {
    pub count: i32,
    /// When the first of them was made. For a handler that waits, when the phase began.
    pub started_at: Option<DateTime<Utc>>,
}

/// Most entries of a history.
pub const MAX_ENTRIES: usize = 64;
/// Most characters of an entry's message.
pub const MAX_MESSAGE: usize = 400;
/// Most steps of an entry.
pub const MAX_STEPS: usize = 16;
/// Most bytes of all entries together, so that a status stays below 64 KiB with its allocation.
pub const MAX_BYTES: usize = 36 * 1024;

/// The last entry that is no skip.
pub fn last_attempt(history: &[HistoryEntry]) -> Option<&HistoryEntry> {
    history.iter().rev().find(|entry| entry.result != HistoryResult::Skipped)
}

/// The attempts of a handler: those of the last entry that is no skip, if the entry is the handler's and no success.
pub fn attempts_of(history: &[HistoryEntry], handler: &str) -> Attempts {
    match last_attempt(history) {
        Some(last) if last.handler == handler && last.result != HistoryResult::Success => {
            Attempts { count: last.attempts, started_at: Some(last.created_at) }
        }
        _ => Attempts { count: 0, started_at: None },
    }
}

/// Whether an entry repeats the last one. A wait that becomes a fault is a new entry, so that the fault has all its attempts.
fn merges(last: &HistoryEntry, entry: &HistoryEntry) -> bool {
    last.handler == entry.handler
        && last.error_code == entry.error_code
        && last.cause == entry.cause
        && last.to == entry.to
        && (last.result == HistoryResult::Skipped) == (entry.result == HistoryResult::Skipped)
}

/// Adds an entry. An entry that repeats the last one (for an attempt: the last that is no skip) is merged into it. Keeps the
/// history within its bounds and returns how many entries were dropped.
pub fn push(history: &mut Vec<HistoryEntry>, mut entry: HistoryEntry) -> i32 {
    truncate(&mut entry.message, MAX_MESSAGE);
    // The first step says how the attempt began, the last what failed.
    let excess = entry.steps.len().saturating_sub(MAX_STEPS);
    if excess > 0 {
        entry.steps.drain(1..=excess);
    }
    let skip = entry.result == HistoryResult::Skipped;
    match history.iter_mut().rev().find(|last| skip || last.result != HistoryResult::Skipped) {
        Some(last) if merges(last, &entry) => {
            last.attempts = last.attempts.saturating_add(1);
            last.result = entry.result;
            last.message = entry.message;
            last.updated_at = entry.updated_at;
            last.steps = entry.steps;
        }
        _ => history.push(HistoryEntry { attempts: 1, ..entry }),
    }
    bound(history, MAX_BYTES)
}

/// Keeps the history within so many bytes of JSON, and returns how many entries were dropped. The steps of older entries are
/// dropped first, then the oldest entries. The last entry always stays.
pub fn bound(history: &mut Vec<HistoryEntry>, max_bytes: usize) -> i32 {
    let max_bytes = max_bytes.min(MAX_BYTES);
    let excess = history.len().saturating_sub(MAX_ENTRIES);
    history.drain(..excess);
    let mut dropped = excess;
    let mut total: usize = history.iter().map(size_of_entry).sum();
    let older = history.len().saturating_sub(1);
    for entry in history.iter_mut().take(older) {
        if total <= max_bytes {
            break;
        }
        let before = size_of_entry(entry);
        entry.steps.clear();
        total -= before - size_of_entry(entry);
    }
    while total > max_bytes && history.len() > 1 {
        total -= size_of_entry(&history.remove(0));
        dropped += 1;
    }
    i32::try_from(dropped).unwrap_or(i32::MAX)
}

/// About how many bytes an entry takes as JSON.
fn size_of_entry(entry: &HistoryEntry) -> usize {
    const FIXED: usize = 240;
    const FIXED_STEP: usize = 150;
    let steps: usize = entry.steps.iter().map(|step| FIXED_STEP + step.name.len() + bytes_in_json(&step.detail)).sum();
    FIXED + bytes_in_json(&entry.message) + entry.error_code.map_or(0, |reason| reason.as_str().len()) + steps
}

/// The bytes of a one-line text within JSON, as the API server writes it.
pub fn bytes_in_json(text: &str) -> usize {
    let escaped = |c| match c {
        '<' | '>' | '&' => 6,
        '"' | '\\' => 2,
        c => char::len_utf8(c),
    };
    text.chars().map(escaped).sum()
}

/// Text of others as one line, so that it can neither control a terminal nor look like lines of ours.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Makes one line of a text and cuts it to at most `max` bytes. A cut text ends with an ellipsis.
pub fn truncate(text: &mut String, max: usize) {
    if text.contains(char::is_control) {
        *text = printable(text);
    }
    if text.len() <= max {
        return;
    }
    let mut end = max.saturating_sub('…'.len_utf8());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text.push('…');
}

/// A time to the millisecond: JSON keeps that exactly.
pub fn to_millis(time: DateTime<Utc>) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(time.timestamp_millis()).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Cause, Reason};
    use chrono::TimeDelta;

    fn entry(handler: &str, result: HistoryResult, code: Option<Reason>, minute: i64) -> HistoryEntry {
        let at = DateTime::UNIX_EPOCH + TimeDelta::minutes(minute);
        HistoryEntry {
            handler: handler.into(),
            result,
            from: "Pending".into(),
            to: "Pending".into(),
            error_code: code,
            cause: code.map(|_| Cause::Fault),
            message: format!("at minute {minute}"),
            attempts: 1,
            created_at: at,
            updated_at: at,
            steps: vec![],
        }
    }

    #[test]
    fn sc_co_017_attempts_come_from_the_last_matching_entry() {
        let mut history = vec![entry("plug", HistoryResult::NeedRetry, Some(Reason::EffectFailed), 1)];
        history[0].attempts = 2;
        let record = attempts_of(&history, "plug");
        assert_eq!(record.count, 2);
        assert_eq!(record.started_at, Some(history[0].created_at));
    }

    #[test]
    fn sc_co_018_attempts_are_none_when_the_phase_differs() {
        let mut history = vec![entry("light", HistoryResult::NeedRetry, Some(Reason::EffectFailed), 1)];
        history[0].attempts = 5;
        let record = attempts_of(&history, "plug");
        assert_eq!((record.count, record.started_at), (0, None));
    }

    #[test]
    fn a_success_ends_the_count_and_a_skip_hides_nothing() {
        let mut history = vec![entry("a", HistoryResult::NeedRetry, Some(Reason::EffectFailed), 1)];
        push(&mut history, entry("a", HistoryResult::Skipped, Some(Reason::NotYetDue), 2));
        assert_eq!(attempts_of(&history, "a").count, 1);
        push(&mut history, entry("a", HistoryResult::NeedRetry, Some(Reason::EffectFailed), 3));
        assert_eq!((history.len(), attempts_of(&history, "a").count), (2, 2), "it goes on counting");
        push(&mut history, entry("a", HistoryResult::Success, None, 4));
        assert_eq!(attempts_of(&history, "a").count, 0);
    }

    #[test]
    fn equal_failures_merge_and_keep_the_first_time() {
        let mut history = vec![];
        for minute in 1..=3 {
            push(&mut history, entry("a", HistoryResult::NeedRetry, Some(Reason::EffectFailed), minute));
        }
        assert_eq!(history.len(), 1);
        assert_eq!(history[0].attempts, 3);
        assert_eq!(history[0].created_at, DateTime::UNIX_EPOCH + TimeDelta::minutes(1));
        assert_eq!(history[0].updated_at, DateTime::UNIX_EPOCH + TimeDelta::minutes(3));
        assert_eq!(history[0].message, "at minute 3");
        push(&mut history, entry("a", HistoryResult::NeedRetry, Some(Reason::NodeLost), 4));
        assert_eq!(history.len(), 2, "another error code is another entry");
        assert_eq!(history[1].attempts, 1);
    }

    #[test]
    fn a_history_stays_within_its_bounds_and_counts_what_it_drops() {
        let mut history = vec![];
        let mut dropped = 0;
        for minute in 0..200 {
            let mut new = entry(
                "a",
                HistoryResult::NeedRetry,
                Some(if minute % 2 == 0 { Reason::EffectFailed } else { Reason::NodeLost }),
                minute,
            );
            new.message = "ä".repeat(1000);
            dropped += push(&mut history, new);
        }
        assert!(history.len() <= MAX_ENTRIES);
        assert_eq!(history.len() + usize::try_from(dropped).unwrap_or(0), 200);
        assert!(history.iter().all(|e| e.message.len() <= MAX_MESSAGE));
        let bytes = serde_json::to_string(&history).map(|text| text.len()).unwrap_or(usize::MAX);
        assert!(bytes <= 40 * 1024, "{bytes}");
        assert_eq!(history.last().map(|e| e.created_at), Some(DateTime::UNIX_EPOCH + TimeDelta::minutes(199)));
    }
}
