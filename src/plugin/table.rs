//! Tables with aligned columns, and ages like kubectl's.

use chrono::{DateTime, Utc};

use crate::lifecycle::printable;

/// Returns rows under a heading. The last column is not padded.
pub fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let heading: Vec<String> = heading.iter().map(|word| (*word).to_owned()).collect();
    let all: Vec<&Vec<String>> = std::iter::once(&heading).chain(rows).collect();
    let width = |column: usize| all.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..heading.len()).map(width).collect();
    let mut text = String::new();
    for row in all {
        let cell = |(cell, width): (&String, &usize)| format!("{:width$}", printable(cell));
        let cells: Vec<String> = row.iter().zip(&widths).map(cell).collect();
        text.push_str(cells.join("   ").trim_end());
        text.push('\n');
    }
    text
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
        assert_eq!(table(&["N", "CELL", "Z"], &rows), "N     CELL        Z\na     long cell   x\nbcd               y\n");
        let forged = table(&["N"], &[vec!["\u{1b}[2J\nREADY".into()]]);
        assert_eq!(forged, "N\n [2J READY\n", "text of other users cannot control the terminal or forge a line");
        let now = DateTime::UNIX_EPOCH + TimeDelta::days(10);
        let ages = [59, 119, 120, 7200, 172_800].map(|seconds| age(Some(now - TimeDelta::seconds(seconds)), now));
        assert_eq!(ages, ["59s", "119s", "2m", "2h", "2d"]);
    }
}
