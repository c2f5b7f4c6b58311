//! Sessions on a real node: images, gangs, volumes, evictions, termination.

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, EvictParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use sokovan::api::*;

use crate::common::Space;
use crate::machine::node_name;
use crate::{FOREVER, common, kernel, logs, session, sessions};

#[tokio::test]
async fn a_session_runs_an_image_from_a_registry_until_its_user_ends_it() {
    let space = sessions().await;
    let name = common::unique("one");
    space.create(session(&name, &format!("echo hello $BACKENDAI_SESSION_NAME; {FOREVER}"), json!({}))).await.unwrap();
    let status = space.until_phase(&name, SessionPhase::Running).await.status.unwrap();
    assert_eq!(status.nodes, Some(node_name()));
    let pod = space.pods(&name).await.remove(0);
    common::eventually("its greeting in the log", || async {
        let log = logs(&space, &pod).await;
        if log.contains(&format!("hello {name}")) { Ok(()) } else { Err(log) }
    })
    .await;
    space.patch_spec(&name, json!({"desiredState": "Terminated"})).await.unwrap();
    let status = space.until_phase(&name, SessionPhase::Terminated).await.status.unwrap();
    assert_eq!(status.result, Some(SessionResult::UserCancelled));
    space.delete(&name).await;
    space.until_gone::<Session>(&name).await;
    assert!(space.pods(&name).await.is_empty());
}

/// Runs a gang whose main kernel looks up all names once, as it starts. Returns its pods.
async fn gang_that_finds_itself(space: &Space, name: &str) -> Vec<Pod> {
    let lookup = "for h in main1 sub1 sub2; do nslookup $h | grep -q \"^Name:.*$h\" && echo found-$h; done; \
                stat -Lc 'key-%a' /opt/sokovan/ssh/id_cluster; df -m /dev/shm | tail -1";
    let kernels = [kernel("main", 1, &format!("{lookup}; {FOREVER}")), kernel("sub", 2, FOREVER)];
    space.create(session(name, "", json!({"clusterMode": "MultiNode", "kernels": kernels}))).await.unwrap();
    let status = space.until_phase(name, SessionPhase::Running).await.status.unwrap();
    assert_eq!(status.kernels_ready.as_deref(), Some("3/3"));
    let pods = space.pods(name).await;
    let main = pods.iter().find(|pod| pod.metadata.labels.as_ref().unwrap()[LABEL_KERNEL] == "main1").unwrap();
    common::eventually("main1 to resolve all names", || async {
        let log = logs(space, main).await;
        let all = ["found-main1", "found-sub1", "found-sub2", "key-400"].iter().all(|word| log.contains(word));
        if all { Ok(()) } else { Err(log) }
    })
    .await;
    let prepared = status.history.iter().find(|entry| entry.to == "Prepared").unwrap().created_at;
    for pod in &pods {
        let statuses = pod.status.as_ref().unwrap().container_statuses.as_ref().unwrap();
        let started = statuses[0].state.as_ref().unwrap().running.as_ref().unwrap().started_at.clone().unwrap();
        // The kubelet reports whole seconds.
        assert!(started.0.as_second() >= prepared.timestamp() - 1, "no kernel starts before all images are pulled");
    }
    pods
}

#[tokio::test]
async fn a_gang_starts_together_and_its_kernels_find_each_other() {
    let space = sessions().await;
    let name = common::unique("gang");
    let pods = gang_that_finds_itself(&space, &name).await;
    space.delete(&name).await;
    space.until_gone::<Session>(&name).await;
    let image = pods[0].spec.as_ref().unwrap().containers[0].image.clone().unwrap();
    common::eventually("the node to report the image", || async {
        let node = Api::<Node>::all(space.client.clone()).get(&node_name()).await.map_err(|error| error.to_string())?;
        let names = node.status.into_iter().flat_map(|status| status.images.unwrap_or_default());
        let names: Vec<String> = names.flat_map(|image| image.names.unwrap_or_default()).collect();
        if names.iter().any(|name| name.ends_with(&image)) { Ok(()) } else { Err(format!("{names:?}")) }
    })
    .await;
    // The image is there, so the gate waits for the names alone, in the operator's image.
    let name = common::unique("again");
    for pod in gang_that_finds_itself(&space, &name).await {
        let gates: Vec<_> = pod.spec.unwrap().init_containers.unwrap().into_iter().map(|container| container.name).collect();
        assert_eq!(gates, ["gate"]);
    }
    space.delete(&name).await;
    space.until_gone::<Session>(&name).await;
    // Kernels that need not start together have no gate. Their programs look names up until they resolve.
    let name = common::unique("free");
    let lookup = format!("until nslookup sub1 | grep -q \"^Name:.*sub1\"; do sleep 0.2; done; echo found-sub1; {FOREVER}");
    let kernels = [kernel("main", 1, &lookup), kernel("sub", 1, FOREVER)];
    let spec = json!({"clusterMode": "MultiNode", "startTogether": false, "kernels": kernels});
    space.create(session(&name, "", spec)).await.unwrap();
    space.until_phase(&name, SessionPhase::Running).await;
    let pods = space.pods(&name).await;
    assert!(pods.iter().all(|pod| pod.spec.as_ref().unwrap().init_containers.is_none()));
    let main = pods.iter().find(|pod| pod.metadata.labels.as_ref().unwrap()[LABEL_KERNEL] == "main1").unwrap();
    common::eventually("main1 to find sub1 in the end", || async {
        let log = logs(&space, main).await;
        if log.contains("found-sub1") { Ok(()) } else { Err(log) }
    })
    .await;
    space.delete(&name).await;
    space.until_gone::<Session>(&name).await;
}

#[tokio::test]
async fn a_service_of_the_namespace_does_not_shadow_a_gangs_kernel_name() {
    let space = sessions().await;
    let name = common::unique("shadow");
    let services = space.api::<Service>();
    let shadow = json!({"metadata": {"name": "main1"}, "spec": {"ports": [{"port": 22}]}});
    services.create(&PostParams::default(), &serde_json::from_value(shadow).unwrap()).await.unwrap();
    let ping = format!("ping -c1 -W1 main1 | head -1; {FOREVER}");
    let kernels = [kernel("main", 1, FOREVER), kernel("sub", 1, &ping)];
    space.create(session(&name, "", json!({"clusterMode": "MultiNode", "kernels": kernels}))).await.unwrap();
    space.until_phase(&name, SessionPhase::Running).await;
    let pods = space.pods(&name).await;
    let pod_of = |kernel: &str| pods.iter().find(|pod| pod.metadata.labels.as_ref().unwrap()[LABEL_KERNEL] == kernel).unwrap();
    let main_ip = pod_of("main1").status.as_ref().unwrap().pod_ip.clone().unwrap();
    common::eventually("sub1 to resolve the main1 of its own session", || async {
        let log = logs(&space, pod_of("sub1")).await;
        if log.contains(&format!("({main_ip})")) { Ok(()) } else { Err(format!("{log}, not {main_ip}")) }
    })
    .await;
    services.delete("main1", &DeleteParams::default()).await.unwrap();
    space.delete(&name).await;
    space.until_gone::<Session>(&name).await;
}

#[tokio::test]
async fn a_volume_that_cannot_be_mounted_is_reported_in_the_session() {
    let space = sessions().await;
    let name = common::unique("mount");
    let volumes: Api<PersistentVolume> = Api::all(space.client.clone());
    let volume = json!({"metadata": {"name": name}, "spec": {
        "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "",
        "claimRef": {"namespace": space.namespace, "name": name}, "hostPath": {"path": "/no/such/directory", "type": "Directory"},
    }});
    volumes.create(&PostParams::default(), &serde_json::from_value(volume).unwrap()).await.unwrap();
    let claim = json!({"metadata": {"name": name}, "spec": {
        "accessModes": ["ReadWriteOnce"], "storageClassName": "", "volumeName": name, "resources": {"requests": {"storage": "1Gi"}},
    }});
    let claims = space.api::<PersistentVolumeClaim>();
    claims.create(&PostParams::default(), &serde_json::from_value(claim).unwrap()).await.unwrap();
    let mut main = kernel("main", 1, FOREVER);
    main["volumes"] = json!([{"claimName": name, "mountPath": "/data"}]);
    space.create(session(&name, "", json!({"kernels": [main]}))).await.unwrap();
    let says = |session: &Session| {
        let message = session.status.as_ref().and_then(|status| status.message.clone()).unwrap_or_default();
        message.contains("FailedMount") && message.contains("/no/such/directory")
    };
    space.until(&name, "showing the kubelet's warning", says).await;
    space.delete(&name).await;
    space.until_gone::<Session>(&name).await;
    claims.delete(&name, &DeleteParams::default()).await.unwrap();
    volumes.delete(&name, &DeleteParams::default()).await.unwrap();
}

#[tokio::test]
async fn an_evicted_batch_session_that_exits_with_0_does_not_succeed() {
    let space = sessions().await;
    let name = common::unique("evicted");
    let stops = "trap 'exit 0' TERM; while :; do sleep 1; done";
    space.create(session(&name, stops, json!({"type": "Batch"}))).await.unwrap();
    space.until_phase(&name, SessionPhase::Running).await;
    let pod = space.pods(&name).await.remove(0);
    space.api::<Pod>().evict(&pod.name_any(), &EvictParams::default()).await.unwrap();
    let status = space.until_phase(&name, SessionPhase::Terminated).await.status.unwrap();
    assert_eq!((status.result, status.reason.map(|reason| reason.as_str())), (Some(SessionResult::Error), Some("Drained")));
}

#[tokio::test]
async fn a_batch_session_that_runs_out_of_memory_fails_with_that_reason() {
    let space = sessions().await;
    let name = common::unique("oom");
    space.create(session(&name, "tail /dev/zero", json!({"type": "Batch"}))).await.unwrap();
    let status = space.until_phase(&name, SessionPhase::Terminated).await.status.unwrap();
    assert_eq!(
        (status.result, status.reason.map(|reason| reason.as_str()), status.exit_code),
        (Some(SessionResult::Failure), Some("OutOfMemory"), Some(137))
    );
    assert!(status.message.as_deref().unwrap().contains("OOMKilled"), "{:?}", status.message);
}

/// Starts a session whose program ignores SIGTERM.
async fn stubborn(space: &Space, grace: i64) -> String {
    let name = common::unique("stubborn");
    let patient = json!({"termination": {"gracePeriodSeconds": grace}});
    space.create(session(&name, "trap '' TERM; while :; do sleep 1; done", patient)).await.unwrap();
    space.until_phase(&name, SessionPhase::Running).await;
    name
}

#[tokio::test]
async fn forced_termination_kills_at_once_despite_the_grace_period() {
    let space = sessions().await;
    let name = stubborn(&space, 3600).await;
    space.patch_spec(&name, json!({"desiredState": "Terminated", "termination": {"mode": "Forced"}})).await.unwrap();
    space.until_phase(&name, SessionPhase::Terminated).await;
    space.until_no_pods(&name).await;
}

/// A kubelet may ignore a grace period that is shortened while it waits; today's kubelets do.
#[tokio::test]
async fn a_slow_termination_can_be_forced() {
    let space = sessions().await;
    let name = stubborn(&space, 20).await;
    space.patch_spec(&name, json!({"desiredState": "Terminated"})).await.unwrap();
    until_graces(&space, &name, &[&[Some(20)]]).await;
    space.patch_spec(&name, json!({"termination": {"mode": "Forced"}})).await.unwrap();
    space.until_phase(&name, SessionPhase::Terminated).await;
    until_graces(&space, &name, &[&[Some(0)], &[]]).await;
    space.until_no_pods(&name).await;
}

/// Waits until the grace periods of a session's pods equal one of these lists.
async fn until_graces(space: &Space, name: &str, wanted: &[&[Option<i64>]]) {
    common::eventually("the grace periods of its pods", || async {
        let graces: Vec<_> = space.pods(name).await.iter().map(|pod| pod.metadata.deletion_grace_period_seconds).collect();
        if wanted.contains(&&graces[..]) { Ok(()) } else { Err(format!("{graces:?}, not {wanted:?}")) }
    })
    .await;
}

#[tokio::test]
async fn commands_and_environment_reach_the_program_unchanged() {
    let space = sessions().await;
    let name = common::unique("words");
    let mut main = kernel("main", 1, "printf '%s\\n' 'arg $$ $(KEY) $$(KEY)'; echo \"env $KEY\"");
    main["env"] = json!([{"name": "KEY", "value": "pa$$word $(HOME) $$(HOME)"}]);
    space.create(session(&name, "", json!({"type": "Batch", "kernels": [main]}))).await.unwrap();
    space.until_phase(&name, SessionPhase::Terminated).await;
    let log = logs(&space, &space.pods(&name).await[0]).await;
    assert_eq!(log.lines().collect::<Vec<_>>(), ["arg $$ $(KEY) $$(KEY)", "env pa$$word $(HOME) $$(HOME)"]);
}

#[tokio::test]
async fn the_exit_code_of_a_batch_session_decides_its_result() {
    let space = sessions().await;
    for (code, result) in [(0, SessionResult::Success), (7, SessionResult::Failure)] {
        let name = common::unique("batch");
        space.create(session(&name, &format!("exit {code}"), json!({"type": "Batch"}))).await.unwrap();
        let status = space.until_phase(&name, SessionPhase::Terminated).await.status.unwrap();
        assert_eq!((status.result, status.exit_code), (Some(result), Some(code)));
        common::eventually("its pod to be without finalizers and stay for its logs", || async {
            let pods = space.pods(&name).await;
            let metas: Vec<_> = pods.iter().map(|pod| &pod.metadata).collect();
            let stays = |meta: &&ObjectMeta| meta.finalizers.is_none() && meta.deletion_timestamp.is_none();
            if metas.len() == 1 && metas.iter().all(stays) { Ok(()) } else { Err(format!("{metas:?}")) }
        })
        .await;
    }
}
