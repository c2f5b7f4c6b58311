//! The commands that end, hold back, rank or repeat a session, and the one that waits for it.

mod change;
pub mod wait;

use std::time::Duration;

use anyhow::anyhow;
use clap::Subcommand;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::Value;

use super::Format;
use super::done::Done;
use super::fetch::Reader;
use super::rollout::duration;
use super::target::{Kind, session};
use crate::api::Session;

#[derive(Subcommand)]
pub enum Command {
    /// Ends a session and keeps its record.
    Stop {
        /// The name of a session.
        #[arg(value_parser = session)]
        session: String,
        /// End it at once, without a grace period.
        #[arg(long)]
        force: bool,
    },
    /// Keeps a session that waits in the queue, at its priority.
    Suspend {
        /// The name of a session.
        #[arg(value_parser = session)]
        session: String,
    },
    /// Lets a suspended session wait for its turn again.
    Resume {
        /// The name of a session.
        #[arg(value_parser = session)]
        session: String,
    },
    /// Gives a session that waits another priority, within the limit of its keypair.
    Prioritize {
        /// The name of a session.
        #[arg(value_parser = session)]
        session: String,
        /// From 0 to 100. A higher priority comes first.
        #[arg(value_parser = clap::value_parser!(i32).range(0..=100))]
        priority: i32,
    },
    /// Creates a new session with the spec of another, even if that has ended.
    Clone {
        /// The name of a session.
        #[arg(value_parser = session)]
        session: String,
        /// The name of the new session. If absent, the old name with a number.
        #[arg(long)]
        name: Option<String>,
    },
    /// Waits until a session runs or has ended. Exits with 0 when it does, with 1 if it never will or ended with Failure or Error,
    /// and with 124 when the time is over.
    Wait {
        /// The name of a session.
        #[arg(value_parser = session)]
        session: String,
        /// The state to wait for.
        #[arg(long = "for", value_enum)]
        until: wait::Until,
        /// The longest wait, for example 30s or 5m. With 0s there is no limit.
        #[arg(long, default_value = "0s", value_parser = duration)]
        timeout: Duration,
    },
}

/// Runs one command.
pub async fn run(command: Command, reader: &Reader, format: Format) -> anyhow::Result<()> {
    match command {
        Command::Stop { session, force } => {
            let result = if force { "is being ended at once" } else { "is being ended" };
            change(reader, &session, format, result, |object| change::stop(object, force)).await
        }
        Command::Suspend { session } => change(reader, &session, format, "suspended", change::suspend).await,
        Command::Resume { session } => change(reader, &session, format, "resumed", change::resume).await,
        Command::Prioritize { session, priority } => {
            let result = format!("has the priority {priority}");
            change(reader, &session, format, &result, |object| change::prioritize(object, priority)).await
        }
        Command::Clone { session, name } => clone(reader, &session, name, format).await,
        Command::Wait { session, until, timeout } => {
            let code = wait::run(reader, &session, until, timeout, wait::Progress::Stdout).await?;
            std::process::exit(code)
        }
    }
}

/// Patches a session, unless there is nothing to change. The API server refuses the patch if another session has the name now.
async fn change(
    reader: &Reader,
    name: &str,
    format: Format,
    result: &str,
    decide: impl FnOnce(&Session) -> Result<Value, String>,
) -> anyhow::Result<()> {
    let api: Api<Session> = reader.namespaced();
    let session = api.get(name).await?;
    let mut patch = decide(&session).map_err(|refusal| anyhow!("session {name} {refusal}"))?;
    patch["metadata"] = serde_json::json!({"uid": session.uid()});
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
    Done { kind: Kind::Session, name: name.into(), result: result.into() }.print(format)
}

async fn clone(reader: &Reader, name: &str, new: Option<String>, format: Format) -> anyhow::Result<()> {
    let api: Api<Session> = reader.namespaced();
    let session = api.get(name).await?;
    let new = match new {
        Some(new) => new,
        None => {
            let taken: Vec<String> = api.list_metadata(&Default::default()).await?.iter().map(ResourceExt::name_any).collect();
            change::name_of_clone(&session, |name| taken.iter().any(|taken| taken == name))
        }
    };
    api.create(&PostParams::default(), &change::cloned(&session, &new)).await?;
    Done { kind: Kind::Session, name: new, result: format!("created, with the spec of {name}") }.print(format)
}
