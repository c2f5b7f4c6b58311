//! What ARCHITECTURE.md promises about the code's structure.

#[path = "common/sources.rs"]
mod sources;

use std::collections::{BTreeMap, BTreeSet};

use sources::sources;

/// The files of these folders of src/.
fn in_src(folders: &[&str]) -> Vec<(String, String)> {
    let files: Vec<_> = folders.iter().map(|folder| sources(&format!("src/{folder}"))).collect();
    assert!(files.iter().all(|files| !files.is_empty()), "a folder is not where it was");
    files.concat()
}

fn violations(files: &[(String, String)], forbidden: &[&str]) -> Vec<String> {
    let mut found = vec![];
    for (file, text) in files {
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            for word in forbidden.iter().filter(|word| code.contains(**word)) {
                found.push(format!("{file}:{}: {word}", number + 1));
            }
        }
    }
    found
}

#[test]
fn decisions_know_no_client_no_task_and_no_clock() {
    let forbidden =
        ["kube::Client", "kube::Api", "Client}", "Api::", "tokio", "Utc::now", "Instant::now", "SystemTime", "async fn"];
    let pure = in_src(&["lifecycle", "views", "session", "provisioner"]);
    assert_eq!(violations(&pure, &forbidden), Vec::<String>::new());
}

#[test]
fn only_the_cluster_folder_talks_to_the_api_server() {
    let forbidden = ["kube::Client", "kube::Api", "Api::"];
    assert_eq!(violations(&in_src(&["api", "coordinator"]), &forbidden), Vec::<String>::new());
}

#[test]
fn the_engine_names_no_kind() {
    for (file, text) in in_src(&["lifecycle", "coordinator"]) {
        let named: Vec<&str> = text.lines().filter(|line| line.to_lowercase().contains("session")).collect();
        assert!(named.is_empty(), "{file} names sessions: {named:#?}");
    }
}

#[test]
fn no_number_of_seconds_outside_timing() {
    for (file, text) in in_src(&["lifecycle", "views", "session", "provisioner", "coordinator"]) {
        if ["lifecycle/timing.rs", "lifecycle/lamps.rs", "coordinator/tests.rs"].iter().any(|other| file.ends_with(other)) {
            continue;
        }
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        assert!(!code.contains("from_secs("), "{file} names a number of seconds");
    }
}

/// The folders of src/, and the files beside them: what each may use. The list is in order: no line names a later one.
const MAY_USE: [(&str, &[&str]); 12] = [
    ("api", &[]),
    ("metrics", &["api"]),
    ("http", &["metrics"]),
    ("lifecycle", &["api"]),
    ("views", &["api", "lifecycle"]),
    ("provisioner", &["api", "lifecycle", "views"]),
    ("session", &["api", "lifecycle", "views", "provisioner"]),
    ("coordinator", &["api", "lifecycle", "metrics"]),
    ("cluster", &["api", "lifecycle", "views", "provisioner", "session", "coordinator", "metrics"]),
    ("plugin", &["api", "lifecycle", "views", "provisioner", "session", "cluster"]),
    ("operator", &["api", "lifecycle", "coordinator", "cluster", "metrics", "http"]),
    ("main", &["api", "lifecycle", "session", "cluster", "operator", "plugin"]),
];

#[test]
fn dependencies_point_downwards() {
    let mut upward = vec![];
    for (module, used) in imports() {
        let folder = |module: &str| module.split("::").next().unwrap_or_default().to_owned();
        let (_, allowed) = MAY_USE.iter().find(|(name, _)| *name == folder(&module)).unwrap_or_else(|| panic!("{module} is new"));
        let other = used.iter().filter(|used| folder(used) != folder(&module) && !allowed.contains(&folder(used).as_str()));
        upward.extend(other.map(|used| format!("{module} uses {used}")));
    }
    assert_eq!(upward, Vec::<String>::new());
}

#[test]
fn no_files_use_each_other_in_a_circle() {
    let mut left = imports();
    // What uses nothing that is left is in no circle.
    loop {
        let names: BTreeSet<String> = left.keys().cloned().collect();
        let before = left.len();
        left.retain(|_, used| used.iter().any(|used| names.contains(used)));
        if left.len() == before {
            break;
        }
    }
    assert!(left.is_empty(), "in circles, or above one: {:#?}", left.keys());
}

/// The modules of src/ with the modules that their `use` lines name, tests aside.
fn imports() -> BTreeMap<String, BTreeSet<String>> {
    let files = sources("src")
        .into_iter()
        .filter(|(file, _)| !["testing.rs", "lamps.rs", "tests.rs"].iter().any(|end| file.ends_with(end)));
    let texts: BTreeMap<Vec<String>, (bool, String)> = files
        .filter(|(file, _)| !file.ends_with("lib.rs"))
        .map(|(file, text)| {
            let path = file.trim_start_matches("src/").trim_end_matches(".rs");
            let mut module: Vec<String> = path.split('/').map(str::to_owned).collect();
            let is_folder = module.last().is_some_and(|last| last == "mod");
            if is_folder {
                module.pop();
            }
            (module, (is_folder, text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default().to_owned()))
        })
        .collect();
    let known =
        |path: &[String]| (1..=path.len()).rev().map(|length| path[..length].to_vec()).find(|path| texts.contains_key(path));
    let mut imports = BTreeMap::new();
    for (module, (_, text)) in &texts {
        let used = uses(text).into_iter().filter_map(|path| known(&absolute(module, &path)?)).filter(|used| used != module);
        imports.insert(module.join("::"), used.map(|used| used.join("::")).collect());
    }
    imports
}

/// Every path of the `use` lines of a file, with groups in braces taken apart.
fn uses(text: &str) -> Vec<Vec<String>> {
    let mut found = vec![];
    let statements = text.split('\n').collect::<Vec<_>>().join(" ");
    for statement in statements.split(';') {
        let Some(at) = statement.rfind("use ") else { continue };
        let before = statement[..at].trim_end();
        if !(before.is_empty() || before.ends_with([')', '}', '/', ']']) || before.ends_with("pub") || statement.contains("//!"))
        {
            continue;
        }
        take_apart(&statement[at + 4..].replace(' ', ""), &mut found);
    }
    found
}

fn take_apart(path: &str, found: &mut Vec<Vec<String>>) {
    let Some((stem, group)) = path.split_once('{') else {
        found.push(path.split("::").map(str::to_owned).collect());
        return;
    };
    let (mut depth, mut begin) = (0, 0);
    let group = group.strip_suffix('}').unwrap_or(group);
    for (at, character) in group.char_indices().chain([(group.len(), ',')]) {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                take_apart(&format!("{stem}{}", &group[begin..at]), found);
                begin = at + 1;
            }
            _ => {}
        }
    }
}

/// A path as seen from the crate's root. None for what is not of this crate.
fn absolute(module: &[String], path: &[String]) -> Option<Vec<String>> {
    let up = path.iter().take_while(|part| *part == "super").count();
    match path.first()?.as_str() {
        "crate" | "sokovan" => Some(path[1..].to_vec()),
        "super" => Some([&module[..module.len().saturating_sub(up)], &path[up..]].concat()),
        "self" => Some([module, &path[1..]].concat()),
        _ => None,
    }
}

#[test]
fn the_reader_of_use_lines_sees_groups_parents_and_comments() {
    let text = "//! About.\n\nuse std::fmt;\nuse super::{a, b::{C, D}};\n// Why.\npub use crate::e::f;\n\nfn g() {}\n";
    let paths: Vec<String> = uses(text).iter().map(|path| path.join("::")).collect();
    assert_eq!(paths, ["std::fmt", "super::a", "super::b::C", "super::b::D", "crate::e::f"]);
    let module = ["x".to_owned(), "y".to_owned()];
    let path = |path: &str| path.split("::").map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(absolute(&module, &path("super::a")), Some(path("x::a")));
    assert_eq!(absolute(&module, &path("std::fmt")), None);
}
