//! Checks the promises of ARCHITECTURE.md about the code's structure.

#[path = "common/sources.rs"]
mod sources;

use std::collections::{BTreeMap, BTreeSet};

use sources::sources;

/// Returns the files in these folders of src/.
fn in_src(folders: &[&str]) -> Vec<(String, String)> {
    let files: Vec<_> = folders.iter().map(|folder| sources(&format!("src/{folder}"))).collect();
    assert!(files.iter().all(|files| !files.is_empty()), "a folder is missing or empty");
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
fn decisions_use_no_client_task_or_clock() {
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
        let lines: Vec<&str> = text.lines().filter(|line| line.to_lowercase().contains("session")).collect();
        assert!(lines.is_empty(), "{file} names sessions: {lines:#?}");
    }
}

#[test]
fn durations_are_defined_only_in_timing() {
    for (file, text) in in_src(&["lifecycle", "views", "session", "deployment", "route", "provisioner", "coordinator"]) {
        if ["lifecycle/timing.rs", "lifecycle/lamps.rs", "coordinator/tests.rs"].iter().any(|other| file.ends_with(other)) {
            continue;
        }
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        assert!(!code.contains("from_secs("), "{file} contains a number of seconds: move it to Timing");
    }
}

/// The folders and files of src/ with the ones that each may use. The list is ordered: no entry uses a later one.
const MAY_USE: [(&str, &[&str]); 16] = [
    ("api", &[]),
    ("metrics", &["api"]),
    ("http", &["metrics"]),
    ("logging", &[]),
    ("lifecycle", &["api"]),
    ("views", &["api", "lifecycle"]),
    ("provisioner", &["api", "lifecycle", "views"]),
    ("session", &["api", "lifecycle", "views", "provisioner"]),
    ("deployment", &["api", "lifecycle", "views", "provisioner"]),
    ("route", &["api", "lifecycle", "views"]),
    ("coordinator", &["api", "lifecycle", "metrics"]),
    ("cluster", &["api", "lifecycle", "views", "provisioner", "session", "deployment", "route", "coordinator", "metrics"]),
    ("plugin", &["api", "lifecycle", "views", "provisioner", "session", "deployment", "route"]),
    ("operator", &["api", "lifecycle", "deployment", "route", "coordinator", "cluster", "metrics", "http"]),
    ("main", &["api", "lifecycle", "session", "cluster", "metrics", "logging", "operator"]),
    ("bin", &["plugin"]),
];

#[test]
fn dependencies_point_downwards() {
    let mut upward = vec![];
    for (module, used) in imports() {
        let folder = |module: &str| module.split("::").next().unwrap_or_default().to_owned();
        let (_, allowed) = MAY_USE
            .iter()
            .find(|(name, _)| *name == folder(&module))
            .unwrap_or_else(|| panic!("{module} is new: add it to MAY_USE"));
        let other = used.iter().filter(|used| folder(used) != folder(&module) && !allowed.contains(&folder(used).as_str()));
        upward.extend(other.map(|used| format!("{module} uses {used}")));
    }
    assert_eq!(upward, Vec::<String>::new());
}

#[test]
fn files_have_no_import_cycles() {
    let mut remaining = imports();
    // A file that uses no remaining file is not part of a cycle.
    loop {
        let names: BTreeSet<String> = remaining.keys().cloned().collect();
        let before = remaining.len();
        remaining.retain(|_, used| used.iter().any(|used| names.contains(used)));
        if remaining.len() == before {
            break;
        }
    }
    assert!(remaining.is_empty(), "files in an import cycle, or that use one: {:#?}", remaining.keys());
}

/// Returns the modules of src/ with the modules that their `use` lines name, without tests.
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

/// Returns every path of the `use` lines of a file, with groups in braces expanded.
fn uses(text: &str) -> Vec<Vec<String>> {
    let mut found = vec![];
    let statements = text.split('\n').collect::<Vec<_>>().join(" ");
    for statement in statements.split(';') {
        let Some(index) = statement.rfind("use ") else { continue };
        let before = statement[..index].trim_end();
        if !(before.is_empty() || before.ends_with([')', '}', '/', ']']) || before.ends_with("pub") || statement.contains("//!"))
        {
            continue;
        }
        expand_groups(&statement[index + 4..].replace(' ', ""), &mut found);
    }
    found
}

fn expand_groups(path: &str, found: &mut Vec<Vec<String>>) {
    let Some((stem, group)) = path.split_once('{') else {
        found.push(path.split("::").map(str::to_owned).collect());
        return;
    };
    let (mut depth, mut begin) = (0, 0);
    let group = group.strip_suffix('}').unwrap_or(group);
    for (index, character) in group.char_indices().chain([(group.len(), ',')]) {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                expand_groups(&format!("{stem}{}", &group[begin..index]), found);
                begin = index + 1;
            }
            _ => {}
        }
    }
}

/// Returns a path relative to the crate's root, or None if it names another crate.
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
fn the_use_parser_handles_groups_parents_and_comments() {
    let text = "//! About.\n\nuse std::fmt;\nuse super::{a, b::{C, D}};\n// Why.\npub use crate::e::f;\n\nfn g() {}\n";
    let paths: Vec<String> = uses(text).iter().map(|path| path.join("::")).collect();
    assert_eq!(paths, ["std::fmt", "super::a", "super::b::C", "super::b::D", "crate::e::f"]);
    let module = ["x".to_owned(), "y".to_owned()];
    let path = |path: &str| path.split("::").map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(absolute(&module, &path("super::a")), Some(path("x::a")));
    assert_eq!(absolute(&module, &path("std::fmt")), None);
}
