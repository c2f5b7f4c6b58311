//! `report`: one archive for support with everything about sessions of a namespace, without secrets.

use std::path::{Path, PathBuf};

use anyhow::Context;
use chrono::{DateTime, Utc};
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::ResourceExt;
use kube::api::{ListParams, LogParams};
use serde::Serialize;
use serde_json::{Value, json};

use super::fetch::Reader;
use crate::api::{Deployment, Kernel, ResourcePolicy, Route, ScalingGroup, Session};

/// The most objects of a kind.
const MAX: u32 = 500;
/// The last lines of each operator's log.
const MAX_LINES: i64 = 5000;
/// What stands in the place of a value that may be secret.
const OMITTED: &str = "(omitted)";
/// Fields whose values may be secret, wherever they are: what users give their programs.
const SECRET: [&str; 4] = ["value", "command", "args", "startCommand"];
/// The annotation in which kubectl keeps a copy of the whole object.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The files of a report.
struct Report {
    files: Vec<(String, String)>,
    /// What could not be read, and why.
    missing: Vec<String>,
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
    let mut report = Report { files: vec![], missing: vec![] };
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
    report
}

impl Report {
    /// Adds an answer of the API server, without what may be secret, or the reason why there is none.
    fn add<T: Serialize>(&mut self, name: &str, answer: kube::Result<T>) {
        let value = answer.map_err(|error| error.to_string()).and_then(|answer| json_of(&answer));
        match value {
            Ok(text) => self.files.push((name.into(), text)),
            Err(error) => self.missing.push(format!("{name}: {error}")),
        }
    }

    async fn add_operators(&mut self, reader: &Reader, namespace: &str) {
        let pods = kube::Api::<Pod>::namespaced(reader.client.clone(), namespace);
        let ours = ListParams::default().labels("app.kubernetes.io/name=sokovan").limit(MAX);
        let listed = match pods.list(&ours).await {
            Ok(listed) => listed.items,
            Err(error) => return self.missing.push(format!("the operator's log: {error}")),
        };
        for pod in listed {
            let name = pod.name_any();
            let params = LogParams { tail_lines: Some(MAX_LINES), ..LogParams::default() };
            match pods.logs(&name, &params).await {
                Ok(text) => self.files.push((format!("operator/{name}.log"), text)),
                Err(error) => self.missing.push(format!("the log of {name}: {error}")),
            }
        }
    }
}

fn json_of<T: Serialize>(answer: &T) -> Result<String, String> {
    let mut value = serde_json::to_value(answer).map_err(|error| error.to_string())?;
    redact(&mut value);
    serde_json::to_string_pretty(&value).map_err(|error| error.to_string())
}

/// Omits the values of environment variables, commands, and copies of whole objects.
fn redact(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.remove("managedFields");
            for (name, field) in fields.iter_mut() {
                match field {
                    Value::String(text) if SECRET.contains(&name.as_str()) => *text = OMITTED.into(),
                    Value::Array(words) if SECRET.contains(&name.as_str()) => *words = vec![json!(OMITTED)],
                    Value::String(text) if name == LAST_APPLIED => *text = OMITTED.into(),
                    field => redact(field),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(redact),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn write(report: &Report, path: &Path) -> std::io::Result<()> {
    let mut archive = tar::Builder::new(std::fs::File::create(path)?);
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

    #[test]
    fn a_report_has_no_value_that_may_be_secret() {
        let applied = json!({LAST_APPLIED: "{\"password\": \"hunter2\"}", "team": "a"});
        let kernel = json!({"command": ["login", "hunter2"], "env": [
            {"name": "TOKEN", "value": "hunter2"}, {"name": "KEY", "secretKeyRef": {"name": "s", "key": "k"}}]});
        let object = json!({"metadata": {"annotations": applied, "managedFields": [{"value": "hunter2"}]},
            "spec": {"kernels": [kernel], "model": {"startCommand": ["serve", "--key", "hunter2"]}},
            "status": {"message": "no node has 4 cpu"}});
        let text = json_of(&object).expect("JSON");
        assert!(!text.contains("hunter2"), "{text}");
        for kept in ["TOKEN", "\"key\": \"k\"", "no node has 4 cpu", "\"team\": \"a\""] {
            assert!(text.contains(kept), "{kept} is missing: {text}");
        }
    }

    #[test]
    fn a_report_names_what_could_not_be_read() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("case.tar");
        let report = Report { files: vec![("about.json".into(), "{}".into())], missing: vec!["pods.json: forbidden".into()] };
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
