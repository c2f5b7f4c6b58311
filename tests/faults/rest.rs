//! What must be true of deployments at rest: nothing is left to do, and everything that belongs to one agrees. Pure.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;
use sokovan::api::*;

use crate::oracle::label;
use crate::serving::{Objects, count, is_counted, is_deleting, uid};

/// The failed replicas that are kept for their logs.
const KEPT_FAILED: usize = 3;

/// Returns the work that remains.
pub fn unfinished(objects: &Objects) -> Vec<String> {
    let mut found = orphaned(objects);
    for deployment in objects.deployments.values() {
        let status = deployment.status.clone().unwrap_or_default();
        let left = match status.phase {
            _ if is_deleting(deployment) => vec!["it is still being deleted".into()],
            DeploymentPhase::Destroyed => remains(objects, deployment),
            DeploymentPhase::Failed => live(objects, deployment),
            _ => differences(objects, deployment, &status),
        };
        found.extend(left.into_iter().map(|what| format!("deployment {} at rest: {what}", deployment.name_any())));
    }
    found
}

/// The objects of deployments that do not exist, and the sessions and routes that do not belong together.
fn orphaned(objects: &Objects) -> Vec<String> {
    let mut found = vec![];
    let mut check = |kind: &str, name: String, owner: &str| {
        if !owner.is_empty() && !objects.deployments.contains_key(owner) {
            found.push(format!("{kind} {name} has no deployment"));
        }
    };
    objects.routes.values().for_each(|o| check("route", o.name_any(), label(o, LABEL_DEPLOYMENT_UID)));
    objects.sessions.values().for_each(|o| check("session", o.name_any(), label(o, LABEL_DEPLOYMENT_UID)));
    objects.services.values().for_each(|o| check("service", o.name_any(), label(o, LABEL_DEPLOYMENT_UID)));
    objects.budgets.values().for_each(|o| check("budget", o.name_any(), label(o, LABEL_DEPLOYMENT_UID)));
    objects.revisions.values().for_each(|o| check("revision", o.name_any(), label(o, LABEL_DEPLOYMENT_UID)));
    for session in objects.sessions.values() {
        let route = objects.routes.values().find(|route| route.name_any() == session.name_any());
        match route {
            None => found.push(format!("session {} has no route", session.name_any())),
            Some(route) if route.phase().is_ending() != session.phase().is_ending() => {
                let (name, of_route, of_session) = (session.name_any(), route.phase(), session.phase());
                found.push(format!("{name}: the route is {of_route} and the session {of_session}"));
            }
            Some(_) => {}
        }
    }
    for route in objects.routes.values().filter(|route| !route.phase().is_ending()) {
        if !objects.sessions.values().any(|session| session.name_any() == route.name_any()) {
            found.push(format!("route {} has no session", route.name_any()));
        }
    }
    found
}

/// The replicas of a deployment that shall have none.
fn live(objects: &Objects, deployment: &Deployment) -> Vec<String> {
    let own = objects.routes.values().filter(|route| route.spec.deployment == deployment.name_any() && is_counted(route));
    own.map(|route| format!("route {} lives", route.name_any())).collect()
}

/// What a destroyed deployment left.
fn remains(objects: &Objects, deployment: &Deployment) -> Vec<String> {
    let own = uid(deployment);
    let is_own = |object: &dyn Fn(&str) -> String| object(LABEL_DEPLOYMENT_UID) == own;
    let mut found = vec![];
    found.extend(objects.routes.values().filter(|o| is_own(&|l| label(*o, l).into())).map(|o| format!("route {}", o.name_any())));
    found.extend(
        objects.sessions.values().filter(|o| is_own(&|l| label(*o, l).into())).map(|o| format!("session {}", o.name_any())),
    );
    found.extend(
        objects.services.values().filter(|o| is_own(&|l| label(*o, l).into())).map(|o| format!("service {}", o.name_any())),
    );
    found.extend(
        objects.budgets.values().filter(|o| is_own(&|l| label(*o, l).into())).map(|o| format!("budget {}", o.name_any())),
    );
    found.extend(
        objects.revisions.values().filter(|o| is_own(&|l| label(*o, l).into())).map(|o| format!("revision {}", o.name_any())),
    );
    found.into_iter().map(|what| format!("{what} remains")).collect()
}

/// Compares the parts of a deployment that runs.
fn differences(objects: &Objects, deployment: &Deployment, status: &DeploymentStatus) -> Vec<String> {
    let (name, spec, desired) = (deployment.name_any(), &deployment.spec, deployment.spec.replicas);
    let mut found = vec![];
    let mut expect = |what: &str, is: String, shall: String| {
        if is != shall {
            found.push(format!("{what}: {is} instead of {shall}"));
        }
    };
    expect("phase", status.phase.to_string(), DeploymentPhase::Ready.to_string());
    expect(
        "observed generation",
        status.observed_generation.to_string(),
        deployment.metadata.generation.unwrap_or(0).to_string(),
    );
    expect("planned", format!("{:?}", status.planned), "[]".into());
    expect("leaving", format!("{:?}", status.leaving), "[]".into());
    expect("deploying", format!("{:?}", status.deploying_revision), "None".into());
    let routes: Vec<&Route> = objects.routes.values().filter(|route| route.spec.deployment == name).collect();
    let running = count(routes.iter().filter(|route| route.phase() == RoutePhase::Running));
    let failed = routes.iter().filter(|route| route.status.as_ref().is_some_and(|s| s.failed && s.phase.is_terminal())).count();
    let current = count(routes.iter().filter(|r| is_counted(r) && Some(r.spec.revision) == status.current_revision));
    expect("running routes", running.to_string(), desired.to_string());
    expect("routes of the current revision", current.to_string(), desired.to_string());
    expect("kept failures", failed.to_string(), failed.min(KEPT_FAILED).to_string());
    expect("routes", routes.len().to_string(), (usize::try_from(running).unwrap_or(0) + failed).to_string());
    let available = objects.available(&name);
    let serving: BTreeSet<String> = available.iter().map(|pod| pod.name_any()).collect();
    expect("available pods", serving.len().to_string(), desired.to_string());
    expect("endpoints", format!("{:?}", objects.listed(&name)), format!("{serving:?}"));
    let numbers = (status.replicas, status.ready, status.available, status.updated, status.desired_replicas);
    expect("numbers", format!("{numbers:?}"), format!("{:?}", (desired, desired, desired, desired, desired)));
    let services = objects.services.values().filter(|service| service.name_any() == name).count();
    expect("services", services.to_string(), "1".into());
    let budgets: Vec<_> = objects.budgets.values().filter_map(|budget| budget.spec.clone()?.min_available).collect();
    let unavailable = spec.strategy.rolling.max_unavailable.rounded_down(desired).max(1);
    let wanted = (desired >= 2).then(|| IntOrString::Int((desired - unavailable).max(0)));
    expect("budgets", format!("{budgets:?}"), format!("{:?}", wanted.into_iter().collect::<Vec<_>>()));
    found
}
