//! The patches by which `rollout undo`, `pause`, `resume` and `restart` change the spec of a deployment. Pure.

use chrono::{DateTime, SecondsFormat, SubsecRound, Utc};
use json_patch::Patch;
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::api::{Deployment, SessionSpec};
use crate::deployment::revision::Content;
use crate::plugin::revisions::{Recorded, find, wanted};
use crate::plugin::target::arguments;

/// How to go back to an earlier revision.
#[derive(Debug, PartialEq)]
pub enum Undo {
    /// The spec is that of this revision already.
    Unchanged(i64),
    To {
        number: i64,
        patch: Patch,
        /// What the user should know about the revision.
        note: String,
    },
}

/// How to go back to a revision. Without a number, or with 0 as for kubectl, that is the revision that serves if the spec asks
/// for another, else the one that served before.
pub fn undo(deployment: &Deployment, revisions: &[Recorded], to: Option<i64>) -> Result<Undo, String> {
    if deployment.spec.paused {
        return Err(format!("is paused: kubectl sokovan rollout resume {}", arguments(deployment)));
    }
    let status = deployment.status.clone().unwrap_or_default();
    let wanted = wanted(deployment, revisions);
    let earlier = match status.current_revision {
        Some(current) if wanted != Some(current) => Some(current),
        Some(_) | None => status.previous_revision,
    };
    let number = to.filter(|number| *number != 0).or(earlier).ok_or("has no earlier revision to go back to")?;
    let revision = find(revisions, number).ok_or_else(|| format!("has no revision {number}"))?;
    if wanted == Some(number) {
        return Ok(Undo::Unchanged(number));
    }
    let note = if status.failed_revision == Some(number) {
        "; it was rolled back before, and is tried again when the annotation sokovan.dev/retry gets a new value"
    } else {
        ""
    };
    let patch = restore(deployment, &revision.content).map_err(|error| format!("cannot be patched: {error}"))?;
    Ok(Undo::To { number, patch, note: note.into() })
}

/// Sets template and model to the content of a revision. The priority stays as it is, since it is not part of a revision. The
/// API server refuses the patch if the deployment has changed since it was read.
fn restore(deployment: &Deployment, content: &Content) -> serde_json::Result<Patch> {
    let template = SessionSpec { priority: deployment.spec.template.priority, ..content.template.clone() };
    serde_json::from_value(json!([
        {"op": "replace", "path": "/metadata/resourceVersion", "value": deployment.resource_version()},
        {"op": "replace", "path": "/spec/template", "value": template},
        {"op": "add", "path": "/spec/model", "value": content.model},
    ]))
}

pub fn pause(deployment: &Deployment) -> Result<Value, String> {
    if deployment.spec.paused { Err("is already paused".into()) } else { Ok(json!({"spec": {"paused": true}})) }
}

pub fn resume(deployment: &Deployment) -> Result<Value, String> {
    if deployment.spec.paused { Ok(json!({"spec": {"paused": false}})) } else { Err("is not paused".into()) }
}

/// A new revision of the same content.
pub fn restart(deployment: &Deployment, now: DateTime<Utc>) -> Result<Value, String> {
    if deployment.spec.paused {
        return Err(format!("is paused: kubectl sokovan rollout resume {}", arguments(deployment)));
    }
    if deployment.spec.model.restarted_at == Some(now.trunc_subsecs(0)) {
        return Err("was restarted within the last second".into());
    }
    Ok(json!({"spec": {"model": {"restartedAt": now.to_rfc3339_opts(SecondsFormat::Secs, true)}}}))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::revisions::content;
    use crate::plugin::revisions::testing::{deployment, revisions};

    fn number(undo: Result<Undo, String>) -> i64 {
        match undo.expect("it can be undone") {
            Undo::To { number, .. } => number,
            Undo::Unchanged(number) => panic!("nothing changes: {number}"),
        }
    }

    #[test]
    fn undo_leads_to_the_previous_revision_or_away_from_one_that_does_not_serve() {
        let all = revisions(&["a", "b", "c"]);
        let served = deployment("b", json!({"currentRevision": 2, "previousRevision": 1}));
        assert_eq!(number(undo(&served, &all, None)), 1);
        assert_eq!((number(undo(&served, &all, Some(0))), number(undo(&served, &all, Some(3)))), (1, 3));
        assert_eq!(undo(&served, &all, Some(2)), Ok(Undo::Unchanged(2)));
        assert_eq!(undo(&served, &all, Some(9)), Err("has no revision 9".into()));
        let rolled_back = deployment("c", json!({"currentRevision": 2, "previousRevision": 1, "failedRevision": 3}));
        assert_eq!(number(undo(&rolled_back, &all, None)), 2);
        let under_way = deployment("c", json!({"currentRevision": 2, "previousRevision": 1, "deployingRevision": 3}));
        assert_eq!(number(undo(&under_way, &all, None)), 2);
        let first = deployment("a", json!({"deployingRevision": 1}));
        assert_eq!(undo(&first, &all, None), Err("has no earlier revision to go back to".into()));
    }

    #[test]
    fn undo_to_a_revision_that_failed_says_how_it_is_tried_again() {
        let all = revisions(&["a", "b"]);
        let undone = deployment("a", json!({"currentRevision": 1, "failedRevision": 2}));
        let Ok(Undo::To { note, .. }) = undo(&undone, &all, Some(2)) else { panic!("it changes the spec") };
        assert!(note.contains("sokovan.dev/retry"), "{note}");
    }

    #[test]
    fn undo_restores_template_and_model_keeps_the_priority_and_holds_only_for_the_version_that_was_read() {
        let mut deployment = deployment("b", json!({"currentRevision": 2, "previousRevision": 1}));
        deployment.spec.template.priority = 70;
        let all = revisions(&["a", "b"]);
        let Ok(Undo::To { patch, .. }) = undo(&deployment, &all, None) else { panic!("it changes the spec") };
        let mut object = serde_json::to_value(&deployment).expect("JSON");
        json_patch::patch(&mut object, &patch).expect("the patch applies");
        let restored: Deployment = serde_json::from_value(object).expect("a deployment");
        assert_eq!(restored.spec.template.priority, 70);
        assert_eq!(content(&restored).as_ref(), Some(&all[0].revision.content));
        assert_eq!(restored.resource_version().as_deref(), Some("77"));
        let patch = serde_json::to_value(&patch).expect("JSON");
        assert_eq!(patch[0], json!({"op": "replace", "path": "/metadata/resourceVersion", "value": "77"}));
    }

    #[test]
    fn pause_and_resume_refuse_to_change_nothing_and_a_paused_deployment_is_neither_undone_nor_restarted() {
        let running = deployment("a", json!({"currentRevision": 1}));
        let mut paused = running.clone();
        paused.spec.paused = true;
        assert_eq!(pause(&running), Ok(json!({"spec": {"paused": true}})));
        assert_eq!(resume(&paused), Ok(json!({"spec": {"paused": false}})));
        assert!(pause(&paused).is_err() && resume(&running).is_err());
        let refusal = "is paused: kubectl sokovan rollout resume chat -n vision".to_owned();
        assert_eq!(undo(&paused, &[], None), Err(refusal.clone()));
        assert_eq!(restart(&paused, Utc::now()), Err(refusal));
    }

    #[test]
    fn a_restart_is_a_new_revision_with_the_same_sessions() {
        let before = deployment("a", json!({}));
        let now: DateTime<Utc> = "2026-01-01T12:00:00.7Z".parse().expect("a time");
        let patch = restart(&before, now).expect("it can be restarted");
        assert_eq!(patch, json!({"spec": {"model": {"restartedAt": "2026-01-01T12:00:00Z"}}}));
        let mut after = before.clone();
        after.spec.model = serde_json::from_value(patch["spec"]["model"].clone()).expect("a model");
        let (old, new) = (content(&before).expect("content"), content(&after).expect("content"));
        assert_ne!(old, new);
        assert_eq!(old.session(&before.spec), new.session(&after.spec));
        assert!(restart(&after, now).is_err(), "within the same second");
    }
}
