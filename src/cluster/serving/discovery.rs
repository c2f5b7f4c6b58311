//! Service discovery for Prometheus (`http_sd`): the replicas that serve, from memory.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::api::*;
use crate::cluster::store::identity::key_of;
use crate::cluster::store::serving::Served;
use crate::cluster::store::world::World;
use crate::deployment::Deployments;
use crate::route::Routes;

/// One replica, as Prometheus reads it.
#[derive(Debug, PartialEq, Serialize)]
pub struct TargetGroup {
    pub targets: Vec<String>,
    pub labels: BTreeMap<String, String>,
}

impl World {
    /// The replicas that serve. None until every kind is listed: an empty list would tell Prometheus that there is none.
    pub fn discovery(&self) -> Option<Vec<TargetGroup>> {
        let state = self.lock();
        if !state.stores.is_synced() {
            return None;
        }
        let routes = state.stores.routes.values().filter(|route| route.phase() == RoutePhase::Running);
        let managed = routes.filter(|route| Routes::is_managed(self, &state, route));
        let mut groups: Vec<TargetGroup> = managed
            .filter_map(|route| {
                let deployment = state.object::<Deployments>(&Routes::deployment(route))?;
                let namespace = key_of(&route.metadata).0;
                let project = state.stores.namespaces.get(&(String::new(), namespace)).cloned().flatten();
                target_group(route, deployment, project.as_ref())
            })
            .collect();
        groups.sort_by(|a, b| a.targets.cmp(&b.targets));
        Some(groups)
    }
}

fn target_group(route: &Route, deployment: &Deployment, project: Option<&ProjectName>) -> Option<TargetGroup> {
    let target = route.status.as_ref()?.address.clone()?;
    let model = &deployment.spec.model;
    let variant = model.variant.map(<&'static str>::from).unwrap_or("custom");
    let (namespace, name) = key_of(&route.metadata);
    let labels = [
        ("__metrics_path__", model.metrics_path.clone().unwrap_or_else(|| "/metrics".into())),
        ("namespace", namespace),
        ("deployment", route.spec.deployment.clone()),
        ("route", name),
        ("revision", route.spec.revision.to_string()),
        ("weight", route.spec.weight.to_string()),
        ("project", project.map(ToString::to_string).unwrap_or_default()),
        ("owner", deployment.spec.template.access_key.to_string()),
        ("variant", variant.to_owned()),
    ];
    let labels = labels.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    Some(TargetGroup { targets: vec![target], labels })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_running_replica_is_a_target_with_the_labels_of_its_deployment() {
        let kernel = json!({"image": "example.com/server:1", "resources": {"cpu": "1", "memory": "1Gi"}});
        let template = json!({"type": "Inference", "accessKey": "alice", "kernels": [kernel]});
        let spec = json!({"template": template, "model": {"variant": "vllm"}});
        let deployment = Deployment::new("web", serde_json::from_value(spec).expect("a spec"));
        let spec = json!({"deployment": "web", "session": "web-1", "revision": 3, "ordinal": 0});
        let mut route = Route::new("web-1", serde_json::from_value(spec).expect("a spec"));
        route.metadata.namespace = Some("vision".into());
        assert_eq!(target_group(&route, &deployment, None), None, "it has no address yet");
        route.status = Some(RouteStatus { address: Some("10.0.0.7:8000".into()), ..RouteStatus::default() });
        let group = target_group(&route, &deployment, Some(&"ml".into())).expect("a target");
        assert_eq!(group.targets, ["10.0.0.7:8000"]);
        let label = |name: &str| group.labels[name].as_str();
        assert_eq!([label("deployment"), label("revision"), label("weight")], ["web", "3", "100"]);
        assert_eq!([label("project"), label("owner"), label("variant")], ["ml", "alice", "vllm"]);
        assert_eq!(label("__metrics_path__"), "/metrics");
    }
}
