//! `kubectl sokovan`: shows the queue, sessions and deployments, changes them, and opens a way into them, with the user's own permissions.
//! Each view and each change is pure. Only `fetch`, `watch`, `rollout`, `control`, `me`, `report` and `work` talk to the API server;
//! `rollout` patches deployments, `control` patches and creates sessions, and `work` creates and deletes them.

mod complete;
mod control;
mod done;
mod explain;
mod explain_deployment;
mod fetch;
mod finding;
mod findings;
mod history;
mod me;
mod queue;
mod report;
mod revisions;
mod rollout;
mod stuck;
mod style;
mod table;
mod target;
mod top;
mod tree;
mod tree_deployment;
mod watch;
mod work;

use std::fmt::Display;
use std::io::Write;

use chrono::Utc;
use clap::{Args, Parser, Subcommand, ValueEnum};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config, ResourceExt};
use serde::Serialize;

use crate::api::SessionPhase;
use fetch::{Object, Parts, Reader};
use target::Target;

/// Works with compute sessions and inference deployments.
#[derive(Parser)]
#[command(name = "kubectl sokovan", version)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    options: Options,
}

#[derive(Subcommand)]
enum Command {
    /// Lists the waiting sessions of a scaling group, or of all, in their order and with the reason of each.
    Queue { group: Option<String> },
    /// Explains why a session or a deployment is in its state, and what would have to change.
    Explain {
        /// The name of a session or a deployment.
        #[arg(value_name = "[KIND/]NAME")]
        object: Target,
    },
    /// Lists what was tried for a session or a deployment, when, how often, and step by step.
    History {
        /// The name of a session or a deployment.
        #[arg(value_name = "[KIND/]NAME")]
        object: Target,
    },
    /// Shows or changes the rollout of a deployment.
    #[command(subcommand)]
    Rollout(rollout::Command),
    /// Shows the usage of nodes and tenants, as far as you may see them.
    Top,
    /// Shows a session, its kernels and their pods; or a deployment, its revisions, routes, sessions and pods.
    Tree {
        /// The name of a session or a deployment.
        #[arg(value_name = "[KIND/]NAME")]
        object: Target,
    },
    /// Shows the namespace's sessions, redrawn as they change.
    Watch {
        /// The sessions of all namespaces.
        #[arg(short = 'A', long)]
        all_namespaces: bool,
    },
    /// Shows what you may do here, your limits and their usage, and which of your sessions wait or run.
    Me,
    /// Writes an archive for support: objects, Events and the operator's log, as far as you may read them, without the values of
    /// environment variables, and without commands.
    Report {
        /// The path of the archive.
        #[arg(short, long)]
        file: Option<std::path::PathBuf>,
        /// The namespace of the operator.
        #[arg(long, default_value = "sokovan-system")]
        operator_namespace: String,
    },
    /// Completes the last word, as kubectl asks for it.
    #[command(name = "__complete", hide = true)]
    Complete {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    #[command(flatten)]
    Control(control::Command),
    #[command(flatten)]
    Work(work::Command),
}

/// Options of all commands.
#[derive(Args)]
struct Options {
    /// The namespace. If absent, the namespace of the kubeconfig's context.
    #[arg(short, long, global = true)]
    namespace: Option<String>,
    /// The context of the kubeconfig. If absent, its current one.
    #[arg(long, global = true)]
    context: Option<String>,
    /// The kubeconfig. If absent, that of KUBECONFIG, or ~/.kube/config.
    #[arg(long, global = true)]
    kubeconfig: Option<std::path::PathBuf>,
    /// The output format.
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Text)]
    output: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
    Yaml,
    /// The name of what was created or changed.
    Name,
}

/// Runs one command.
pub async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { command, options } = arguments;
    let config = config(&options).await?;
    let namespace = options.namespace.unwrap_or_else(|| config.default_namespace.clone());
    let reader = Reader { client: Client::try_from(config)?, namespace };
    run_with(command, &reader, options.output).await.map_err(readable)
}

/// The configuration that the options choose. Inside a pod it is that of its service account.
async fn config(options: &Options) -> anyhow::Result<Config> {
    let chosen = KubeConfigOptions { context: options.context.clone(), ..KubeConfigOptions::default() };
    Ok(match (&options.kubeconfig, &options.context) {
        (None, None) => Config::infer().await?,
        (None, Some(_)) => Config::from_kubeconfig(&chosen).await?,
        (Some(path), _) => Config::from_custom_kubeconfig(Kubeconfig::read_from(path)?, &chosen).await?,
    })
}

async fn run_with(command: Command, reader: &Reader, format: Format) -> anyhow::Result<()> {
    let now = Utc::now();
    match command {
        Command::Queue { group } => {
            let (groups, sessions) = (reader.groups(group.as_deref()).await?, reader.all_sessions().await?);
            print(format, &queue::view(group.as_deref(), groups.as_deref(), &sessions, now))
        }
        Command::Explain { object } => match reader.object(&object).await? {
            Object::Session(session) => {
                let group = reader.group_of(&session).await;
                // Only a waiting session has a place in the queue.
                let others = if session.phase() == SessionPhase::Pending { reader.all_sessions().await? } else { vec![] };
                print(format, &explain::view(&session, group.as_ref(), &others, now))
            }
            Object::Deployment(deployment) => {
                let parts = Parts { warnings: reader.warnings(&deployment).await, ..reader.parts(&deployment).await? };
                print(format, &explain_deployment::view(&deployment, &parts, now))
            }
        },
        Command::History { object } => match reader.object(&object).await? {
            Object::Session(session) => {
                let progress = session.status.as_ref().map(|status| &status.progress);
                print(format, &history::view("session", session.name_any(), progress))
            }
            Object::Deployment(deployment) => {
                let progress = deployment.status.as_ref().map(|status| &status.progress);
                print(format, &history::view("deployment", deployment.name_any(), progress))
            }
        },
        Command::Rollout(command) => rollout::run(command, reader, format, now).await,
        Command::Top => print(format, &top::view(&reader.top().await?)),
        Command::Tree { object } => match reader.object(&object).await? {
            Object::Session(session) => {
                let (kernels, pods) = (reader.kernels(&session).await?, reader.pods(&session).await?);
                print(format, &tree::view(&session, &kernels, pods.as_deref()))
            }
            Object::Deployment(deployment) => {
                let parts = reader.parts(&deployment).await?;
                let pods = reader.pods_of(parts.sessions.as_deref().unwrap_or_default()).await?;
                print(format, &tree_deployment::view(&deployment, &parts, pods.as_deref()))
            }
        },
        Command::Watch { all_namespaces } => watch::follow(reader, all_namespaces, format).await,
        Command::Me => print(format, &me::read(reader, now).await?),
        Command::Report { file, operator_namespace } => {
            let path = report::run(reader, file, &operator_namespace, now).await?;
            show(&format!("{}\n", path.display()))
        }
        Command::Complete { words } => show(&format!("{}\n", complete::run(&words, reader).await)),
        Command::Control(command) => control::run(command, reader, format).await,
        Command::Work(command) => work::run(command, reader, format).await,
    }
}

/// An error in the API server's own words, without the rest of its answer.
fn readable(error: anyhow::Error) -> anyhow::Error {
    match error.downcast_ref() {
        Some(kube::Error::Api(status)) => anyhow::anyhow!("{}", status.message),
        Some(_) | None => error,
    }
}

fn print<V: Serialize + Display>(format: Format, view: &V) -> anyhow::Result<()> {
    match format {
        Format::Text | Format::Name => show(&format!("{}\n", view.to_string().trim_end())),
        Format::Yaml => show(&serde_yaml::to_string(view)?),
        Format::Json => show(&format!("{}\n", serde_json::to_string_pretty(view)?)),
    }
}

/// Prints. A closed pipe ends the program without an error, as in `kubectl sokovan queue | head`.
fn show(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => Ok(other?),
    }
}
