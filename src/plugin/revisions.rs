//! The revisions of a deployment, as its ControllerRevisions hold them. Pure.

use chrono::{DateTime, Utc};
use k8s_openapi::api::apps::v1::ControllerRevision;
use kube::ResourceExt;

use crate::api::{ANNOTATION_RETRY, Deployment, DeploymentStatus};
use crate::deployment::definition::Definition;
use crate::deployment::revision::{Content, Revision};
use crate::lifecycle::created_at;

/// A revision and the time of its first rollout.
#[derive(Clone, Debug, PartialEq)]
pub struct Recorded {
    pub created_at: Option<DateTime<Utc>>,
    pub revision: Revision,
}

/// The revisions that a deployment owns, the oldest first. Revisions that this version cannot read are left out.
pub fn recorded(deployment: &Deployment, objects: Vec<ControllerRevision>) -> Vec<Recorded> {
    let uid = deployment.metadata.uid.as_ref();
    let is_own = |object: &ControllerRevision| {
        object.owner_references().iter().any(|owner| owner.controller == Some(true) && Some(&owner.uid) == uid)
    };
    let read = |object: ControllerRevision| {
        let (name, uid, created_at) = (object.name_any(), object.uid().unwrap_or_default(), created_at(&object));
        let content = serde_json::from_value(object.data?.0).ok()?;
        Some(Recorded { created_at, revision: Revision { number: object.revision, name, uid, content } })
    };
    let mut all: Vec<Recorded> = objects.into_iter().filter(is_own).filter_map(read).collect();
    all.sort_by_key(|one| one.revision.number);
    all
}

/// The number of the revision that the spec asks for, if it was recorded already. None if that depends on the files of a
/// ConfigMap, which only the operator reads.
pub fn wanted(deployment: &Deployment, revisions: &[Recorded]) -> Option<i64> {
    let content = content(deployment)?;
    revisions.iter().rev().find(|one| one.revision.content == content).map(|one| one.revision.number)
}

/// The content that the spec asks for, if it does not depend on files.
pub fn content(deployment: &Deployment) -> Option<Content> {
    let has_files = deployment.spec.model.definition_from.is_some();
    (!has_files).then(|| Content::of(&deployment.spec, &Definition::default()))
}

/// The revision of that number.
pub fn find(revisions: &[Recorded], number: i64) -> Option<&Revision> {
    revisions.iter().map(|one| &one.revision).find(|revision| revision.number == number)
}

/// What a deployment does with a revision: `current`, `previous`, `deploying`, `failed`.
pub fn state_of(status: &DeploymentStatus, number: i64) -> String {
    let states = [
        ("current", status.current_revision),
        ("previous", status.previous_revision),
        ("deploying", status.deploying_revision),
        ("failed", status.failed_revision),
    ];
    let own = states.iter().filter(|(_, revision)| *revision == Some(number)).map(|(state, _)| *state);
    own.collect::<Vec<_>>().join(", ")
}

/// The images of a revision, each once, in the order of its kernels.
pub fn images(content: &Content) -> Vec<String> {
    let mut images: Vec<String> = vec![];
    for kernel in &content.template.kernels {
        if !images.contains(&kernel.image) {
            images.push(kernel.image.clone());
        }
    }
    images
}

/// The revision that was rolled back, while the spec still asks for it and no other try was requested. Without a list of the
/// revisions, or with a model definition, the spec counts as unchanged as long as the status gives the roll-back as its reason.
pub fn rolled_back(deployment: &Deployment, status: &DeploymentStatus, revisions: Option<&[Recorded]>) -> Option<i64> {
    let failed = status.failed_revision?;
    let retry = deployment.annotations().get(ANNOTATION_RETRY);
    let still_wanted = match revisions.filter(|_| deployment.spec.model.definition_from.is_none()) {
        Some(revisions) => wanted(deployment, revisions) == Some(failed),
        None => status.reason == Some(crate::api::Reason::RolledBack),
    };
    (still_wanted && status.failed_retry.as_ref() == retry).then_some(failed)
}

/// Why a revision was rolled back, and when, from the history of its deployment.
pub fn why_rolled_back(status: &DeploymentStatus, revision: i64) -> (Option<DateTime<Utc>>, String) {
    let begins = format!("revision {revision} failed");
    let entry = status.history.iter().rev().find(|entry| entry.message.starts_with(&begins));
    match entry {
        Some(entry) => (Some(entry.updated_at), entry.message.clone()),
        None => (None, status.message.clone().filter(|message| message.starts_with(&begins)).unwrap_or(begins)),
    }
}

#[cfg(test)]
pub mod testing {
    use serde_json::{Value, json};

    use super::*;

    pub fn spec(image: &str) -> Value {
        let ports = json!([{"name": "http", "containerPort": 8080}]);
        let kernel = json!({"image": image, "resources": {"cpu": "1", "memory": "1Gi"}, "ports": ports});
        json!({"replicas": 4, "template": {"type": "Inference", "accessKey": "alice", "kernels": [kernel]}})
    }

    /// A deployment that asks for this image, with a status.
    pub fn deployment(image: &str, status: Value) -> Deployment {
        let metadata = json!({"name": "chat", "namespace": "vision", "uid": "uid", "generation": 1, "resourceVersion": "77"});
        let mut status = status;
        status["observedGeneration"] = json!(1);
        let object = json!({
            "apiVersion": "sokovan.dev/v1alpha1", "kind": "Deployment", "metadata": metadata, "spec": spec(image), "status": status,
        });
        serde_json::from_value(object).expect("a deployment")
    }

    /// Revisions 1, 2 and so on with these images.
    pub fn revisions(images: &[&str]) -> Vec<Recorded> {
        let revision = |(number, image): (i64, &&str)| {
            let content = Content::of(&serde_json::from_value(spec(image)).expect("a spec"), &Definition::default());
            let name = crate::api::revision_name("chat", number);
            Recorded { created_at: None, revision: Revision { number, name, uid: format!("r{number}"), content } }
        };
        (1..).zip(images).map(revision).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::testing::{deployment, revisions, spec};
    use super::*;

    fn object(number: i64, owner: &str, data: Value) -> ControllerRevision {
        let owner =
            json!({"apiVersion": "sokovan.dev/v1alpha1", "kind": "Deployment", "name": "chat", "uid": owner, "controller": true});
        let metadata = json!({"name": format!("chat-r{number}"), "ownerReferences": [owner]});
        let object = json!({"apiVersion": "apps/v1", "kind": "ControllerRevision", "metadata": metadata, "revision": number, "data": data});
        serde_json::from_value(object).expect("a revision")
    }

    #[test]
    fn only_readable_revisions_of_the_deployment_itself_are_taken_and_in_their_order() {
        let deployment = deployment("example.com/server:1", json!({}));
        let content = json!({"template": spec("example.com/server:1")["template"]});
        let objects = vec![
            object(3, "uid", content.clone()),
            object(2, "another", content.clone()),
            object(4, "uid", json!("unreadable")),
            object(1, "uid", content),
        ];
        let numbers: Vec<i64> = recorded(&deployment, objects).iter().map(|one| one.revision.number).collect();
        assert_eq!(numbers, [1, 3]);
    }

    #[test]
    fn a_revision_counts_as_rolled_back_until_the_spec_changes_or_another_try_is_requested() {
        let status = json!({"currentRevision": 1, "failedRevision": 2, "reason": "RolledBack"});
        let all = revisions(&["a", "b"]);
        let check = |deployment: &Deployment, all| rolled_back(deployment, &deployment.status.clone().expect("a status"), all);
        let mut failed = deployment("b", status.clone());
        assert_eq!((check(&failed, Some(&all[..])), check(&failed, None)), (Some(2), Some(2)));
        assert_eq!(check(&deployment("a", status), Some(&all[..])), None);
        failed.metadata.annotations = Some([(ANNOTATION_RETRY.to_owned(), "again".to_owned())].into());
        assert_eq!(check(&failed, Some(&all[..])), None);
    }

    #[test]
    fn the_history_says_why_and_when_a_revision_was_rolled_back() {
        let message = "revision 2 failed and revision 1 is restored: no progress for 3600 s";
        let at = "2026-01-01T00:00:00Z";
        let entry = json!({"handler": "deploying", "result": "Success", "from": "Deploying", "to": "Deploying", "message": message,
            "attempts": 1, "createdAt": at, "updatedAt": at});
        let status = serde_json::from_value(json!({"history": [entry]})).expect("a status");
        assert_eq!(why_rolled_back(&status, 2), (at.parse().ok(), message.to_owned()));
        assert_eq!(why_rolled_back(&status, 3), (None, "revision 3 failed".to_owned()));
    }
}
