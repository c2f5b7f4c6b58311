//! `explain` of a deployment: what keeps it from its desired state, with numbers, since when, and what happens next.

use std::fmt;

use chrono::{DateTime, Utc};
use kube::ResourceExt;
use serde::Serialize;

use super::fetch::Parts;
use super::finding::{Finding, Seen};
use super::findings::findings;
use super::table::age;
use crate::api::{Deployment, DeploymentPhase, Reason};
use crate::lifecycle::{created_at, printable};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    namespace: String,
    name: String,
    phase: DeploymentPhase,
    since: Option<DateTime<Utc>>,
    desired: i32,
    available: i32,
    /// The number of available replicas that makes the deployment Available.
    min_available: i32,
    current_revision: Option<i64>,
    deploying_revision: Option<i64>,
    reason: Option<Reason>,
    message: Option<String>,
    findings: Vec<Finding>,
    url: Option<String>,
    /// Whether the user may list its routes and sessions.
    replicas_visible: bool,
    #[serde(skip)]
    now: DateTime<Utc>,
}

pub fn view(deployment: &Deployment, parts: &Parts, now: DateTime<Utc>) -> Explanation {
    let status = deployment.status.clone().unwrap_or_default();
    let findings = findings(&Seen { deployment, status: &status, parts, now });
    Explanation {
        namespace: deployment.namespace().unwrap_or_default(),
        name: deployment.name_any(),
        phase: status.phase,
        since: status.phase_started_at.or_else(|| created_at(deployment)),
        desired: deployment.spec.replicas,
        available: status.available,
        min_available: status.min_available,
        current_revision: status.current_revision,
        deploying_revision: status.deploying_revision,
        reason: status.reason,
        message: status.message.clone(),
        findings,
        url: status.url.clone(),
        replicas_visible: parts.routes.is_some() && parts.sessions.is_some(),
        now,
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = age(self.since, self.now);
        let numbers = format!("{} of {} replicas available", self.available, self.desired);
        let floor =
            if self.available < self.min_available { format!(", at least {} needed", self.min_available) } else { String::new() };
        writeln!(f, "{}/{} has been {} for {since}: {numbers}{floor}", self.namespace, self.name, self.phase)?;
        let revision = |revision: Option<i64>| revision.map_or("none".into(), |revision| revision.to_string());
        match self.deploying_revision {
            Some(_) => {
                writeln!(
                    f,
                    "revision: {}, being replaced by {}",
                    revision(self.current_revision),
                    revision(self.deploying_revision)
                )?;
            }
            None => writeln!(f, "revision: {}", revision(self.current_revision))?,
        }
        if let Some(reason) = &self.reason {
            writeln!(f, "reason: {reason}: {}", printable(self.message.as_deref().unwrap_or_default()))?;
        }
        for finding in &self.findings {
            let since = finding.since.map_or_else(String::new, |since| format!(" (for {})", age(Some(since), self.now)));
            writeln!(f, "- {}{since}", printable(&finding.what))?;
            for detail in &finding.details {
                writeln!(f, "    {}", printable(detail))?;
            }
            writeln!(f, "  next: {}", printable(&finding.next))?;
        }
        if let Some(url) = &self.url {
            writeln!(f, "url: {url}")?;
        }
        if self.replicas_visible { Ok(()) } else { writeln!(f, "replicas: you may not list routes and sessions") }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plugin::revisions::testing::{deployment, revisions};

    fn now() -> DateTime<Utc> {
        at(0).parse().expect("a time")
    }

    /// So many seconds before 12:00:00.
    fn at(seconds: i64) -> String {
        let noon: DateTime<Utc> = "2026-01-01T12:00:00Z".parse().expect("a time");
        (noon - chrono::TimeDelta::seconds(seconds)).to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
    }

    fn route(name: &str, revision: i64, status: Value) -> crate::api::Route {
        let spec = json!({"deployment": "chat", "session": name, "revision": revision, "ordinal": 0});
        let object = json!({"apiVersion": "sokovan.dev/v1alpha1", "kind": "Route", "metadata": {"name": name}, "spec": spec, "status": status});
        serde_json::from_value(object).expect("a route")
    }

    fn session(name: &str, status: Value) -> crate::api::Session {
        let mut session = crate::session::handlers::testing::session(json!({}));
        session.metadata.name = Some(name.into());
        session.status = Some(serde_json::from_value(status).expect("a status"));
        session
    }

    fn lines(deployment: &Deployment, parts: &Parts) -> Vec<String> {
        view(deployment, parts, now()).to_string().lines().map(str::to_owned).collect()
    }

    fn parts(routes: Vec<crate::api::Route>, sessions: Vec<crate::api::Session>) -> Parts {
        Parts { routes: Some(routes), sessions: Some(sessions), revisions: Some(revisions(&["a", "b"])), ..Parts::default() }
    }

    fn running(name: &str, revision: i64) -> crate::api::Route {
        route(name, revision, json!({"phase": "Running", "health": "Healthy", "traffic": "In"}))
    }

    #[test]
    fn a_deployment_with_all_its_replicas_has_no_findings() {
        let status = json!({"phase": "Ready", "phaseStartedAt": at(300), "available": 4, "minAvailable": 4, "currentRevision": 1,
            "reason": "ReplicasAvailable", "message": "every replica is available", "url": "http://chat.vision.svc:80"});
        let routes = ["chat-1", "chat-2", "chat-3", "chat-4"].map(|name| running(name, 1));
        let wanted = [
            "vision/chat has been Ready for 5m: 4 of 4 replicas available",
            "revision: 1",
            "reason: ReplicasAvailable: every replica is available",
            "url: http://chat.vision.svc:80",
        ];
        assert_eq!(lines(&deployment("a", status.clone()), &parts(routes.into(), vec![])), wanted);
        let hidden = lines(&deployment("a", status), &Parts::default());
        assert_eq!(hidden.last().map(String::as_str), Some("replicas: you may not list routes and sessions"));
    }

    #[test]
    fn sessions_without_room_are_counted_with_what_they_need_and_since_when() {
        let waiting = |name: &str| {
            let blocker = json!({"check": "nodes", "reason": "NoAvailableNode", "needs": "1 cpu free on a node"});
            let nodes = json!({"total": 5, "reasons": [{"nodes": 3, "reason": "cpu 0.5 of 1 needed"}, {"nodes": 2, "reason": "not ready"}]});
            session(
                name,
                json!({"phase": "Pending", "phaseStartedAt": at(600), "reason": "NoAvailableNode",
                "message": "no node has enough free resources",
                "waiting": {"evaluatedAt": at(5), "blockers": [blocker], "nodes": nodes}}),
            )
        };
        let status =
            json!({"phase": "Scaling", "phaseStartedAt": at(600), "available": 1, "minAvailable": 4, "currentRevision": 1});
        let names = ["chat-2", "chat-3", "chat-4"];
        let starting = names.map(|name| route(name, 1, json!({"phase": "Provisioning"})));
        let routes = std::iter::once(running("chat-1", 1)).chain(starting).collect();
        let wanted = [
            "vision/chat has been Scaling for 10m: 1 of 4 replicas available, at least 4 needed",
            "revision: 1",
            "- no room for 3 of 4 replicas (for 10m)",
            "    session chat-2: NoAvailableNode: no node has enough free resources",
            "    nodes (NoAvailableNode) needs: 1 cpu free on a node",
            "    of 5 nodes: 3 cpu 0.5 of 1 needed; 2 not ready",
            "  next: evaluated on every change; its place in the queue: kubectl sokovan explain session/chat-2 -n ns",
        ];
        assert_eq!(lines(&deployment("a", status), &parts(routes, names.map(waiting).into())), wanted);
    }

    fn deploying() -> Value {
        let rollout = json!({"step": "Replacing", "since": at(600), "progressedAt": at(240), "best": 1});
        json!({"phase": "Deploying", "phaseStartedAt": at(600), "available": 4, "minAvailable": 4, "currentRevision": 1,
            "deployingRevision": 2, "updated": 2, "rollout": rollout})
    }

    #[test]
    fn a_stuck_rollout_names_the_replica_its_last_message_and_the_time_of_the_roll_back() {
        let checking = json!({"phase": "HealthChecking", "phaseStartedAt": at(230)});
        let routes = vec![running("chat-1", 1), running("chat-5", 2), route("chat-6", 2, checking)];
        let mut parts = parts(routes, vec![]);
        parts.warnings = [("chat-6".into(), "Unhealthy: Readiness probe failed: HTTP 503".into())].into();
        let all = lines(&deployment("b", deploying()), &parts);
        let wanted = [
            "revision: 1, being replaced by 2",
            "- revision 2 replaces revision 1: 1 of 4 replicas are healthy, still old: 1 (for 10m)",
            "    last progress 4m ago; at most 1 were available at once",
            "    chat-6 (revision 2): HealthChecking for 3m; the last warning: Unhealthy: Readiness probe failed: HTTP 503",
            "  next: rolled back to revision 1 at 12:56:00 unless more replicas become available",
        ];
        assert_eq!(all[1..], wanted);
        let mut paused = deployment("b", deploying());
        paused.spec.paused = true;
        let last = "  next: the rollout is paused; continue it: kubectl sokovan rollout resume chat -n vision";
        assert_eq!(lines(&paused, &parts).last().map(String::as_str), Some(last));
    }

    #[test]
    fn a_surge_without_room_names_its_remedies() {
        let session = session(
            "chat-5",
            json!({"phase": "Pending", "phaseStartedAt": at(90), "reason": "NoAvailableNode", "message": "full"}),
        );
        let routes = vec![running("chat-1", 1), route("chat-5", 2, json!({"phase": "Provisioning"}))];
        let all = lines(&deployment("b", deploying()), &parts(routes, vec![session]));
        assert_eq!(all[2], "- no room for 1 of 4 replicas of revision 2 (for 90s)");
        let remedy = "  next: add nodes, or set strategy.rolling.whenNoCapacity to ReplaceInPlace; its place in the queue: ";
        assert!(all[4].starts_with(remedy), "{}", all[4]);
    }

    #[test]
    fn a_revision_that_was_rolled_back_is_explained_until_the_spec_changes() {
        let message = "revision 2 failed and revision 1 is restored: no progress for 3600 s";
        let status = json!({"phase": "Ready", "phaseStartedAt": at(60), "available": 4, "currentRevision": 1, "failedRevision": 2,
            "reason": "RolledBack", "message": message, "history": [{"handler": "deploying", "result": "Success", "from": "Deploying",
                "to": "Deploying", "message": message, "attempts": 1, "createdAt": at(180), "updatedAt": at(180)}]});
        let all = lines(&deployment("b", status.clone()), &parts(vec![], vec![]));
        assert_eq!(all[3], "- revision 2 was rolled back and revision 1 serves (for 3m)");
        assert_eq!(all[4], format!("    {message}"));
        assert!(all[5].contains("kubectl sokovan rollout undo chat -n vision; or try again: kubectl annotate"), "{}", all[5]);
        assert_eq!(lines(&deployment("a", status), &parts(vec![], vec![])).len(), 3, "the spec is that of revision 1 again");
    }

    #[test]
    fn the_eviction_brake_is_named_apart_from_other_unhealthy_replicas() {
        let held = json!({"phase": "Unhealthy", "phaseStartedAt": at(500), "reason": "EvictionHeld", "message": "3 of 4 nodes are not ready"});
        let ill = json!({"phase": "Unhealthy", "phaseStartedAt": at(60), "reason": "HealthCheckFailed", "message": "HTTP 500"});
        let status = json!({"phase": "Ready", "available": 2, "minAvailable": 4, "currentRevision": 1});
        let routes = vec![route("chat-1", 1, held), route("chat-2", 1, ill)];
        let wanted = [
            "- the eviction of 1 of 4 replicas is held: 3 of 4 nodes are not ready (for 8m)",
            "    chat-1 (revision 1): Unhealthy for 8m: EvictionHeld: 3 of 4 nodes are not ready",
            "  next: each is replaced as soon as the limit allows it, and stays if it is healthy again before",
            "- 1 of 4 replicas are unhealthy and get no requests (for 60s)",
            "    chat-2 (revision 1): Unhealthy for 60s: HealthCheckFailed: HTTP 500",
            "  next: the first is replaced at 12:01:00 unless it is healthy again before",
        ];
        assert_eq!(lines(&deployment("a", status), &parts(routes, vec![]))[2..], wanted);
    }

    #[test]
    fn failures_in_a_row_are_explained_with_the_next_try_and_the_end() {
        let failures = json!({"revision": 1, "count": 3, "lastAt": at(5), "message": "chat-9: ExitCode: exit code 1"});
        let status = json!({"phase": "Scaling", "available": 0, "deployingRevision": 1, "failures": failures});
        let wanted = [
            "- 3 replicas of revision 1 failed in a row, the last 5s ago",
            "    chat-9: ExitCode: exit code 1",
            "  next: the next replica is made at 12:00:15; after 2 more the revision fails",
        ];
        assert_eq!(lines(&deployment("a", status), &parts(vec![], vec![]))[2..], wanted);
    }
}
