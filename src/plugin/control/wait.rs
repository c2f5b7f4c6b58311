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
    match (until, session.phase()) {
        (Until::Running, SessionPhase::Running) => Verdict::Reached,
        (Until::Running, phase) if phase.is_ending() => Verdict::Otherwise,
        (Until::Ended, phase) if phase.is_terminal() && ended_well => Verdict::Reached,
        (Until::Ended, phase) if phase.is_terminal() => Verdict::Otherwise,
        (Until::Running | Until::Ended, _) => Verdict::Waits,
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
pub async fn run(reader: &Reader, name: &str, until: Until, timeout: Duration) -> anyhow::Result<i32> {
    let waiting = follow(reader, name, until);
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

async fn follow(reader: &Reader, name: &str, until: Until) -> anyhow::Result<i32> {
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
            crate::plugin::show(&line(&session))?;
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
    }

    #[test]
    fn who_waits_for_a_session_to_run_learns_that_it_has_ended_before() {
        assert_eq!(verdict(&session_in(SessionPhase::Running), Until::Running), Verdict::Reached);
        assert_eq!(verdict(&session_in(SessionPhase::Pulling), Until::Running), Verdict::Waits);
        assert_eq!(verdict(&ended(SessionResult::Success), Until::Running), Verdict::Otherwise);
        assert_eq!(verdict(&session_in(SessionPhase::Terminating), Until::Running), Verdict::Otherwise);
    }
}
