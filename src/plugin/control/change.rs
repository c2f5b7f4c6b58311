//! The patches by which `stop`, `suspend`, `resume` and `prioritize` change a session, and the session that `clone` makes. Pure.

use kube::ResourceExt;
use serde_json::{Value, json};

use crate::api::{DesiredState, Session, SessionPhase, TerminationMode};
use crate::plugin::target::arguments;

/// Ends a session and keeps its record.
pub fn stop(session: &Session, force: bool) -> Result<Value, String> {
    let stops = session.spec.desired_state == DesiredState::Terminated || session.is_deleted();
    let forced = session.spec.termination.mode == TerminationMode::Forced;
    match session.phase() {
        phase if phase.is_terminal() => Err(format!("has ended already ({phase})")),
        _ if stops && (forced || !force) => Err("is being ended already".into()),
        _ if force => Ok(json!({"spec": {"desiredState": "Terminated", "termination": {"mode": "Forced"}}})),
        _ => Ok(json!({"spec": {"desiredState": "Terminated"}})),
    }
}

/// Keeps a session in the queue.
pub fn suspend(session: &Session) -> Result<Value, String> {
    let name = arguments(session);
    match session.phase() {
        _ if session.spec.suspend => Err("is suspended already".into()),
        SessionPhase::Pending | SessionPhase::Deprioritizing => Ok(json!({"spec": {"suspend": true}})),
        phase => Err(format!("does not wait any more ({phase}); end it with: kubectl sokovan stop {name}")),
    }
}

pub fn resume(session: &Session) -> Result<Value, String> {
    if session.spec.suspend { Ok(json!({"spec": {"suspend": false}})) } else { Err("is not suspended".into()) }
}

/// Changes the priority of a session that waits.
pub fn prioritize(session: &Session, priority: i32) -> Result<Value, String> {
    match session.phase() {
        _ if session.spec.priority == priority => Err(format!("has the priority {priority} already")),
        SessionPhase::Pending | SessionPhase::Deprioritizing => Ok(json!({"spec": {"priority": priority}})),
        phase => Err(format!("does not wait any more ({phase})")),
    }
}

/// Returns a new session with the spec of another. Its end, its suspension and its start time are not copied.
pub fn cloned(session: &Session, name: &str) -> Session {
    let mut spec = session.spec.clone();
    (spec.desired_state, spec.suspend, spec.starts_at) = (DesiredState::default(), false, None);
    if let Some(written) = spec.template.as_mut().and_then(|template| template.written.take()) {
        spec.kernels = written;
    }
    let mut clone = Session::new(name, spec);
    clone.metadata.namespace.clone_from(&session.metadata.namespace);
    let users = |name: &String| !name.contains("sokovan.dev/");
    clone.metadata.labels = session.metadata.labels.clone().map(|mut labels| {
        labels.retain(|label, _| users(label));
        labels
    });
    clone
}

/// Returns a name for a clone: that of the session with a number, so that it stays short when it is cloned again.
pub fn name_of_clone(session: &Session, taken: impl Fn(&str) -> bool) -> String {
    let name = session.name_any();
    let (base, number) = match name.rsplit_once('-').and_then(|(base, tail)| Some((base, tail.parse::<u32>().ok()?))) {
        Some((base, number)) => (base.to_owned(), number),
        None => (name, 1),
    };
    let names =
        (number.saturating_add(1)..).map(|number| format!("{}-{number}", base.chars().take(MAX_BASE).collect::<String>()));
    names.into_iter().find(|name| !taken(name)).unwrap_or(base)
}

/// A session's name has at most 40 characters.
const MAX_BASE: usize = 33;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::handlers::testing::{session, session_in};

    #[test]
    fn a_session_is_stopped_once_and_can_then_still_be_forced() {
        let mut running = session_in(SessionPhase::Running);
        assert_eq!(stop(&running, false), Ok(json!({"spec": {"desiredState": "Terminated"}})));
        running.spec.desired_state = DesiredState::Terminated;
        assert!(stop(&running, false).is_err());
        let forced = json!({"spec": {"desiredState": "Terminated", "termination": {"mode": "Forced"}}});
        assert_eq!(stop(&running, true), Ok(forced));
        assert!(stop(&session_in(SessionPhase::Terminated), true).is_err_and(|why| why.contains("Terminated")));
    }

    #[test]
    fn only_a_session_that_waits_is_suspended_or_gets_another_priority() {
        let mut waiting = session(json!({}));
        assert_eq!(suspend(&waiting), Ok(json!({"spec": {"suspend": true}})));
        assert_eq!(prioritize(&waiting, 50), Ok(json!({"spec": {"priority": 50}})));
        assert!(prioritize(&waiting, 10).is_err() && resume(&waiting).is_err());
        waiting.spec.suspend = true;
        assert!(suspend(&waiting).is_err());
        assert_eq!(resume(&waiting), Ok(json!({"spec": {"suspend": false}})));
        let running = session_in(SessionPhase::Running);
        assert!(suspend(&running).is_err_and(|why| why.contains("kubectl sokovan stop s -n ns")));
        assert!(prioritize(&running, 50).is_err());
    }

    #[test]
    fn a_clone_has_the_spec_of_its_session_and_a_name_of_its_own() {
        let mut ended = session_in(SessionPhase::Terminated);
        ended.spec.desired_state = DesiredState::Terminated;
        ended.metadata.labels =
            Some([("team", "a"), ("sokovan.dev/deployment", "web")].map(|(k, v)| (k.into(), v.into())).into());
        let clone = cloned(&ended, "s-2");
        assert_eq!((clone.spec.desired_state, clone.status.is_none()), (DesiredState::default(), true));
        assert_eq!(clone.spec.kernels, ended.spec.kernels);
        assert_eq!(clone.metadata.labels.map(|labels| labels.into_keys().collect::<Vec<_>>()), Some(vec!["team".into()]));
        assert_eq!(name_of_clone(&ended, |_| false), "s-2");
        assert_eq!(name_of_clone(&ended, |name| name == "s-2"), "s-3");
        ended.metadata.name = Some("train-7".into());
        assert_eq!(name_of_clone(&ended, |_| false), "train-8");
        ended.metadata.name = Some("x".repeat(40));
        assert!(name_of_clone(&ended, |_| false).len() <= 40);
    }
}
