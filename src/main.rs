//! The command line of the operator.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use clap::{Parser, Subcommand};
use sokovan::cluster::session::hooks::Hooks;
use sokovan::cluster::session::pods::PodOptions;
use sokovan::cluster::store::world::Scope;
use sokovan::cluster::{client, install};
use sokovan::lifecycle::Timing;
use sokovan::logging;
use sokovan::metrics::Metrics;
use sokovan::operator::{self, Ended, Options};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// The operator that runs compute sessions and inference deployments on Kubernetes.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the operator.
    Operator(OperatorArguments),
    /// Prints the custom resource definitions as YAML. With --dir, writes each to its own file there.
    Crds {
        #[arg(long)]
        dir: Option<std::path::PathBuf>,
        /// Apply them to the cluster instead, and wait until they are served.
        #[arg(long, conflicts_with = "dir")]
        apply: bool,
    },
    /// Waits until an operator leads and the API server accepts sessions. With --run, runs a session instead.
    Check(CheckArguments),
}

#[derive(clap::Args)]
struct OperatorArguments {
    /// The name of this replica in the lease.
    #[arg(long, env = "POD_NAME")]
    identity: Option<String>,
    /// The namespace of the lease.
    #[arg(long, env = "POD_NAMESPACE", default_value = "default")]
    lease_namespace: String,
    /// The name of the lease.
    #[arg(long, default_value = "sokovan")]
    lease_name: String,
    /// Manage only these scaling groups; all if none is given. Sessions of other scaling groups are then ignored: they count
    /// towards no quota, and no session can depend on them.
    #[arg(long, value_delimiter = ',')]
    groups: Vec<String>,
    /// The image that pods of gangs copy the gate from: the operator's own.
    #[arg(long, env = "GATE_IMAGE", default_value = "sokovan:dev")]
    gate_image: String,
    /// The cluster's DNS domain.
    #[arg(long, default_value = "cluster.local")]
    cluster_domain: String,
    /// The cluster's DNS server. Kernels of a gang use it, and look up names of their own session first. If it is not given
    /// and the operator runs inside a cluster, it is the operator's own DNS server.
    #[arg(long)]
    cluster_dns: Option<IpAddr>,
    /// The longest time in seconds that a handler holds its lock or waits for it.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=600))]
    lock_lifetime_seconds: u64,
    /// The address of health and metrics.
    #[arg(long, default_value = "0.0.0.0:8080")]
    listen: SocketAddr,
    /// Write log lines as JSON.
    #[arg(long)]
    json_logs: bool,
    /// A file with the log level, in the syntax of RUST_LOG. The level follows the file.
    #[arg(long)]
    log_level_file: Option<std::path::PathBuf>,
    /// Serve the usage and limits of the 500 tenants with the most sessions as metrics.
    #[arg(long)]
    tenant_metrics: bool,
    /// Count a session with an idle timeout as used while its pods send or receive 4 KiB a second. Kubelets report this to tokens of
    /// this ServiceAccount in the namespace of the lease; it may read nodes/stats and nothing else.
    #[arg(long)]
    statistics_account: Option<String>,
}

#[derive(clap::Args)]
struct CheckArguments {
    /// The namespace of the lease and of the session that is tried.
    #[arg(long)]
    namespace: String,
    /// The name of the lease.
    #[arg(long, default_value = "sokovan")]
    lease_name: String,
    /// The keypair of a session to run.
    #[arg(long, requires = "image", requires = "scaling_group")]
    run: Option<String>,
    /// The scaling group of that session.
    #[arg(long)]
    scaling_group: Option<String>,
    /// The image of that session: the operator's own.
    #[arg(long)]
    image: Option<String>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Operator(arguments) => run_operator(arguments).await,
        Command::Crds { apply: true, .. } => install::apply_crds(&check_client().await?).await,
        Command::Crds { dir, .. } => print_crds(dir),
        Command::Check(arguments) => check(arguments).await,
    }
}

async fn run_operator(arguments: OperatorArguments) -> anyhow::Result<()> {
    logging::start(arguments.json_logs, arguments.log_level_file);
    let identity = arguments.identity.unwrap_or_else(|| format!("sokovan-{}", std::process::id()));
    let options = Options {
        // A random suffix, so that two processes of the same name do not both believe that they hold the lease.
        identity: format!("{identity}_{:08x}", rand::random::<u32>()),
        lease_namespace: arguments.lease_namespace,
        lease_name: arguments.lease_name,
        scope: Scope { groups: arguments.groups.into_iter().map(Into::into).collect() },
        timing: Timing { lock_lifetime: Duration::from_secs(arguments.lock_lifetime_seconds), ..Timing::default() },
        pods: PodOptions {
            gate_image: arguments.gate_image,
            cluster_domain: arguments.cluster_domain,
            cluster_dns: arguments.cluster_dns.or_else(client::own_dns_server),
        },
        hooks: Hooks::default(),
        listen: Some(arguments.listen),
        tenant_metrics: arguments.tenant_metrics,
        statistics_account: arguments.statistics_account,
    };
    let (stop, stopping) = watch::channel(false);
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        stop.send_replace(true);
    });
    match operator::run(client::config().await?, options, stopping).await? {
        Ended::Stopped => Ok(()),
        // Exit at once: no pending write may outlive the lease.
        Ended::LostLease => std::process::exit(1),
    }
}

async fn check_client() -> anyhow::Result<kube::Client> {
    logging::start(false, None);
    Ok(client::client(client::config().await?, Timing::default().request, Metrics::default())?)
}

async fn check(arguments: CheckArguments) -> anyhow::Result<()> {
    let client = check_client().await?;
    match (arguments.run, arguments.scaling_group, arguments.image) {
        (Some(access_key), Some(scaling_group), Some(image)) => {
            install::run_session(&client, &arguments.namespace, &access_key, &scaling_group, &image).await
        }
        _ => install::await_ready(&client, &arguments.namespace, &arguments.lease_name).await,
    }
}

fn print_crds(dir: Option<std::path::PathBuf>) -> anyhow::Result<()> {
    for crd in sokovan::api::crds() {
        let yaml = serde_yaml::to_string(&crd)?;
        match &dir {
            Some(dir) => std::fs::write(dir.join(format!("{}.yaml", crd.metadata.name.unwrap_or_default())), yaml)?,
            None => println!("---\n{yaml}"),
        }
    }
    Ok(())
}
