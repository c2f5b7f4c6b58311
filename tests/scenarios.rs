//! Checks that every scenario has a test with its id, and that docs/scenarios.md lists these tests.

#[path = "common/sources.rs"]
mod sources;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use sources::sources;

/// The prefix, title and number of rows of each table.
const TABLES: [(&str, &str, u32); 26] = [
    ("SC-CO", "coordinator", 25),
    ("CP", "check-precondition", 7),
    ("SS", "schedule-sessions", 10),
    ("ST", "start-sessions", 6),
    ("TS", "terminate-sessions", 6),
    ("DP", "deprioritize-sessions", 3),
    ("SW", "sweep-sessions", 4),
    ("PP", "promote-to-prepared", 5),
    ("PR", "promote-to-running", 6),
    ("DT", "detection of the end", 4),
    ("PT", "promote-to-terminated", 3),
    ("SK", "sweep-stale-kernels", 4),
    ("CD", "check-pending of deployments", 3),
    ("CR", "check-replica", 4),
    ("SC", "scaling", 4),
    ("RC", "reconcile", 3),
    ("DD", "destroying", 3),
    ("RP", "provision", 3),
    ("RH", "health-check", 4),
    ("RR", "check-running", 4),
    ("RE", "evict", 3),
    ("RT", "terminate of routes", 3),
    ("SD", "service-discovery-sync", 4),
    ("FC", "classification", 3),
    ("HE", "hooks", 3),
    ("DL", "locks", 3),
];

/// Returns the names of the test functions in a source text.
fn tests(text: &str) -> Vec<&str> {
    let mut is_test = false;
    let mut found = vec![];
    for line in text.lines().map(str::trim) {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_test = true;
        } else if line.starts_with("#[ignore") {
            is_test = false;
        } else if let Some(rest) = line.strip_prefix("async fn ").or_else(|| line.strip_prefix("fn ")) {
            if is_test {
                found.extend(rest.split('(').next());
            }
            is_test = false;
        }
    }
    found
}

/// Returns the scenario ids at the start of a test's name: `dt_001_pt_001_all_ended` covers two.
fn ids(test: &str) -> Vec<String> {
    let mut words = test.split('_').peekable();
    let mut found = vec![];
    while let Some(word) = words.next() {
        let prefix = match word {
            "sc" if words.peek() == Some(&"co") => {
                words.next();
                "SC-CO".to_owned()
            }
            word => word.to_uppercase(),
        };
        match words.next() {
            Some(number) if number.len() == 3 && number.bytes().all(|b| b.is_ascii_digit()) => {
                found.push(format!("{prefix}-{number}"));
            }
            _ => break,
        }
    }
    found
}

#[test]
fn every_scenario_has_a_test_and_the_list_is_current() {
    let files = [sources("src"), sources("tests")].concat();
    let mut covered: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (file, text) in &files {
        for test in tests(text) {
            for id in ids(test) {
                covered.entry(id).or_default().push(format!("`{test}` ({file})"));
            }
        }
    }
    let mut page = String::from("# Scenarios and their tests\n\nWritten by `make scenarios`; do not edit.\n");
    let mut missing = vec![];
    for (prefix, title, rows) in TABLES {
        write!(page, "\n## {prefix}: {title}\n\n| row | tests |\n|---|---|\n").expect("text");
        for row in 1..=rows {
            let id = format!("{prefix}-{row:03}");
            match covered.remove(&id) {
                Some(tests) => writeln!(page, "| {id} | {} |", tests.join("<br>")).expect("text"),
                None => missing.push(id),
            }
        }
    }
    assert!(missing.is_empty(), "no test name begins with {missing:?}");
    assert!(covered.is_empty(), "tests name scenarios that are in no table: {covered:?}");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/scenarios.md");
    if std::env::var_os("WRITE_SCENARIOS").is_some() {
        std::fs::write(&path, &page).expect("the page can be written");
    }
    assert!(std::fs::read_to_string(path).unwrap_or_default() == page, "docs/scenarios.md is out of date: run make scenarios");
}
