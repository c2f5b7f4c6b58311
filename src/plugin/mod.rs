//! `kubectl sokovan`: shows the queue, sessions and deployments, and changes them, with the user's own permissions. Each view and each
//! change is pure. Only `fetch`, `watch`, `rollout` and `control` talk to the API server; `rollout` patches deployments, and `control`
//! patches and creates sessions.

mod control;
mod done;
mod explain;
mod explain_deployment;
mod fetch;
mod finding;
mod findings;
mod history;
mod queue;
mod revisions;
mod rollout;
mod stuck;
mod table;
mod target;
mod top;
mod tree;
mod tree_deployment;
mod watch;

use std::fmt::Display;
use std::io::Write;

use chrono::Utc;
use clap::{Args, Subcommand, ValueEnum};
use kube::{Client, ResourceExt};
use serde::Serialize;

use crate::api::SessionPhase;
use fetch::{Object, Parts, Reader};
use target::Target;

/// The plugin's commands.
#[derive(Subcommand)]
pub enum Command {
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
    Watch,
    #[command(flatten)]
    Control(control::Command),
}

/// Options of all commands.
#[derive(Args)]
pub struct OutputArgs {
    /// The namespace. If absent, the namespace of the kubeconfig's context.
    #[arg(short, long, global = true)]
    namespace: Option<String>,
    /// The output format.
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Text)]
    output: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

/// Runs one command.
pub async fn run(command: Command, output: OutputArgs) -> anyhow::Result<()> {
    let config = kube::Config::infer().await?;
    let namespace = output.namespace.unwrap_or_else(|| config.default_namespace.clone());
    let reader = Reader { client: Client::try_from(config)?, namespace };
    run_with(command, &reader, output.output).await.map_err(readable)
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
        Command::Watch => watch::follow(reader, format).await,
        Command::Control(command) => control::run(command, reader, format).await,
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
        Format::Text => show(&format!("{}\n", view.to_string().trim_end())),
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
