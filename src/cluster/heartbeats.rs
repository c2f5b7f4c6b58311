//! Detects stale nodes by their heartbeats: the leases that kubelets renew, and the node statuses. Leases are read only
//! while a pod has run for longer than a node may be silent.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::ListParams;
use kube::{Api, Client};

use super::lease::stated_duration;
use super::store::heartbeats::Statuses;
use super::store::stores::PodRow;
use super::store::world::World;
use crate::api::NodeName;
use crate::lifecycle::Timing;
use crate::views::PodView;
use crate::views::extract;

/// The namespace of the kubelets' leases.
const NAMESPACE: &str = "kube-node-lease";

/// The last heartbeats of a node, by its own clock.
#[derive(Clone, Debug, PartialEq)]
struct Heartbeat {
    /// None if the node has no lease, or one that was never renewed.
    lease: Option<MicroTime>,
    status: Option<DateTime<Utc>>,
    /// How long the node counts as alive without another heartbeat, if that is longer than the usual limit.
    lasts: Duration,
}

/// Returns the heartbeat of each node: from its lease and its status, or from its status alone. A node with neither is left
/// out, because its silence means nothing.
fn heartbeats(leases: Vec<Lease>, statuses: &Statuses, without_lease: Duration) -> HashMap<NodeName, Heartbeat> {
    let by_status = |(node, heard): (&NodeName, &DateTime<Utc>)| {
        (node.clone(), Heartbeat { lease: None, status: Some(*heard), lasts: without_lease })
    };
    let by_lease = |lease: Lease| {
        let lasts = stated_duration(&lease).unwrap_or_default();
        let (node, renewed) = (NodeName(lease.metadata.name?), lease.spec?.renew_time?);
        let status = statuses.get(&node).copied();
        Some((node, Heartbeat { lease: Some(renewed), status, lasts }))
    };
    let mut heartbeats: HashMap<_, _> = statuses.iter().map(by_status).collect();
    heartbeats.extend(leases.into_iter().filter_map(by_lease));
    heartbeats
}

/// The heartbeat of each node, and since when we have observed the same one. No node's clock is compared with ours, and
/// time in suspend does not count.
#[derive(Default)]
struct Observed(HashMap<NodeName, (Heartbeat, Instant)>);

impl Observed {
    /// Records the heartbeats that were just read. Returns the silent nodes, which have had no new heartbeat for longer than
    /// `limit` and than their own `lasts`.
    fn silent(&mut self, heartbeats: HashMap<NodeName, Heartbeat>, now: Instant, limit: Duration) -> BTreeSet<NodeName> {
        self.0.retain(|node, _| heartbeats.contains_key(node));
        let mut silent = BTreeSet::new();
        for (node, heartbeat) in heartbeats {
            let (last, since) = self.0.entry(node.clone()).or_insert_with(|| (heartbeat.clone(), now));
            if *last != heartbeat {
                (*last, *since) = (heartbeat, now);
            } else if now.duration_since(*since) > limit.max(heartbeat.lasts) {
                silent.insert(node);
            }
        }
        silent
    }

    /// Reads the heartbeats and publishes which nodes are stale. Sessions on a stale node end, and one answer may be out of
    /// date. So a node becomes stale only when a second read, sent after the first was evaluated, shows the same heartbeat.
    async fn observe(&mut self, client: &Client, world: &World) -> kube::Result<()> {
        let watched = || world.lock().heartbeats.statuses.clone();
        let silent = self.read(client, watched(), &world.timing).await?;
        let known = world.lock().heartbeats.stale.clone();
        // A node that came back is alive at once. No other node becomes stale before the second answer.
        world.set_stale(&silent & &known);
        let suspects = &silent - &known;
        if suspects.is_empty() {
            return Ok(());
        }
        // A watch may hang unnoticed for minutes, so node statuses are read when they decide.
        let by_status = suspects.iter().any(|node| self.0.get(node).is_some_and(|(last, _)| last.lease.is_none()));
        let statuses = if by_status { read_statuses(client).await? } else { watched() };
        let confirmed = self.read(client, statuses, &world.timing).await?;
        world.set_stale(&silent & &confirmed);
        Ok(())
    }

    /// Reads the leases. Returns the nodes that are silent by their leases and by these statuses.
    async fn read(&mut self, client: &Client, statuses: Statuses, timing: &Timing) -> kube::Result<BTreeSet<NodeName>> {
        let leases: Api<Lease> = Api::namespaced(client.clone(), NAMESPACE);
        let leases = leases.list(&ListParams::default()).await?.items;
        let heartbeats = heartbeats(leases, &statuses, timing.stale_without_lease);
        // Tokio's clock is the monotonic one; tests can advance it.
        Ok(self.silent(heartbeats, tokio::time::Instant::now().into_std(), timing.stale))
    }
}

async fn read_statuses(client: &Client) -> kube::Result<Statuses> {
    let nodes = Api::<Node>::all(client.clone()).list(&ListParams::default()).await?.items;
    let status = |node: Node| Some((NodeName(node.metadata.name.clone()?), extract::heartbeat(&node)?));
    Ok(nodes.into_iter().filter_map(status).collect())
}

impl World {
    /// Whether a node is stale, or a pod has run for so long that its node may have become stale.
    fn may_be_stale(&self) -> bool {
        let now = Utc::now();
        let is_old = |pod: &PodView| pod.created_at.is_none_or(|at| (now - at).to_std().is_ok_and(|age| age > self.timing.stale));
        let state = self.lock();
        let may_run = |row: &PodRow| matches!(row, PodRow::Ours(pod) if pod.bound && pod.is_live() && is_old(pod));
        !state.heartbeats.stale.is_empty() || state.stores.pods.values().any(may_run)
    }

    fn set_stale(&self, stale: BTreeSet<NodeName>) {
        let mut state = self.lock();
        if state.heartbeats.stale != stale {
            tracing::warn!(?stale, "the nodes without a recent heartbeat changed");
            state.heartbeats.stale = stale;
            state.nodes_changed();
            drop(state);
            self.mark_usage();
            self.mark_everything();
        }
    }
}

/// Observes heartbeats. Never returns. If heartbeats cannot be read, the last result stays valid.
pub async fn look(client: Client, world: Arc<World>) {
    let mut observed = Observed::default();
    loop {
        tokio::time::sleep(world.timing.long_cycle).await;
        if !world.may_be_stale() {
            observed = Observed::default();
        } else if let Err(error) = observed.observe(&client, &world).await {
            tracing::debug!("heartbeats of nodes cannot be read: {error}");
            // Kubelets may not have been able to renew their leases either, so the silence so far does not count.
            observed = Observed::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex;

    use http::Response;
    use k8s_openapi::jiff::Timestamp;
    use kube::client::Body;
    use serde_json::{Value, json};

    use super::*;
    use crate::cluster::store::world::Scope;
    use crate::views::Liveness;

    fn names(world: &World) -> Vec<String> {
        world.lock().heartbeats.stale.iter().map(ToString::to_string).collect()
    }

    fn time(seconds: i64) -> Option<DateTime<Utc>> {
        DateTime::from_timestamp(seconds, 0)
    }

    fn renewed(seconds: i64) -> MicroTime {
        MicroTime(Timestamp::from_second(seconds).expect("a time"))
    }

    /// A lease that lasts 40 s.
    fn lease(node: &str, renewed_at: Option<i64>) -> Value {
        json!({"metadata": {"name": node}, "spec": {"leaseDurationSeconds": 40, "renewTime": renewed_at.map(renewed)}})
    }

    fn node(name: &str, version: u64, heard: i64) -> Value {
        let heard = time(heard).map(|at| at.to_rfc3339());
        let ready = json!({"type": "Ready", "status": "True", "lastHeartbeatTime": heard});
        json!({"metadata": {"name": name, "resourceVersion": version.to_string()}, "status": {"conditions": [ready]}})
    }

    fn world() -> World {
        World::new(Arc::default(), Scope::default())
    }

    #[test]
    fn sk_001_a_node_without_a_new_heartbeat_for_too_long_is_silent() {
        let (start, limit) = (Instant::now(), Duration::from_secs(120));
        let heartbeat = |lease: i64, status: i64, lasts: u64| Heartbeat {
            lease: Some(renewed(lease)),
            status: time(status),
            lasts: Duration::from_secs(lasts),
        };
        let mut observed = Observed::default();
        let mut silent_at = |seconds: u64, heartbeats: &[(&str, Heartbeat)]| {
            let heartbeats = heartbeats.iter().map(|(node, heartbeat)| (NodeName::from(*node), heartbeat.clone())).collect();
            let silent = observed.silent(heartbeats, start + Duration::from_secs(seconds), limit);
            silent.into_iter().map(|node| node.0).collect::<Vec<_>>()
        };
        let first = ["dead", "slow", "well", "old"].map(|node| (node, heartbeat(1, 1, if node == "slow" { 600 } else { 40 })));
        assert!(silent_at(0, &first).is_empty(), "the age of the first heartbeat does not count");
        assert!(silent_at(120, &first).is_empty(), "the time must exceed the limit");
        let [dead, slow, ..] = first;
        let later = [dead, slow, ("well", heartbeat(2, 1, 40)), ("old", heartbeat(1, 2, 40)), ("new", heartbeat(1, 1, 40))];
        assert_eq!(silent_at(121, &later), ["dead"]);
        assert!(silent_at(180, &[("dead", heartbeat(9, 1, 40))]).is_empty(), "it came back");
    }

    #[test]
    fn a_node_without_a_renewed_lease_has_the_heartbeat_of_its_status_and_a_node_without_either_has_none() {
        let statuses = ["leased", "unleased", "unrenewed"].into_iter().zip(1..).map(|(node, at)| (node.into(), time(at)));
        let statuses = statuses.filter_map(|(node, at)| Some((node, at?))).collect();
        let leases = [lease("leased", Some(9)), lease("unrenewed", None), lease("status-unknown", Some(9))];
        let leases = leases.map(|lease| serde_json::from_value(lease).expect("a lease")).into();
        let without_lease = Duration::from_secs(600);
        let expected = [
            ("leased", Some(renewed(9)), time(1), Duration::from_secs(40)),
            ("status-unknown", Some(renewed(9)), None, Duration::from_secs(40)),
            ("unleased", None, time(2), without_lease),
            ("unrenewed", None, time(3), without_lease),
        ];
        let expected = expected.map(|(node, lease, status, lasts)| (NodeName::from(node), Heartbeat { lease, status, lasts }));
        assert_eq!(heartbeats(leases, &statuses, without_lease), HashMap::from(expected));
    }

    /// The kind that is listed, and the objects in the answer.
    type Answer = (&'static str, Vec<Value>);

    /// Returns an API server that expects these lists in this order and fails all others, and the answers that are left.
    fn answering(answers: Vec<Answer>) -> (Client, Arc<Mutex<VecDeque<Answer>>>) {
        let left = Arc::new(Mutex::new(VecDeque::from(answers)));
        let answers = left.clone();
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let (code, body) = match answers.lock().expect("no panic").pop_front() {
                None => (500, json!({"status": "Failure", "code": 500, "message": "as planned", "reason": "InternalError"})),
                Some((kind, items)) => {
                    assert!(request.uri().path().ends_with(kind), "{} instead of {kind}", request.uri());
                    (200, json!({"metadata": {}, "items": items}))
                }
            };
            let answer = Response::builder().status(code).body(Body::from(body.to_string().into_bytes()));
            async move { answer }
        });
        (Client::new(service, "default"), left)
    }

    /// Observes once with these answers, checks that all were used, and returns the stale nodes.
    async fn observe(observed: &mut Observed, world: &World, answers: Vec<Answer>) -> kube::Result<Vec<String>> {
        let (client, left) = answering(answers);
        let result = observed.observe(&client, world).await;
        assert!(left.lock().expect("no panic").is_empty());
        result.map(|()| names(world))
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_becomes_stale_only_when_a_second_read_shows_the_same_lease() {
        let leases = |renewed_at| ("leases", vec![lease("n", Some(renewed_at))]);
        let rounds = [
            (vec![leases(1)], Some(false), "the first heartbeat"),
            (vec![leases(1), leases(2)], Some(false), "renewed meanwhile"),
            (vec![leases(2), ("leases", vec![])], Some(false), "deleted meanwhile"),
            (vec![leases(2)], Some(false), "observed again"),
            (vec![leases(2)], None, "the second read fails"),
            (vec![leases(2), leases(2)], Some(true), "silent in both"),
            (vec![leases(2)], Some(true), "a stale node needs no second read"),
            (vec![leases(3)], Some(false), "it came back"),
        ];
        let (world, mut observed) = (world(), Observed::default());
        for (answers, stale, why) in rounds {
            let now = observe(&mut observed, &world, answers).await.ok();
            assert_eq!(now.map(|names| !names.is_empty()), stale, "{why}");
            assert_eq!(!names(&world).is_empty(), stale == Some(true), "{why}");
            tokio::time::advance(world.timing.stale + Duration::from_secs(1)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_without_a_lease_is_stale_when_both_the_watch_and_a_read_show_the_same_status() {
        let (world, mut observed) = (world(), Observed::default());
        let watch = |node: Value| world.upsert_node(&serde_json::from_value(node).expect("a node"));
        let no_lease = || ("leases", vec![]);
        watch(node("n", 1, 1));
        watch(json!({"metadata": {"name": "unknown", "resourceVersion": "1"}}));
        assert!(observe(&mut observed, &world, vec![no_lease()]).await.expect("read").is_empty());
        tokio::time::advance(world.timing.stale_without_lease).await;
        assert!(
            observe(&mut observed, &world, vec![no_lease()]).await.expect("read").is_empty(),
            "the time must exceed the limit"
        );
        tokio::time::advance(Duration::from_secs(1)).await;
        let alive = vec![no_lease(), ("nodes", vec![node("n", 2, 2)]), no_lease()];
        assert!(observe(&mut observed, &world, alive).await.expect("read").is_empty(), "the watch hangs");
        watch(node("n", 2, 2));
        tokio::time::advance(world.timing.stale_without_lease + Duration::from_secs(1)).await;
        let silent = vec![no_lease(), ("nodes", vec![node("n", 2, 2)]), no_lease()];
        assert_eq!(observe(&mut observed, &world, silent).await.expect("read"), ["n"]);
        watch(node("n", 3, 3));
        assert!(observe(&mut observed, &world, vec![no_lease()]).await.expect("read").is_empty(), "it came back");
    }

    #[test]
    fn a_stale_node_takes_no_pods_until_it_has_a_heartbeat_again() {
        let world = world();
        world.upsert_node(&serde_json::from_value(node("n", 1, 1)).expect("a node"));
        let state = |world: &World| {
            let snapshot = world.lock().snapshot(&Some("default".into()), &world.timing);
            (snapshot.liveness(&"n".into()), snapshot.nodes[&NodeName::from("n")].takes_pods())
        };
        assert_eq!(state(&world), (Liveness::Alive, true));
        assert!(!world.may_be_stale(), "no pod runs");
        world.set_stale(BTreeSet::from(["n".into()]));
        assert_eq!(state(&world), (Liveness::Stale, false));
        assert!(world.may_be_stale(), "a stale node is read until it comes back");
        world.set_stale(BTreeSet::new());
        assert_eq!(state(&world), (Liveness::Alive, true));
    }
}
