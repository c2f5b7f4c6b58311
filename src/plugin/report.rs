//! `report`: one archive for support with everything about sessions of a namespace, without secrets.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Context;
use chrono::{DateTime, Utc};
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::ResourceExt;
use kube::api::{ListParams, LogParams};
use serde::Serialize;
use serde_json::{Value, json};

use super::fetch::Reader;
use super::readable;
use crate::api::{Deployment, Kernel, ResourcePolicy, Route, ScalingGroup, Session};

/// The most objects of a kind.
const MAX: u32 = 500;
/// The last lines of each operator's log.
const MAX_LINES: i64 = 5000;
/// The text that replaces a value that may be secret.
const OMITTED: &str = "(omitted)";
/// Fields whose values may be secret, wherever they are: what users give their programs.
const SECRET: [&str; 4] = ["value", "command", "args", "startCommand"];
/// Shorter words are too common to be looked for in messages.
const MIN_SECRET: usize = 6;

/// The files of a report.
struct Report {
    files: Vec<(String, String)>,
    /// The objects that could not be read, with the reason.
    missing: Vec<String>,
    /// Values that were left out. Messages of programs and kubelets may repeat them.
    omitted: BTreeSet<String>,
}

/// Writes the archive and returns its path.
pub async fn run(
    reader: &Reader,
    file: Option<PathBuf>,
    operator_namespace: &str,
    now: DateTime<Utc>,
) -> anyhow::Result<PathBuf> {
    let path = file.unwrap_or_else(|| format!("sokovan-{}-{}.tar", reader.namespace, now.format("%Y%m%d-%H%M%S")).into());
    let report = collected(reader, operator_namespace, now).await;
    write(&report, &path).with_context(|| path.display().to_string())?;
    Ok(path)
}

async fn collected(reader: &Reader, operator_namespace: &str, now: DateTime<Utc>) -> Report {
    let mut report = Report { files: vec![], missing: vec![], omitted: BTreeSet::new() };
    let version = reader.client.apiserver_version().await.map(|version| version.git_version);
    let about = json!({
        "plugin": env!("CARGO_PKG_VERSION"), "at": now, "namespace": reader.namespace, "kubernetes": version.ok(),
    });
    report.add("about.json", Ok(about));
    let params = ListParams::default().limit(MAX);
    report.add("sessions.json", reader.namespaced::<Session>().list(&params).await);
    report.add("kernels.json", reader.namespaced::<Kernel>().list(&params).await);
    report.add("deployments.json", reader.namespaced::<Deployment>().list(&params).await);
    report.add("routes.json", reader.namespaced::<Route>().list(&params).await);
    report.add("pods.json", reader.namespaced::<Pod>().list(&params).await);
    report.add("events.json", reader.namespaced::<Event>().list(&params).await);
    report.add("scalinggroups.json", reader.all::<ScalingGroup>().list(&params).await);
    report.add("resourcepolicies.json", reader.all::<ResourcePolicy>().list(&params).await);
    report.add_operators(reader, operator_namespace).await;
    report.omit_repetitions();
    report
}

impl Report {
    /// Adds an answer of the API server, without what may be secret, or the reason why there is none.
    fn add<T: Serialize>(&mut self, name: &str, answer: kube::Result<T>) {
        let value = answer.map_err(|error| readable(error.into()).to_string());
        match value.and_then(|answer| serde_json::to_value(answer).map_err(|error| error.to_string())) {
            Ok(mut value) => {
                if value.pointer("/metadata/continue").and_then(Value::as_str).is_some_and(|next| !next.is_empty()) {
                    self.missing.push(format!("{name}: more than {MAX} objects"));
                }
                redact(&mut value, &mut self.omitted);
                self.files.push((name.into(), serde_json::to_string_pretty(&value).unwrap_or_default()));
            }
            Err(error) => self.missing.push(format!("{name}: {error}")),
        }
    }

    /// Leaves out what was left out elsewhere, wherever a message repeats it.
    fn omit_repetitions(&mut self) {
        for secret in &self.omitted {
            // A JSON file has the value as JSON writes it.
            let quoted = serde_json::to_string(secret).unwrap_or_default();
            for (_, text) in &mut self.files {
                *text = text.replace(quoted.trim_matches('"'), OMITTED).replace(secret, OMITTED);
            }
        }
    }

    async fn add_operators(&mut self, reader: &Reader, namespace: &str) {
        let pods = kube::Api::<Pod>::namespaced(reader.client.clone(), namespace);
        let ours = ListParams::default().labels("app.kubernetes.io/name=sokovan").limit(MAX);
        let listed = match pods.list(&ours).await {
            Ok(listed) => listed.items,
            Err(error) => return self.missing.push(format!("the operator's log: {}", readable(error.into()))),
        };
        for pod in listed {
            let name = pod.name_any();
            let params = LogParams { tail_lines: Some(MAX_LINES), ..LogParams::default() };
            match pods.logs(&name, &params).await {
                Ok(text) => self.files.push((format!("operator/{name}.log"), text)),
                Err(error) => self.missing.push(format!("the log of {name}: {}", readable(error.into()))),
            }
        }
    }
}

/// Omits the values of environment variables, commands, and annotations of others.
fn redact(value: &mut Value, omitted: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            fields.remove("managedFields");
            if let Some(Value::Object(annotations)) = fields.get_mut("annotations") {
                annotations.retain(|name, _| name.contains("sokovan.dev/"));
            }
            for (name, field) in fields.iter_mut() {
                match SECRET.contains(&name.as_str()) {
                    true => omit(field, omitted),
                    false => redact(field, omitted),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| redact(item, omitted)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn omit(value: &mut Value, omitted: &mut BTreeSet<String>) {
    match value {
        Value::String(text) => {
            if text.chars().count() >= MIN_SECRET {
                omitted.insert(std::mem::take(text));
            }
            *text = OMITTED.into();
        }
        Value::Array(words) => words.iter_mut().for_each(|word| omit(word, omitted)),
        other => redact(other, omitted),
    }
}

/// Creates a file that only its user reads. It must not exist.
fn private_file(path: &Path) -> std::io::Result<std::fs::File> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

fn write(report: &Report, path: &Path) -> std::io::Result<()> {
    let mut archive = tar::Builder::new(private_file(path)?);
    let missing = report.missing.join("\n");
    let missing = [("missing.txt".to_owned(), missing)];
    let folder = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    for (name, text) in report.files.iter().chain(missing.iter().filter(|(_, text)| !text.is_empty())) {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        archive.append_data(&mut header, format!("{folder}/{name}"), text.as_bytes())?;
    }
    archive.into_inner()?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn empty() -> Report {
        Report { files: vec![], missing: vec![], omitted: BTreeSet::new() }
    }

    #[test]
    fn a_report_has_no_value_that_may_be_secret_and_no_message_that_repeats_one() {
        let annotations = json!({"kubectl.kubernetes.io/last-applied-configuration": "hunter2", "sokovan.dev/creation-id": "7"});
        let kernel = json!({"command": ["login", "--token=hunter2 \"x\""], "env": [
            {"name": "TOKEN", "value": "hunter2"}, {"name": "KEY", "secretKeyRef": {"name": "s", "key": "k"}}]});
        let object = json!({"metadata": {"annotations": annotations, "managedFields": [{"value": "hunter2"}]},
            "spec": {"kernels": [kernel], "model": {"startCommand": ["serve", "--key", "hunter2"]}},
            "status": {"message": "no node has 4 cpu", "reason": "exec: \"--token=hunter2 \\\"x\\\"\": not found"}});
        let mut report = empty();
        report.add("sessions.json", Ok(object));
        report.files.push(("operator/a.log".into(), "exec: hunter2".into()));
        report.omit_repetitions();
        let text = format!("{:?}", report.files);
        assert!(!text.contains("hunter2"), "{text}");
        for kept in ["TOKEN", "secretKeyRef", "no node has 4 cpu", "creation-id"] {
            assert!(text.contains(kept), "{kept} is missing: {text}");
        }
    }

    #[test]
    fn a_list_that_is_cut_is_named() {
        let mut report = empty();
        report.add("events.json", Ok(json!({"metadata": {"continue": "next"}, "items": []})));
        assert_eq!(report.missing, ["events.json: more than 500 objects"]);
    }

    #[test]
    fn a_report_names_what_could_not_be_read() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("case.tar");
        let report =
            Report { files: vec![("about.json".into(), "{}".into())], missing: vec!["pods.json: forbidden".into()], ..empty() };
        write(&report, &path).expect("an archive");
        let mut archive = tar::Archive::new(std::fs::File::open(&path).expect("a file"));
        let names: Vec<_> = archive
            .entries()
            .expect("entries")
            .map(|e| e.expect("an entry").path().expect("a path").display().to_string())
            .collect();
        assert_eq!(names, ["case/about.json", "case/missing.txt"]);
    }
}
