//! What a session takes of its nodes, by its allocation and by its pods. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::kernels::{allocated_nodes, kernel_name};
use crate::api::{Amount, NodeName, ResourceName, Resources, Session, expand};
use crate::provisioner::Holding;
use crate::views::Account;
use crate::views::PodView;
use crate::views::{ClaimKey, claims};

fn account_of(session: &Session) -> Account {
    Account {
        access_key: session.spec.access_key.clone(),
        namespace: session.metadata.namespace.clone().unwrap_or_default(),
        owner: session.status.as_ref().and_then(|status| status.owner.clone()),
    }
}

/// Of pods whose session is gone or cannot be read, only the namespace tells whom they count for.
fn account_of_pods(pods: &[&PodView]) -> Account {
    Account { namespace: pods.first().map(|pod| pod.namespace.clone()).unwrap_or_default(), ..Account::default() }
}

/// A session's holding: for each kernel the larger of its allocation and its live pods, until those are gone. `overhead` is
/// added by the RuntimeClass to each pod.
pub fn holding(session: Option<&Session>, pods: &[&PodView], overhead: &Resources) -> Option<Holding> {
    let mut nodes: BTreeMap<NodeName, (Resources, i64)> = BTreeMap::new();
    let mut add = |node: &NodeName, taken: &Resources| {
        let (sum, count) = nodes.entry(node.clone()).or_default();
        sum.add(taken);
        *count += 1;
    };
    let live: Vec<&&PodView> = pods.iter().filter(|pod| pod.is_live()).collect();
    let mut counted: BTreeSet<&str> = BTreeSet::new();
    let allocated = session.is_some_and(|session| session.phase().holds_resources());
    // What was ended by force still runs until its pods are gone; what begins anew must not stand in its own way.
    let active = allocated || session.is_some_and(|session| session.phase().is_terminal()) && !live.is_empty();
    if let Some(session) = session.filter(|_| allocated) {
        let uid = session.metadata.uid.clone().unwrap_or_default();
        let name = session.metadata.name.clone().unwrap_or_default();
        let generation = session.status.as_ref().map_or(0, |status| status.allocation_generation);
        let nodes = allocated_nodes(session);
        for slot in expand(&session.spec.kernels) {
            let Some(node) = nodes.get(slot.hostname.as_str()) else { continue };
            let mut taken = Resources::from(&slot.template.resources);
            taken.add(overhead);
            taken.set(ResourceName::Pods, Amount::from_units(1));
            let own = kernel_name(&name, &uid, &slot.hostname, generation);
            if let Some(pod) = live.iter().find(|pod| pod.name == own && pod.node.as_ref() == Some(node)) {
                taken = taken.max(&pod.requests);
                counted.insert(&pod.name);
            }
            add(node, &taken);
        }
    }
    for pod in live.iter().filter(|pod| !counted.contains(pod.name.as_str())) {
        if let Some(node) = &pod.node {
            add(node, &pod.requests);
        }
    }
    if nodes.is_empty() && !active {
        return None;
    }
    Some(Holding {
        account: session.map_or_else(|| account_of_pods(pods), account_of),
        private: session.is_some_and(|session| session.spec.private),
        active,
        claims: used_claims(session.filter(|_| active), &live),
        deployment: session.and_then(Session::deployment_uid),
        nodes,
    })
}

/// The claims that the session mounts while it is active, and those that its pods still mount.
fn used_claims(session: Option<&Session>, live: &[&&PodView]) -> BTreeSet<ClaimKey> {
    let mounted = live.iter().flat_map(|pod| &pod.claims).cloned();
    session.map(claims).into_iter().flatten().chain(mounted).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{SessionPhase, whole};
    use crate::session::handlers::testing::{pod_of, session_in};

    fn cpu_on_node_1(session: Option<&Session>, pods: &[&PodView]) -> Option<Amount> {
        let holding = holding(session, pods, &Resources::default())?;
        holding.nodes.get(&"node-1".into()).map(|(taken, _)| taken.get("cpu"))
    }

    #[test]
    fn an_allocation_counts_before_its_pod_and_not_twice_with_it() {
        let session = session_in(SessionPhase::Running);
        let mut pod = pod_of(&session);
        pod.requests.set("cpu", Amount::from_units(1));
        assert_eq!(cpu_on_node_1(Some(&session), &[]), Some(Amount::from_units(1)));
        assert_eq!(cpu_on_node_1(Some(&session), &[&pod]), Some(Amount::from_units(1)));
    }

    #[test]
    fn a_live_pod_counts_whatever_became_of_its_session() {
        let ended = session_in(SessionPhase::Terminated);
        let mut pod = pod_of(&ended);
        pod.requests.set("cpu", Amount::from_units(1));
        assert_eq!(cpu_on_node_1(Some(&ended), &[&pod]), Some(Amount::from_units(1)));
        assert_eq!(cpu_on_node_1(None, &[&pod]), Some(Amount::from_units(1)));
        let still_runs = holding(Some(&ended), &[&pod], &Resources::default()).map(|holding| holding.active);
        assert_eq!(still_runs, Some(true), "it counts as one of its owner's sessions, too");
        let reset = session_in(SessionPhase::Pending);
        let waits =
            holding(Some(&reset), &[&pod], &Resources::default()).map(|holding| (holding.active, whole(holding.claims.len())));
        assert_eq!(waits, Some((false, 0)), "what it left behind is not in its own way");
        let over = PodView { ended: true, ..pod };
        assert_eq!(holding(Some(&ended), &[&over], &Resources::default()), None);
    }
}
