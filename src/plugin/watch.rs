//! `watch`: the namespace's sessions, redrawn as they change.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

use chrono::Utc;
use futures::{Stream, StreamExt};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::Format;
use super::fetch::Reader;
use super::table::{age, table_within};
use super::target::Kind;
use crate::api::Session;
use crate::lifecycle::created_at;

/// Changes within this time are drawn together.
const FRAME: Duration = Duration::from_millis(200);

/// Draws the sessions until it is interrupted. As JSON, it prints each change on a line with its type and the session, like
/// `kubectl get --output-watch-events`. A failed watch is restarted.
pub async fn follow(reader: &Reader, all_namespaces: bool, format: Format) -> anyhow::Result<()> {
    let api: Api<Session> = if all_namespaces { reader.all() } else { reader.namespaced() };
    let mut events = std::pin::pin!(watcher(api, watcher::Config::default()).default_backoff());
    let mut sessions = Sessions::default();
    let mut frame = tokio::time::interval(FRAME);
    let (draws, mut changed) = (matches!(format, Format::Text | Format::Wide), true);
    loop {
        tokio::select! {
            event = events.next() => {
                match event {
                    None => return Ok(()),
                    Some(Err(error)) if is_forbidden(&error) => return Err(error.into()),
                    Some(Err(error)) => eprintln!("the watch failed and is restarted: {error}"),
                    Some(Ok(event)) => {
                        for (change, session) in sessions.apply(event) {
                            report(format, change, &session)?;
                        }
                    }
                }
                changed = true;
            }
            _ = frame.tick(), if changed && draws => {
                // Move to the top left and clear the screen.
                super::show(&format!("\x1b[H\x1b[J{}", draw(sessions.known.values(), all_namespaces, format)))?;
                changed = false;
            }
        }
    }
}

/// Prints a change, unless the sessions are drawn.
fn report(format: Format, change: Change, session: &Session) -> anyhow::Result<()> {
    let event = json!({"type": change, "object": session});
    match format {
        Format::Text | Format::Wide => Ok(()),
        Format::Json => super::show(&format!("{event}\n")),
        Format::Yaml => super::show(&format!("---\n{}", serde_yaml::to_string(&event)?)),
        Format::Name => super::show(&format!("{}\n", Kind::Session.full_name(&session.name_any()))),
    }
}

/// The type of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
enum Change {
    Added,
    Modified,
    Deleted,
}

/// The sessions of the namespace, as the watch reports them.
#[derive(Default)]
struct Sessions {
    known: BTreeMap<(String, String), Session>,
    /// During a new list, the sessions that have not appeared in it yet.
    unlisted: BTreeMap<(String, String), Session>,
}

impl Sessions {
    /// Applies an event and returns its changes.
    fn apply(&mut self, event: watcher::Event<Session>) -> Vec<(Change, Session)> {
        match event {
            watcher::Event::Init => {
                self.unlisted.append(&mut self.known);
                vec![]
            }
            watcher::Event::InitApply(session) | watcher::Event::Apply(session) => {
                let name = key(&session);
                let listed = self.unlisted.remove(&name);
                let before = self.known.insert(name, session.clone()).or(listed);
                match before {
                    None => vec![(Change::Added, session)],
                    Some(before) if before.metadata.uid != session.metadata.uid => {
                        vec![(Change::Deleted, before), (Change::Added, session)]
                    }
                    Some(before) if before.metadata.resource_version == session.metadata.resource_version => vec![],
                    Some(_) => vec![(Change::Modified, session)],
                }
            }
            watcher::Event::Delete(session) => {
                self.known.remove(&key(&session));
                vec![(Change::Deleted, session)]
            }
            watcher::Event::InitDone => {
                std::mem::take(&mut self.unlisted).into_values().map(|session| (Change::Deleted, session)).collect()
            }
        }
    }
}

/// Returns an object as it changes, and None when it is deleted. A failed watch is restarted, unless a permission is missing.
pub fn changes<K>(api: Api<K>, name: &str) -> impl Stream<Item = anyhow::Result<Option<K>>> + use<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    watcher::watch_object(api, name).default_backoff().filter_map(|change| async {
        match change {
            Ok(object) => Some(Ok(object)),
            Err(error) if is_forbidden(&error) => Some(Err(error.into())),
            Err(error) => {
                eprintln!("the watch failed and is restarted: {error}");
                None
            }
        }
    })
}

/// A missing permission is permanent: a retry would fail again.
pub fn is_forbidden(error: &watcher::Error) -> bool {
    use watcher::Error::{InitialListFailed, WatchStartFailed};
    matches!(error, InitialListFailed(kube::Error::Api(status)) | WatchStartFailed(kube::Error::Api(status)) if status.code == 403)
}

fn key(session: &Session) -> (String, String) {
    (session.namespace().unwrap_or_default(), session.name_any())
}

fn draw<'s>(sessions: impl Iterator<Item = &'s Session>, with_namespace: bool, format: Format) -> String {
    let (now, wide) = (Utc::now(), format == Format::Wide);
    let row = |session: &Session| {
        let status = session.status.clone().unwrap_or_default();
        let (phase, message) = (status.phase.to_string(), status.message.clone());
        let reason = status.reason.map(|reason| reason.to_string());
        let [ready, nodes, reason, message] =
            [status.kernels_ready, status.nodes, reason, message].map(Option::unwrap_or_default);
        let namespace = with_namespace.then(|| session.namespace().unwrap_or_default());
        let group = session.group().map(ToString::to_string).unwrap_or_default();
        let more =
            [group, format!("{:?}", session.spec.type_), session.priority().to_string(), session.spec.access_key.to_string()];
        let own = [session.name_any(), phase, ready, age(created_at(session), now), nodes];
        let more = more.into_iter().filter(|_| wide);
        namespace.into_iter().chain(own).chain(more).chain([reason, message]).collect()
    };
    let rows: Vec<_> = sessions.map(row).collect();
    let more = ["GROUP", "TYPE", "PRIORITY", "KEYPAIR"].into_iter().filter(|_| wide);
    let namespace = ["NAMESPACE"].into_iter().filter(|_| with_namespace);
    let heading = namespace.chain(["NAME", "PHASE", "READY", "AGE", "NODE"]).chain(more).chain(["REASON", "MESSAGE"]);
    table_within(&heading.collect::<Vec<_>>(), &rows, format.width())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::handlers::testing::session;

    #[test]
    fn each_change_is_printed_once_and_sessions_missing_from_a_new_list_are_deleted() {
        let version = |name: &str, version: &str| {
            let mut session = session(json!({}));
            session.metadata.name = Some(name.into());
            session.metadata.resource_version = Some(version.into());
            session
        };
        let mut sessions = Sessions::default();
        let mut changes = |event| sessions.apply(event).into_iter().map(|(change, s)| (change, s.name_any())).collect::<Vec<_>>();
        use watcher::Event::{Apply, Delete, Init, InitApply, InitDone};
        assert_eq!(changes(Init), []);
        assert_eq!(changes(InitApply(version("a", "1"))), [(Change::Added, "a".into())]);
        assert_eq!(changes(InitDone), []);
        assert_eq!(changes(Apply(version("b", "2"))), [(Change::Added, "b".into())]);
        assert_eq!(changes(Apply(version("a", "3"))), [(Change::Modified, "a".into())]);
        assert_eq!(changes(Apply(version("c", "4"))), [(Change::Added, "c".into())]);
        assert_eq!(changes(Delete(version("c", "5"))), [(Change::Deleted, "c".into())]);
        for _ in 0..2 {
            assert_eq!(changes(Init), [], "an interrupted list starts again");
            assert_eq!(changes(InitApply(version("a", "3"))), []);
        }
        assert_eq!(changes(InitDone), [(Change::Deleted, "b".into())]);
        let mut another = version("a", "9");
        another.metadata.uid = Some("another".into());
        assert_eq!(changes(Apply(another)), [(Change::Deleted, "a".into()), (Change::Added, "a".into())]);
    }
}
