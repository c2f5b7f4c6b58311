//! A real Prometheus finds the replicas of a deployment through the operator's `/http_sd` and scrapes them.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service};
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::common::{client, eventually};
use crate::leadership::{NAMESPACE, both_ready};
use crate::served::{SHORT, Served};

const NAME: &str = "prometheus";
/// As in docs/deployments.md, but Prometheus asks more often.
const CONFIG: &str = "
global: {scrape_interval: 2s}
scrape_configs:
- job_name: sokovan-replicas
  http_sd_configs:
  - url: http://sokovan-metrics.sokovan-system:8080/http_sd
    refresh_interval: 2s
- job_name: prometheus
  static_configs:
  - targets: [localhost:9090]
";

/// The Service that leads to the operator, and Prometheus in the namespace `default`.
struct Prometheus {
    client: Client,
}

#[derive(Deserialize, Debug)]
#[serde(rename_all = "camelCase")]
struct Target {
    labels: BTreeMap<String, String>,
    scrape_url: String,
    health: String,
}

impl Prometheus {
    async fn start() -> Self {
        let prometheus = Self { client: client().await };
        let operators: Api<Service> = Api::namespaced(prometheus.client.clone(), NAMESPACE);
        let service = json!({
            "metadata": {"name": "sokovan-metrics"},
            "spec": {"selector": {"app.kubernetes.io/name": "sokovan"}, "ports": [{"port": 8080}]},
        });
        let config = json!({"metadata": {"name": NAME}, "data": {"prometheus.yml": CONFIG}});
        let pod = json!({
            "metadata": {"name": NAME},
            "spec": {
                "containers": [{
                    "name": "main", "image": "prometheus:1",
                    "command": ["/prometheus", "--config.file=/config/prometheus.yml", "--storage.tsdb.path=/data"],
                    "volumeMounts": [{"name": "config", "mountPath": "/config"}, {"name": "data", "mountPath": "/data"}],
                }],
                "volumes": [{"name": "config", "configMap": {"name": NAME}}, {"name": "data", "emptyDir": {}}],
            },
        });
        let new = PostParams::default();
        operators.create(&new, &serde_json::from_value(service).unwrap()).await.expect("the Service is accepted");
        let configs: Api<ConfigMap> = Api::default_namespaced(prometheus.client.clone());
        configs.create(&new, &serde_json::from_value(config).unwrap()).await.expect("the ConfigMap is accepted");
        let pods: Api<Pod> = Api::default_namespaced(prometheus.client.clone());
        pods.create(&new, &serde_json::from_value(pod).unwrap()).await.expect("the pod is accepted");
        prometheus
    }

    /// Reads from the HTTP API of Prometheus.
    async fn read(&self, path: &str) -> Result<Value, String> {
        let path = format!("/api/v1/namespaces/default/pods/{NAME}:9090/proxy/api/v1/{path}");
        let request = http::Request::get(path).body(vec![]).unwrap();
        let answer: Value = self.client.request(request).await.map_err(|error| error.to_string())?;
        Ok(answer["data"].clone())
    }

    async fn targets(&self) -> Result<Vec<Target>, String> {
        let data = self.read("targets?state=active&scrapePool=sokovan-replicas").await?;
        serde_json::from_value(data["activeTargets"].clone()).map_err(|error| error.to_string())
    }

    /// Waits until exactly these replicas are targets and answer.
    async fn until_scraped(&self, replicas: &[String]) -> Vec<Target> {
        let wanted: BTreeSet<&str> = replicas.iter().map(String::as_str).collect();
        eventually("Prometheus to scrape exactly the replicas", || async {
            let targets = self.targets().await?;
            let routes: BTreeSet<&str> = targets.iter().map(|target| target.labels["route"].as_str()).collect();
            let is_up = targets.iter().all(|target| target.health == "up");
            if routes == wanted && is_up { Ok(targets) } else { Err(format!("{targets:?}")) }
        })
        .await
    }

    /// The value of each series by the label `route`.
    async fn query(&self, query: &str) -> Result<BTreeMap<String, f64>, String> {
        let encoded: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let series = self.read(&format!("query?query={encoded}")).await?["result"].clone();
        let value = |entry: &Value| entry["value"][1].as_str().and_then(|value| value.parse().ok()).unwrap_or_default();
        let route = |entry: &Value| entry["metric"]["route"].as_str().unwrap_or_default().to_owned();
        Ok(series.as_array().into_iter().flatten().map(|entry| (route(entry), value(entry))).collect())
    }

    async fn number(&self, query: &str) -> Result<f64, String> {
        Ok(self.query(query).await?.into_values().next().unwrap_or_default())
    }

    async fn remove(self) {
        let now = DeleteParams::default().grace_period(0);
        let operators: Api<Service> = Api::namespaced(self.client.clone(), NAMESPACE);
        operators.delete("sokovan-metrics", &now).await.expect("the Service can be deleted");
        Api::<ConfigMap>::default_namespaced(self.client.clone()).delete(NAME, &now).await.expect("it can be deleted");
        Api::<Pod>::default_namespaced(self.client.clone()).delete(NAME, &now).await.expect("it can be deleted");
    }
}

#[tokio::test]
#[ignore = "Prometheus takes minutes to build: run make prometheus"]
async fn prometheus_finds_and_scrapes_the_replicas() {
    both_ready().await;
    let served = Served::create(2, SHORT, &["/server"]).await;
    served.until_settled().await;
    let prometheus = Prometheus::start().await;
    let replicas = served.names().await;
    let targets = prometheus.until_scraped(&replicas).await;
    for target in &targets {
        println!("{} {} {:?}", target.scrape_url, target.health, target.labels);
        let label = |name: &str| target.labels[name].as_str();
        assert_eq!([label("namespace"), label("deployment"), label("revision")], ["sessions", &served.name, "1"]);
        assert_eq!([label("weight"), label("owner"), label("variant")], ["100", "default", "custom"]);
        assert_eq!(label("job"), "sokovan-replicas");
        assert_eq!(target.scrape_url, format!("http://{}/metrics", label("instance")));
    }

    for pod in served.endpoints().await {
        served.post(&pod, "/").await;
    }
    let query = format!("answers_total{{deployment=\"{}\"}}", served.name);
    let answers = eventually("Prometheus to count one answer of each replica", || async {
        let answers = prometheus.query(&query).await?;
        if answers.len() == 2 && answers.values().all(|answers| *answers == 1.0) {
            Ok(answers)
        } else {
            Err(format!("{answers:?}"))
        }
    })
    .await;
    println!("{query} = {answers:?}");

    // The Service also leads to the replica of the operator that does not lead. It refuses, and Prometheus keeps its targets.
    eventually("Prometheus to be refused", || async {
        let refused = prometheus.number("prometheus_sd_http_failures_total").await?;
        if refused > 0.0 { Ok(()) } else { Err("never".into()) }
    })
    .await;
    assert_eq!(prometheus.targets().await.expect("the targets").len(), 2, "they stay");

    served.change(json!({"replicas": 1})).await;
    served.until_settled().await;
    prometheus.until_scraped(&served.names().await).await;
    prometheus.remove().await;
    served.remove().await;
}
