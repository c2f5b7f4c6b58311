//! Tables with aligned columns, and ages like kubectl's.

use std::fmt;

use chrono::{DateTime, Utc};

use crate::lifecycle::printable;

/// The fewest characters of the last column that a narrow terminal shows.
const MIN_LAST: usize = 16;

/// Returns rows under a heading. The last column is not padded. If the formatter has a width (`{view:80}`), it is cut so that each
/// line is at most that long.
pub fn table(heading: &[&str], rows: &[Vec<String>], f: &fmt::Formatter<'_>) -> String {
    table_within(heading, rows, f.width())
}

pub fn table_within(heading: &[&str], rows: &[Vec<String>], limit: Option<usize>) -> String {
    let heading: Vec<String> = heading.iter().map(|word| (*word).to_owned()).collect();
    let all: Vec<Vec<String>> =
        std::iter::once(&heading).chain(rows).map(|row| row.iter().map(|cell| printable(cell)).collect()).collect();
    let width = |column: usize| all.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..heading.len()).map(width).collect();
    let before: usize = widths.iter().rev().skip(1).map(|width| width + GAP.len()).sum();
    let last = limit.map(|limit| limit.saturating_sub(before).max(MIN_LAST));
    let mut text = String::new();
    for row in all {
        let cell = |(column, cell): (usize, &String)| match last {
            Some(last) if column + 1 == widths.len() => shortened(cell, last),
            _ => format!("{cell:width$}", width = widths.get(column).copied().unwrap_or_default()),
        };
        let cells: Vec<String> = row.iter().enumerate().map(cell).collect();
        text.push_str(cells.join(GAP).trim_end());
        text.push('\n');
    }
    text
}

/// Between two columns.
const GAP: &str = "   ";

fn shortened(cell: &str, most: usize) -> String {
    if cell.chars().count() <= most {
        return cell.to_owned();
    }
    cell.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

/// `45s`, `12m`, `3h`, `5d`.
pub fn age(since: Option<DateTime<Utc>>, now: DateTime<Utc>) -> String {
    let Some(since) = since else { return "-".into() };
    let seconds = (now - since).num_seconds().max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// The time of day, with the date if that is another day.
pub fn clock(at: DateTime<Utc>, now: DateTime<Utc>) -> String {
    let format = if at.date_naive() == now.date_naive() { "%H:%M:%S" } else { "%Y-%m-%d %H:%M:%S" };
    at.format(format).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeDelta;

    #[test]
    fn columns_line_up_and_ages_are_short() {
        let rows = vec![vec!["a".into(), "long cell".into(), "x".into()], vec!["bcd".into(), String::new(), "y".into()]];
        assert_eq!(
            table_within(&["N", "CELL", "Z"], &rows, None),
            "N     CELL        Z\na     long cell   x\nbcd               y\n"
        );
        let forged = table_within(&["N"], &[vec!["\u{1b}[2J\nREADY".into()]], None);
        assert_eq!(forged, "N\n [2J READY\n", "text of other users cannot control the terminal or forge a line");
        let long = vec![vec!["a".into(), "0123456789".repeat(4)]];
        assert_eq!(table_within(&["N", "MESSAGE"], &long, Some(24)), "N   MESSAGE\na   0123456789012345678…\n");
        assert!(table_within(&["N", "MESSAGE"], &long, Some(3)).contains("012345678901234…"), "the last column keeps a part");
        let now = DateTime::UNIX_EPOCH + TimeDelta::days(10);
        let ages = [59, 119, 120, 7200, 172_800].map(|seconds| age(Some(now - TimeDelta::seconds(seconds)), now));
        assert_eq!(ages, ["59s", "119s", "2m", "2h", "2d"]);
    }
}
