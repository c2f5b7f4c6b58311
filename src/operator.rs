//! The operator: takes part in leader election, watches and runs the handlers while it leads, and serves health and metrics.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use kube::{Client, Config};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::cluster::client::client;
use crate::cluster::commit::Committer;
use crate::cluster::events::Events;
use crate::cluster::lease::{Candidate, Leadership, asked};
use crate::cluster::serving::ServingHost;
use crate::cluster::session::effects::Effects;
use crate::cluster::session::hooks::Hooks;
use crate::cluster::session::host::SessionHost;
use crate::cluster::session::kernel_tasks::KernelTasks;
use crate::cluster::session::measure;
use crate::cluster::session::pods::PodOptions;
use crate::cluster::session::traffic::Kubelets;
use crate::cluster::session::warnings;
use crate::cluster::store::quota_admission;
use crate::cluster::store::world::{Scope, World};
use crate::cluster::write::{Fence, Writer};
use crate::cluster::{heartbeats, serving, usage, watch as watches};
use crate::coordinator::{Coordinator, hooks};
use crate::deployment::Deployments;
use crate::lifecycle::Timing;
use crate::metrics::Metrics;
use crate::route::Routes;

/// The settings of an operator.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its name in the lease.
    pub identity: String,
    pub lease_namespace: String,
    pub lease_name: String,
    pub scope: Scope,
    pub timing: Timing,
    pub pods: PodOptions,
    pub hooks: Hooks,
    /// The address of health and metrics. If None, they are not served.
    pub listen: Option<SocketAddr>,
    /// Whether metrics name tenants.
    pub tenant_metrics: bool,
    /// The ServiceAccount in the namespace of the lease whose tokens kubelets get. If None, the traffic of sessions is not measured.
    pub statistics_account: Option<String>,
}

/// How an operator ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was stopped and has released its lease.
    Stopped,
    /// Another replica may lead now.
    LostLease,
}

/// Runs an operator until `stop` or until it loses its lease.
pub async fn run(config: Config, options: Options, stop: watch::Receiver<bool>) -> anyhow::Result<Ended> {
    let timing = Arc::new(options.timing.clone());
    let metrics = Metrics::default();
    let work = client(config.clone(), timing.request, metrics.clone())?;
    let fence = Fence::default();
    let ready = Arc::new(AtomicBool::new(false));
    let known: Arc<OnceLock<Arc<World>>> = Arc::default();
    let discovery = {
        let known = known.clone();
        Arc::new(move || serde_json::to_string(&known.get()?.discovery()?).ok())
    };
    let _server = crate::http::serve(options.listen, ready.clone(), metrics.clone(), discovery).await?;

    let account = options.statistics_account.as_deref();
    let kubelets = account.map(|name| Kubelets::new(work.clone(), &config, &options.lease_namespace, name, timing.request));
    let (leadership, mut leads) = watch::channel(Leadership::Standby);
    let candidate = Candidate::new(
        client(config, timing.lease.request, metrics.clone())?,
        &options.lease_namespace,
        &options.lease_name,
        &options.identity,
        timing.lease,
        fence.clone(),
        metrics.clone(),
    );
    let mut election = JoinSet::new();
    election.spawn(elect(work.clone(), timing.clone(), ready, candidate, leadership, stop));
    if leads.wait_for(|now| *now != Leadership::Standby).await.is_err() {
        election.join_all().await; // stopped, or panicked
        return Ok(Ended::Stopped);
    }
    tracing::info!(identity = %options.identity, lease = %options.lease_name, "leading");
    metrics.leads(true);
    let writer = Writer::new(work.clone(), fence, timing.request, metrics.clone());
    // A standby watches nothing. Lists from now on contain everything that the last leader wrote.
    let world = Arc::new(World::new(timing.clone(), options.scope.clone()));
    _ = known.set(world.clone());
    let (counted, tenants) = (world.clone(), options.tenant_metrics);
    metrics.count_by(move || counted.census(tenants));
    let mut watches = watches::start(&work, &world, &metrics);
    let lead = async {
        if tokio::time::timeout(timing.listing, synced(&world)).await.is_err() {
            return anyhow::anyhow!("could not list every kind within {:?}: another replica may lead", timing.listing);
        }
        first_end(&mut start(&work, &options, &world, &writer, kubelets)).await
    };
    // The candidate reports a lost lease. If it ends without that, it was stopped.
    let ended = tokio::select! {
        lost = leads.wait_for(|now| *now == Leadership::Lost) => if lost.is_ok() { Ended::LostLease } else { Ended::Stopped },
        error = first_end(&mut watches) => return Err(error),
        error = lead => return Err(error),
    };
    metrics.leads(false);
    while let Some(ended) = election.join_next().await {
        ended?;
    }
    tracing::info!(?ended, "no longer leading");
    Ok(ended)
}

/// A replica that cannot list every kind could not lead, so it does not become a candidate. It is not ready either, which
/// stops a rolling update of the operator.
async fn elect(
    client: Client,
    timing: Arc<Timing>,
    ready: Arc<AtomicBool>,
    candidate: Candidate,
    leadership: watch::Sender<Leadership>,
    stop: watch::Receiver<bool>,
) {
    let mut stopped = stop.clone();
    let able = async {
        loop {
            match watches::check(&client, timing.request).await {
                Ok(()) => return,
                Err(error) => tracing::warn!("cannot list every kind: {error}"),
            }
            tokio::time::sleep(timing.lease.retry).await;
        }
    };
    tokio::select! {
        () = able => ready.store(true, Ordering::Relaxed),
        () = asked(&mut stopped) => return,
    }
    candidate.run(leadership, stop).await;
}

async fn synced(world: &World) {
    while !world.is_synced() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until a task ends. A task ends only by a panic. The process then exits, and Kubernetes restarts it.
async fn first_end(tasks: &mut JoinSet<()>) -> anyhow::Error {
    match tasks.join_next().await {
        Some(Err(error)) => anyhow::Error::new(error).context("a task of the operator failed"),
        Some(Ok(())) | None => anyhow::anyhow!("a task of the operator ended unexpectedly"),
    }
}

/// Starts everything that runs only while this replica leads. Dropping the returned set stops it.
fn start(work: &Client, options: &Options, world: &Arc<World>, writer: &Writer, kubelets: Option<Kubelets>) -> JoinSet<()> {
    let metrics = &writer.metrics;
    let (events, sending) = Events::new(writer.clone(), options.identity.clone(), world.timing.clone());
    let mut tasks = JoinSet::new();
    tasks.spawn(sending);
    let effects = Effects { writer: writer.clone(), world: world.clone(), options: Arc::new(options.pods.clone()) };
    let committer = Committer { writer: writer.clone(), world: world.clone(), timing: world.timing.clone() };
    let serving = Arc::new(ServingHost {
        world: world.clone(),
        writer: writer.clone(),
        committer: committer.clone(),
        events: events.clone(),
    });
    let host = Arc::new(SessionHost { world: world.clone(), effects, committer, events });
    let (marks, timing, hooks) = (world.marks.handlers.clone(), world.timing.clone(), options.hooks.clone());
    let sessions = Arc::new(Coordinator::new(host.clone(), marks, timing, metrics.clone(), hooks));
    let (marks, timing) = (world.deployments.marks.clone(), world.timing.clone());
    let deployments = Coordinator::<Deployments, _>::new(serving.clone(), marks, timing, metrics.clone(), hooks::Hooks::none());
    let (marks, timing) = (world.routes.marks.clone(), world.timing.clone());
    let routes = Coordinator::<Routes, _>::new(serving, marks, timing, metrics.clone(), hooks::Hooks::none());
    world.begin();
    tasks.spawn(usage::publish(world.clone(), writer.clone()));
    tasks.spawn(heartbeats::look(work.clone(), world.clone()));
    tasks.spawn(quota_admission::admit(world.clone()));
    tasks.spawn(warnings::look(work.clone(), world.clone()));
    tasks.spawn(measure::measure(work.clone(), world.clone(), kubelets));
    tasks.spawn(serving::remove_orphans(world.clone(), writer.clone()));
    sessions.start(&mut tasks);
    Arc::new(deployments).start(&mut tasks);
    Arc::new(routes).start(&mut tasks);
    Arc::new(KernelTasks::new(host)).start(&mut tasks);
    tasks
}
