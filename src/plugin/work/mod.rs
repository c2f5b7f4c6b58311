//! The commands to work in a session: start one, read its output, open a shell or a port in it, and copy files.

mod connect;
mod copy;
mod exec;
mod logs;
mod manifest;
mod place;
mod pods;
mod run;
mod stream;
mod terminal;

use clap::Subcommand;

use super::Format;
use super::fetch::Reader;
use super::target::{Target, session};
use crate::api::MAIN_HOSTNAME;
use place::Place;

#[derive(Subcommand)]
pub enum Command {
    /// Creates a session. With a command it is of type Batch, else Interactive.
    Run(Box<manifest::RunArgs>),
    /// Prints the output of a session's kernels, including ended ones.
    Logs(logs::LogsArgs),
    /// Runs a command in a kernel of a session, and exits with its exit code.
    Exec {
        /// The name of a session.
        #[arg(value_parser = session)]
        session: String,
        #[command(flatten)]
        how: exec::ExecArgs,
        /// The command and its arguments.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Opens a shell in a kernel of a session.
    Shell {
        /// The name of a session.
        #[arg(value_parser = session)]
        session: String,
        /// The kernel, for example sub2.
        #[arg(short, long, default_value = MAIN_HOSTNAME)]
        kernel: String,
    },
    /// Forwards a port of this machine to a session, or to a healthy replica of a deployment, until it is interrupted.
    Connect {
        /// The name of a session or a deployment.
        #[arg(value_name = "[KIND/]NAME")]
        object: Target,
        #[command(flatten)]
        how: connect::ConnectArgs,
    },
    /// Copies a file or a directory to or from a kernel, which needs tar in its image. One side is SESSION[/KERNEL]:PATH.
    Cp { from: Place, to: Place },
}

/// Runs one command.
pub async fn run(command: Command, reader: &Reader, format: Format) -> anyhow::Result<()> {
    match command {
        Command::Run(arguments) => run::run(*arguments, reader, format).await,
        Command::Logs(arguments) => logs::run(&arguments, reader).await,
        Command::Exec { session, how, command } => exec::run(reader, &session, &how, &command).await,
        Command::Shell { session, kernel } => exec::shell(reader, &session, &kernel).await,
        Command::Connect { object, how } => connect::run(reader, &object, &how).await,
        Command::Cp { from, to } => copy::run(reader, &from, &to).await,
    }
}
