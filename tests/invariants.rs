//! What ARCHITECTURE.md promises about the code's structure.

use std::fs;
use std::path::{Path, PathBuf};

fn sources(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).expect("a folder of sources");
    let mut files = vec![];
    for entry in entries.map(|entry| entry.expect("an entry").path()) {
        if entry.is_dir() {
            files.extend(sources(&entry));
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            files.push(entry);
        }
    }
    files
}

fn in_src(folder: &str) -> Vec<PathBuf> {
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(folder))
}

fn violations(files: &[PathBuf], forbidden: &[&str]) -> Vec<String> {
    let mut found = vec![];
    for file in files {
        let text = fs::read_to_string(file).expect("a source file");
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            for word in forbidden.iter().filter(|word| code.contains(**word)) {
                found.push(format!("{}:{}: {word}", file.display(), number + 1));
            }
        }
    }
    found
}

#[test]
fn decisions_know_no_client_no_task_and_no_clock() {
    let forbidden =
        ["kube::Client", "kube::Api", "tokio", "Utc::now", "Instant::now", "SystemTime", "crate::cluster", "async fn"];
    for folder in ["lifecycle", "session", "provisioner"] {
        let files = in_src(folder);
        assert!(!files.is_empty(), "{folder} is not where it was");
        assert_eq!(violations(&files, &forbidden), Vec::<String>::new());
    }
}

#[test]
fn only_the_cluster_folder_talks_to_the_api_server() {
    for folder in ["api", "coordinator"] {
        assert_eq!(violations(&in_src(folder), &["kube::Client", "kube::Api", "Api::"]), Vec::<String>::new());
    }
}

#[test]
fn no_number_of_seconds_outside_timing() {
    let but = |path: &PathBuf| !path.ends_with("lifecycle/timing.rs");
    let files: Vec<_> =
        ["lifecycle", "session", "provisioner", "coordinator"].iter().flat_map(|f| in_src(f)).filter(but).collect();
    let tests_begin = |text: &str| text.find("#[cfg(test)]").unwrap_or(text.len());
    for file in files {
        let text = fs::read_to_string(&file).expect("a source file");
        let code = &text[..tests_begin(&text)];
        assert!(!code.contains("from_secs("), "{} names a number of seconds", file.display());
    }
}
