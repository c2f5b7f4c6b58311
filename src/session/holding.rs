//! The resources that a session occupies on each node, from its allocation and its pods. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::kernels::{allocated_nodes, kernel_name};
use crate::api::{Amount, NodeName, ResourceName, Resources, Session, expand};
use crate::provisioner::Holding;
use crate::views::Account;
use crate::views::PodView;
use crate::views::{ClaimKey, claims};

pub fn account_of(session: &Session) -> Account {
    Account {
        access_key: session.spec.access_key.clone(),
        namespace: session.metadata.namespace.clone().unwrap_or_default(),
        owner: session.status.as_ref().and_then(|status| status.owner.clone()),
    }
}

/// Returns the account of pods whose session is gone or unreadable. Only their namespace is known.
fn account_of_pods(pods: &[&PodView]) -> Account {
    Account { namespace: pods.first().map(|pod| pod.namespace.clone()).unwrap_or_default(), ..Account::default() }
}

/// Returns a session's holding: for each kernel the larger of its allocation and its live pods. It lasts until the pods are
/// gone. `overhead` is the amount that the RuntimeClass adds to each pod.
pub fn holding(session: Option<&Session>, pods: &[&PodView], overhead: &Resources) -> Option<Holding> {
    let mut nodes: BTreeMap<NodeName, (Resources, i64)> = BTreeMap::new();
    let mut add = |node: &NodeName, usage: &Resources| {
        let (sum, count) = nodes.entry(node.clone()).or_default();
        sum.add(usage);
        *count += 1;
    };
    let live: Vec<&&PodView> = pods.iter().filter(|pod| pod.is_live()).collect();
    let mut counted: BTreeSet<&str> = BTreeSet::new();
    let allocated = session.is_some_and(|session| session.phase().holds_resources());
    // A session ended by force still runs until its pods are gone. A session that was reset must not compete with its old
    // pods.
    let active = allocated || session.is_some_and(|session| session.phase().is_terminal()) && !live.is_empty();
    if let Some(session) = session.filter(|_| allocated) {
        let uid = session.metadata.uid.clone().unwrap_or_default();
        let name = session.metadata.name.clone().unwrap_or_default();
        let generation = session.status.as_ref().map_or(0, |status| status.allocation_generation);
        let nodes = allocated_nodes(session);
        for slot in expand(&session.spec.kernels) {
            let Some(node) = nodes.get(slot.hostname.as_str()) else { continue };
            let mut usage = Resources::from(&slot.template.resources);
            usage.add(overhead);
            usage.set(ResourceName::Pods, Amount::from_units(1));
            let pod_name = kernel_name(&name, &uid, &slot.hostname, generation);
            if let Some(pod) = live.iter().find(|pod| pod.name == pod_name && pod.node.as_ref() == Some(node)) {
                usage = usage.max(&pod.requests);
                counted.insert(&pod.name);
            }
            add(node, &usage);
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
        deployment: session.and_then(Session::deployment_uid).cloned(),
        nodes,
    })
}

/// Returns the claims that the session mounts while it is active, and the claims that its pods still mount.
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
        holding.nodes.get(&"node-1".into()).map(|(usage, _)| usage.get("cpu"))
    }

    #[test]
    fn an_allocation_counts_before_its_pod_exists_and_only_once_with_it() {
        let session = session_in(SessionPhase::Running);
        let mut pod = pod_of(&session);
        pod.requests.set("cpu", Amount::from_units(1));
        assert_eq!(cpu_on_node_1(Some(&session), &[]), Some(Amount::from_units(1)));
        assert_eq!(cpu_on_node_1(Some(&session), &[&pod]), Some(Amount::from_units(1)));
    }

    #[test]
    fn a_live_pod_counts_in_every_phase_of_its_session_and_without_a_session() {
        let ended = session_in(SessionPhase::Terminated);
        let mut pod = pod_of(&ended);
        pod.requests.set("cpu", Amount::from_units(1));
        assert_eq!(cpu_on_node_1(Some(&ended), &[&pod]), Some(Amount::from_units(1)));
        assert_eq!(cpu_on_node_1(None, &[&pod]), Some(Amount::from_units(1)));
        let still_active = holding(Some(&ended), &[&pod], &Resources::default()).map(|holding| holding.active);
        assert_eq!(still_active, Some(true), "the ended session still counts as one of its owner's sessions");
        let reset = session_in(SessionPhase::Pending);
        let after_reset =
            holding(Some(&reset), &[&pod], &Resources::default()).map(|holding| (holding.active, whole(holding.claims.len())));
        assert_eq!(after_reset, Some((false, 0)), "a session does not compete with its own old pods");
        let ended_pod = PodView { ended: true, ..pod };
        assert_eq!(holding(Some(&ended), &[&ended_pod], &Resources::default()), None);
    }
}
