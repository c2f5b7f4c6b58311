//! Leadership with the two replicas that the chart installs.

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use sokovan::api::*;

use crate::common::{self, eventually};
use crate::machine::{signal_operator_of, signal_operators};
use crate::{FOREVER, session, sessions};

pub const NAMESPACE: &str = "sokovan-system";

async fn lease() -> LeaseSpec {
    let leases: Api<Lease> = Api::namespaced(common::client().await, NAMESPACE);
    leases.get("sokovan").await.expect("the lease").spec.unwrap_or_default()
}

async fn holder() -> String {
    lease().await.holder_identity.unwrap_or_default()
}

async fn replicas() -> Vec<Pod> {
    let pods: Api<Pod> = Api::namespaced(common::client().await, NAMESPACE);
    let ours = ListParams::default().labels("app.kubernetes.io/name=sokovan");
    pods.list(&ours).await.expect("pods can be listed").items
}

/// Returns the images of the operator's pods.
pub async fn images() -> Vec<String> {
    let containers = replicas().await.into_iter().filter_map(|pod| pod.spec).flat_map(|spec| spec.containers);
    containers.filter_map(|container| container.image).collect()
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Returns the kubelet's reason why the pod's container does not run.
fn waiting_reason(pod: &Pod) -> Option<&str> {
    let container = pod.status.as_ref()?.container_statuses.as_ref()?.first()?;
    container.state.as_ref()?.waiting.as_ref()?.reason.as_deref()
}

/// Waits until both replicas are ready. The kubelet delays an operator that these tests killed often by up to five minutes,
/// so its pod is replaced by a new one, which starts at once.
pub async fn both_ready() {
    let pods: Api<Pod> = Api::namespaced(common::client().await, NAMESPACE);
    eventually("both replicas to be ready", || async {
        let live: Vec<Pod> = replicas().await.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect();
        for pod in live.iter().filter(|pod| waiting_reason(pod) == Some("CrashLoopBackOff")) {
            pods.delete(&pod.name_any(), &DeleteParams::default()).await.map_err(|error| error.to_string())?;
        }
        let states: Vec<_> = live.iter().map(|pod| (pod.name_any(), is_ready(pod), waiting_reason(pod))).collect();
        if states.iter().filter(|(_, ready, _)| *ready).count() == 2 { Ok(()) } else { Err(format!("{states:?}")) }
    })
    .await;
}

#[tokio::test]
async fn a_standby_is_ready_and_takes_over_when_the_leader_is_deleted() {
    both_ready().await;
    let before = holder().await;
    let leader = replicas().await.into_iter().find(|pod| before.starts_with(&pod.name_any())).expect("the leader's pod");
    let pods: Api<Pod> = Api::namespaced(common::client().await, NAMESPACE);
    pods.delete(&leader.name_any(), &DeleteParams::default()).await.unwrap();
    eventually("another to lead", || async {
        let now = holder().await;
        if now.is_empty() || now == before { Err(now) } else { Ok(()) }
    })
    .await;
    let space = sessions().await;
    let name = common::unique("after");
    space.create(session(&name, FOREVER, json!({}))).await.unwrap();
    space.until_phase(&name, SessionPhase::Running).await;
    space.delete(&name).await;
    space.until_gone::<Session>(&name).await;
    both_ready().await;
}

#[tokio::test]
async fn a_leader_resumed_after_a_takeover_does_not_interfere() {
    both_ready().await;
    let first = holder().await;
    let pod = first.split('_').next().unwrap_or_default();
    let space = sessions().await;
    let names: Vec<String> = (0..4).map(|_| common::unique("overtaken")).collect();
    for name in &names {
        space.create(session(name, FOREVER, json!({}))).await.unwrap();
    }
    assert!(signal_operator_of(pod, "STOP"));
    eventually("another to lead", || async {
        let now = holder().await;
        if now.is_empty() || now == first { Err(now) } else { Ok(()) }
    })
    .await;
    assert!(signal_operator_of(pod, "CONT"));
    for name in &names {
        let status = space.until_phase(name, SessionPhase::Running).await.status.unwrap();
        assert_eq!((status.allocation_generation, status.resets, space.pods(name).await.len()), (1, 0, 1));
    }
    assert_ne!(holder().await, first);
    for name in &names {
        space.delete(name).await;
        space.until_gone::<Session>(name).await;
    }
    both_ready().await;
}

#[tokio::test]
async fn two_replicas_paused_past_the_lease_resume_safely() {
    both_ready().await;
    assert_eq!(signal_operators("STOP"), 2);
    let before = lease().await;
    // Both replicas are paused until the lease has expired. The first one to resume finds it expired.
    let space = sessions().await;
    let name = common::unique("paused");
    space.create(session(&name, FOREVER, json!({}))).await.unwrap();
    let past_the_lease = tokio::time::Duration::from_secs(16);
    tokio::time::sleep(past_the_lease).await; // the lease expires by time alone, so there is no state to wait for
    assert_eq!(signal_operators("CONT"), 2);
    let status = space.until_phase(&name, SessionPhase::Running).await.status.unwrap();
    assert_eq!((status.allocation_generation, space.pods(&name).await.len()), (1, 1));
    eventually("a leader that renewed", || async {
        let now = lease().await;
        let leads = now.renew_time > before.renew_time && now.holder_identity.is_some_and(|holder| !holder.is_empty());
        if leads { Ok(()) } else { Err(format!("{:?}", now.renew_time)) }
    })
    .await;
    space.delete(&name).await;
    space.until_gone::<Session>(&name).await;
    both_ready().await;
}
