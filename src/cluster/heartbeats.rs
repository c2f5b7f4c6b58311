//! Signs of life of agents: the leases that kubelets renew, read only while something has run for as long as one may rest.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::ListParams;
use kube::{Api, Client};

use super::world::{PodRow, World};
use crate::api::NodeName;
use crate::session::views::PodView;

/// Where kubelets have their leases.
const NAMESPACE: &str = "kube-node-lease";

/// Since when each node's lease has said what it says, as seen from here: no node's clock is compared with ours, and a time
/// in which this machine slept does not count.
#[derive(Default)]
struct Heartbeats(HashMap<NodeName, (MicroTime, Instant)>);

impl Heartbeats {
    /// Takes in what the leases say now; returns the nodes of which none was renewed for longer than `limit`.
    fn stale(&mut self, renewed: HashMap<NodeName, MicroTime>, now: Instant, limit: Duration) -> BTreeSet<NodeName> {
        self.0.retain(|node, _| renewed.contains_key(node));
        let mut stale = BTreeSet::new();
        for (node, at) in renewed {
            let (last, since) = self.0.entry(node.clone()).or_insert_with(|| (at.clone(), now));
            if *last != at {
                (*last, *since) = (at, now);
            } else if now.duration_since(*since) > limit {
                stale.insert(node);
            }
        }
        stale
    }
}

impl World {
    /// Whether anything has run for so long that it may have gone stale.
    fn runs_since_long(&self) -> bool {
        let now = chrono::Utc::now();
        let long = |pod: &PodView| pod.created_at.is_none_or(|at| (now - at).to_std().is_ok_and(|age| age > self.timing.stale));
        let inner = self.lock();
        inner.pods.values().any(|row| matches!(row, PodRow::Ours(pod) if pod.bound && pod.is_live() && long(pod)))
    }

    /// The agents that show no sign of life now.
    fn set_stale(&self, stale: BTreeSet<NodeName>) {
        let mut inner = self.lock();
        if *inner.stale != stale {
            inner.stale = Arc::new(stale);
            drop(inner);
            self.mark_everything();
        }
    }
}

/// Looks for ever. Where leases cannot be read, or a node has none, nothing is known and nothing done.
pub async fn look(client: Client, world: Arc<World>) {
    let leases: Api<Lease> = Api::namespaced(client, NAMESPACE);
    let mut heartbeats = Heartbeats::default();
    loop {
        tokio::time::sleep(world.timing.long_cycle).await;
        if !world.runs_since_long() {
            heartbeats = Heartbeats::default();
            continue;
        }
        match leases.list(&ListParams::default().match_any()).await {
            Ok(list) => {
                let renewed =
                    list.items.into_iter().filter_map(|lease| Some((NodeName(lease.metadata.name?), lease.spec?.renew_time?)));
                world.set_stale(heartbeats.stale(renewed.collect(), Instant::now(), world.timing.stale));
            }
            Err(error) => tracing::debug!("the leases of nodes cannot be read: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::jiff::Timestamp;

    #[test]
    fn sk_001_a_node_whose_lease_rests_for_too_long_shows_no_sign_of_life() {
        let (start, limit) = (Instant::now(), Duration::from_secs(120));
        let leases = |of: &[(&str, i64)]| {
            let time = |seconds| MicroTime(Timestamp::from_second(seconds).expect("a time"));
            of.iter().map(|(node, seconds)| (NodeName::from(*node), time(*seconds))).collect::<HashMap<_, _>>()
        };
        let mut heartbeats = Heartbeats::default();
        let mut at = |seconds: u64, of: &[(&str, i64)]| {
            let stale = heartbeats.stale(leases(of), start + Duration::from_secs(seconds), limit);
            stale.into_iter().map(|node| node.0).collect::<Vec<_>>()
        };
        assert!(at(0, &[("dead", 1), ("alive", 1)]).is_empty(), "however old it is");
        assert!(at(120, &[("dead", 1), ("alive", 2)]).is_empty(), "strictly longer");
        assert_eq!(at(121, &[("dead", 1), ("alive", 2), ("new", 1)]), ["dead"]);
        assert!(at(180, &[("dead", 9), ("alive", 3)]).is_empty(), "it came back");
    }
}
