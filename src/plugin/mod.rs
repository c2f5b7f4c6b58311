//! `kubectl sokovan`: shows the queue and sessions, with the user's own permissions. Each command is a pure view of the
//! objects read. Only `fetch` and `watch` talk to the API server.

mod explain;
mod fetch;
mod history;
mod queue;
mod table;
mod top;
mod tree;
mod watch;

use std::fmt::Display;
use std::io::Write;

use chrono::Utc;
use clap::{Args, Subcommand, ValueEnum};
use kube::Client;
use serde::Serialize;

use crate::api::SessionPhase;
use fetch::Reader;

/// The plugin's commands.
#[derive(Subcommand)]
pub enum Command {
    /// Lists the waiting sessions of a scaling group, or of all, in their order and with the reason of each.
    Queue { group: Option<String> },
    /// Explains why a session is in its state, and what would have to change.
    Explain { session: String },
    /// Lists what was tried for a session, when, how often, and step by step.
    History { session: String },
    /// Shows the usage of nodes and tenants, as far as you may see them.
    Top,
    /// Shows a session, its kernels and their pods.
    Tree { session: String },
    /// Shows the namespace's sessions, redrawn as they change.
    Watch,
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
    let (now, format) = (Utc::now(), output.output);
    match command {
        Command::Queue { group } => {
            let (groups, sessions) = (reader.groups(group.as_deref()).await?, reader.all_sessions().await?);
            print(format, &queue::view(group.as_deref(), groups.as_deref(), &sessions, now))
        }
        Command::Explain { session } => {
            let session = reader.session(&session).await?;
            let group = reader.group_of(&session).await;
            // Only a waiting session has a place in the queue.
            let others = if session.phase() == SessionPhase::Pending { reader.all_sessions().await? } else { vec![] };
            print(format, &explain::view(&session, group.as_ref(), &others, now))
        }
        Command::History { session } => print(format, &history::view(&reader.session(&session).await?)),
        Command::Top => print(format, &top::view(&reader.top().await?)),
        Command::Tree { session } => {
            let session = reader.session(&session).await?;
            let (kernels, pods) = (reader.kernels(&session).await?, reader.pods(&session).await?);
            print(format, &tree::view(&session, &kernels, pods.as_deref()))
        }
        Command::Watch => watch::follow(&reader, format).await,
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
