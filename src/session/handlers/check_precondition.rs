//! check-precondition: checks a scheduled session once more and makes its kernels and pods, so that images are pulled.

use super::{Decide, Handler, HandlerName, LockId, To, Transitions, Verdict};
use crate::api::SessionPhase;
use crate::lifecycle::{Failure, Reason};
use crate::provisioner::Ledger;
use crate::session::effect::{Effect, Launch};
use crate::session::kernels::{allocated_nodes, expand, kernel_name};
use crate::session::precondition;
use crate::session::snapshot::{SessionItem, Snapshot};

pub static ROW: Handler = Handler {
    name: HandlerName::CheckPrecondition,
    targets: &[SessionPhase::Scheduled],
    transitions: Transitions {
        success: To::phase(SessionPhase::Preparing),
        expired: To::PENDING_RESET,
        give_up: To::phase(SessionPhase::Terminating),
        ..Transitions::NONE
    },
    lock: Some(LockId::Preparing),
    waits: false,
    decide: Decide::All(decide),
};

fn decide(snapshot: &Snapshot, ledger: &mut Ledger, items: &[SessionItem]) -> Vec<Verdict> {
    items.iter().map(|item| prepare(snapshot, ledger, item)).collect()
}

fn prepare(snapshot: &Snapshot, ledger: &Ledger, item: &SessionItem) -> Verdict {
    if let Err(failure) = precondition::check(snapshot, ledger, item).and_then(|()| reachable(item)) {
        return Verdict::failure(failure);
    }
    let mut effects = vec![];
    if item.is_gang() {
        effects.extend([Effect::CreateService, Effect::CreateSshSecret]);
    }
    effects.extend(launches(item));
    Verdict::success().effects(effects)
}

/// A pod made for a node that does not answer would only wait there.
fn reachable(item: &SessionItem) -> Result<(), Failure> {
    match item.kernels.iter().find(|kernel| kernel.pod.is_none() && kernel.liveness.is_lost()) {
        None => Ok(()),
        Some(kernel) => {
            let node = kernel.node.as_ref().map_or("?", |node| node.as_str());
            let message = format!("{}: agent {node} cannot be reached ({:?})", kernel.hostname, kernel.liveness);
            Err(Failure::fault(Reason::NodeLost, message))
        }
    }
}

/// One launch for each kernel that has a place.
fn launches(item: &SessionItem) -> Vec<Effect> {
    let nodes = allocated_nodes(&item.session);
    let generation = item.session.status.as_ref().map_or(0, |status| status.allocation_generation);
    let uid = item.uid();
    expand(&item.session.spec.kernels)
        .into_iter()
        .filter_map(|slot| {
            let node = (*nodes.get(slot.hostname.as_str())?).clone();
            Some(Effect::Launch(Box::new(Launch {
                name: kernel_name(item.name(), &uid.0, &slot.hostname, generation),
                template: slot.template.clone(),
                index: slot.index,
                local_rank: slot.local_rank,
                hostname: slot.hostname,
                node,
                generation,
                gated: item.is_gang(),
            })))
        })
        .collect()
}
