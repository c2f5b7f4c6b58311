//! `watch`: the namespace's sessions, drawn anew as they change.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::Utc;
use futures::StreamExt;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};

use super::Format;
use super::fetch::Reader;
use super::table::{age, table};
use crate::api::Session;
use crate::session::snapshot::created_at;

/// How long changes are gathered before they are drawn.
const FRAME: Duration = Duration::from_millis(200);

/// Draws until it is interrupted, or prints each session that changed as a line of JSON. A watch that breaks is begun anew.
pub async fn follow(reader: &Reader, format: Format) -> anyhow::Result<()> {
    let api: Api<Session> = reader.here();
    let mut events = std::pin::pin!(watcher(api, watcher::Config::default()).default_backoff());
    let mut sessions: BTreeMap<String, Session> = BTreeMap::new();
    let mut frame = tokio::time::interval(FRAME);
    let mut changed = true;
    loop {
        tokio::select! {
            event = events.next() => {
                match event {
                    None => return Ok(()),
                    Some(Err(error)) if is_refused(&error) => return Err(error.into()),
                    Some(Err(error)) => eprintln!("the watch broke, and is begun anew: {error}"),
                    Some(Ok(event)) => take(&mut sessions, event, format)?,
                }
                changed = true;
            }
            _ = frame.tick(), if changed && format == Format::Text => {
                // Home, and clear what is below.
                super::show(&format!("\x1b[H\x1b[J{}", draw(sessions.values())))?;
                changed = false;
            }
        }
    }
}

fn take(sessions: &mut BTreeMap<String, Session>, event: watcher::Event<Session>, format: Format) -> anyhow::Result<()> {
    match event {
        watcher::Event::Init => sessions.clear(),
        watcher::Event::InitApply(session) | watcher::Event::Apply(session) => {
            if format == Format::Json {
                super::show(&format!("{}\n", serde_json::to_string(&session)?))?;
            }
            sessions.insert(session.name_any(), session);
        }
        watcher::Event::Delete(session) => _ = sessions.remove(&session.name_any()),
        watcher::Event::InitDone => {}
    }
    Ok(())
}

/// What will not get better by trying again.
fn is_refused(error: &watcher::Error) -> bool {
    use watcher::Error::{InitialListFailed, WatchStartFailed};
    matches!(error, InitialListFailed(kube::Error::Api(status)) | WatchStartFailed(kube::Error::Api(status)) if status.code == 403)
}

fn draw<'s>(sessions: impl Iterator<Item = &'s Session>) -> String {
    let now = Utc::now();
    let row = |session: &Session| {
        let status = session.status.clone().unwrap_or_default();
        let told = [status.kernels_ready, status.nodes, status.reason, status.message].map(Option::unwrap_or_default);
        let [ready, nodes, reason, message] = told;
        let phase = status.phase.to_string();
        vec![session.name_any(), phase, ready, age(created_at(session), now), nodes, reason, message]
    };
    let rows: Vec<_> = sessions.map(row).collect();
    table(&["NAME", "PHASE", "READY", "AGE", "NODE", "REASON", "MESSAGE"], &rows)
}
