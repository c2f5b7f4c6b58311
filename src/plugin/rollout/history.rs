//! `rollout history`: the revisions of a deployment, or the content of one. Pure.

use std::fmt;

use chrono::{DateTime, Utc};
use kube::ResourceExt;
use serde::Serialize;

use crate::api::Deployment;
use crate::deployment::revision::Content;
use crate::plugin::revisions::{Recorded, find, images, state_of};
use crate::plugin::table::{age, table};

/// The revisions of a deployment, the oldest first.
#[derive(Serialize)]
pub struct History {
    deployment: String,
    revisions: Vec<Row>,
    #[serde(skip)]
    now: DateTime<Utc>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    revision: i64,
    /// For example `current`.
    state: String,
    created_at: Option<DateTime<Utc>>,
    restarted_at: Option<DateTime<Utc>>,
    images: Vec<String>,
}

/// The content of a revision.
#[derive(Serialize)]
pub struct RevisionContent {
    deployment: String,
    revision: i64,
    state: String,
    content: Content,
}

pub fn view(deployment: &Deployment, revisions: &[Recorded], now: DateTime<Utc>) -> History {
    let status = deployment.status.clone().unwrap_or_default();
    let row = |recorded: &Recorded| {
        let revision = &recorded.revision;
        Row {
            revision: revision.number,
            state: state_of(&status, revision.number),
            created_at: recorded.created_at,
            restarted_at: revision.content.model.restarted_at,
            images: images(&revision.content),
        }
    };
    History { deployment: deployment.name_any(), revisions: revisions.iter().map(row).collect(), now }
}

/// The content of one revision, or why it cannot be printed.
pub fn content(deployment: &Deployment, revisions: &[Recorded], number: i64) -> Result<RevisionContent, String> {
    let deployment_name = deployment.name_any();
    let revision = find(revisions, number).ok_or_else(|| format!("deployment {deployment_name} has no revision {number}"))?;
    let status = deployment.status.clone().unwrap_or_default();
    let state = state_of(&status, number);
    Ok(RevisionContent { deployment: deployment_name, revision: number, state, content: revision.content.clone() })
}

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "deployment {}", self.deployment)?;
        let row = |row: &Row| {
            let state = if row.state.is_empty() { "-".into() } else { row.state.clone() };
            let restart = if row.restarted_at.is_some() { "restart" } else { "-" }.into();
            vec![row.revision.to_string(), state, age(row.created_at, self.now), restart, row.images.join(", ")]
        };
        let rows: Vec<_> = self.revisions.iter().map(row).collect();
        f.write_str(&table(&["REVISION", "STATE", "AGE", "CAUSE", "IMAGES"], &rows, f))
    }
}

impl fmt::Display for RevisionContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if self.state.is_empty() { String::new() } else { format!(" ({})", self.state) };
        writeln!(f, "# deployment {}, revision {}{state}", self.deployment, self.revision)?;
        f.write_str(&serde_yaml::to_string(&self.content).map_err(|_| fmt::Error)?)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugin::revisions::testing::{deployment, revisions};

    #[test]
    fn revisions_are_listed_with_what_the_deployment_does_with_them() {
        let deployment = deployment("c", json!({"currentRevision": 2, "previousRevision": 1, "failedRevision": 4}));
        let mut all = revisions(&["a", "b", "b", "c"]);
        let now = "2026-01-01T12:00:00Z".parse().expect("a time");
        all[1].created_at = Some(now - chrono::TimeDelta::seconds(90));
        all[2].revision.content.model.restarted_at = Some(now);
        let text = view(&deployment, &all, now).to_string();
        let wanted = [
            "deployment chat",
            "REVISION   STATE      AGE   CAUSE     IMAGES",
            "1          previous   -     -         a",
            "2          current    90s   -         b",
            "3          -          -     restart   b",
            "4          failed     -     -         c",
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), wanted);
    }

    #[test]
    fn the_content_of_a_revision_is_yaml_that_can_be_read_again() {
        let deployment = deployment("b", json!({"currentRevision": 2}));
        let all = revisions(&["a", "b"]);
        let one = content(&deployment, &all, 1).expect("it exists").to_string();
        assert!(one.starts_with("# deployment chat, revision 1\ntemplate:\n"), "{one}");
        assert_eq!(serde_yaml::from_str::<Content>(&one).expect("content"), all[0].revision.content);
        assert!(
            content(&deployment, &all, 2)
                .expect("it exists")
                .to_string()
                .starts_with("# deployment chat, revision 2 (current)\n")
        );
        assert_eq!(content(&deployment, &all, 9).err(), Some("deployment chat has no revision 9".into()));
    }
}
