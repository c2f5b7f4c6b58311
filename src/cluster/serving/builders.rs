//! Builds the objects that deployments and routes need. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::Resource;
use serde_json::json;

use crate::api::*;
use crate::deployment::revision::Content;

type Labels = BTreeMap<String, String>;

/// An owner whose deletion does not wait for its dependents: it drains them itself.
fn owner<K: Resource<DynamicType = ()>>(object: &K) -> Vec<OwnerReference> {
    let owner = object.controller_owner_ref(&());
    owner.map(|owner| OwnerReference { block_owner_deletion: Some(false), ..owner }).into_iter().collect()
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// The metadata of an object that belongs to a deployment.
fn meta(deployment: &Deployment, name: String) -> ObjectMeta {
    let (own, uid) = (deployment.metadata.name.as_deref().unwrap_or_default(), deployment.metadata.uid.as_deref());
    ObjectMeta {
        name: Some(name),
        namespace: deployment.metadata.namespace.clone(),
        labels: Some(labels(&[(LABEL_DEPLOYMENT, own), (LABEL_DEPLOYMENT_UID, uid.unwrap_or_default())])),
        owner_references: Some(owner(deployment)),
        ..ObjectMeta::default()
    }
}

pub fn route(deployment: &Deployment, planned: &PlannedReplica) -> Route {
    let spec = RouteSpec {
        deployment: deployment.metadata.name.clone().unwrap_or_default(),
        session: planned.name.clone(),
        revision: planned.revision,
        ordinal: planned.ordinal,
        weight: RouteSpec::full_weight(),
    };
    let mut route = Route::new(&planned.name, spec);
    route.metadata = meta(deployment, planned.name.clone());
    route.metadata.finalizers = Some(vec![FINALIZER_ROUTE.into()]);
    route.metadata.labels.get_or_insert_default().insert(LABEL_REVISION.into(), planned.revision.to_string());
    route
}

/// The session of a route. Its main pod gets the labels of the deployment from it.
pub fn session(route: &Route, spec: &SessionSpec) -> Session {
    let mut session = Session::new(&route.spec.session, spec.clone());
    let traffic = if route.spec.weight > 0 { TRAFFIC_ON } else { TRAFFIC_OFF };
    let mut labels = route.metadata.labels.clone().unwrap_or_default();
    labels.insert(LABEL_TRAFFIC.into(), traffic.into());
    session.metadata = ObjectMeta {
        name: Some(route.spec.session.clone()),
        namespace: route.metadata.namespace.clone(),
        labels: Some(labels),
        owner_references: Some(owner(route)),
        ..ObjectMeta::default()
    };
    session
}

pub fn revision(deployment: &Deployment, number: i64, content: &Content) -> serde_json::Result<ControllerRevision> {
    let name = revision_name(deployment.metadata.name.as_deref().unwrap_or_default(), number);
    let data = Some(RawExtension(serde_json::to_value(content)?));
    Ok(ControllerRevision { metadata: meta(deployment, name), data, revision: number })
}

/// The Service that sends requests to the replicas in the traffic. Kubernetes keeps its EndpointSlices.
pub fn service(deployment: &Deployment, port: i32, target_port: i32) -> Service {
    let name = deployment.metadata.name.clone().unwrap_or_default();
    let selector = labels(&[(LABEL_DEPLOYMENT, &name), (LABEL_TRAFFIC, TRAFFIC_ON)]);
    let spec = ServiceSpec { selector: Some(selector), ports: Some(ports(port, target_port)), ..ServiceSpec::default() };
    Service { metadata: meta(deployment, name), spec: Some(spec), status: None }
}

/// The patch that restores a Service. It is empty if nothing differs, and fails if another Service has the name now.
pub fn restored(existing: &Service, wanted: &Service) -> serde_json::Result<json_patch::Patch> {
    let (is, shall) = (existing.spec.clone().unwrap_or_default(), wanted.spec.clone().unwrap_or_default());
    let ports = |spec: &ServiceSpec| {
        let ports = spec.ports.iter().flatten();
        ports.map(|port| (port.port, port.target_port.clone())).collect::<Vec<_>>()
    };
    let mut changes = vec![];
    if ports(&is) != ports(&shall) {
        changes.push(json!({"op": "add", "path": "/spec/ports", "value": shall.ports}));
    }
    if is.selector != shall.selector {
        changes.push(json!({"op": "add", "path": "/spec/selector", "value": shall.selector}));
    }
    if is.type_.as_deref().is_some_and(|type_| type_ != "ClusterIP") {
        changes.push(json!({"op": "add", "path": "/spec/type", "value": "ClusterIP"}));
    }
    if is.external_ips.is_some() {
        changes.push(json!({"op": "remove", "path": "/spec/externalIPs"}));
    }
    if !changes.is_empty() {
        changes.insert(0, json!({"op": "test", "path": "/metadata/uid", "value": existing.metadata.uid}));
    }
    serde_json::from_value(changes.into())
}

fn ports(port: i32, target_port: i32) -> Vec<ServicePort> {
    let target_port = Some(IntOrString::Int(target_port));
    vec![ServicePort { name: Some("http".into()), port, target_port, ..ServicePort::default() }]
}

pub fn budget(deployment: &Deployment, min_available: i32) -> PodDisruptionBudget {
    let name = deployment.metadata.name.clone().unwrap_or_default();
    let selector = LabelSelector { match_labels: Some(labels(&[(LABEL_DEPLOYMENT, &name)])), match_expressions: None };
    let spec = PodDisruptionBudgetSpec {
        min_available: Some(IntOrString::Int(min_available)),
        selector: Some(selector),
        ..PodDisruptionBudgetSpec::default()
    };
    PodDisruptionBudget { metadata: meta(deployment, name), spec: Some(spec), status: None }
}
