//! `logs`: the output of a session's kernels. Pods stay as long as their session, and so do their logs.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{anyhow, bail};
use clap::Args;
use futures::{AsyncBufRead, AsyncBufReadExt, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::api::LogParams;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::pods::{attempt, hostname, of_attempt};
use crate::api::{CONTAINER_MAIN, LABEL_SESSION_UID, Session};
use crate::plugin::fetch::Reader;
use crate::plugin::rollout::duration;
use crate::plugin::style::Style;
use crate::plugin::target::{arguments, session};
use crate::plugin::watch::{changes, is_forbidden};
use crate::plugin::{readable, show};
use crate::views::extract::has_ended;

#[derive(Args)]
pub struct LogsArgs {
    /// The name of a session.
    #[arg(value_parser = session)]
    session: String,
    /// Only this kernel, for example sub2.
    #[arg(short, long)]
    kernel: Option<String>,
    /// Follow the output until the session ends, including kernels that start later.
    #[arg(short, long)]
    follow: bool,
    /// The number of lines of each kernel, from the end; all if absent.
    #[arg(long)]
    tail: Option<u32>,
    /// Only lines newer than this, for example 10m.
    #[arg(long, value_parser = duration)]
    since: Option<Duration>,
    /// Print the time of each line.
    #[arg(long)]
    timestamps: bool,
    /// The attempt whose pods to read, as `kubectl sokovan tree` counts them; the last if absent.
    #[arg(long, conflicts_with = "follow")]
    attempt: Option<i64>,
}

/// The lines that wait to be printed. A slow terminal slows the streams down.
const QUEUE: usize = 1024;
/// The pause before a stream that broke is opened again.
const RETRY: Duration = Duration::from_secs(1);

/// A line of a kernel.
struct Line {
    kernel: String,
    text: String,
}

pub async fn run(arguments: &LogsArgs, reader: &Reader) -> anyhow::Result<()> {
    let session = reader.session(&arguments.session).await?;
    if arguments.follow { follow(arguments, reader, &session).await } else { once(arguments, reader, &session).await }
}

/// Prints the lines that there are, one kernel after another.
async fn once(arguments: &LogsArgs, reader: &Reader, session: &Session) -> anyhow::Result<()> {
    let all = reader.pods(session).await?.ok_or_else(|| anyhow!("you may not list pods in this namespace"))?;
    let mut attempts: Vec<i64> = all.iter().map(attempt).collect();
    attempts.sort_unstable();
    attempts.dedup();
    let mut pods = of_attempt(all, arguments.attempt);
    if pods.is_empty() {
        bail!("{}", nothing_to_read(session, arguments.attempt, &attempts));
    }
    let printer = Printer::new(pods.len() > 1 && arguments.kernel.is_none());
    pods.retain(|pod| arguments.kernel.as_deref().is_none_or(|kernel| kernel == hostname(pod)));
    if pods.is_empty() {
        bail!("session {} has no kernel {}", session.name_any(), arguments.kernel.as_deref().unwrap_or_default());
    }
    let api: Api<Pod> = reader.namespaced();
    for pod in pods {
        let mut stream = api.log_stream(&pod.name_any(), &params(arguments)).await?;
        while let Some(text) = next_line(&mut stream).await? {
            printer.print(&Line { kernel: hostname(&pod).to_owned(), text })?;
        }
    }
    Ok(())
}

fn nothing_to_read(session: &Session, wanted: Option<i64>, attempts: &[i64]) -> String {
    let name = arguments(session);
    match (wanted, attempts) {
        (Some(wanted), [_, ..]) => {
            let known = attempts.iter().map(i64::to_string).collect::<Vec<_>>().join(", ");
            format!("attempt {wanted} has no pods any more; available attempts: {known}")
        }
        (_, _) => {
            format!("session {} is {} and has no pods. Why: kubectl sokovan explain {name}", session.name_any(), session.phase())
        }
    }
}

fn params(arguments: &LogsArgs) -> LogParams {
    LogParams {
        container: Some(CONTAINER_MAIN.into()),
        tail_lines: arguments.tail.map(i64::from),
        since_seconds: arguments.since.map(|since| i64::try_from(since.as_secs().max(1)).unwrap_or(i64::MAX)),
        timestamps: arguments.timestamps,
        ..LogParams::default()
    }
}

/// Prints the lines of all kernels as they come, until the session has ended and all is read.
async fn follow(arguments: &LogsArgs, reader: &Reader, session_read: &Session) -> anyhow::Result<()> {
    let (api, uid): (Api<Pod>, _) = (reader.namespaced(), session_read.uid().unwrap_or_default());
    let config = watcher::Config::default().labels(&format!("{LABEL_SESSION_UID}={uid}"));
    let mut pods = std::pin::pin!(watcher(api.clone(), config).default_backoff().applied_objects());
    let mut states = std::pin::pin!(changes(reader.namespaced::<Session>(), &arguments.session));
    let (sender, mut lines) = mpsc::channel(QUEUE);
    let (mut streams, mut known) = (JoinSet::new(), HashSet::new());
    let kernels: i32 = session_read.spec.kernels.iter().map(|kernel| kernel.replicas).sum();
    let printer = Printer::new(kernels > 1 && arguments.kernel.is_none());
    let wanted = |pod: &Pod| arguments.kernel.as_deref().is_none_or(|kernel| kernel == hostname(pod)) && has_started(pod);
    let read = |pod: Pod| read(api.clone(), pod, params(arguments), arguments.timestamps, sender.clone());
    let mut over = false;
    loop {
        tokio::select! {
            Some(line) = lines.recv() => printer.print(&line)?,
            Some(pod) = pods.next(), if !over => match pod {
                Ok(pod) if wanted(&pod) && known.insert(pod.uid()) => _ = streams.spawn(read(pod)),
                Ok(_) => {}
                Err(error) if is_forbidden(&error) => return Err(error.into()),
                Err(error) => eprintln!("the watch failed and is restarted: {error}"),
            },
            state = states.try_next(), if !over => {
                let session = state?.flatten();
                over = session.is_none_or(|session| session.uid().as_deref() != Some(&uid) || session.phase().is_terminal());
                if over {
                    // The watch of the pods may not have reported all of them.
                    let left = reader.pods(session_read).await?.unwrap_or_default();
                    for pod in of_attempt(left, None).into_iter().filter(|pod| wanted(pod)) {
                        if known.insert(pod.uid()) {
                            streams.spawn(read(pod));
                        }
                    }
                }
            }
            Some(_) = streams.join_next() => {}
            else => return Ok(()),
        }
        if over && streams.is_empty() && lines.is_empty() {
            return Ok(());
        }
    }
}

fn has_started(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Running" | "Succeeded" | "Failed"))
}

/// Reads a pod's lines until it has ended or is gone. A stream that breaks continues after the last line that was read.
async fn read(api: Api<Pod>, pod: Pod, mut params: LogParams, timestamps: bool, lines: mpsc::Sender<Line>) {
    let (name, kernel) = (pod.name_any(), hostname(&pod).to_owned());
    (params.follow, params.timestamps) = (true, true);
    let mut last: Option<Timestamp> = None;
    loop {
        let resumed = last;
        let mut is_complete = false;
        match api.log_stream(&name, &params).await {
            Ok(mut stream) => {
                is_complete = loop {
                    let line = match next_line(&mut stream).await {
                        Ok(Some(line)) => line,
                        end => break end.is_ok(),
                    };
                    let (time, text) = timed(&line);
                    if time.is_some() && time <= resumed {
                        continue; // read before the stream broke
                    }
                    last = time.max(last);
                    let text = if timestamps { line.as_str() } else { text };
                    if lines.send(Line { kernel: kernel.clone(), text: text.to_owned() }).await.is_err() {
                        return;
                    }
                };
            }
            Err(kube::Error::Api(status)) if status.code == 403 => {
                return eprintln!("the log of {kernel} cannot be read: {}", status.message);
            }
            Err(error) => eprintln!("reading the log of {kernel} failed, retrying: {}", readable(error.into())),
        }
        match api.get_opt(&name).await {
            Ok(Some(now)) if now.uid() == pod.uid() && !(has_ended(&now) && is_complete) => {}
            Ok(_) => return,
            Err(error) => eprintln!("reading the log of {kernel} failed, retrying: {}", readable(error.into())),
        }
        if let Some(last) = last {
            // The API server takes whole seconds, and the client would round up.
            let whole = Timestamp::from_second(last.as_second()).unwrap_or(last);
            (params.since_time, params.since_seconds, params.tail_lines) = (Some(whole), None, None);
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Reads a line, of whatever bytes.
async fn next_line(stream: &mut (impl AsyncBufRead + Unpin)) -> std::io::Result<Option<String>> {
    let mut bytes = vec![];
    stream.read_until(b'\n', &mut bytes).await?;
    let ended = bytes.is_empty();
    let text = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    Ok((!ended).then(|| String::from_utf8_lossy(text).into_owned()))
}

/// Splits a line at the time that the kubelet wrote before it.
fn timed(line: &str) -> (Option<Timestamp>, &str) {
    match line.split_once(' ').map(|(time, text)| (time.parse().ok(), text)) {
        Some((Some(time), text)) => (Some(time), text),
        Some((None, _)) => (None, line),
        None => (line.parse().ok(), if line.parse::<Timestamp>().is_ok() { "" } else { line }),
    }
}

/// Prints lines, with the name of their kernel if there are several.
struct Printer {
    prefixed: bool,
    style: Style,
}

impl Printer {
    fn new(prefixed: bool) -> Self {
        Self { prefixed, style: Style::of_output() }
    }

    /// The text is printed as it is: it is the program's own.
    fn print(&self, line: &Line) -> anyhow::Result<()> {
        match self.prefixed {
            true => show(&format!("{} {}\n", self.style.of_kernel(&line.kernel), line.text)),
            false => show(&format!("{}\n", line.text)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::SessionPhase;
    use crate::session::handlers::testing::session_in;

    #[test]
    fn a_line_is_split_from_the_kubelets_time() {
        let (time, text) = timed("2026-01-02T03:04:05.678901234Z hello  world");
        assert_eq!((time.map(|time| time.subsec_nanosecond()), text), (Some(678_901_234), "hello  world"));
        assert_eq!(timed("2026-01-02T03:04:05Z"), ("2026-01-02T03:04:05Z".parse().ok(), ""));
        assert_eq!(timed("no time"), (None, "no time"));
    }

    #[tokio::test]
    async fn a_line_may_have_any_bytes() {
        let mut stream = futures::io::Cursor::new(b"caf\xe9\n\nend".to_vec());
        let mut lines = vec![];
        while let Some(line) = next_line(&mut stream).await.expect("it can be read") {
            lines.push(line);
        }
        assert_eq!(lines, ["caf\u{fffd}", "", "end"]);
    }

    #[test]
    fn a_session_without_logs_says_why() {
        let waiting = nothing_to_read(&session_in(SessionPhase::Pending), None, &[]);
        assert!(waiting.contains("is Pending") && waiting.contains("kubectl sokovan explain s -n ns"), "{waiting}");
        let removed = nothing_to_read(&session_in(SessionPhase::Running), Some(1), &[2, 3]);
        assert_eq!(removed, "attempt 1 has no pods any more; available attempts: 2, 3");
    }
}
