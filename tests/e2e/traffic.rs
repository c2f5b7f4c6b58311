//! Requests lost in a rolling update, beside a Deployment of apps/v1 with and without a preStop sleep. `make bench-traffic` runs it.

use k8s_openapi::api::apps::v1::Deployment as AppsDeployment;
use k8s_openapi::api::core::v1::Service;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::common::{Space, eventually, unique};
use crate::served::{Load, PATIENT, Report, Served};
use crate::sessions;

/// Short requests on fresh and on kept connections, and streams of up to 20 s.
const LOAD: [&str; 2] = ["--streams", "3"];

fn figures(report: &Report) -> Value {
    let mut lost = std::collections::BTreeMap::<&str, usize>::new();
    report.lost.iter().for_each(|loss| *lost.entry(loss.kind.as_str()).or_default() += 1);
    json!({"answered": report.answered, "lost": lost})
}

async fn ours() -> Value {
    let served = Served::create(2, PATIENT, &["/server"]).await;
    served.until_settled().await;
    let load = served.load(&LOAD).await;
    served.change(json!({"model": {"startCommand": ["/server", "--start-after", "2s"]}})).await;
    served.until_settled().await;
    let report = load.finish().await;
    served.remove().await;
    figures(&report)
}

fn apps(name: &str, command: &[&str], lifecycle: &Value) -> Value {
    let container = json!({
        "name": "main", "image": "server:1", "command": command, "ports": [{"containerPort": 8080}], "lifecycle": lifecycle,
        "readinessProbe": {"httpGet": {"path": "/health", "port": 8080}, "periodSeconds": 1, "failureThreshold": 2},
        "resources": {"requests": {"cpu": "100m", "memory": "32Mi"}, "limits": {"cpu": "100m", "memory": "32Mi"}},
    });
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {
            "replicas": 2, "selector": {"matchLabels": {"app": name}},
            "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [container]}},
        },
    })
}

async fn until_rolled_out(space: &Space, name: &str) {
    eventually("the Deployment to be rolled out", || async {
        let deployment = space.api::<AppsDeployment>().get(name).await.map_err(|error| error.to_string())?;
        let status = deployment.status.unwrap_or_default();
        let counts = [status.replicas, status.updated_replicas, status.available_replicas];
        let is_seen = status.observed_generation == deployment.metadata.generation;
        if is_seen && counts == [Some(2); 3] && status.terminating_replicas.unwrap_or(0) == 0 {
            Ok(())
        } else {
            Err(format!("{counts:?}"))
        }
    })
    .await;
}

async fn theirs(lifecycle: Value) -> Value {
    let (space, name) = (sessions().await, unique("apps"));
    let object = |command: &[&str]| apps(&name, command, &lifecycle);
    let deployment = serde_json::from_value(object(&["/server"])).unwrap();
    space.api::<AppsDeployment>().create(&PostParams::default(), &deployment).await.expect("a Deployment");
    let service = json!({
        "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": 8080}]},
    });
    let service = space.api::<Service>().create(&PostParams::default(), &serde_json::from_value(service).unwrap()).await;
    let address = service.expect("a Service").spec.and_then(|spec| spec.cluster_ip).expect("an address");
    until_rolled_out(&space, &name).await;
    let load = Load::start(&format!("http://{address}"), &LOAD).await;
    let changed = Patch::Merge(object(&["/server", "--start-after", "2s"]));
    space.api::<AppsDeployment>().patch(&name, &PatchParams::default(), &changed).await.expect("the template can be changed");
    until_rolled_out(&space, &name).await;
    let report = load.finish().await;
    space.api::<AppsDeployment>().delete(&name, &DeleteParams::background()).await.expect("it can be deleted");
    space.api::<Service>().delete(&name, &DeleteParams::default()).await.expect("it can be deleted");
    figures(&report)
}

#[tokio::test]
#[ignore = "a benchmark: make bench-traffic runs it"]
async fn lost_requests_beside_apps() {
    let figures = json!({
        "bench": "traffic", "sokovan": ours().await, "apps": theirs(Value::Null).await,
        "apps_with_pre_stop": theirs(json!({"preStop": {"sleep": {"seconds": 5}}})).await,
    });
    println!("{figures}");
}
