//! A proxy between one operator and the API server. It numbers the operator's writes and injects a fault at one of them.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::Method;
use axum::response::Response;
use futures::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use kube::api::Patch;
use kube::client::Body as KubeBody;
use kube::{Api, Client, Config, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sokovan::api::{Deployment, Route, Session};
use tokio::sync::{Notify, watch};

use crate::answers::{broken, complete, refusal};
use crate::plan::{Fault, Site};

/// How long a held watch is silent.
const HELD: Duration = Duration::from_millis(1500);
/// How many writes before the fault strikes the proxy announces it.
const AHEAD: usize = 4;
/// How long a slow write takes: longer than a long cycle, so that every handler runs meanwhile.
const SLOW: Duration = Duration::from_millis(2200);
/// How long no request is answered: long enough that the fence stops writes, but not so long that the lease is lost.
const OUTAGE: Duration = Duration::from_millis(3200);

/// The kinds whose writes count.
const COUNTED: [&str; 9] = [
    "sessions",
    "kernels",
    "pods",
    "services",
    "secrets",
    "deployments",
    "routes",
    "controllerrevisions",
    "poddisruptionbudgets",
];
/// The kinds whose phase names the site of a write.
const PHASED: [&str; 3] = ["sessions", "deployments", "routes"];
/// The kinds of which an operator sees only the plan's own objects.
const NARROWED: [&str; 9] = [
    "sessions",
    "kernels",
    "pods",
    "endpointslices",
    "deployments",
    "routes",
    "services",
    "controllerrevisions",
    "poddisruptionbudgets",
];

/// Whether the API server has been restarted for the current round of plans.
static RESTARTED: tokio::sync::Mutex<bool> = tokio::sync::Mutex::const_new(false);

#[derive(Default)]
struct Inner {
    writes: Vec<Site>,
    /// The last phase that was written.
    phase: String,
    outage_until: Option<tokio::time::Instant>,
    /// The watched kinds.
    watched: BTreeSet<String>,
    /// The kinds whose next watch is refused because its version is too old.
    compacted: BTreeSet<String>,
    paused: bool,
    /// When the operator sent its last successful request for its lease.
    renewed: Option<tokio::time::Instant>,
    violations: Vec<String>,
}

pub struct Proxy {
    client: Client,
    /// The operator sees only this namespace, because many plans share the API server.
    namespace: String,
    pub fault: Fault,
    /// The fault strikes at this write, from 1.
    at: usize,
    /// How long a lease lasts.
    lease: Duration,
    inner: Mutex<Inner>,
    /// Incremented to have the operator killed.
    pub killed: watch::Sender<usize>,
    /// Incremented to end all watches.
    cut: watch::Sender<usize>,
    pub paused: Notify,
    /// Notified a few writes before the fault strikes.
    pub soon: Notify,
    resumed: watch::Sender<bool>,
    /// Whether the watch that this proxy may hold is silent.
    silent: watch::Sender<bool>,
    /// Whether the operator has led.
    led: watch::Sender<bool>,
    /// The number of requests that are held and not yet answered.
    held: watch::Sender<usize>,
}

impl Proxy {
    /// Starts a proxy, and returns the configuration that reaches the API server through it.
    pub async fn start(client: Client, namespace: &str, fault: Fault, at: usize) -> (Arc<Self>, Config) {
        let proxy = Arc::new(Self {
            client,
            namespace: namespace.to_owned(),
            fault,
            at,
            lease: crate::scene::hasty().lease.duration,
            inner: Mutex::default(),
            killed: watch::Sender::new(0),
            cut: watch::Sender::new(0),
            paused: Notify::new(),
            soon: Notify::new(),
            resumed: watch::Sender::new(false),
            silent: watch::Sender::new(false),
            led: watch::Sender::new(false),
            held: watch::Sender::new(0),
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let app = axum::Router::new().fallback(handle).with_state(proxy.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        (proxy, Config::new(format!("http://{address}").parse().expect("a URL")))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no panic")
    }

    pub fn writes(&self) -> Vec<Site> {
        self.lock().writes.clone()
    }

    /// Returns the writes that the operator sent without a valid lease.
    pub fn violations(&self) -> Vec<String> {
        self.lock().violations.clone()
    }

    /// Whether the operator holds its lease.
    pub fn leads(&self) -> bool {
        let inner = self.lock();
        inner.renewed.is_some_and(|renewed| renewed.elapsed() < self.lease / 2)
    }

    /// Waits until the operator leads or has led.
    pub async fn led(&self) {
        let _ = self.led.subscribe().wait_for(|led| *led).await;
    }

    /// Silences the watch that this proxy may hold.
    pub fn silence(&self) {
        self.silent.send_replace(true);
    }

    /// Lets the silent watch catch up after a while.
    pub async fn end_silence(&self) {
        tokio::time::sleep(HELD).await;
        self.silent.send_replace(false);
    }

    /// Sends the held requests.
    pub fn resume(&self) {
        self.lock().paused = false;
        self.resumed.send_replace(true);
    }

    /// Waits until all held requests are answered.
    pub async fn landed(&self) {
        let _ = self.held.subscribe().wait_for(|held| *held == 0).await;
    }

    /// Counts a write of an object of a session or a deployment. Returns true if the fault strikes at it.
    fn count(&self, method: &Method, path: &str, body: &[u8]) -> bool {
        let Some(kind) = resource_of(path) else { return false };
        if *method == Method::GET || !COUNTED.contains(&kind.as_str()) {
            return false;
        }
        let subresource = if path.ends_with("/status") { "/status" } else { "" };
        let mut inner = self.lock();
        if PHASED.contains(&kind.as_str()) && !subresource.is_empty() {
            let body: Value = serde_json::from_slice(body).unwrap_or_default();
            inner.phase = body["status"]["phase"].as_str().unwrap_or("?").to_owned();
        }
        let (verb, phase) = (method.to_string(), inner.phase.clone());
        let same = |site: &&Site| (site.verb == verb) && site.kind == format!("{kind}{subresource}") && site.phase == phase;
        let occurrence = inner.writes.iter().filter(same).count() + 1;
        let late = inner.renewed.map(|renewed| renewed.elapsed()).filter(|elapsed| *elapsed > self.lease);
        if let Some(late) = late {
            inner.violations.push(format!("{verb} {path} {} ms after the lease was last renewed", late.as_millis()));
        }
        inner.writes.push(Site { verb, kind: format!("{kind}{subresource}"), phase, occurrence });
        if inner.writes.len() == self.at.saturating_sub(AHEAD).max(1) {
            self.soon.notify_one();
        }
        inner.writes.len() == self.at
    }

    /// Restricts a request for all namespaces to the plan's own.
    fn narrowed(&self, path: &str) -> String {
        let (address, query) = path.split_once('?').unwrap_or((path, ""));
        match address.rsplit_once('/') {
            Some((group, kind)) if NARROWED.contains(&kind) && !address.contains("/namespaces/") => {
                format!("{group}/namespaces/{}/{kind}?{query}", self.namespace)
            }
            Some((_, "nodes")) => format!("{path}&labelSelector=scene%3D{}", self.namespace),
            Some((_, "namespaces")) => format!("{path}&fieldSelector=metadata.name%3D{}", self.namespace),
            _ => path.to_owned(),
        }
    }

    async fn forward(&self, request: axum::http::Request<Bytes>) -> Response {
        let (parts, body) = request.into_parts();
        let mut forwarded = axum::http::Request::new(KubeBody::from(body.to_vec()));
        *forwarded.method_mut() = parts.method;
        let path = parts.uri.path_and_query().expect("a path").as_str();
        *forwarded.uri_mut() = self.narrowed(path).parse().expect("a path");
        for name in ["content-type", "accept"] {
            if let Some(value) = parts.headers.get(name) {
                forwarded.headers_mut().insert(axum::http::HeaderName::from_static(name), value.clone());
            }
        }
        match self.client.send(forwarded).await {
            Ok(answer) => answer.map(Body::new),
            Err(_) => broken(),
        }
    }

    /// Passes a watch through, which may be silenced or cut.
    fn watched(self: &Arc<Self>, kind: String, answer: Response) -> Response {
        let (proxy, mut cut) = (self.clone(), self.cut.subscribe());
        let held = matches!(&self.fault, Fault::HoldWatch(held) if *held == kind);
        let (parts, body) = answer.into_parts();
        let chunks = body.into_data_stream().then(move |chunk| {
            let proxy = proxy.clone();
            async move {
                let _ = proxy.silent.subscribe().wait_for(|silent| !(held && *silent)).await;
                chunk
            }
        });
        cut.mark_unchanged();
        let ended = async move {
            let _ = cut.changed().await;
        };
        Response::from_parts(parts, Body::from_stream(chunks.take_until(Box::pin(ended))))
    }

    /// Changes an annotation of each session, route and deployment as a user might, without any meaning for the operator.
    async fn change_objects(&self) {
        self.annotate::<Session>().await;
        self.annotate::<Route>().await;
        self.annotate::<Deployment>().await;
    }

    async fn annotate<K>(&self)
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
    {
        let objects: Api<K> = Api::namespaced(self.client.clone(), &self.namespace);
        let note = Patch::Merge(json!({"metadata": {"annotations": {"overtaken": "true"}}}));
        for object in objects.list(&Default::default()).await.into_iter().flatten() {
            // The object may be gone by now.
            let _ = objects.patch_metadata(&object.name_any(), &Default::default(), &note).await;
        }
    }

    fn compact(&self) {
        let mut inner = self.lock();
        inner.compacted = inner.watched.clone();
    }

    /// Holds a request until the proxy resumes. It is sent even if its sender no longer waits.
    async fn late(self: &Arc<Self>, request: axum::http::Request<Bytes>) -> Response {
        self.held.send_modify(|held| *held += 1);
        let proxy = self.clone();
        let sending = tokio::spawn(async move {
            let _ = proxy.resumed.subscribe().wait_for(|resumed| *resumed).await;
            let answer = proxy.forward(request).await;
            proxy.held.send_modify(|held| *held -= 1);
            answer
        });
        sending.await.unwrap_or_else(|_| broken())
    }

    async fn strike(self: &Arc<Self>, request: axum::http::Request<Bytes>) -> Response {
        match &self.fault {
            Fault::None => self.forward(request).await,
            Fault::KillBefore => {
                self.lock().renewed = None;
                self.killed.send_modify(|count| *count += 1);
                std::future::pending().await
            }
            Fault::KillAfter => {
                complete(self.forward(request).await).await;
                self.lock().renewed = None;
                self.killed.send_modify(|count| *count += 1);
                std::future::pending().await
            }
            Fault::LoseAnswer => {
                complete(self.forward(request).await).await;
                broken()
            }
            Fault::Reset => broken(),
            Fault::Refuse(code) => refusal(*code),
            Fault::LateTimeout => {
                complete(self.forward(request).await).await;
                refusal(504)
            }
            Fault::HoldWatch(_) => {
                self.silence();
                let proxy = self.clone();
                tokio::spawn(async move { proxy.end_silence().await });
                self.forward(request).await
            }
            Fault::Compact => {
                self.compact();
                self.cut.send_modify(|count| *count += 1);
                self.forward(request).await
            }
            Fault::Outage => {
                self.lock().outage_until = Some(tokio::time::Instant::now() + OUTAGE);
                self.cut.send_modify(|count| *count += 1);
                broken()
            }
            Fault::Restart => {
                let restarted = tokio::spawn(restart());
                let answer = self.forward(request).await;
                restarted.await.expect("the kit can be run");
                answer
            }
            Fault::Overtaken => {
                self.change_objects().await;
                tokio::time::sleep(SLOW).await;
                self.forward(request).await
            }
            Fault::Pause => {
                self.lock().paused = true;
                self.paused.notify_one();
                self.late(request).await
            }
            Fault::Handover(_) => {
                let answer = self.forward(request).await;
                self.killed.send_modify(|count| *count += 1);
                answer
            }
        }
    }

    async fn renew(self: &Arc<Self>, request: axum::http::Request<Bytes>) -> Response {
        let began = tokio::time::Instant::now();
        let paused = self.lock().paused;
        if paused {
            return self.late(request).await;
        }
        let answer = self.forward(request).await;
        if answer.status().is_success() {
            self.lock().renewed = Some(began);
            self.led.send_replace(true);
        }
        answer
    }
}

async fn handle(State(proxy): State<Arc<Proxy>>, request: Request) -> Result<Response, Infallible> {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 8 << 20).await.unwrap_or_default();
    let (method, uri) = (parts.method.clone(), parts.uri.clone());
    let request = axum::http::Request::from_parts(parts, body);
    let outage = proxy.lock().outage_until;
    if outage.is_some_and(|until| until > tokio::time::Instant::now()) {
        return Ok(broken());
    }
    let is_watch = uri.query().is_some_and(|query| query.contains("watch=true"));
    if is_watch {
        let kind = resource_of(uri.path()).unwrap_or_default();
        let compacted = {
            let mut inner = proxy.lock();
            inner.watched.insert(kind.clone());
            inner.compacted.remove(&kind)
        };
        let answer = if compacted { refusal(410) } else { proxy.forward(request).await };
        return Ok(proxy.watched(kind, answer));
    }
    if method != Method::GET && resource_of(uri.path()).as_deref() == Some("leases") {
        return Ok(proxy.renew(request).await);
    }
    let strikes = proxy.count(&method, uri.path(), request.body());
    let paused = proxy.lock().paused;
    Ok(match (strikes, paused) {
        (true, _) => proxy.strike(request).await,
        (false, true) => proxy.late(request).await,
        (false, false) => proxy.forward(request).await,
    })
}

/// Begins a round of plans, in which the API server may be restarted once.
pub async fn next_round() {
    *RESTARTED.lock().await = false;
}

/// Kills the operators' API server and starts it again, once for all plans of a round.
async fn restart() {
    let mut restarted = RESTARTED.lock().await;
    if std::mem::replace(&mut *restarted, true) {
        return;
    }
    for action in ["stop", "start"] {
        let mut kit = std::process::Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/kit/cluster"));
        kit.args([action, "kube-apiserver-2"]).env("SIGNAL", "KILL").stdout(std::process::Stdio::null());
        let done = tokio::task::spawn_blocking(move || kit.status()).await.expect("the task does not panic");
        assert!(done.expect("the kit can be run").success(), "kit/cluster {action} kube-apiserver-2");
    }
}

/// Returns the resource of a path: `sessions` for `/apis/sokovan.dev/v1alpha1/namespaces/x/sessions/one/status`.
fn resource_of(path: &str) -> Option<String> {
    let mut words = path.trim_matches('/').split('/');
    match words.next()? {
        "api" => words.next()?,
        _ => {
            words.next()?;
            words.next()?
        }
    };
    let first = words.next()?;
    if first == "namespaces" {
        words.next()?;
        return words.next().map(Into::into);
    }
    Some(first.into())
}
