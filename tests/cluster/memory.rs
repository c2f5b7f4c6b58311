//! The operator's memory stays below its limit, whatever tenants may submit.

use std::process::{Child, Command, Stdio};

use futures::{StreamExt, stream};
use kube::api::ListParams;
use serde_json::json;
use sokovan::api::*;

use crate::common::eventually;
use crate::scene::{Scene, kernel};

/// The number of sessions of the largest size that admission accepts, nearly 256 KiB each.
const SESSIONS: usize = 80;
/// The chart's defaults: sessions in the first tenant's namespace, and the operator's memory limit.
const QUOTA: usize = 500;
const MEMORY_LIMIT_KIB: usize = 1024 * 1024;

/// An operator as a process of its own, for one scaling group.
struct Process(Child);

impl Process {
    fn start(scene: &Scene) -> Self {
        let kubeconfig = std::env::var("SOKOVAN_TEST_KUBECONFIG").expect("the kubeconfig of the test cluster");
        let arguments =
            ["--groups", &scene.name, "--lease-namespace", &scene.name, "--lease-name", "operator", "--listen", "127.0.0.1:0"];
        let operator = Command::new(env!("CARGO_BIN_EXE_sokovan"))
            .arg("operator")
            .args(arguments)
            .env("KUBECONFIG", kubeconfig)
            .stdout(Stdio::null())
            .spawn();
        Self(operator.expect("the operator starts"))
    }

    /// Returns the peak of the operator's memory so far.
    fn peak_kib(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts an operator, waits until every session has a status, and returns the peak of its memory.
async fn peak_with_all_statuses_written(scene: &Scene) -> usize {
    let operator = Process::start(scene);
    eventually("every session to have a status", || async {
        let sessions = scene.api::<Session>().list(&ListParams::default()).await.map_err(|error| error.to_string())?;
        let with_status = sessions.items.iter().filter(|session| session.status.is_some()).count();
        if with_status > 0 && with_status == sessions.items.len() {
            Ok(())
        } else {
            Err(format!("{with_status} of {}", sessions.items.len()))
        }
    })
    .await;
    operator.peak_kib()
}

#[tokio::test]
async fn the_largest_sessions_that_a_quota_allows_fit_into_the_operators_memory() {
    let scene = Scene::with("memory", 0, json!({})).await;
    let later = |kernels| json!({"startsAt": "2099-01-01T00:00:00Z", "kernels": kernels});
    scene.submit("small", later(json!([kernel("main", 1, &[])]))).await;
    let base = peak_with_all_statuses_written(&scene).await;
    let mut largest = kernel("main", 1, &[]);
    largest["args"] = json!(vec!["\u{1F600}".repeat(16_000); 4]);
    let names: Vec<String> = (0..SESSIONS).map(|n| format!("large-{n}")).collect();
    stream::iter(&names).for_each_concurrent(4, |name| async { _ = scene.submit(name, later(json!([largest]))).await }).await;
    let peak = peak_with_all_statuses_written(&scene).await;
    let each = peak.saturating_sub(base) / SESSIONS;
    let all = base + each * QUOTA;
    assert!(all < MEMORY_LIMIT_KIB, "{base} KiB and {each} KiB for each large session are {all} KiB");
    scene.clear().await;
}
