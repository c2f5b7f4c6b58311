//! `kubectl sokovan`: what a person asks of the queue and of a session, with that person's own permissions and no others.
//! Each question is a pure view of what was read; only `fetch` and `watch` talk to the API server.

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

/// The questions.
#[derive(Subcommand)]
pub enum Question {
    /// Who waits in a scaling group, in order, and why; all groups if none is named.
    Queue { group: Option<String> },
    /// Why a session stands where it stands, and what would have to change.
    Explain { session: String },
    /// What was tried for a session, when, how often, and step by step.
    History { session: String },
    /// What nodes and tenants use, as far as you may see it.
    Top,
    /// A session, its kernels and their pods.
    Tree { session: String },
    /// A view of the namespace's sessions that follows them.
    Watch,
}

/// How to ask.
#[derive(Args)]
pub struct Manner {
    /// The namespace; that of the kubeconfig's context if absent.
    #[arg(short, long, global = true)]
    namespace: Option<String>,
    /// How to print.
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Text)]
    output: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

/// Answers one question.
pub async fn answer(question: Question, manner: Manner) -> anyhow::Result<()> {
    let config = kube::Config::infer().await?;
    let namespace = manner.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
    let reader = Reader { client: Client::try_from(config)?, namespace };
    let (now, format) = (Utc::now(), manner.output);
    match question {
        Question::Queue { group } => {
            let (groups, sessions) = (reader.groups(group.as_deref()).await?, reader.all_sessions().await?);
            print(format, &queue::view(group.as_deref(), groups.as_deref(), &sessions, now))
        }
        Question::Explain { session } => {
            let session = reader.session(&session).await?;
            let group = reader.group_of(&session).await;
            // Only who waits has a place among others.
            let others = if session.phase() == SessionPhase::Pending { reader.all_sessions().await? } else { vec![] };
            print(format, &explain::view(&session, group.as_ref(), &others, now))
        }
        Question::History { session } => print(format, &history::view(&reader.session(&session).await?)),
        Question::Top => print(format, &top::view(&reader.top().await?)),
        Question::Tree { session } => {
            let session = reader.session(&session).await?;
            let (kernels, pods) = (reader.kernels(&session).await?, reader.pods(&session).await?);
            print(format, &tree::view(&session, &kernels, pods.as_deref()))
        }
        Question::Watch => watch::follow(&reader, format).await,
    }
}

fn print<V: Serialize + Display>(format: Format, view: &V) -> anyhow::Result<()> {
    match format {
        Format::Text => show(&format!("{}\n", view.to_string().trim_end())),
        Format::Json => show(&format!("{}\n", serde_json::to_string_pretty(view)?)),
    }
}

/// Prints; whoever reads no further has seen enough.
fn show(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => Ok(other?),
    }
}
