//! `rollout status`: whether every replica is of the wanted revision and available, and what is missing. Pure.

use std::fmt;
use std::time::Duration;

use kube::ResourceExt;
use serde::Serialize;

use crate::api::{Deployment, DeploymentPhase, DeploymentStatus, Reason};
use crate::deployment::invalid::Invalid;
use crate::lifecycle::printable;
use crate::plugin::revisions::{Recorded, content, rolled_back, wanted, why_rolled_back};
use crate::plugin::target::arguments;

/// The state of a rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum State {
    Done,
    Waiting,
    Failed,
}

/// The state of a deployment's rollout.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RolloutStatus {
    pub deployment: String,
    pub state: State,
    pub message: String,
}

impl fmt::Display for RolloutStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, message) = (&self.deployment, printable(&self.message));
        match self.state {
            State::Done => writeln!(f, "deployment {name} successfully rolled out: {message}"),
            State::Waiting => writeln!(f, "waiting for deployment {name}: {message}"),
            State::Failed => writeln!(f, "deployment {name} failed to roll out: {message}"),
        }
    }
}

/// The state of a deployment's rollout. Without a list of the revisions, only the status tells.
pub fn view(deployment: &Deployment, revisions: Option<&[Recorded]>) -> RolloutStatus {
    let (state, message) = classify(deployment, revisions);
    RolloutStatus { deployment: deployment.name_any(), state, message }
}

fn classify(deployment: &Deployment, revisions: Option<&[Recorded]>) -> (State, String) {
    let status = deployment.status.clone().unwrap_or_default();
    if deployment.metadata.deletion_timestamp.is_some() || status.phase.is_ending() {
        return (State::Failed, "it ends or has ended".into());
    }
    if status.is_outdated(deployment.metadata.generation) {
        return (State::Waiting, "the operator has not read the last change of the spec yet".into());
    }
    if let Some(why) = failure(deployment, &status, revisions) {
        return (State::Failed, why);
    }
    let (desired, available) = (deployment.spec.replicas, status.available);
    let wanted = revisions.map(|revisions| wanted(deployment, revisions));
    let is_known =
        |wanted: Option<i64>| wanted.is_some() && (wanted == status.deploying_revision || wanted == status.current_revision);
    if wanted.is_some_and(|wanted| !is_known(wanted)) {
        return (State::Waiting, waits(&status, "the rollout of the new template has not begun yet"));
    }
    let serves = status.deploying_revision.is_none() && wanted.is_none_or(|wanted| wanted == status.current_revision);
    if status.phase == DeploymentPhase::Ready && serves && available >= desired {
        let revision = status.current_revision.map_or_else(String::new, |revision| format!("revision {revision}, "));
        return (State::Done, format!("{revision}{available} of {desired} replicas are available"));
    }
    let numbers = format!("{available} of {desired} replicas are available");
    let paused = deployment.spec.paused && status.deploying_revision.is_some();
    let resume =
        if paused { format!("; continue it: kubectl sokovan rollout resume {}", arguments(deployment)) } else { String::new() };
    (State::Waiting, format!("{}{resume}", waits(&status, &numbers)))
}

/// What a deployment waits for, in its own words if it has any.
fn waits(status: &DeploymentStatus, otherwise: &str) -> String {
    let stale = matches!(status.reason, Some(Reason::ReplicasAvailable | Reason::RolledBack | Reason::InvalidTemplate));
    status.message.clone().filter(|message| !stale && !message.is_empty()).unwrap_or_else(|| otherwise.into())
}

/// Why the wanted revision does not serve and is not tried again.
fn failure(deployment: &Deployment, status: &DeploymentStatus, revisions: Option<&[Recorded]>) -> Option<String> {
    let message = status.message.clone().unwrap_or_default();
    match content(deployment) {
        Some(content) => {
            if let Err(Invalid(why)) = content.session(&deployment.spec) {
                return Some(why);
            }
        }
        None if status.reason == Some(Reason::InvalidTemplate) => return Some(message),
        None => {}
    }
    let rolled_back = rolled_back(deployment, status, revisions);
    if status.phase == DeploymentPhase::Failed {
        let is_final = revisions.is_none() || status.failed_revision.is_none() || rolled_back.is_some();
        return is_final.then_some(message);
    }
    rolled_back.map(|revision| why_rolled_back(status, revision).1)
}

/// A duration such as `90s`, `5m` or `1h30m`, as kubectl takes it.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text} is not a duration: write for example 90s, 5m or 1h30m");
    let (mut total, mut rest) = (Duration::ZERO, text);
    if text == "0" {
        return Ok(total);
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        let unit = rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |length| digits + length);
        let one = match &rest[digits..unit] {
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            "h" => Duration::from_secs(3600),
            _ => return Err(wrong()),
        };
        let part = u32::try_from(number).ok().and_then(|number| one.checked_mul(number)).ok_or_else(wrong)?;
        total = total.checked_add(part).ok_or_else(wrong)?;
        rest = &rest[unit..];
    }
    if text.is_empty() { Err(wrong()) } else { Ok(total) }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plugin::revisions::testing::{deployment, revisions};

    /// The state of a deployment that asks for an image, where revisions 1 and 2 have the images a and b.
    fn state(image: &str, status: Value) -> (State, String) {
        classify(&deployment(image, status), Some(&revisions(&["a", "b"])))
    }

    fn ready(current: i64) -> Value {
        json!({"phase": "Ready", "available": 4, "currentRevision": current, "reason": "ReplicasAvailable", "message": "all"})
    }

    #[test]
    fn a_rollout_is_done_once_every_replica_of_the_wanted_revision_is_available() {
        assert_eq!(state("a", ready(1)), (State::Done, "revision 1, 4 of 4 replicas are available".into()));
        let not_begun = "the rollout of the new template has not begun yet".to_owned();
        assert_eq!(state("b", ready(1)), (State::Waiting, not_begun.clone()), "revision 2 is recorded");
        assert_eq!(state("c", ready(1)), (State::Waiting, not_begun), "its revision is not even recorded");
        let message = "1 of 4 replicas of revision 2 are available, starting: 1, still old: 2";
        let deploying =
            json!({"phase": "Deploying", "available": 4, "currentRevision": 1, "deployingRevision": 2, "message": message});
        assert_eq!(state("b", deploying.clone()), (State::Waiting, message.into()));
        let mut paused = deployment("b", deploying);
        paused.spec.paused = true;
        let (_, message) = classify(&paused, None);
        assert!(message.ends_with("; continue it: kubectl sokovan rollout resume chat -n vision"), "{message}");
    }

    #[test]
    fn a_change_that_the_operator_has_not_read_yet_is_waited_for() {
        let mut changed = deployment("a", ready(1));
        changed.metadata.generation = Some(2);
        assert_eq!(classify(&changed, None).0, State::Waiting);
    }

    #[test]
    fn a_revision_that_was_rolled_back_has_failed_until_the_spec_leaves_it() {
        let message = "revision 2 failed and revision 1 is restored: no progress for 3600 s";
        let status = json!({"phase": "Deploying", "available": 3, "currentRevision": 1, "failedRevision": 2,
            "reason": "RolledBack", "message": message});
        assert_eq!(state("b", status), (State::Failed, message.into()), "while revision 1 is restored, too");
        let mut undone = ready(1);
        undone["failedRevision"] = json!(2);
        assert_eq!(state("a", undone).0, State::Done);
    }

    #[test]
    fn a_first_revision_that_never_served_and_an_invalid_template_have_failed() {
        let status = json!({"phase": "Failed", "failedRevision": 1, "reason": "ReplicasFailing", "message": "5 failed"});
        assert_eq!(state("a", status.clone()), (State::Failed, "5 failed".into()));
        assert_eq!(state("b", status).0, State::Waiting, "another revision is tried");
        let (invalid, why) = state("Not/An/Image", ready(1));
        assert_eq!(invalid, State::Failed);
        assert!(why.starts_with("spec.template.kernels"), "{why}");
        assert_eq!(state("a", json!({"phase": "Destroying"})).0, State::Failed);
    }

    #[test]
    fn durations_are_written_as_for_kubectl() {
        let seconds = |text: &str| duration(text).map(|duration| duration.as_secs());
        assert_eq!([seconds("0"), seconds("90s"), seconds("1h30m")], [Ok(0), Ok(90), Ok(5400)]);
        for wrong in ["", "5", "m", "5d", "-1s", "99999999999h"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
