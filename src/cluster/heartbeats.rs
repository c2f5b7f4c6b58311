//! Signs of life of agents: the leases that kubelets renew, read only while something has run for as long as one may rest.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::ListParams;
use kube::{Api, Client};

use super::lease::stated_duration;
use super::world::{PodRow, World};
use crate::api::NodeName;
use crate::session::views::PodView;

/// Where kubelets have their leases.
const NAMESPACE: &str = "kube-node-lease";

/// What a node has told of itself last, by its own clock: by its lease, and by its status.
#[derive(Clone, PartialEq)]
struct Sign {
    lease: MicroTime,
    status: Option<DateTime<Utc>>,
    /// How long it asks to be trusted without another.
    lasts: Duration,
}

/// Since when each node has told the same, as seen from here: no node's clock is compared with ours, and a time in which
/// this machine slept does not count.
#[derive(Default)]
struct Heartbeats(HashMap<NodeName, (Sign, Instant)>);

impl Heartbeats {
    /// Takes in what nodes tell now; returns those that have told nothing new for longer than `limit` and than they asked for.
    fn stale(&mut self, signs: HashMap<NodeName, Sign>, now: Instant, limit: Duration) -> BTreeSet<NodeName> {
        self.0.retain(|node, _| signs.contains_key(node));
        let mut stale = BTreeSet::new();
        for (node, sign) in signs {
            let (last, since) = self.0.entry(node.clone()).or_insert_with(|| (sign.clone(), now));
            if *last != sign {
                (*last, *since) = (sign, now);
            } else if now.duration_since(*since) > limit.max(sign.lasts) {
                stale.insert(node);
            }
        }
        stale
    }
}

impl World {
    /// Whether anything has run for so long that it may have gone stale, or has.
    fn may_be_stale(&self) -> bool {
        let now = Utc::now();
        let long = |pod: &PodView| pod.created_at.is_none_or(|at| (now - at).to_std().is_ok_and(|age| age > self.timing.stale));
        let inner = self.lock();
        let runs = |row: &PodRow| matches!(row, PodRow::Ours(pod) if pod.bound && pod.is_live() && long(pod));
        !inner.stale.is_empty() || inner.pods.values().any(runs)
    }

    fn sign(&self, lease: Lease) -> Option<(NodeName, Sign)> {
        let lasts = stated_duration(&lease).unwrap_or_default();
        let (node, lease) = (NodeName(lease.metadata.name?), lease.spec?.renew_time?);
        let status = self.lock().heartbeats.get(&node).copied();
        Some((node, Sign { lease, status, lasts }))
    }

    /// The agents that show no sign of life now.
    fn set_stale(&self, stale: BTreeSet<NodeName>) {
        let mut inner = self.lock();
        if inner.stale != stale {
            tracing::warn!(?stale, "agents that show no sign of life");
            inner.stale = stale;
            inner.agents = None;
            drop(inner);
            self.mark_usage();
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
        if !world.may_be_stale() {
            heartbeats = Heartbeats::default();
            continue;
        }
        match leases.list(&ListParams::default()).await {
            Ok(list) => {
                let signs = list.items.into_iter().filter_map(|lease| world.sign(lease)).collect();
                world.set_stale(heartbeats.stale(signs, Instant::now(), world.timing.stale));
            }
            Err(error) => tracing::debug!("the leases of nodes cannot be read: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;
    use serde_json::json;

    use super::*;
    use crate::cluster::world::Scope;
    use crate::session::views::Liveness;

    #[test]
    fn sk_001_a_node_that_tells_nothing_new_for_too_long_shows_no_sign_of_life() {
        let (start, limit) = (Instant::now(), Duration::from_secs(120));
        let sign = |lease: i64, status: i64, lasts: u64| Sign {
            lease: MicroTime(Timestamp::from_second(lease).expect("a time")),
            status: DateTime::from_timestamp(status, 0),
            lasts: Duration::from_secs(lasts),
        };
        let mut heartbeats = Heartbeats::default();
        let mut at = |seconds: u64, signs: &[(&str, Sign)]| {
            let signs = signs.iter().map(|(node, sign)| (NodeName::from(*node), sign.clone())).collect();
            let stale = heartbeats.stale(signs, start + Duration::from_secs(seconds), limit);
            stale.into_iter().map(|node| node.0).collect::<Vec<_>>()
        };
        let first = ["dead", "slow", "well", "old"].map(|node| (node, sign(1, 1, if node == "slow" { 600 } else { 40 })));
        assert!(at(0, &first).is_empty(), "however old");
        assert!(at(120, &first).is_empty(), "strictly longer");
        let [dead, slow, ..] = first;
        let told = [dead, slow, ("well", sign(2, 1, 40)), ("old", sign(1, 2, 40)), ("new", sign(1, 1, 40))];
        assert_eq!(at(121, &told), ["dead"]);
        assert!(at(180, &[("dead", sign(9, 1, 40))]).is_empty(), "it came back");
    }

    #[test]
    fn what_shows_no_sign_of_life_takes_nothing_and_is_not_alive_until_it_does() {
        let world = World::new(Arc::default(), Arc::default(), Scope::default());
        let node = json!({"metadata": {"name": "n", "resourceVersion": "1"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        world.upsert_node(&serde_json::from_value(node).expect("a node"));
        let seen = |world: &World| {
            let snapshot = world.lock().snapshot(&"default".into(), &world.timing);
            (snapshot.liveness(&"n".into()), snapshot.agents[&NodeName::from("n")].takes_pods())
        };
        assert_eq!(seen(&world), (Liveness::Alive, true));
        assert!(!world.may_be_stale(), "nothing runs");
        world.set_stale(BTreeSet::from(["n".into()]));
        assert_eq!(seen(&world), (Liveness::Stale, false));
        assert!(world.may_be_stale(), "until it shows one");
        world.set_stale(BTreeSet::new());
        assert_eq!(seen(&world), (Liveness::Alive, true));
    }
}
