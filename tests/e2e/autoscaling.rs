//! HorizontalPodAutoscalers that scale a deployment: by the CPU of its main kernels, and by a metric from outside.

use std::collections::BTreeSet;

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::common::{Space, eventually, unique};
use crate::kernel;
use crate::machine::{kubectl, start_metrics_server};
use crate::served::{SHORT, Served, manifest};
use crate::sessions;

/// An autoscaler of one deployment. It scales in without delay, so that a test need not wait for it.
struct Autoscaler {
    space: Space,
    name: String,
}

impl Autoscaler {
    async fn create(served: &Served, max: i32, metric: Value) -> Self {
        let object = json!({
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": served.name},
            "spec": {
                "scaleTargetRef": {"apiVersion": "sokovan.dev/v1alpha1", "kind": "Deployment", "name": served.name},
                "minReplicas": 1, "maxReplicas": max, "metrics": [metric],
                "behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}},
            },
        });
        let object: HorizontalPodAutoscaler = serde_json::from_value(object).unwrap();
        let scaler = Self { space: served.space.clone(), name: served.name.clone() };
        scaler.api().create(&PostParams::default(), &object).await.expect("the autoscaler is accepted");
        scaler
    }

    fn api(&self) -> Api<HorizontalPodAutoscaler> {
        self.space.api()
    }

    /// Waits until the autoscaler has read the CPU of the replicas, and returns their average in percent of the request.
    async fn cpu(&self) -> i32 {
        eventually("the autoscaler to read the CPU", || async {
            let scaler = self.api().get(&self.name).await.map_err(|error| error.to_string())?;
            let status = scaler.status.unwrap_or_default();
            let first = status.current_metrics.unwrap_or_default().into_iter().find_map(|metric| metric.resource);
            let average = first.and_then(|resource| resource.current.average_utilization);
            average.ok_or_else(|| format!("{:?}", status.conditions))
        })
        .await
    }

    async fn remove(self) {
        self.api().delete(&self.name, &DeleteParams::default()).await.expect("the autoscaler can be deleted");
    }
}

async fn until_replicas(served: &Served, wanted: i32) {
    eventually(&format!("{} to be scaled to {wanted}", served.name), || async {
        let deployment = served.api().get(&served.name).await.map_err(|error| error.to_string())?;
        let now = deployment.spec.replicas;
        if now == wanted { Ok(()) } else { Err(format!("{now}")) }
    })
    .await;
    served.until_settled().await;
}

/// The pods that the scale subresource selects for an autoscaler.
async fn selected(served: &Served) -> BTreeSet<String> {
    let scale = served.api().get_scale(&served.name).await.expect("the scale can be read");
    let selector = scale.status.and_then(|status| status.selector).expect("a selector");
    let pods = served.space.api::<Pod>().list(&ListParams::default().labels(&selector)).await;
    pods.expect("pods can be listed").items.iter().map(ResourceExt::name_any).collect()
}

/// The pods that get requests: the main pods.
async fn main_pods(served: &Served) -> BTreeSet<String> {
    served.endpoints().await.into_iter().collect()
}

#[tokio::test]
async fn an_hpa_scales_a_deployment_by_the_cpu_of_its_main_kernels() {
    start_metrics_server();
    let served = Served { space: sessions().await, name: unique("cpu") };
    let mut object = manifest(&served.name, SHORT, &["/server"]);
    // The second kernel always uses all of its CPU. Were its pod selected, the autoscaler would never scale in.
    let mut second = kernel("sub", 1, "while :; do :; done");
    second["resources"]["cpu"] = json!("60m");
    object["spec"]["template"]["kernels"].as_array_mut().unwrap().push(second);
    kubectl(&["apply", "-f", "-"], &object);
    served.until_settled().await;
    // This replica is kept for its logs, and its main pod succeeded.
    let first = served.names().await;
    served.post(&served.endpoints().await.remove(0), "/quit").await;
    eventually("the replica to be replaced", || async {
        let now = served.names().await;
        if now.len() == 1 && now != first { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await;
    served.until_settled().await;
    assert!(!served.space.pods(&first[0]).await.is_empty(), "its pods are kept");
    assert_eq!(selected(&served).await, main_pods(&served).await);

    let metric =
        json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 15}}});
    let scaler = Autoscaler::create(&served, 3, metric).await;
    let idle = scaler.cpu().await;
    println!("idle: {idle} % of the requested CPU");
    assert!(idle < 15, "only the main kernel counts");
    assert_eq!(served.api().get(&served.name).await.unwrap().spec.replicas, 1);

    let busy = served.endpoints().await.remove(0);
    served.post(&busy, "/busy").await;
    until_replicas(&served, 3).await;
    for replica in served.names().await {
        assert_eq!(served.space.pods(&replica).await.len(), 2, "each replica has two kernels");
    }
    assert_eq!(selected(&served).await, main_pods(&served).await, "one pod of each replica");

    // The busy replica may have been the first to go.
    for pod in served.endpoints().await {
        served.post(&pod, "/idle").await;
    }
    until_replicas(&served, 1).await;
    scaler.remove().await;
    served.remove().await;
}

/// A server of the external metrics API whose one value this test sets.
struct External {
    pods: Api<Pod>,
    services: Api<Service>,
    apis: Api<APIService>,
}

const EXTERNAL: &str = "external-metrics";
const EXTERNAL_API: &str = "v1beta1.external.metrics.k8s.io";

impl External {
    async fn start() -> Self {
        let client = sessions().await.client;
        let (pods, services) = (Api::default_namespaced(client.clone()), Api::default_namespaced(client.clone()));
        let server = Self { pods, services, apis: Api::all(client) };
        let labels = json!({"app": EXTERNAL});
        let pod = json!({
            "metadata": {"name": EXTERNAL, "labels": labels},
            "spec": {"containers": [{"name": "main", "image": "server:1", "command": ["/server", "external"]}]},
        });
        let service = json!({
            "metadata": {"name": EXTERNAL},
            "spec": {"selector": labels, "ports": [{"port": 443, "targetPort": 8443}]},
        });
        let api = json!({
            "metadata": {"name": EXTERNAL_API},
            "spec": {
                "group": "external.metrics.k8s.io", "version": "v1beta1", "insecureSkipTLSVerify": true,
                "groupPriorityMinimum": 100, "versionPriority": 100,
                "service": {"name": EXTERNAL, "namespace": "default"},
            },
        });
        let new = PostParams::default();
        server.pods.create(&new, &serde_json::from_value(pod).unwrap()).await.expect("the pod is accepted");
        server.services.create(&new, &serde_json::from_value(service).unwrap()).await.expect("the Service is accepted");
        server.apis.create(&new, &serde_json::from_value(api).unwrap()).await.expect("the API is accepted");
        eventually("the API of external metrics", || async {
            let api = server.apis.get(EXTERNAL_API).await.map_err(|error| error.to_string())?;
            let conditions = api.status.and_then(|status| status.conditions).unwrap_or_default();
            let is_available = conditions.iter().any(|is| is.type_ == "Available" && is.status == "True");
            if is_available { Ok(()) } else { Err(format!("{conditions:?}")) }
        })
        .await;
        server
    }

    async fn set(&self, value: i32) {
        let path = format!("/api/v1/namespaces/default/pods/{EXTERNAL}:8080/proxy/value?is={value}");
        let request = http::Request::post(path).body(vec![]).unwrap();
        self.pods.clone().into_client().request_text(request).await.expect("the server answers");
    }

    async fn remove(self) {
        let now = DeleteParams::default().grace_period(0);
        self.apis.delete(EXTERNAL_API, &now).await.expect("the API can be deleted");
        self.services.delete(EXTERNAL, &now).await.expect("the Service can be deleted");
        self.pods.delete(EXTERNAL, &now).await.expect("the pod can be deleted");
    }
}

#[tokio::test]
async fn an_hpa_scales_by_an_external_metric_and_applying_without_replicas_keeps_its_number() {
    let external = External::start().await;
    let ways: [&[&str]; 2] = [&["apply", "-f", "-"], &["apply", "--server-side", "-f", "-"]];
    for apply in ways {
        let served = Served { space: sessions().await, name: unique("external") };
        let mut object = manifest(&served.name, SHORT, &["/server"]);
        kubectl(apply, &object);
        let target = json!({"type": "AverageValue", "averageValue": "10"});
        let metric = json!({"type": "External", "external": {"metric": {"name": "waiting"}, "target": target}});
        external.set(35).await;
        let scaler = Autoscaler::create(&served, 8, metric).await;
        until_replicas(&served, 4).await;

        object["spec"]["drain"]["delaySeconds"] = json!(2);
        println!("{}", kubectl(apply, &object));
        served.until_settled().await;
        let deployment = served.api().get(&served.name).await.unwrap();
        assert_eq!((deployment.spec.drain.delay_seconds, deployment.spec.replicas), (2, 4), "{apply:?}");

        external.set(5).await;
        until_replicas(&served, 1).await;
        scaler.remove().await;
        served.remove().await;
    }
    external.remove().await;
}
