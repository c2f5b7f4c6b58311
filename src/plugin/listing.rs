//! The commands that list or show something, once or again as it changes.

use std::io::IsTerminal;
use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::Subcommand;
use kube::ResourceExt;

use super::fetch::{Object, Parts, Reader};
use super::target::Target;
use super::{Format, explain, explain_deployment, history, me, queue, readable, rendered, show, top, tree, tree_deployment};
use crate::api::SessionPhase;

/// How often `--watch` reads again.
const INTERVAL: Duration = Duration::from_secs(2);

#[derive(Subcommand)]
pub enum Listing {
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
    /// Shows the usage of nodes and tenants, as far as you may see them.
    Top,
    /// Shows a session, its kernels and their pods; or a deployment, its revisions, routes, sessions and pods.
    Tree {
        /// The name of a session or a deployment.
        #[arg(value_name = "[KIND/]NAME")]
        object: Target,
    },
    /// Shows what you may do here, your limits and their usage, and which of your sessions wait or run.
    Me,
}

/// Returns what a command shows.
pub async fn render(listing: &Listing, reader: &Reader, format: Format, now: DateTime<Utc>) -> anyhow::Result<String> {
    match listing {
        Listing::Queue { group } => {
            let (groups, sessions) = (reader.groups(group.as_deref()).await?, reader.all_sessions().await?);
            rendered(format, &queue::view(group.as_deref(), groups.as_deref(), &sessions, now))
        }
        Listing::Explain { object } => match reader.object(object).await? {
            Object::Session(session) => {
                let group = reader.group_of(&session).await;
                // Only a waiting session has a place in the queue.
                let others = if session.phase() == SessionPhase::Pending { reader.all_sessions().await? } else { vec![] };
                rendered(format, &explain::view(&session, group.as_ref(), &others, now))
            }
            Object::Deployment(deployment) => {
                let parts = Parts { warnings: reader.warnings(&deployment).await, ..reader.parts(&deployment).await? };
                rendered(format, &explain_deployment::view(&deployment, &parts, now))
            }
        },
        Listing::History { object } => match reader.object(object).await? {
            Object::Session(session) => {
                let progress = session.status.as_ref().map(|status| &status.progress);
                rendered(format, &history::view("session", session.name_any(), progress))
            }
            Object::Deployment(deployment) => {
                let progress = deployment.status.as_ref().map(|status| &status.progress);
                rendered(format, &history::view("deployment", deployment.name_any(), progress))
            }
        },
        Listing::Top => rendered(format, &top::view(&reader.top().await?)),
        Listing::Tree { object } => match reader.object(object).await? {
            Object::Session(session) => {
                let (kernels, pods) = (reader.kernels(&session).await?, reader.pods(&session).await?);
                rendered(format, &tree::view(&session, &kernels, pods.as_deref()))
            }
            Object::Deployment(deployment) => {
                let parts = reader.parts(&deployment).await?;
                let pods = reader.pods_of(parts.sessions.as_deref().unwrap_or_default()).await?;
                rendered(format, &tree_deployment::view(&deployment, &parts, pods.as_deref()))
            }
        },
        Listing::Me => rendered(format, &me::read(reader, now).await?),
    }
}

/// Shows it again whenever it has changed, until it is interrupted. A read that fails later is reported, and tried again.
pub async fn follow(listing: &Listing, reader: &Reader, format: Format) -> anyhow::Result<()> {
    let redraws = std::io::stdout().is_terminal() && matches!(format, Format::Text | Format::Wide);
    let mut shown = render(listing, reader, format, Utc::now()).await?;
    draw(&shown, redraws)?;
    loop {
        tokio::time::sleep(INTERVAL).await;
        match render(listing, reader, format, Utc::now()).await {
            Ok(text) if text == shown => {}
            Ok(text) => {
                draw(&text, redraws)?;
                shown = text;
            }
            Err(error) => eprintln!("{} (it is read again in {} s)", readable(error), INTERVAL.as_secs()),
        }
    }
}

/// Prints, in place of what the terminal shows if `redraws`.
fn draw(text: &str, redraws: bool) -> anyhow::Result<()> {
    // Move to the top left and clear the screen.
    show(&if redraws { format!("\x1b[H\x1b[J{text}") } else { text.to_owned() })
}
