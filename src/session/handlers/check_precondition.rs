//! check-precondition: checks a scheduled session once more and creates its kernels and pods, so that images are pulled.

use super::{Decide, Handler, HandlerName, LockId, Mode, Outcome, RESET, Settings, To, Transitions, Verdict};
use crate::api::{SessionPhase, TryingHandler};
use crate::lifecycle::{CommitMode, Failure, Reason, Trigger};
use crate::provisioner::LedgerSnapshot;
use crate::session::kernels::KernelItem;
use crate::session::snapshot::{SessionItem, Snapshot};
use crate::session::{launcher, precondition};

pub static ROW: Handler = Handler {
    name: HandlerName::CheckPrecondition,
    targets: &[SessionPhase::Scheduled],
    transitions: Transitions {
        success: To::phase(SessionPhase::Preparing),
        expired: RESET,
        give_up: To::phase(SessionPhase::Terminating),
        refused: RESET,
        ..Transitions::NONE
    },
    mode: Mode::Acts,
    follows: &[],
    commit: CommitMode::Deferred,
    wakes_on: &[Trigger::CapacityFreed, Trigger::TenancyChanged],
    lock: Some(LockId::Preparing),
    overview: None,
    trace: None,
    settings: Settings { retry: Some(TryingHandler::CheckPrecondition), tightened_by_session: true, ..Settings::NONE },
    decide: Decide::All(decide),
};

/// A refused session does not count for the sessions after it. Otherwise sessions that exceed a limit together would all be
/// refused.
fn decide(snapshot: &Snapshot, ledger: &mut LedgerSnapshot, items: &[SessionItem]) -> Vec<Verdict> {
    let prepare = |item| {
        let verdict = prepare(snapshot, ledger, item);
        if matches!(verdict.outcome, Outcome::Failure(_)) {
            precondition::leave_out(snapshot, ledger, item);
        }
        verdict
    };
    items.iter().map(prepare).collect()
}

fn prepare(snapshot: &Snapshot, ledger: &LedgerSnapshot, item: &SessionItem) -> Verdict {
    if let Some(refusal) = precondition::check(snapshot, ledger, item) {
        return Verdict::refused(&refusal);
    }
    match reachable(snapshot, item) {
        Err(failure) => Verdict::failure(failure),
        Ok(()) => Verdict::success().effects(launcher::prepare(snapshot, item)),
    }
}

/// Fails if a node does not answer, because a pod created for it would only wait there.
fn reachable(snapshot: &Snapshot, item: &SessionItem) -> Result<(), Failure> {
    let failure = |kernel: &KernelItem| {
        let node = kernel.node.as_ref().map_or("?", |node| node.as_str());
        let trouble = kernel.liveness.trouble(node, snapshot.timing.stale).filter(|_| kernel.pod.is_none())?;
        Some(Failure::fault(Reason::NodeLost, format!("{}: {trouble}", kernel.hostname)))
    };
    item.kernels.iter().find_map(failure).map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Cause;
    use crate::session::effect::{Effect, Gate};
    use crate::session::handlers::testing::{failure, gang, item, limited, node, put, session, snapshot};
    use crate::views::Liveness;
    use crate::views::{ClaimKey, ClaimView};
    use serde_json::json;

    fn scheduled(spec: serde_json::Value) -> SessionItem {
        let mut session = session(spec);
        put(&mut session, SessionPhase::Scheduled, chrono::TimeDelta::seconds(1));
        let kernels = vec![crate::api::KernelPhase::Scheduled; crate::api::expand(&session.spec.kernels).len()];
        let mut item = item(session, &kernels);
        for kernel in &mut item.kernels {
            (kernel.pod, kernel.record) = (None, None);
        }
        item
    }

    fn checked(snapshot: &Snapshot, item: SessionItem) -> Verdict {
        decide(snapshot, &mut LedgerSnapshot::default(), &[item]).remove(0)
    }

    #[test]
    fn cp_001_st_001_a_session_that_passes_all_checks_is_launched() {
        let verdict = checked(&snapshot(vec![node("node-1", 4)]), scheduled(json!({})));
        assert!(matches!(verdict.outcome, Outcome::Success { to: None }));
        let [Effect::Launch(launch)] = &verdict.effects[..] else { panic!("one launch: {:?}", verdict.effects) };
        assert_eq!((launch.hostname.as_str(), launch.node.as_str(), launch.gate), ("main1", "node-1", Gate::None));
    }

    #[test]
    fn cp_005_more_volumes_than_the_policy_allows_is_a_fault() {
        let volumes = |names: &[&str]| {
            let mounts: Vec<_> = names.iter().map(|n| json!({"claimName": n, "mountPath": format!("/{n}")})).collect();
            json!({"kernels": [{"image": "i", "resources": {"cpu": 1, "memory": "1Gi"}, "volumes": mounts}]})
        };
        let mut world = limited(json!({"maxVolumes": 1}));
        let claim = |name: &str| {
            (
                ClaimKey { namespace: "ns".into(), name: name.into() },
                ClaimView { volume: Some("v".into()), ..ClaimView::default() },
            )
        };
        std::sync::Arc::make_mut(&mut world.tenancy).storage.claims.extend(["data", "home"].map(claim));
        assert_eq!(failure(&checked(&world, scheduled(volumes(&["data"])))), None);
        let verdict = checked(&world, scheduled(volumes(&["data", "home"])));
        assert_eq!(failure(&verdict), Some((Cause::Fault, Reason::VolumeCountExceeded)));
    }

    #[test]
    fn cp_007_each_of_several_sessions_gets_its_own_verdict() {
        let world = snapshot(vec![node("node-1", 4)]);
        let mut stranger = session(json!({"accessKey": "nobody"}));
        put(&mut stranger, SessionPhase::Scheduled, chrono::TimeDelta::seconds(1));
        let items = [scheduled(json!({})), item(stranger, &[crate::api::KernelPhase::Scheduled]), scheduled(gang())];
        let verdicts = decide(&world, &mut LedgerSnapshot::default(), &items);
        assert!(matches!(verdicts[0].outcome, Outcome::Success { .. }));
        assert_eq!(failure(&verdicts[1]), Some((Cause::Hold, Reason::KeypairNotFound)));
        assert!(matches!(verdicts[2].outcome, Outcome::Success { .. }));
    }

    #[test]
    fn one_of_two_sessions_that_exceed_a_lowered_limit_together_is_launched() {
        let world = limited(json!({"limits": {"cpu": 1, "memory": "1Gi"}}));
        let mut ledger = LedgerSnapshot::default();
        let items: Vec<SessionItem> = [scheduled(json!({})), scheduled(json!({}))]
            .into_iter()
            .map(|mut item| {
                let holding = crate::session::holding::holding(Some(&item.session), &[], &crate::api::Resources::default())
                    .expect("it holds its node");
                ledger.take(&world.tenancy.tenants_of(&holding.account), &holding);
                item.holding = Some(std::sync::Arc::new(holding));
                item
            })
            .collect();
        let verdicts = decide(&world, &mut ledger, &items);
        assert_eq!(failure(&verdicts[0]), Some((Cause::Quota, Reason::QuotaExceeded)));
        assert!(matches!(verdicts[1].outcome, Outcome::Success { .. }), "{:?}", verdicts[1].outcome);
    }

    #[test]
    fn st_002_a_node_that_does_not_answer_is_a_failure() {
        let mut item = scheduled(json!({}));
        item.kernels[0].liveness = Liveness::Lost;
        let verdict = checked(&snapshot(vec![node("node-1", 4)]), item);
        assert_eq!(failure(&verdict), Some((Cause::Fault, Reason::NodeLost)));
        assert!(verdict.effects.is_empty(), "nothing is created on it");
    }

    #[test]
    fn st_005_a_gang_gets_all_its_kernels_and_the_objects_that_they_share() {
        let verdict = checked(&snapshot(vec![node("node-1", 4)]), scheduled(gang()));
        let names: Vec<_> = verdict.effects.iter().map(Effect::name).collect();
        assert_eq!(names, ["confirm-service-name", "create-ssh-secret", "launch-kernel", "launch-kernel", "launch-kernel"]);
    }
}
