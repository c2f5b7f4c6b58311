//! `tree` of a deployment: its revisions, their routes with health and traffic, and the sessions and pods of these.

use std::fmt;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde::Serialize;

use super::fetch::Parts;
use super::revisions::{find, images, state_of};
use super::tree::{Leaf, leaf};
use crate::api::{
    Deployment, DeploymentPhase, Health, LABEL_SESSION_UID, Reason, Route, RoutePhase, Session, SessionPhase, Traffic,
};
use crate::lifecycle::printable;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Tree {
    name: String,
    phase: DeploymentPhase,
    reason: Option<Reason>,
    desired: i32,
    available: i32,
    /// Revisions that have replicas or are in use, the newest first.
    revisions: Vec<RevisionBranch>,
    /// Whether the user may list routes and sessions.
    replicas_visible: bool,
    pods_visible: bool,
}

#[derive(Serialize)]
struct RevisionBranch {
    revision: i64,
    /// For example `current`.
    state: String,
    images: Vec<String>,
    routes: Vec<RouteBranch>,
}

#[derive(Serialize)]
struct RouteBranch {
    name: String,
    phase: RoutePhase,
    reason: Option<Reason>,
    health: Health,
    traffic: Traffic,
    weight: i32,
    address: Option<String>,
    /// None if it has no session, or the user may not list sessions.
    session: Option<SessionBranch>,
}

#[derive(Serialize)]
struct SessionBranch {
    name: String,
    phase: SessionPhase,
    reason: Option<Reason>,
    nodes: Option<String>,
    pods: Vec<Leaf>,
}

pub fn view(deployment: &Deployment, parts: &Parts, visible: Option<&[Pod]>) -> Tree {
    let status = deployment.status.clone().unwrap_or_default();
    let revisions = parts.revisions.as_deref().unwrap_or_default();
    let routes: Vec<&Route> = parts.routes.iter().flatten().collect();
    let used = routes.iter().map(|route| route.spec.revision);
    let mut numbers: Vec<i64> = used.chain(status.current_revision).chain(status.deploying_revision).collect();
    numbers.sort_unstable_by_key(|number| std::cmp::Reverse(*number));
    numbers.dedup();
    let branch = |revision: i64| {
        let mut own: Vec<&Route> = routes.iter().copied().filter(|route| route.spec.revision == revision).collect();
        own.sort_by_key(|route| route.spec.ordinal);
        RevisionBranch {
            revision,
            state: state_of(&status, revision),
            images: find(revisions, revision).map(|revision| images(&revision.content)).unwrap_or_default(),
            routes: own.into_iter().map(|route| route_branch(route, parts, visible.unwrap_or_default())).collect(),
        }
    };
    Tree {
        name: deployment.name_any(),
        phase: status.phase,
        reason: status.reason,
        desired: deployment.spec.replicas,
        available: status.available,
        revisions: numbers.into_iter().map(branch).collect(),
        replicas_visible: parts.routes.is_some() && parts.sessions.is_some(),
        pods_visible: visible.is_some(),
    }
}

fn route_branch(route: &Route, parts: &Parts, pods: &[Pod]) -> RouteBranch {
    let status = route.status.clone().unwrap_or_default();
    let session = parts.sessions.iter().flatten().find(|session| session.name_any() == route.spec.session);
    RouteBranch {
        name: route.name_any(),
        phase: status.phase,
        reason: status.reason,
        health: status.health,
        traffic: status.traffic,
        weight: route.spec.weight,
        address: status.address,
        session: session.map(|session| session_branch(session, pods)),
    }
}

fn session_branch(session: &Session, pods: &[Pod]) -> SessionBranch {
    let status = session.status.clone().unwrap_or_default();
    let mut own: Vec<&Pod> =
        pods.iter().filter(|pod| pod.labels().get(LABEL_SESSION_UID) == session.metadata.uid.as_ref()).collect();
    own.sort_by_key(|pod| pod.name_any());
    SessionBranch {
        name: session.name_any(),
        phase: session.phase(),
        reason: status.reason,
        nodes: status.nodes,
        pods: own.into_iter().map(leaf).collect(),
    }
}

/// A line with the lines below it.
struct Line {
    text: String,
    below: Vec<Line>,
}

impl Line {
    fn write(&self, f: &mut fmt::Formatter<'_>, indent: &str, is_last: bool) -> fmt::Result {
        let (mark, bar) = if is_last { ("└─", "   ") } else { ("├─", "│  ") };
        writeln!(f, "{indent}{mark} {}", self.text)?;
        let indent = format!("{indent}{bar}");
        for (index, line) in self.below.iter().enumerate() {
            line.write(f, &indent, index + 1 == self.below.len())?;
        }
        Ok(())
    }
}

fn because(reason: Option<Reason>) -> String {
    reason.map_or_else(String::new, |reason| format!(" ({reason})"))
}

fn revision_line(branch: &RevisionBranch) -> Line {
    let state = if branch.state.is_empty() { String::new() } else { format!(" ({})", branch.state) };
    let text = format!("revision {}{state}  {}", branch.revision, printable(&branch.images.join(", ")));
    Line { text: text.trim_end().to_owned(), below: branch.routes.iter().map(route_line).collect() }
}

fn route_line(branch: &RouteBranch) -> Line {
    let weight = if branch.weight == 0 { ", weight 0" } else { "" };
    let address = branch.address.as_ref().map_or_else(String::new, |address| format!("  {}", printable(address)));
    let state = format!("{}{}, {}, traffic {}{weight}", branch.phase, because(branch.reason), branch.health, branch.traffic);
    Line { text: format!("route {}  {state}{address}", branch.name), below: branch.session.iter().map(session_line).collect() }
}

fn session_line(branch: &SessionBranch) -> Line {
    let nodes = branch.nodes.as_ref().map_or_else(String::new, |nodes| format!(" on {}", printable(nodes)));
    let pod = |pod: &Leaf| Line { text: pod.to_string(), below: vec![] };
    Line {
        text: format!("session {}  {}{}{nodes}", branch.name, branch.phase, because(branch.reason)),
        below: branch.pods.iter().map(pod).collect(),
    }
}

impl fmt::Display for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers = format!("{}/{} available", self.available, self.desired);
        writeln!(f, "deployment {}  {}{}, {numbers}", self.name, self.phase, because(self.reason))?;
        for (index, branch) in self.revisions.iter().enumerate() {
            revision_line(branch).write(f, "", index + 1 == self.revisions.len())?;
        }
        if !self.replicas_visible {
            writeln!(f, "replicas: you may not list routes and sessions")?;
        }
        if self.pods_visible { Ok(()) } else { writeln!(f, "pods: you may not list them") }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plugin::revisions::testing::{deployment, revisions};
    use crate::session::handlers::testing::session_in;

    fn route(name: &str, revision: i64, weight: i32, status: Value) -> Route {
        let spec = json!({"deployment": "chat", "session": name, "revision": revision, "ordinal": revision, "weight": weight});
        let object = json!({"apiVersion": "sokovan.dev/v1alpha1", "kind": "Route", "metadata": {"name": name}, "spec": spec, "status": status});
        serde_json::from_value(object).expect("a route")
    }

    #[test]
    fn a_deployment_is_shown_with_revisions_routes_sessions_and_pods() {
        let status =
            json!({"phase": "Deploying", "reason": "RollingOut", "available": 2, "currentRevision": 1, "deployingRevision": 2});
        let serves = json!({"phase": "Running", "health": "Healthy", "traffic": "In", "address": "10.0.0.4:8080"});
        let parts = Parts {
            routes: Some(vec![
                route("chat-a", 1, 100, serves.clone()),
                route("chat-b", 2, 0, serves),
                route("chat-c", 2, 100, json!({"phase": "Provisioning", "reason": "SessionStarting"})),
            ]),
            sessions: Some(vec![{
                let mut session = session_in(SessionPhase::Running);
                session.metadata.name = Some("chat-a".into());
                session
            }]),
            revisions: Some(revisions(&["example.com/server:1", "example.com/server:2"])),
            ..Parts::default()
        };
        let pod = |uid: &str| {
            serde_json::from_value(json!({
                "metadata": {"name": format!("k-{uid}"), "labels": {LABEL_SESSION_UID: uid, "sokovan.dev/kernel": "main1"}},
                "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
            }))
            .expect("a pod")
        };
        let pods = [pod("uid-s"), pod("another")];
        let wanted = [
            "deployment chat  Deploying (RollingOut), 2/4 available",
            "├─ revision 2 (deploying)  example.com/server:2",
            "│  ├─ route chat-b  Running, Healthy, traffic In, weight 0  10.0.0.4:8080",
            "│  └─ route chat-c  Provisioning (SessionStarting), Unknown, traffic Out",
            "└─ revision 1 (current)  example.com/server:1",
            "   └─ route chat-a  Running, Healthy, traffic In  10.0.0.4:8080",
            "      └─ session chat-a  Running",
            "         └─ pod k-uid-s (main1)  Running, ready",
        ];
        let deployment = deployment("example.com/server:2", status);
        assert_eq!(view(&deployment, &parts, Some(&pods)).to_string().lines().collect::<Vec<_>>(), wanted);
        let hidden = view(&deployment, &Parts::default(), None).to_string();
        assert!(hidden.ends_with("replicas: you may not list routes and sessions\npods: you may not list them\n"), "{hidden}");
    }
}
