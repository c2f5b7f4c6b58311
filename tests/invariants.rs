//! What ARCHITECTURE.md promises about the code's structure.

#[path = "common/sources.rs"]
mod sources;

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
    let forbidden = [
        "kube::Client",
        "kube::Api",
        "Client}",
        "Api::",
        "tokio",
        "Utc::now",
        "Instant::now",
        "SystemTime",
        "crate::cluster",
        "async fn",
    ];
    assert_eq!(violations(&in_src(&["lifecycle", "session", "provisioner"]), &forbidden), Vec::<String>::new());
}

#[test]
fn only_the_cluster_folder_talks_to_the_api_server() {
    let forbidden = ["kube::Client", "kube::Api", "Api::"];
    assert_eq!(violations(&in_src(&["api", "coordinator"]), &forbidden), Vec::<String>::new());
}

#[test]
fn no_number_of_seconds_outside_timing() {
    for (file, text) in in_src(&["lifecycle", "session", "provisioner", "coordinator"]) {
        if file.ends_with("lifecycle/timing.rs") {
            continue;
        }
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        assert!(!code.contains("from_secs("), "{file} names a number of seconds");
    }
}
