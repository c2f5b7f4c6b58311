//! schedule-sessions: gives waiting sessions their nodes, highest priority first, all kernels or none.

use std::collections::BTreeSet;

use super::{Change, Decide, Handler, HandlerName, LockId, Mode, Outcome, Settings, To, Transitions, Verdict};
use crate::api::{FINALIZER_SESSION, NodeName, SessionPhase, SessionStatus, TryingHandler};
use crate::lifecycle::{CommitMode, Reason, Trace, Trigger};
use crate::provisioner::validators::{VALIDATORS, check_all};
use crate::provisioner::{Candidate, Decision, LedgerSnapshot, Refusal, Scope, provision};
use crate::session::effect::Effect;
use crate::session::precondition;
use crate::session::snapshot::{SessionItem, Snapshot};
use crate::session::waiting::waiting;

pub static ROW: Handler = Handler {
    name: HandlerName::ScheduleSessions,
    targets: &[SessionPhase::Pending],
    transitions: Transitions {
        success: To::phase(SessionPhase::Scheduled),
        expired: To::phase(SessionPhase::Terminating),
        give_up: To::phase(SessionPhase::Deprioritizing),
        ..Transitions::NONE
    },
    mode: Mode::Evaluates,
    follows: &[],
    commit: CommitMode::Now,
    wakes_on: &[Trigger::CapacityFreed, Trigger::TenancyChanged, Trigger::NodeChanged, Trigger::DependencyChanged],
    lock: Some(LockId::Pending),
    overview: Some(overview),
    trace: Some(trace),
    settings: Settings { retry: Some(TryingHandler::ScheduleSessions), ranks_queue: true, ..Settings::NONE },
    decide: Decide::All(decide),
};

fn decide(snapshot: &Snapshot, ledger: &mut LedgerSnapshot, items: &[SessionItem]) -> Vec<Verdict> {
    let (Some(group), Some(group_name)) = (&snapshot.group, &snapshot.group_name) else {
        let context = precondition::context(snapshot, ledger);
        let refusal = |item| check_all(&context, &candidate(snapshot, item));
        let verdict = |item| refusal(item).map_or_else(Verdict::idle, |refusal| refused(snapshot, item, &refusal));
        return items.iter().map(verdict).collect();
    };
    let scope = Scope::new(snapshot.now, group_name, group, &snapshot.nodes, &snapshot.tenancy);
    let queue: Vec<Candidate<'_>> = items.iter().map(|item| candidate(snapshot, item)).collect();
    let decisions = provision(&scope, ledger, &queue);
    items.iter().zip(decisions).map(|(item, decision)| verdict(snapshot, item, decision)).collect()
}

fn candidate<'i>(snapshot: &Snapshot, item: &'i SessionItem) -> Candidate<'i> {
    let failed = item.session.status.iter().flat_map(|status| &status.failed_nodes);
    Candidate {
        class: &item.class,
        name: (item.namespace(), item.name()),
        priority: item.priority(),
        created_at: item.created_at(),
        starts_at: item.session.spec.starts_at,
        suspended: item.session.spec.suspend,
        dependencies: &item.dependencies,
        avoided: failed.filter(|node| node.until > snapshot.now).map(|node| &node.node).collect(),
        ahead: &item.ahead,
        template_problem: item.template.as_ref().and_then(|template| template.as_ref().err()),
        recently_reported: recently_reported(snapshot, item),
    }
}

/// Whether its status already reports `NoAvailableNode` and is not due to be written again.
fn recently_reported(snapshot: &Snapshot, item: &SessionItem) -> bool {
    let status = item.session.status.as_ref();
    let reported = |status: &&SessionStatus| status.reason == Some(Reason::NoAvailableNode);
    let due = status.filter(reported).and_then(|status| status.next_attempt_at);
    due.is_some_and(|due| snapshot.now < due) && !item.is_outdated()
}

fn refused(snapshot: &Snapshot, item: &SessionItem, refusal: &Refusal) -> Verdict {
    let due = item.session.spec.starts_at.filter(|due| snapshot.now < *due);
    let mut verdict = Verdict::refused(refusal).wake_at(due);
    verdict.change.waiting = Some(waiting(refusal, snapshot.now));
    verdict.change.met_dependencies = item.newly_met().collect();
    verdict
}

fn verdict(snapshot: &Snapshot, item: &SessionItem, decision: Decision) -> Verdict {
    match decision {
        Decision::Refused(refusal) => refused(snapshot, item, &refusal),
        Decision::Placed(allocation) => Verdict {
            outcome: Outcome::Success { to: None },
            effects: hold(item),
            change: Change {
                allocation: Some(allocation),
                template: item.template.clone().and_then(Result::ok),
                met_dependencies: item.newly_met().collect(),
                ..Change::default()
            },
            ..Verdict::default()
        },
    }
}

/// Returns the sub-step that all sessions of the cycle share.
fn overview(snapshot: &Snapshot, items: &[SessionItem]) -> Trace {
    Trace::done("sequence", format!("sessions: {}, nodes: {}", items.len(), snapshot.nodes.len()))
}

/// Returns the provisioner's stages as sub-steps: validate, select, allocate.
fn trace(_: &SessionItem, verdict: &Verdict) -> Vec<Trace> {
    let validated = || Trace::done("validate", format!("{} checks passed", VALIDATORS.len()));
    if let Some(allocation) = &verdict.change.allocation {
        let nodes: BTreeSet<&NodeName> = allocation.iter().map(|kernel| &kernel.node).collect();
        let names = nodes.iter().map(|node| node.as_str()).collect::<Vec<_>>().join(", ");
        let counts = format!("{} kernels on {} nodes", allocation.len(), nodes.len());
        return vec![validated(), Trace::done("select", names), Trace::done("allocate", counts)];
    }
    let (reason, message) = match &verdict.outcome {
        Outcome::Failure(failure) => (failure.reason, &failure.message),
        Outcome::Skipped(reason, message) => (*reason, message),
        Outcome::Success { .. } | Outcome::Idle => return vec![],
    };
    let by_nodes = verdict.change.waiting.as_ref().is_some_and(|it| it.blockers.first().is_some_and(|b| b.check == "nodes"));
    if by_nodes {
        vec![validated(), Trace::failed("select", reason, message)]
    } else {
        vec![Trace::failed("validate", reason, message)]
    }
}

/// Adds our finalizer before the session holds resources, so that it cannot vanish with them.
fn hold(item: &SessionItem) -> Vec<Effect> {
    let held = item.session.metadata.finalizers.iter().flatten().any(|name| name == FINALIZER_SESSION);
    if held { vec![] } else { vec![Effect::HoldSession] }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::api::{Cause, Session};
    use crate::session::handlers::testing::{failure, gang, item, kernel, limited, node, session, snapshot};
    use crate::views::Tenancy;

    fn pending(name: &str, spec: serde_json::Value) -> SessionItem {
        let mut session: Session = session(spec);
        session.metadata.name = Some(name.into());
        session.metadata.uid = Some(format!("uid-{name}"));
        item(session, &[])
    }

    fn run(snapshot: &Snapshot, items: &[SessionItem]) -> Vec<Verdict> {
        decide(snapshot, &mut LedgerSnapshot::default(), items)
    }

    fn nodes_of(verdict: &Verdict) -> Vec<String> {
        verdict.change.allocation.iter().flatten().map(|allocation| allocation.node.0.clone()).collect()
    }

    #[test]
    fn the_stages_of_the_provisioner_are_sub_steps() {
        let steps = |snapshot: &Snapshot, item: &SessionItem| {
            let verdict = run(snapshot, std::slice::from_ref(item)).remove(0);
            trace(item, &verdict).into_iter().map(|step| (step.name, step.failed)).collect::<Vec<_>>()
        };
        let world = snapshot(vec![node("a", 4)]);
        let placed = [("validate", None), ("select", None), ("allocate", None)];
        assert_eq!(steps(&world, &pending("s", json!({}))), placed);
        let unfit = [("validate", None), ("select", Some(Reason::NoAvailableNode))];
        assert_eq!(steps(&world, &pending("s", json!({"kernels": [kernel(5)]}))), unfit);
        let none = limited(json!({"limits": {"cpu": 0}}));
        assert_eq!(steps(&none, &pending("s", json!({}))), [("validate", Some(Reason::QuotaExceeded))]);
    }

    #[test]
    fn ss_001_a_session_gets_a_node_and_our_finalizer_first() {
        let verdicts = run(&snapshot(vec![node("a", 4)]), &[pending("s", json!({}))]);
        assert_eq!(nodes_of(&verdicts[0]), ["a"]);
        assert_eq!(verdicts[0].effects, [Effect::HoldSession]);
    }

    #[test]
    fn a_session_is_on_hold_when_its_scaling_group_has_no_ready_node() {
        let mut down = node("a", 4);
        down.ready = false;
        for nodes in [vec![down], vec![]] {
            let verdicts = run(&snapshot(nodes), &[pending("s", json!({}))]);
            assert_eq!(failure(&verdicts[0]), Some((Cause::Hold, Reason::NoAvailableNode)));
        }
    }

    #[test]
    fn ss_002_many_sessions_share_the_nodes_without_overcommitment() {
        let items: Vec<_> = (0..9).map(|n| pending(&format!("s{n}"), json!({}))).collect();
        let verdicts = run(&snapshot(vec![node("a", 4), node("b", 4)]), &items);
        let placed: Vec<String> = verdicts.iter().flat_map(nodes_of).collect();
        assert_eq!(placed.iter().filter(|node| *node == "a").count(), 4);
        assert_eq!(placed.iter().filter(|node| *node == "b").count(), 4);
        assert_eq!(verdicts.iter().filter_map(failure).collect::<Vec<_>>(), [(Cause::Capacity, Reason::NoAvailableNode)]);
    }

    #[test]
    fn ss_003_a_request_that_fits_a_node_waits_for_capacity_and_a_larger_one_is_on_hold() {
        let world = snapshot(vec![node("a", 4)]);
        let big = pending("big", json!({"kernels": [kernel(4)]}));
        let verdicts = run(&world, &[big, pending("s", json!({}))]);
        assert_eq!(failure(&verdicts[1]), Some((Cause::Capacity, Reason::NoAvailableNode)));
        let verdicts = run(&world, &[pending("huge", json!({"kernels": [kernel(5)]}))]);
        assert_eq!(failure(&verdicts[0]), Some((Cause::Hold, Reason::NoAvailableNode)));
    }

    #[test]
    fn ss_006_a_gang_gets_all_its_nodes_or_none() {
        let verdicts = run(&snapshot(vec![node("a", 2), node("b", 1)]), &[pending("g", gang())]);
        assert_eq!(nodes_of(&verdicts[0]), ["a", "b", "a"]);
        let full = pending("full", json!({"priority": 20, "kernels": [kernel(2)]}));
        let verdicts = run(&snapshot(vec![node("a", 2), node("b", 2)]), &[pending("g", gang()), pending("s", json!({})), full]);
        assert_eq!(failure(&verdicts[0]), Some((Cause::Capacity, Reason::NoAvailableNode)));
        assert_eq!(nodes_of(&verdicts[1]), ["b"], "a refused gang leaves its resources to others");
        let verdicts = run(&snapshot(vec![node("a", 2)]), &[pending("g", gang()), pending("s", json!({}))]);
        assert_eq!(
            failure(&verdicts[0]),
            Some((Cause::Hold, Reason::NoAvailableNode)),
            "the nodes cannot hold three kernels even when empty"
        );
        assert!(nodes_of(&verdicts[0]).is_empty());
        assert_eq!(nodes_of(&verdicts[1]), ["a"]);
    }

    #[test]
    fn ss_007_mixed_workloads_get_the_nodes_that_suit_them() {
        let mut gpu = node("gpu", 4);
        gpu.allocatable.set("nvidia.com/gpu", crate::api::Amount::from_units(1));
        let wants_gpu = json!({"kernels": [{"image": "i", "resources": {"cpu": 1, "memory": "1Gi", "nvidia.com/gpu": 1}}]});
        let verdicts = run(&snapshot(vec![node("cpu", 4), gpu]), &[pending("g", wants_gpu), pending("c", json!({}))]);
        assert_eq!((nodes_of(&verdicts[0]), nodes_of(&verdicts[1])), (vec!["gpu".into()], vec!["cpu".into()]));
    }

    #[test]
    fn cp_002_a_session_waits_with_a_message_when_its_quota_is_used_up() {
        let world = limited(json!({"limits": {"cpu": 1}}));
        let verdicts = run(&world, &[pending("one", json!({})), pending("two", json!({}))]);
        assert_eq!(nodes_of(&verdicts[0]), ["node-1"]);
        assert_eq!(failure(&verdicts[1]), Some((Cause::Quota, Reason::QuotaExceeded)));
        let Outcome::Failure(reported) = &verdicts[1].outcome else { panic!("a failure") };
        assert!(reported.message.contains("keypair key: cpu 1 requested, 1 of 1 used"), "{}", reported.message);
    }

    #[test]
    fn cp_003_cp_004_an_inactive_domain_or_project_is_a_hold() {
        for (what, reason) in [("domain", Reason::DomainInactive), ("project", Reason::ProjectInactive)] {
            let mut world = snapshot(vec![node("a", 4)]);
            let mut tenancy: Tenancy = (*world.tenancy).clone();
            if what == "domain" {
                let mut domain = (*tenancy.domains[&"domain".into()]).clone();
                domain.spec.active = false;
                tenancy.domains.insert("domain".into(), Arc::new(domain));
            } else {
                let mut project = (*tenancy.projects[&"project".into()]).clone();
                project.spec.active = false;
                tenancy.projects.insert("project".into(), Arc::new(project));
            }
            world.tenancy = Arc::new(tenancy);
            let verdicts = run(&world, &[pending("s", json!({}))]);
            assert_eq!(failure(&verdicts[0]), Some((Cause::Hold, reason)), "{what}");
        }
    }

    #[test]
    fn nodes_that_failed_a_session_are_tried_last() {
        let mut session = session(json!({}));
        let until = crate::session::handlers::testing::now() + chrono::TimeDelta::minutes(1);
        let failed_nodes = vec![crate::api::FailedNode { node: "a".into(), until }];
        session.status = Some(crate::api::SessionStatus { failed_nodes, ..Default::default() });
        let world = snapshot(vec![node("a", 4), node("b", 4)]);
        assert_eq!(nodes_of(&run(&world, &[item(session.clone(), &[])])[0]), ["b"]);
        let world = snapshot(vec![node("a", 4)]);
        assert_eq!(nodes_of(&run(&world, &[item(session, &[])])[0]), ["a"], "last is not never");
    }

    #[test]
    fn a_session_without_its_scaling_group_reports_all_blockers_and_still_waits_for_its_start_time() {
        let world = Snapshot { group: None, ..snapshot(vec![node("a", 4)]) };
        let verdicts = run(&world, &[pending("s", json!({})), pending("later", json!({"startsAt": "2999-01-01T00:00:00Z"}))]);
        assert_eq!(failure(&verdicts[0]), Some((Cause::Hold, Reason::ScalingGroupNotFound)));
        assert!(matches!(verdicts[1].outcome, Outcome::Skipped(Reason::NotYetDue, _)), "{:?}", verdicts[1].outcome);
        let reported = |verdict: &Verdict| {
            let waiting = verdict.change.waiting.as_ref().expect("a waiting report");
            waiting.blockers.iter().map(|blocker| blocker.reason).collect::<Vec<_>>()
        };
        assert_eq!(reported(&verdicts[0]), [Reason::ScalingGroupNotFound]);
        assert_eq!(reported(&verdicts[1]), [Reason::NotYetDue, Reason::ScalingGroupNotFound]);
    }

    #[test]
    fn a_session_needs_a_node_back_in_service_when_all_nodes_are_closed() {
        let closed = |name: &str| crate::views::NodeView { unschedulable: true, ..node(name, 1) };
        let needs = |nodes| {
            let mut verdicts = run(&snapshot(nodes), &[pending("1", json!({"priority": 50})), pending("2", json!({}))]);
            let waiting = verdicts.remove(1).change.waiting.expect("a verdict");
            (waiting.nodes.map_or(0, |nodes| nodes.closed), waiting.blockers[0].needs.clone())
        };
        let all = "a node back in service (2 of 2 are cordoned, tainted or not ready), or a node added";
        assert_eq!(needs(vec![closed("a"), closed("b")]), (2, all.into()));
        let some = "free resources on a node: other sessions ending, or nodes added to the scaling group";
        assert_eq!(needs(vec![closed("a"), node("b", 1)]), (1, some.into()));
    }
}
