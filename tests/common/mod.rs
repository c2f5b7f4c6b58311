//! Shared helpers for tests on a real API server: clients, waiting for conditions, and access to sessions.
#![allow(dead_code, reason = "each test program uses its own part")]

use std::fmt::Debug;
use std::time::{Duration, Instant};

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sokovan::api::*;

/// How long a test waits for a condition. It is generous, because machines are noisy and no test measures time.
pub fn patience() -> Duration {
    let given = std::env::var("TEST_PATIENCE").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(given.unwrap_or(120))
}

/// The configuration of an admin of the cluster under test.
pub async fn config() -> Config {
    config_of("SOKOVAN_TEST_KUBECONFIG").await
}

/// The configuration of the cluster whose kubeconfig this environment variable names.
pub async fn config_of(variable: &str) -> Config {
    let path = std::env::var(variable)
        .unwrap_or_else(|_| panic!("{variable} must name the kubeconfig of a test cluster: run these tests with `make test`"));
    let kubeconfig = Kubeconfig::read_from(path).expect("the kubeconfig can be read");
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.expect("the kubeconfig is complete")
}

pub async fn client() -> Client {
    Client::try_from(config().await).expect("a client")
}

/// A client with the identity of an ordinary user.
pub async fn client_as(user: &str) -> Client {
    let mut config = config().await;
    config.auth_info.impersonate = Some(user.into());
    config.auth_info.impersonate_groups = Some(vec!["system:authenticated".into()]);
    Client::try_from(config).expect("a client")
}

/// Returns a name that no other test run uses.
pub fn unique(prefix: &str) -> String {
    format!("{prefix}-{:010x}", rand::random::<u64>() & 0xff_ffff_ffff)
}

/// The timeout of one probe.
const ANSWER: Duration = Duration::from_secs(10);

/// Polls until `probe` returns a value. Panics with its last error when patience is over.
pub async fn eventually<T, F, Fut>(what: &str, probe: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, String>>,
{
    eventually_within(patience(), what, probe).await
}

/// Polls as `eventually` does, with a patience of its own.
pub async fn eventually_within<T, F, Fut>(patience: Duration, what: &str, mut probe: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, String>>,
{
    let start = Instant::now();
    loop {
        let answer = tokio::time::timeout(ANSWER, probe()).await;
        match answer.unwrap_or_else(|_| Err("no answer".into())) {
            Ok(value) => return value,
            Err(last) if start.elapsed() > patience => panic!("gave up waiting for {what}: {last}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// One namespace of the cluster.
#[derive(Clone)]
pub struct Space {
    pub client: Client,
    pub namespace: String,
}

impl Space {
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The same namespace with the identity of an ordinary user.
    pub async fn as_user(&self, user: &str) -> Self {
        Self { client: client_as(user).await, namespace: self.namespace.clone() }
    }

    pub async fn create(&self, session: Value) -> Result<Session, kube::Error> {
        let session: Session = serde_json::from_value(session).expect("a valid session");
        self.api::<Session>().create(&PostParams::default(), &session).await
    }

    pub async fn get(&self, name: &str) -> Session {
        self.api::<Session>().get(name).await.unwrap_or_else(|error| panic!("session {name}: {error}"))
    }

    pub async fn status(&self, name: &str) -> SessionStatus {
        self.get(name).await.status.unwrap_or_default()
    }

    /// Waits until `holds` is true for a session.
    pub async fn until(&self, name: &str, what: &str, holds: impl Fn(&Session) -> bool) -> Session {
        self.until_within(patience(), name, what, holds).await
    }

    pub async fn until_within(&self, patience: Duration, name: &str, what: &str, holds: impl Fn(&Session) -> bool) -> Session {
        eventually_within(patience, &format!("session {name} to be {what}"), || async {
            match self.api::<Session>().get(name).await {
                Ok(session) if holds(&session) => Ok(session),
                Ok(session) => Err(describe(&session)),
                Err(error) => Err(error.to_string()),
            }
        })
        .await
    }

    pub async fn until_phase(&self, name: &str, phase: SessionPhase) -> Session {
        self.until(name, phase.as_str(), |session| session.status.is_some() && session.phase() == phase).await
    }

    pub async fn until_gone<K>(&self, name: &str)
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        eventually(&format!("{name} to be gone"), || async {
            match self.api::<K>().get_opt(name).await {
                Ok(None) => Ok(()),
                Ok(Some(_)) => Err("it still exists".into()),
                Err(error) => Err(error.to_string()),
            }
        })
        .await;
    }

    pub async fn pods(&self, session: &str) -> Vec<Pod> {
        let labelled = ListParams::default().labels(&format!("{LABEL_SESSION}={session}"));
        self.api::<Pod>().list(&labelled).await.expect("pods can be listed").items
    }

    pub async fn until_no_pods(&self, session: &str) {
        eventually(&format!("the pods of {session} to be gone"), || async {
            let left: Vec<_> = self.pods(session).await.into_iter().map(|pod| pod.metadata).collect();
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        })
        .await;
    }

    /// The recorded state of a session's only kernel. Nothing is recorded before it runs, is held up, or has ended.
    pub async fn kernel_status(&self, session: &str) -> KernelStatus {
        self.kernels(session).await.pop().and_then(|kernel| kernel.status).unwrap_or_default()
    }

    pub async fn kernels(&self, session: &str) -> Vec<Kernel> {
        let labelled = ListParams::default().labels(&format!("{LABEL_SESSION}={session}"));
        self.api::<Kernel>().list(&labelled).await.expect("kernels can be listed").items
    }

    pub async fn patch_spec(&self, name: &str, spec: Value) -> Result<Session, kube::Error> {
        let patch = Patch::Merge(json!({ "spec": spec }));
        self.api::<Session>().patch(name, &PatchParams::default(), &patch).await
    }

    pub async fn delete(&self, name: &str) {
        self.api::<Session>().delete(name, &DeleteParams::default()).await.expect("the session can be deleted");
    }
}

/// Returns a test for whether a session's status has this reason.
pub fn reason_is(reason: &'static str) -> impl Fn(&Session) -> bool {
    move |session| session.status.as_ref().is_some_and(|status| status.reason.is_some_and(|is| is.as_str() == reason))
}

/// Summarizes a session for a failed test: phase, reason, message and history.
pub fn describe(session: &Session) -> String {
    let status = session.status.clone().unwrap_or_default();
    let history: Vec<String> = status
        .history
        .iter()
        .map(|e| format!("{} {}→{} {:?}×{} {}", e.handler, e.from, e.to, e.result, e.attempts, e.message))
        .collect();
    format!(
        "{}: {} reason {:?} message {:?} history {history:#?}",
        session.name_any(),
        status.phase,
        status.reason,
        status.message
    )
}

/// The phases of a history in order, starting with Pending.
pub fn path(status: &SessionStatus) -> Vec<String> {
    let mut phases = vec!["Pending".to_owned()];
    for entry in &status.history {
        if phases.last() != Some(&entry.to) {
            phases.push(entry.to.clone());
        }
    }
    phases
}
