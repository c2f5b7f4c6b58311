//! `rollout`: the verbs of `kubectl rollout`, for deployments. Apart from `status` and `history`, they patch the spec.

mod change;
mod history;
mod status;

use std::time::Duration;

use anyhow::{anyhow, bail};
use chrono::{DateTime, Utc};
use clap::{ArgAction, Subcommand};
use futures::TryStreamExt;
use kube::Api;
use kube::api::Patch;
use serde_json::Value;

use super::done::Done;
use super::fetch::Reader;
use super::revisions::Recorded;
use super::target::Kind;
use super::watch::changes;
use super::{Format, print, target};
use crate::api::Deployment;
use change::Undo;
use status::State;
pub use status::duration;

/// The verbs of a rollout.
#[derive(Subcommand)]
pub enum Command {
    /// Waits until every replica is of the wanted revision and available. Exits with 1 if that fails.
    Status {
        /// The name of a deployment.
        #[arg(value_parser = target::deployment)]
        deployment: String,
        /// Whether to wait for the end of the rollout.
        #[arg(
            short, long, default_value_t = true, action = ArgAction::Set,
            num_args = 0..=1, require_equals = true, default_missing_value = "true"
        )]
        watch: bool,
        /// How long to wait, for example 90s or 1h30m. Zero waits for ever.
        #[arg(long, default_value = "0s", value_parser = status::duration)]
        timeout: Duration,
    },
    /// Lists the revisions, or prints the content of one as YAML.
    History {
        /// The name of a deployment.
        #[arg(value_parser = target::deployment)]
        deployment: String,
        /// The revision to print.
        #[arg(long)]
        revision: Option<i64>,
    },
    /// Goes back to an earlier revision.
    Undo {
        /// The name of a deployment.
        #[arg(value_parser = target::deployment)]
        deployment: String,
        /// The revision to go back to. If absent, the revision that serves if the spec asks for another, else the previous one.
        #[arg(long)]
        to_revision: Option<i64>,
    },
    /// Pauses rollouts. Replicas that end are still replaced.
    Pause {
        /// The name of a deployment.
        #[arg(value_parser = target::deployment)]
        deployment: String,
    },
    /// Resumes rollouts.
    Resume {
        /// The name of a deployment.
        #[arg(value_parser = target::deployment)]
        deployment: String,
    },
    /// Replaces every replica by one of the same content, as a new revision.
    Restart {
        /// The name of a deployment.
        #[arg(value_parser = target::deployment)]
        deployment: String,
    },
}

/// Runs one verb.
pub async fn run(command: Command, reader: &Reader, format: Format, now: DateTime<Utc>) -> anyhow::Result<()> {
    match command {
        Command::Status { deployment, watch: false, .. } => {
            let object = reader.deployment(&deployment).await?;
            report(format, &status::view(&object, reader.revisions(&object).await?.as_deref()))
        }
        Command::Status { deployment, watch: true, timeout } => wait(reader, &deployment, timeout, format).await,
        Command::History { deployment, revision } => {
            let object = reader.deployment(&deployment).await?;
            let revisions = revisions(reader, &object).await?;
            match revision {
                None => print(format, &history::view(&object, &revisions, now)),
                Some(number) => print(format, &history::content(&object, &revisions, number).map_err(|e| anyhow!(e))?),
            }
        }
        Command::Undo { deployment, to_revision } => undo(reader, &deployment, to_revision, format).await,
        Command::Pause { deployment } => change(reader, &deployment, format, "paused", change::pause).await,
        Command::Resume { deployment } => change(reader, &deployment, format, "resumed", change::resume).await,
        Command::Restart { deployment } => {
            change(reader, &deployment, format, "restarted", |object| change::restart(object, now)).await
        }
    }
}

async fn revisions(reader: &Reader, deployment: &Deployment) -> anyhow::Result<Vec<Recorded>> {
    let revisions = reader.revisions(deployment).await?;
    revisions.ok_or_else(|| anyhow!("you may not list controllerrevisions in this namespace"))
}

/// Patches a deployment, unless there is nothing to change.
async fn change(
    reader: &Reader,
    name: &str,
    format: Format,
    result: &str,
    decide: impl FnOnce(&Deployment) -> Result<Value, String>,
) -> anyhow::Result<()> {
    let deployment = reader.deployment(name).await?;
    let patch = decide(&deployment).map_err(|refusal| anyhow!("deployment {name} {refusal}"))?;
    reader.patch_deployment(name, &Patch::Merge(patch)).await?;
    Done { kind: Kind::Deployment, name: name.into(), result: result.into() }.print(format)
}

async fn undo(reader: &Reader, name: &str, to: Option<i64>, format: Format) -> anyhow::Result<()> {
    let deployment = reader.deployment(name).await?;
    let revisions = revisions(reader, &deployment).await?;
    let undo = change::undo(&deployment, &revisions, to).map_err(|refusal| anyhow!("deployment {name} {refusal}"))?;
    let result = match undo {
        Undo::Unchanged(number) => format!("skipped rollback (the spec is that of revision {number} already)"),
        Undo::To { number, patch, note } => {
            reader.patch_deployment(name, &Patch::Json(patch)).await?;
            format!("rolled back to revision {number}{note}")
        }
    };
    Done { kind: Kind::Deployment, name: name.into(), result }.print(format)
}

/// Prints the state of a rollout. A rollout that failed ends the program with an error.
fn report(format: Format, view: &status::RolloutStatus) -> anyhow::Result<()> {
    if view.state == State::Failed && matches!(format, Format::Text | Format::Wide) {
        bail!("{}", view.to_string().trim_end().to_owned());
    }
    print(format, view)?;
    if view.state == State::Failed { bail!("the rollout failed") } else { Ok(()) }
}

/// Waits for the end of a rollout.
async fn wait(reader: &Reader, name: &str, timeout: Duration, format: Format) -> anyhow::Result<()> {
    let mut last = None;
    let end = until_ended(reader, name, format, &mut last);
    if timeout.is_zero() {
        return end.await;
    }
    match tokio::time::timeout(timeout, end).await {
        Ok(ended) => ended,
        Err(_) => {
            let last = last.map_or_else(String::new, |last: status::RolloutStatus| format!(": {last}"));
            bail!("timed out after {} s{}", timeout.as_secs_f64(), last.trim_end())
        }
    }
}

async fn until_ended(
    reader: &Reader,
    name: &str,
    format: Format,
    last: &mut Option<status::RolloutStatus>,
) -> anyhow::Result<()> {
    // A deployment that does not exist is an error of its own.
    reader.deployment(name).await?;
    let api: Api<Deployment> = reader.namespaced();
    let mut changes = std::pin::pin!(changes(api, name));
    while let Some(change) = changes.try_next().await? {
        let Some(deployment) = change else { bail!("deployment {name} was deleted") };
        let view = status::view(&deployment, reader.revisions(&deployment).await?.as_deref());
        if view.state != State::Waiting {
            return report(format, &view);
        }
        if last.as_ref() != Some(&view) {
            report(format, &view)?;
            *last = Some(view);
        }
    }
    bail!("the watch of deployment {name} ended")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Arguments {
        #[command(subcommand)]
        command: Command,
    }

    fn parsed(line: &str) -> Result<Command, clap::Error> {
        let words = std::iter::once("rollout").chain(line.split_whitespace());
        Arguments::try_parse_from(words).map(|arguments| arguments.command)
    }

    #[test]
    fn the_command_line_is_that_of_kubectl_rollout() {
        let waits = |line: &str| match parsed(line) {
            Ok(Command::Status { deployment, watch, timeout }) => Some((deployment, watch, timeout.as_secs())),
            Ok(_) | Err(_) => None,
        };
        assert_eq!(waits("status chat"), Some(("chat".into(), true, 0)));
        assert_eq!(waits("status sdep/chat --timeout=5m -w"), Some(("chat".into(), true, 300)));
        assert_eq!(waits("status --watch=false deployment/chat"), Some(("chat".into(), false, 0)));
        assert_eq!(waits("status chat --timeout=5"), None, "a duration has a unit");
        assert!(matches!(parsed("undo chat --to-revision=2"), Ok(Command::Undo { to_revision: Some(2), .. })));
        assert!(matches!(parsed("history chat --revision 3"), Ok(Command::History { revision: Some(3), .. })));
        assert!(parsed("pause session/train").is_err());
    }
}
