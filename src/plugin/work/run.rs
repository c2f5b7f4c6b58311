//! `run`: creates a session, and waits for it or works in it if asked to.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{anyhow, bail};
use kube::api::{DeleteParams, PostParams};
use kube::{Api, ResourceExt};

use super::exec;
use super::manifest::RunArgs;
use crate::api::{Session, SessionType};
use crate::plugin::control::wait::{self, Progress, Until};
use crate::plugin::done::Done;
use crate::plugin::fetch::Reader;
use crate::plugin::me::rights;
use crate::plugin::target::Kind;
use crate::plugin::{Format, readable, show};

pub async fn run(arguments: RunArgs, reader: &Reader, format: Format) -> anyhow::Result<()> {
    arguments.check().map_err(|error| anyhow!(error))?;
    exec::check_terminal(arguments.stdin, arguments.tty)?;
    let session = session(&arguments, reader).await?;
    if arguments.dry_run {
        return manifest(&session, format);
    }
    let created = reader.namespaced::<Session>().create(&PostParams::default(), &session).await?;
    let name = created.name_any();
    let done = Done { kind: Kind::Session, name: name.clone(), result: "created".into() };
    match arguments.stdin {
        true => eprint!("{done}"), // the output is the program's
        false => done.print(format)?,
    }
    if !(arguments.wait || arguments.stdin) {
        return Ok(());
    }
    let code = interruptible(work(&arguments, reader, &name)).await;
    if arguments.rm {
        delete(reader, &created).await?;
    }
    std::process::exit(code?)
}

/// Waits for the session, and runs what the user wants to run in it. Returns the exit code.
async fn work(arguments: &RunArgs, reader: &Reader, name: &str) -> anyhow::Result<i32> {
    let until = match (arguments.stdin, arguments.type_()) {
        (false, SessionType::Batch) => Until::Succeeded,
        (_, _) => Until::Running,
    };
    match wait::run(reader, name, until, Duration::ZERO, Progress::Stderr).await? {
        0 if arguments.stdin => exec::inside(reader, name, arguments.tty, arguments.command_inside()).await,
        code => Ok(code),
    }
}

/// An interrupt ends the wait, and not the program: the session may have to be deleted.
async fn interruptible(work: impl Future<Output = anyhow::Result<i32>>) -> anyhow::Result<i32> {
    const INTERRUPTED: i32 = 130;
    tokio::select! {
        code = work => code,
        _ = tokio::signal::ctrl_c() => Ok(INTERRUPTED),
    }
}

async fn session(arguments: &RunArgs, reader: &Reader) -> anyhow::Result<Session> {
    let rights = match arguments.access_key.is_none() || arguments.scaling_group.is_none() {
        true => rights::of_user(reader).await?,
        false => rights::Rights::default(),
    };
    let key = match &arguments.access_key {
        Some(key) => key.clone(),
        None => rights.only_keypair().map_err(|error| anyhow!(error))?,
    };
    let group = arguments.scaling_group.clone().or_else(|| rights.only_group());
    let name = arguments.name.clone().unwrap_or_else(|| arguments.new_name(&salt()));
    let mut session = arguments.session(&name, &key, group.as_deref()).map_err(|error| anyhow!(error))?;
    session.metadata.namespace = Some(reader.namespace.clone());
    Ok(session)
}

/// Differs from one call to the next.
fn salt() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{}/{}", now.as_nanos(), std::process::id())
}

/// Prints a session as `kubectl apply` takes it.
fn manifest(session: &Session, format: Format) -> anyhow::Result<()> {
    match format {
        Format::Json => show(&format!("{}\n", serde_json::to_string_pretty(session)?)),
        Format::Text | Format::Wide | Format::Yaml => show(&serde_yaml::to_string(session)?),
        Format::Name => show(&format!("{}\n", Kind::Session.full_name(&session.name_any()))),
    }
}

async fn delete(reader: &Reader, session: &Session) -> anyhow::Result<()> {
    let api: Api<Session> = reader.namespaced();
    let same = kube::api::Preconditions { uid: session.uid(), resource_version: None };
    let params = DeleteParams { preconditions: Some(same), ..DeleteParams::default() };
    match api.delete(&session.name_any(), &params).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => bail!("session {} was not deleted: {}", session.name_any(), readable(error.into())),
        Ok(_) => Ok(()),
    }
}
