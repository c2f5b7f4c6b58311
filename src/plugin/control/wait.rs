//! `wait`: until a session runs or has ended, with an exit code for scripts.

use std::time::Duration;

use anyhow::bail;
use clap::ValueEnum;
use futures::TryStreamExt;
use kube::{Api, ResourceExt};

use crate::api::{Session, SessionPhase, SessionResult};
use crate::lifecycle::printable;
use crate::plugin::fetch::Reader;
use crate::plugin::watch::changes;

/// The state to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Until {
    Running,
    Ended,
    /// Ended with Success.
    #[value(skip)]
    Succeeded,
}

/// Where the phases are printed that a session passes.
#[derive(Clone, Copy, Debug)]
pub enum Progress {
    Stdout,
    Stderr,
}

/// The exit code when the time is over, as `timeout` has it.
const TIMED_OUT: i32 = 124;
/// The exit code of a session that did not do what was waited for.
const OTHERWISE: i32 = 1;
const REACHED: i32 = 0;

/// The meaning of a session's state for somebody who waits.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Waits,
    Reached,
    /// It cannot be reached any more, or the session ended with Failure or Error.
    Otherwise,
}

fn verdict(session: &Session, until: Until) -> Verdict {
    let result = session.status.as_ref().and_then(|status| status.result);
    let ended_well = !matches!(result, Some(SessionResult::Failure | SessionResult::Error));
    // A session that is being ended without a result may start again after a disruption.
    let is_lost = |phase: SessionPhase| phase.is_terminal() || (phase.is_ending() && result.is_some());
    match (until, session.phase()) {
        (Until::Running, SessionPhase::Running) => Verdict::Reached,
        (Until::Running, phase) if is_lost(phase) => Verdict::Otherwise,
        (Until::Ended, phase) if phase.is_terminal() && ended_well => Verdict::Reached,
        (Until::Succeeded, phase) if phase.is_terminal() && result == Some(SessionResult::Success) => Verdict::Reached,
        (Until::Ended | Until::Succeeded, phase) if phase.is_terminal() => Verdict::Otherwise,
        (Until::Running | Until::Ended | Until::Succeeded, _) => Verdict::Waits,
    }
}

/// Returns a line about a session's state: `session train is Terminated (Failure): main1 exited with 3`.
fn line(session: &Session) -> String {
    let status = session.status.clone().unwrap_or_default();
    let result = status.result.map(|result| format!(" ({result:?})")).unwrap_or_default();
    let message = status.message.as_ref().filter(|message| !message.is_empty()).map(|message| format!(": {message}"));
    format!("session {} is {}{result}{}\n", session.name_any(), status.phase, printable(&message.unwrap_or_default()))
}

/// Waits, prints each phase that the session passes, and returns the exit code. A timeout of 0 waits for as long as it takes.
pub async fn run(reader: &Reader, name: &str, until: Until, timeout: Duration, progress: Progress) -> anyhow::Result<i32> {
    let waiting = follow(reader, name, until, progress);
    if timeout.is_zero() {
        return waiting.await;
    }
    match tokio::time::timeout(timeout, waiting).await {
        Ok(ended) => ended,
        Err(_) => {
            eprintln!("timed out after {} s", timeout.as_secs());
            Ok(TIMED_OUT)
        }
    }
}

async fn follow(reader: &Reader, name: &str, until: Until, progress: Progress) -> anyhow::Result<i32> {
    let api: Api<Session> = reader.namespaced();
    // A session that does not exist is an error of its own.
    api.get_metadata(name).await?;
    let mut changes = std::pin::pin!(changes(api, name));
    let mut shown = None;
    while let Some(change) = changes.try_next().await? {
        let session = match change {
            Some(session) => session,
            None if until == Until::Ended => return Ok(REACHED),
            None => bail!("session {name} was deleted"),
        };
        if shown != Some(session.phase()) {
            match progress {
                Progress::Stdout => crate::plugin::show(&line(&session))?,
                Progress::Stderr => eprint!("{}", line(&session)),
            }
            shown = Some(session.phase());
        }
        match verdict(&session, until) {
            Verdict::Waits => {}
            Verdict::Reached => return Ok(REACHED),
            Verdict::Otherwise => return Ok(OTHERWISE),
        }
    }
    bail!("the watch of session {name} ended")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::handlers::testing::session_in;

    fn ended(result: SessionResult) -> Session {
        let mut session = session_in(SessionPhase::Terminated);
        session.status.get_or_insert_default().result = Some(result);
        session
    }

    #[test]
    fn a_script_learns_whether_a_session_ended_well() {
        assert_eq!(verdict(&ended(SessionResult::Success), Until::Ended), Verdict::Reached);
        assert_eq!(verdict(&ended(SessionResult::UserCancelled), Until::Ended), Verdict::Reached);
        for result in [SessionResult::Failure, SessionResult::Error] {
            assert_eq!(verdict(&ended(result), Until::Ended), Verdict::Otherwise);
        }
        assert_eq!(verdict(&session_in(SessionPhase::Terminating), Until::Ended), Verdict::Waits);
        assert_eq!(verdict(&ended(SessionResult::Success), Until::Succeeded), Verdict::Reached);
        assert_eq!(verdict(&ended(SessionResult::UserCancelled), Until::Succeeded), Verdict::Otherwise);
    }

    #[test]
    fn a_session_that_has_ended_will_never_run() {
        assert_eq!(verdict(&session_in(SessionPhase::Running), Until::Running), Verdict::Reached);
        assert_eq!(verdict(&session_in(SessionPhase::Pulling), Until::Running), Verdict::Waits);
        assert_eq!(verdict(&ended(SessionResult::Success), Until::Running), Verdict::Otherwise);
        let mut ending = session_in(SessionPhase::Terminating);
        assert_eq!(verdict(&ending, Until::Running), Verdict::Waits, "it may start again after a disruption");
        ending.status.get_or_insert_default().result = Some(SessionResult::UserCancelled);
        assert_eq!(verdict(&ending, Until::Running), Verdict::Otherwise);
    }
}
