//! The plugin on a real node, as a user with the roles that the chart ships and nothing else.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::rbac::v1::{ClusterRole, RoleBinding};
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use serde_json::{Value, json};
use sokovan::api::*;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::common::{Space, client, eventually, patience, unique};

const PLUGIN: &str = env!("CARGO_BIN_EXE_kubectl-sokovan");
/// The requests of a small session.
const SMALL: [&str; 4] = ["--cpu", "50m", "--memory", "32Mi"];

/// A user with a keypair and a namespace of their own.
struct Researcher {
    name: String,
    space: Space,
    folder: tempfile::TempDir,
}

impl Researcher {
    async fn new() -> Self {
        let (client, name) = (client().await, unique("ada"));
        let cluster = PostParams::default();
        let namespace = json!({"metadata": {"name": name, "labels": {LABEL_PROJECT: "default"}}});
        Api::all(client.clone()).create(&cluster, &of::<Namespace>(namespace)).await.expect("a namespace");
        let keypair = json!({"apiVersion": "sokovan.dev/v1alpha1", "kind": "Keypair", "metadata": {"name": name},
            "spec": {"user": "default"}});
        Api::all(client.clone()).create(&cluster, &of::<Keypair>(keypair)).await.expect("a keypair");
        let usable = |kind: &str, name: &str| json!({"apiGroups": ["sokovan.dev"], "resources": [kind], "verbs": ["use"], "resourceNames": [name]});
        let using = format!("use-{name}");
        let role = json!({"metadata": {"name": using}, "rules": [usable("keypairs", &name), usable("scalinggroups", "default")]});
        Api::all(client.clone()).create(&cluster, &of::<ClusterRole>(role)).await.expect("a role");
        let space = Space { client, namespace: name.clone() };
        for role in ["sokovan-edit", "sokovan-connect", &using] {
            let binding = json!({"metadata": {"name": role},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
                "subjects": [{"kind": "User", "name": name, "apiGroup": "rbac.authorization.k8s.io"}]});
            space.api::<RoleBinding>().create(&cluster, &of(binding)).await.expect("a binding");
        }
        let researcher = Self { name, space, folder: tempfile::tempdir().expect("a folder") };
        researcher.write_kubeconfig();
        researcher
    }

    /// The admin's kubeconfig, with the user's identity and namespace.
    fn write_kubeconfig(&self) {
        let admin = std::fs::read_to_string(std::env::var("SOKOVAN_TEST_KUBECONFIG").unwrap()).expect("a kubeconfig");
        let mut config: Value = serde_yaml::from_str(&admin).expect("YAML");
        config["users"][0]["user"]["as"] = json!(self.name);
        config["users"][0]["user"]["as-groups"] = json!(["system:authenticated"]);
        config["contexts"][0]["context"]["namespace"] = json!(self.name);
        std::fs::write(self.path("kubeconfig"), config.to_string()).expect("it can be written");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(PLUGIN);
        // Options after `--` would be the program's.
        command.arg("--kubeconfig").arg(self.path("kubeconfig")).args(words).kill_on_drop(true).stdin(Stdio::null());
        command
    }

    async fn output(&self, words: &[&str]) -> Output {
        let done = tokio::time::timeout(patience(), self.command(words).output()).await;
        done.unwrap_or_else(|_| panic!("{words:?} does not end")).expect("the plugin starts")
    }

    /// Runs a command that must succeed, and returns its output.
    async fn ok(&self, words: &[&str]) -> String {
        let output = self.output(words).await;
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?} ended with {}: {errors}", output.status);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs a session that lives until it is stopped.
    async fn run(&self, name: &str, image: &str, more: &[&str], command: &[&str]) -> String {
        let head = [&["run", name, "--image", image, "--wait", "--type", "Interactive"], &SMALL[..], more].concat();
        self.ok(&[&head[..], &["--"], command].concat()).await
    }

    async fn leave(self) {
        let cluster = DeleteParams::default();
        self.space.api::<Session>().delete_collection(&cluster, &Default::default()).await.expect("sessions can be deleted");
        eventually("no session to be left", || async {
            let left =
                self.space.api::<Session>().list(&Default::default()).await.map_err(|error| error.to_string())?.items.len();
            if left == 0 { Ok(()) } else { Err(format!("{left} are left")) }
        })
        .await;
        Api::<Namespace>::all(self.space.client.clone()).delete(&self.name, &cluster).await.expect("it can be deleted");
    }
}

fn of<K: serde::de::DeserializeOwned>(object: Value) -> K {
    serde_json::from_value(object).expect("a valid object")
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[tokio::test]
async fn a_new_user_works_in_a_session_with_the_shipped_roles_alone() {
    let ada = Researcher::new().await;
    let me = ada.ok(&["me"]).await;
    assert!(me.contains(&format!("keypairs you may use: {}", ada.name)) && !me.contains("you may not run"), "{me}");

    let started = ada.run("box", "busybox:1", &[], &["sh", "-c", "echo started; exec sleep 3600"]).await;
    assert_eq!(started, "session.sokovan.dev/box created\n", "messages of progress go to the standard error");
    eventually("the log", || async {
        let log = ada.ok(&["logs", "box"]).await;
        if log == "started\n" { Ok(()) } else { Err(log) }
    })
    .await;
    let failed = ada.output(&["exec", "box", "--", "sh", "-c", "echo out; echo err >&2; exit 3"]).await;
    assert_eq!((failed.status.code(), &failed.stdout[..], &failed.stderr[..]), (Some(3), &b"out\n"[..], &b"err\n"[..]));
    let mut cat = ada.command(&["exec", "-i", "box", "--", "cat"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let sent = "x".repeat(300_000);
    let mut input = cat.stdin.take().unwrap();
    let bytes = sent.clone();
    let writing = tokio::spawn(async move { input.write_all(bytes.as_bytes()).await });
    let mut received = String::new();
    cat.stdout.take().unwrap().read_to_string(&mut received).await.unwrap();
    writing.await.unwrap().unwrap();
    assert!(received == sent, "{} of {} bytes came back", received.len(), sent.len());

    let (data, back) = (ada.path("data"), ada.path("back"));
    std::fs::create_dir_all(data.join("deep")).unwrap();
    std::fs::write(data.join("deep/a.txt"), "one").unwrap();
    std::fs::write(data.join("large"), vec![7; 2_000_000]).unwrap();
    ada.ok(&["cp", data.to_str().unwrap(), "box:/tmp/"]).await;
    ada.ok(&["exec", "box", "--", "sh", "-c", "echo two >>/tmp/data/deep/a.txt"]).await;
    ada.ok(&["cp", "box:/tmp/data", back.to_str().unwrap()]).await;
    assert_eq!(text(&back.join("deep/a.txt")), "onetwo\n");
    assert_eq!(std::fs::read(back.join("large")).unwrap(), vec![7; 2_000_000]);
    let missing = ada.output(&["cp", "box:/nothing", back.to_str().unwrap()]).await;
    let words = String::from_utf8_lossy(&missing.stderr).into_owned();
    assert!(!missing.status.success() && words.contains("nothing"), "{words}");

    let mut follow = ada.command(&["logs", "-f", "box"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    assert_eq!(lines.next_line().await.unwrap().as_deref(), Some("started"));
    ada.ok(&["stop", "box", "--force"]).await;
    let ended = tokio::time::timeout(patience(), follow.wait()).await.expect("following ends with the session").unwrap();
    assert!(ended.success());
    assert_eq!(ada.output(&["wait", "box", "--for", "ended"]).await.status.code(), Some(0));
    let late = ada.output(&["exec", "box", "--", "true"]).await;
    assert!(String::from_utf8_lossy(&late.stderr).contains("is Terminated"), "{late:?}");
    ada.leave().await;
}

#[tokio::test]
async fn a_batch_in_one_line_ends_with_its_programs_result() {
    let ada = Researcher::new().await;
    let once = |command: &'static str| {
        [&["run", "--image", "busybox:1", "--rm", "--wait"], &SMALL[..], &["--", "sh", "-c", command]].concat()
    };
    let good = ada.output(&once("exit 0")).await;
    assert_eq!(good.status.code(), Some(0), "{}", String::from_utf8_lossy(&good.stderr));
    assert_eq!(ada.output(&once("exit 7")).await.status.code(), Some(1));
    eventually("both sessions to be removed", || async {
        let left = ada.space.api::<Session>().list(&Default::default()).await.map_err(|error| error.to_string())?.items.len();
        if left == 0 { Ok(()) } else { Err(format!("{left} are left")) }
    })
    .await;
    let inside = [&["run", "--image", "busybox:1", "-i", "--rm"], &SMALL[..], &["--", "sh", "-c", "hostname; exit 5"]].concat();
    let inside = ada.output(&inside).await;
    assert_eq!(inside.status.code(), Some(5), "{}", String::from_utf8_lossy(&inside.stderr));
    assert!(String::from_utf8_lossy(&inside.stdout).ends_with("main1\n"), "{inside:?}");
    let dry = ada.ok(&[&["run", "draft", "--image", "busybox:1", "--dry-run", "-o", "yaml"], &SMALL[..]].concat()).await;
    let draft: Session = serde_yaml::from_str(&dry).expect("a session");
    assert_eq!(
        (draft.spec.access_key.0.as_str(), draft.spec.scaling_group.as_ref().map(GroupName::as_str)),
        (ada.name.as_str(), Some("default"))
    );
    assert!(ada.space.api::<Session>().get_opt("draft").await.unwrap().is_none(), "nothing was created");
    ada.leave().await;
}

/// Reads the address that `connect` prints.
async fn address(connect: &mut Child) -> String {
    let mut lines = BufReader::new(connect.stdout.take().unwrap()).lines();
    let line = tokio::time::timeout(patience(), lines.next_line()).await.expect("an address in time").unwrap().expect("a line");
    line.rsplit_once("http://").unwrap_or_else(|| panic!("no address in {line}")).1.to_owned()
}

/// Asks for /health, and returns the first line of the answer.
async fn health(address: &str) -> Result<String, String> {
    let ask = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.map(|_| answer.lines().next().unwrap_or_default().to_owned())
    };
    let answer = ask.await.map_err(|error: std::io::Error| error.to_string())?;
    if answer.contains("200") { Ok(answer) } else { Err(answer) }
}

#[tokio::test]
async fn a_notebooks_port_and_a_deployments_are_reached_through_connect() {
    let ada = Researcher::new().await;
    ada.run("notebook", "server:1", &["--port", "web=8080"], &["/server"]).await;
    let mut connect = ada.command(&["connect", "notebook", "web"]).stdout(Stdio::piped()).spawn().unwrap();
    let url = address(&mut connect).await;
    eventually("an answer of the notebook", || health(&url)).await;
    let answers = futures::future::join_all((0..20).map(|_| health(&url))).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    ada.ok(&["stop", "notebook", "--force"]).await;
    let ended = tokio::time::timeout(patience(), connect.wait()).await.expect("it ends with the session").unwrap();
    assert!(!ended.success());

    let template = json!({"type": "Inference", "accessKey": ada.name, "scalingGroup": "default", "kernels": [{"image": "server:1", "command": ["/server"],
        "resources": {"cpu": "50m", "memory": "32Mi"}}]});
    let model = json!({"port": 8080, "healthCheck": {"intervalSeconds": 1}});
    let deployment = json!({"apiVersion": "sokovan.dev/v1alpha1", "kind": "Deployment", "metadata": {"name": "chat"},
        "spec": {"replicas": 1, "template": template, "model": model}});
    ada.space.api::<Deployment>().create(&PostParams::default(), &of(deployment)).await.expect("a deployment");
    let mut connect = ada.command(&["connect", "sdep/chat"]).stdout(Stdio::piped()).spawn().unwrap();
    let url = address(&mut connect).await;
    eventually("an answer of the deployment", || health(&url)).await;
    // The pod is looked up for each connection: the next replica is reached at the same address.
    let first = ada.space.api::<Session>().list(&Default::default()).await.unwrap().items;
    let first = first.iter().find(|session| session.deployment_uid().is_some()).expect("a replica");
    ada.space.api::<Session>().delete(first.metadata.name.as_deref().unwrap(), &DeleteParams::default()).await.unwrap();
    ada.space.until_gone::<Session>(first.metadata.name.as_deref().unwrap()).await;
    eventually("an answer of its successor", || health(&url)).await;
    connect.kill().await.unwrap();
    ada.space.api::<Deployment>().delete("chat", &DeleteParams::default()).await.unwrap();
    ada.space.until_gone::<Deployment>("chat").await;
    ada.leave().await;
}

#[tokio::test]
async fn a_report_has_what_its_user_may_read_and_no_secret() {
    let ada = Researcher::new().await;
    let secret = ["--env", "TOKEN=hunter2"];
    ada.run("box", "busybox:1", &secret, &["sh", "-c", "exec sleep 3600 # hunter2"]).await;
    let file = ada.path("case.tar");
    ada.ok(&["report", "--file", file.to_str().unwrap()]).await;
    let bytes = std::fs::read(&file).unwrap();
    assert!(!bytes.windows(7).any(|window| window == b"hunter2"), "the value of TOKEN is in the report");
    let mut archive = tar::Archive::new(&bytes[..]);
    let mut files = std::collections::BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let (name, mut content) = (entry.path().unwrap().display().to_string(), String::new());
        std::io::Read::read_to_string(&mut entry, &mut content).unwrap();
        files.insert(name, content);
    }
    assert!(files["case/sessions.json"].contains("TOKEN") && files["case/pods.json"].contains("box-main1"), "{:?}", files.keys());
    assert!(files["case/missing.txt"].contains("the operator's log"), "{}", files["case/missing.txt"]);
    ada.leave().await;
}
