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
mod listing;
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
use std::io::{IsTerminal, Write};

use chrono::Utc;
use clap::{Args, Parser, Subcommand, ValueEnum};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde::Serialize;

use fetch::Reader;

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
    #[command(flatten)]
    Listing(listing::Listing),
    /// Shows or changes the rollout of a deployment.
    #[command(subcommand)]
    Rollout(rollout::Command),
    /// Shows the namespace's sessions, redrawn as they change.
    Watch {
        /// The sessions of all namespaces.
        #[arg(short = 'A', long)]
        all_namespaces: bool,
    },
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
    /// Show the listing again as it changes.
    #[arg(short, long, global = true)]
    watch: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    /// Text with more columns, and lines that are not cut to the width of the terminal.
    Wide,
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
    run_with(command, &reader, options.output, options.watch).await.map_err(readable)
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

async fn run_with(command: Command, reader: &Reader, format: Format, watch: bool) -> anyhow::Result<()> {
    let now = Utc::now();
    if watch && !matches!(command, Command::Listing(_) | Command::Watch { .. }) {
        anyhow::bail!("--watch is for queue, explain, history, top, tree and me");
    }
    match command {
        Command::Listing(listing) if watch => listing::follow(&listing, reader, format).await,
        Command::Listing(listing) => show(&listing::render(&listing, reader, format, now).await?),
        Command::Rollout(command) => rollout::run(command, reader, format, now).await,
        Command::Watch { all_namespaces } => watch::follow(reader, all_namespaces, format).await,
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
    show(&rendered(format, view)?)
}

fn rendered<V: Serialize + Display>(format: Format, view: &V) -> anyhow::Result<String> {
    let text = match (format, format.width()) {
        (Format::Text, Some(width)) => format!("{view:width$}"),
        (Format::Text | Format::Name, _) => view.to_string(),
        (Format::Wide, _) => format!("{view:#}"),
        (Format::Yaml, _) => return Ok(serde_yaml::to_string(view)?),
        (Format::Json, _) => return Ok(format!("{}\n", serde_json::to_string_pretty(view)?)),
    };
    Ok(format!("{}\n", text.trim_end()))
}

impl Format {
    /// Returns the width that lines are cut to: the terminal's.
    fn width(self) -> Option<usize> {
        let shown = self == Self::Text && std::io::stdout().is_terminal();
        let (columns, _) = shown.then(crossterm::terminal::size)?.ok()?;
        Some(usize::from(columns)).filter(|columns| *columns > 0)
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
