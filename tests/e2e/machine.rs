//! Actions on the machine of the cluster: stopping the kubelet and signalling operators.

use std::fs;
use std::io::Write;
use std::process::{Child, Command, Stdio};

use k8s_openapi::api::core::v1::Node;
use kube::Api;
use serde_json::Value;

use crate::common::{client, eventually};

/// The part of the kit that runs the cluster: `cluster` or `kind`.
fn kit_command() -> Command {
    let part = std::env::var("SOKOVAN_KIT").unwrap_or_else(|_| "cluster".into());
    Command::new(format!("{}/kit/{part}", env!("CARGO_MANIFEST_DIR")))
}

/// The name of the real node.
pub fn node_name() -> String {
    std::env::var("SOKOVAN_NODE").unwrap_or_else(|_| "node-1".into())
}

fn kit(arguments: &[&str]) {
    let status = kit_command().args(arguments).env("SIGNAL", "KILL").status().expect("the kit can be run");
    assert!(status.success(), "kit {arguments:?}");
}

/// Runs a command of the kit and returns its output.
pub fn output_of(arguments: &[&str]) -> String {
    let output = kit_command().args(arguments).output().expect("the kit can be run");
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

/// Starts a command of the kit whose input and output are pipes.
pub fn spawn(arguments: &[&str]) -> Child {
    kit_command().args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the kit can be run")
}

/// Starts the metrics server, unless it runs already. It stays: without it, every discovery of the API would fail.
pub fn start_metrics_server() {
    kit(&["start", "metrics-server"]);
}

/// Runs kubectl as an admin. The command reads this input.
pub fn kubectl(arguments: &[&str], input: &Value) -> String {
    let program = format!("{}/kubectl", output_of(&["bin"]));
    let config = std::env::var("SOKOVAN_TEST_KUBECONFIG").expect("SOKOVAN_TEST_KUBECONFIG");
    let mut command = Command::new(program);
    command.args(["--kubeconfig", &config]).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("kubectl can be run");
    child.stdin.take().expect("a pipe").write_all(input.to_string().as_bytes()).expect("kubectl reads its input");
    let output = child.wait_with_output().expect("kubectl ends");
    assert!(output.status.success(), "kubectl {arguments:?}");
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

pub fn stop_kubelet() {
    kit(&["stop", "kubelet"]);
}

pub async fn start_kubelet() {
    kit(&["start", "kubelet"]);
    let nodes: Api<Node> = Api::all(client().await);
    eventually("the node to be ready again", || async {
        let node = nodes.get(&node_name()).await.map_err(|error| error.to_string())?;
        if sokovan::views::extract::node(&node).ready { Ok(()) } else { Err("not ready".into()) }
    })
    .await;
}

/// Returns the operator's processes in this cluster, identified by its cgroup.
pub fn operators() -> Vec<u32> {
    let kit = || format!("sokovan-kit-{}/", std::env::var("KIT_NAME").expect("KIT_NAME"));
    let cgroup = std::env::var("SOKOVAN_CGROUP").unwrap_or_else(|_| kit());
    let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let command = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
        command.starts_with("/sokovan operator") && String::from_utf8_lossy(&read("cgroup")).contains(&cgroup)
    })
    .collect()
}

/// Sends a signal to the operator's processes and returns their number. SIGKILL stops them in the middle of their work.
pub fn signal_operators(signal: &str) -> usize {
    let pids = operators();
    pids.iter().for_each(|pid| send(signal, *pid));
    pids.len()
}

/// Sends a signal to the operator in one pod. Returns false if the pod has none.
pub fn signal_operator_of(pod: &str, signal: &str) -> bool {
    let variable = format!("POD_NAME={pod}");
    let is_in_pod = |pid: &u32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|other| other == variable.as_bytes())
    };
    let found = operators().into_iter().find(is_in_pod);
    found.into_iter().for_each(|pid| send(signal, pid));
    found.is_some()
}

fn send(signal: &str, pid: u32) {
    let status = Command::new("kill").args(["-s", signal, &pid.to_string()]).status().expect("kill can be run");
    assert!(status.success() || signal == "KILL");
}
