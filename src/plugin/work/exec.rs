//! `exec` and `shell`: a program in a kernel, with the user's input and output.

use anyhow::{anyhow, bail};
use clap::Args;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::ResourceExt;
use kube::api::AttachParams;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::{pods, stream, terminal};
use crate::api::{CONTAINER_MAIN, MAIN_HOSTNAME};
use crate::plugin::fetch::Reader;

#[derive(Args)]
pub struct ExecArgs {
    /// The kernel, for example sub2.
    #[arg(short, long, default_value = MAIN_HOSTNAME)]
    kernel: String,
    /// Pass standard input to the program.
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Give the program a terminal.
    #[arg(short, long)]
    tty: bool,
}

/// The best shell of an image.
const SHELL: [&str; 3] = ["/bin/sh", "-c", "command -v bash >/dev/null && exec bash; exec sh"];
/// The size in bytes of the buffers between this program and the API server.
pub const BUFFER: usize = 64 * 1024;

/// Opens a shell, with a terminal if the user has one.
pub async fn shell(reader: &Reader, session: &str, kernel: &str) -> anyhow::Result<()> {
    let how = ExecArgs { kernel: kernel.into(), stdin: true, tty: terminal::is_interactive() };
    run(reader, session, &how, &SHELL.map(str::to_owned)).await
}

/// Runs a command, or a shell, in the main kernel, and returns its exit code.
pub async fn inside(reader: &Reader, session: &str, tty: bool, command: Option<&[String]>) -> anyhow::Result<i32> {
    let shell = SHELL.map(str::to_owned);
    let how = ExecArgs { kernel: MAIN_HOSTNAME.into(), stdin: true, tty };
    code_of(reader, session, &how, command.unwrap_or(&shell)).await
}

/// Runs a command in a kernel, and ends this program with its exit code.
pub async fn run(reader: &Reader, session: &str, how: &ExecArgs, command: &[String]) -> anyhow::Result<()> {
    let code = code_of(reader, session, how, command).await?;
    std::process::exit(code)
}

async fn code_of(reader: &Reader, session: &str, how: &ExecArgs, command: &[String]) -> anyhow::Result<i32> {
    check_terminal(how.stdin, how.tty)?;
    let pod = pods::running(reader, session, &how.kernel).await?;
    attached(reader, &pod, how, command).await
}

/// Refuses a terminal where the user has none.
pub fn check_terminal(stdin: bool, tty: bool) -> anyhow::Result<()> {
    if tty && !(stdin && terminal::is_interactive()) {
        bail!("-t needs -i, and a terminal");
    }
    Ok(())
}

/// Runs a command with the user's input and output, and returns its exit code.
async fn attached(reader: &Reader, pod: &Pod, how: &ExecArgs, command: &[String]) -> anyhow::Result<i32> {
    let params = AttachParams { stderr: !how.tty, tty: how.tty, stdin: how.stdin, ..params() };
    let mut process = reader.namespaced::<Pod>().exec(&pod.name_any(), command, &params).await?;
    let raw = if how.tty { Some(terminal::Raw::begin()?) } else { None };
    if let Some(sizes) = process.terminal_size().filter(|_| how.tty) {
        tokio::spawn(terminal::follow_size(sizes));
    }
    if let Some(mut stdin) = process.stdin() {
        // It is not waited for: a read of the terminal ends only with the next key.
        tokio::spawn(async move {
            let _ = tokio::io::copy(&mut tokio::io::stdin(), &mut stdin).await;
            let _ = stdin.shutdown().await;
        });
    }
    let (stdout, stderr, status) = (process.stdout(), process.stderr(), process.take_status());
    let output = async { futures::try_join!(pass(stdout, tokio::io::stdout()), pass(stderr, tokio::io::stderr())) };
    let (status, output) = stream::until_ended(status, output).await;
    drop(raw);
    match output {
        // A closed pipe, as in `exec … | head`, is no error.
        Some(Err(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(0),
        Some(Err(error)) => Err(error.into()),
        Some(Ok(_)) | None => exit_code(status.as_ref()),
    }
}

/// Copies the output of a program without delay.
async fn pass(from: Option<impl AsyncRead + Unpin>, mut to: impl AsyncWrite + Unpin) -> std::io::Result<()> {
    use tokio::io::AsyncReadExt;
    let Some(mut from) = from else { return Ok(()) };
    let mut buffer = vec![0; BUFFER];
    loop {
        match from.read(&mut buffer).await? {
            0 => return Ok(()),
            n => {
                to.write_all(&buffer[..n]).await?;
                to.flush().await?;
            }
        }
    }
}

/// The parameters of every program that is started in a kernel.
pub fn params() -> AttachParams {
    AttachParams {
        container: Some(CONTAINER_MAIN.into()),
        max_stdin_buf_size: Some(BUFFER),
        max_stdout_buf_size: Some(BUFFER),
        max_stderr_buf_size: Some(BUFFER),
        ..AttachParams::default()
    }
}

/// Returns the exit code that the kubelet reports. Without one, the program could not be started, or its end is not known.
pub fn exit_code(status: Option<&Status>) -> anyhow::Result<i32> {
    let status = status.ok_or_else(|| anyhow!("the connection ended before the program did"))?;
    if status.status.as_deref() == Some("Success") {
        return Ok(0);
    }
    let causes = status.details.iter().flat_map(|details| details.causes.iter().flatten());
    let code =
        causes.filter(|cause| cause.reason.as_deref() == Some("ExitCode")).find_map(|cause| cause.message.as_ref()?.parse().ok());
    code.ok_or_else(|| anyhow!("{}", status.message.clone().unwrap_or_else(|| "the program could not be run".into())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_exit_code_is_the_programs_own() {
        let status = |value| serde_json::from_value::<Status>(value).expect("a status");
        assert_eq!(exit_code(Some(&status(json!({"status": "Success"})))).ok(), Some(0));
        let failed = json!({"status": "Failure", "message": "command terminated with exit code 3",
            "details": {"causes": [{"reason": "ExitCode", "message": "3"}]}});
        assert_eq!(exit_code(Some(&status(failed))).ok(), Some(3));
        let missing = json!({"status": "Failure", "message": "exec: \"bash\": not found"});
        assert!(exit_code(Some(&status(missing))).is_err_and(|error| error.to_string().contains("not found")));
        assert!(exit_code(None).is_err());
    }
}
