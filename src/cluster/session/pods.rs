//! Builds the objects of a session: pods, the Service for its names, the Secret with its SSH keys. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as CoreQuantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::api::*;
use crate::session::effect::{Gate, Launch};
use crate::session::kernel_record::{kernel_labels, labels, meta};
use crate::session::kernels::service_name;

use super::environment::environment;
use super::parts::{OWN_PATH, escaped, mount, read_only};
use super::{ssh, user_volumes};

/// Keeps service meshes out of a kernel's pod, because their containers would not be counted. A scaling group may override
/// it.
const NO_ISTIO: (&str, &str) = ("sidecar.istio.io/inject", "false");
const NO_LINKERD: (&str, &str) = ("linkerd.io/inject", "disabled");

const VOLUME_SHM: &str = "shm";
const VOLUME_GATE: &str = "sokovan-gate";
const VOLUME_POD: &str = "sokovan-pod";
/// Keep cluster autoscalers from ending a session to free its node. A scaling group may override them. Replicas of deployments lack
/// them: a budget protects those, and an evicted one is replaced without a lost request.
const NO_EVICTION: [(&str, &str); 2] =
    [("cluster-autoscaler.kubernetes.io/safe-to-evict", "false"), ("karpenter.sh/do-not-disrupt", "true")];
/// The size of the volume that holds the gate program.
const GATE_SIZE: &str = "4Mi";

/// The options that all pods share.
#[derive(Clone, Debug)]
pub struct PodOptions {
    /// The operator's own image, from which the gate is copied.
    pub gate_image: String,
    /// The cluster's DNS domain.
    pub cluster_domain: String,
    /// The cluster's DNS server, if it is known.
    pub cluster_dns: Option<IpAddr>,
}

/// Returns the labels by which the Service of a deployment finds a replica. Only the operator can set them on a session.
fn replica_labels(session: &Session) -> BTreeMap<String, String> {
    let wanted = [LABEL_DEPLOYMENT, LABEL_DEPLOYMENT_UID, LABEL_REVISION, LABEL_TRAFFIC];
    let labels = session.metadata.labels.iter().flatten().filter(|(name, _)| wanted.contains(&name.as_str()));
    labels.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// The scaling group that a kernel's pod is for.
#[derive(Clone, Copy)]
pub struct PodGroup<'a> {
    pub name: &'a GroupName,
    /// None if it is gone.
    pub group: Option<&'a ScalingGroup>,
}

/// Returns the pod of a kernel.
pub fn pod(session: &Session, group: PodGroup<'_>, launch: &Launch, options: &PodOptions) -> core::Pod {
    let given = group.group.map(|group| group.spec.pod.clone()).unwrap_or_default();
    let text = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    let mut labels = BTreeMap::from([text(NO_ISTIO)]);
    labels.extend(given.labels.clone());
    labels.extend(kernel_labels(session, group.name, &launch.hostname, launch.generation));
    if launch.template.role == MAIN_ROLE {
        labels.extend(replica_labels(session));
    }
    let mut annotations = BTreeMap::from([text(NO_LINKERD)]);
    if session.deployment_uid().is_none() {
        annotations.extend(NO_EVICTION.map(text));
    }
    annotations.extend(given.annotations.clone());
    let mut spec = core::PodSpec {
        restart_policy: Some("Never".into()),
        automount_service_account_token: Some(false),
        service_account_name: session.spec.service_account_name.clone(),
        enable_service_links: Some(false),
        termination_grace_period_seconds: Some(session.spec.termination.grace_period_seconds),
        hostname: Some(launch.hostname.clone()),
        affinity: Some(pinned_to(&launch.node)),
        tolerations: Some(tolerations(&given)),
        volumes: Some(volumes(session, launch)),
        containers: vec![main_container(session, launch, &given)],
        runtime_class_name: given.runtime_class_name.clone(),
        security_context: given.security_context.clone(),
        image_pull_secrets: some(pull_secrets(session, &given)),
        ..core::PodSpec::default()
    };
    spec.init_containers = some(gate_containers(launch, &given, options));
    if launch.in_gang {
        let service = service_name(session.metadata.name.as_deref().unwrap_or_default());
        let namespace = session.metadata.namespace.as_deref().unwrap_or_default();
        (spec.dns_policy, spec.dns_config) = own_names_first(&service, namespace, options);
        spec.subdomain = Some(service);
    }
    core::Pod {
        metadata: ObjectMeta {
            annotations: Some(annotations),
            finalizers: Some(vec![FINALIZER_POD.into()]),
            ..meta(session, launch.name.clone(), labels)
        },
        spec: Some(spec),
        status: None,
    }
}

/// Returns the secrets of the scaling group, then those of the session.
fn pull_secrets(session: &Session, given: &GroupPodOptions) -> Vec<core::LocalObjectReference> {
    let own = session.spec.image_pull_secrets.iter().map(|name| core::LocalObjectReference { name: name.clone() });
    given.image_pull_secrets.iter().cloned().chain(own).collect()
}

/// Returns a list, or None if it is empty.
fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

/// Returns the required affinity to one node, as DaemonSets use it. kube-scheduler binds the pod.
fn pinned_to(node: &NodeName) -> core::Affinity {
    let field =
        core::NodeSelectorRequirement { key: "metadata.name".into(), operator: "In".into(), values: Some(vec![node.0.clone()]) };
    let term = core::NodeSelectorTerm { match_fields: Some(vec![field]), match_expressions: None };
    let required = core::NodeSelector { node_selector_terms: vec![term] };
    let affinity = core::NodeAffinity {
        required_during_scheduling_ignored_during_execution: Some(required),
        ..core::NodeAffinity::default()
    };
    core::Affinity { node_affinity: Some(affinity), ..core::Affinity::default() }
}

/// Returns a DNS configuration that searches the session's own names first, so that a Service `main1` of the namespace does
/// not hide the kernel `main1`. Kubernetes puts its search domains before a pod's, unless the pod has a complete
/// configuration, which needs the address of the DNS server.
fn own_names_first(service: &str, namespace: &str, options: &PodOptions) -> (Option<String>, Option<core::PodDNSConfig>) {
    let domain = &options.cluster_domain;
    let own = format!("{service}.{namespace}.svc.{domain}");
    let Some(server) = options.cluster_dns else {
        return (None, Some(core::PodDNSConfig { searches: Some(vec![own]), ..core::PodDNSConfig::default() }));
    };
    let ndots = core::PodDNSConfigOption { name: Some("ndots".into()), value: Some("5".into()) };
    let config = core::PodDNSConfig {
        nameservers: Some(vec![server.to_string()]),
        searches: Some(vec![own, format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()]),
        options: Some(vec![ndots]),
    };
    (Some("None".into()), Some(config))
}

/// Returns the scaling group's tolerations, and two that keep Kubernetes from evicting our pods when a node fails.
fn tolerations(given: &GroupPodOptions) -> Vec<core::Toleration> {
    let forever = |key: &str| core::Toleration {
        key: Some(key.into()),
        operator: Some("Exists".into()),
        effect: Some("NoExecute".into()),
        ..core::Toleration::default()
    };
    let own = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"].map(forever);
    own.into_iter().chain(given.tolerations.iter().cloned()).collect()
}

fn memory_volume(name: &str, size: &str) -> core::Volume {
    let empty_dir = core::EmptyDirVolumeSource { medium: Some("Memory".into()), size_limit: Some(CoreQuantity(size.into())) };
    core::Volume { name: name.into(), empty_dir: Some(empty_dir), ..core::Volume::default() }
}

fn volumes(session: &Session, launch: &Launch) -> Vec<core::Volume> {
    let mut all = vec![memory_volume(VOLUME_SHM, &launch.template.shared_memory.0)];
    match launch.gate {
        Gate::None => {}
        Gate::Names => all.push(gate_annotation()),
        Gate::Images => all.extend([memory_volume(VOLUME_GATE, GATE_SIZE), gate_annotation()]),
    }
    if launch.in_gang {
        all.push(ssh::volume(session));
    }
    all.extend(user_volumes::volumes(session, &launch.template));
    all
}

/// Returns the volume with the pod's gate annotation as a file.
fn gate_annotation() -> core::Volume {
    let field_path = format!("metadata.annotations['{ANNOTATION_GATE}']");
    let gate = core::DownwardAPIVolumeFile {
        path: "gate".into(),
        field_ref: Some(core::ObjectFieldSelector { field_path, api_version: None }),
        ..core::DownwardAPIVolumeFile::default()
    };
    let downward = core::DownwardAPIVolumeSource { items: Some(vec![gate]), default_mode: None };
    core::Volume { name: VOLUME_POD.into(), downward_api: Some(downward), ..core::Volume::default() }
}

fn main_container(session: &Session, launch: &Launch, given: &GroupPodOptions) -> core::Container {
    let template = &launch.template;
    let users = user_volumes::mounts(template);
    let mut mounts = vec![mount(VOLUME_SHM, "/dev/shm".into())];
    if launch.in_gang {
        mounts.extend(ssh::mounts(&users));
    }
    mounts.extend(users);
    let port = |port: &Port| core::ContainerPort {
        name: Some(port.name.clone()),
        container_port: port.container_port,
        protocol: Some(port.protocol.to_string()),
        ..core::ContainerPort::default()
    };
    let serving = session.spec.serving.as_ref().filter(|_| template.role == MAIN_ROLE);
    core::Container {
        name: CONTAINER_MAIN.into(),
        readiness_probe: serving.and_then(readiness_probe),
        lifecycle: serving.and_then(pre_stop),
        image: Some(template.image.clone()),
        image_pull_policy: Some(template.image_pull_policy.to_string()),
        command: some(all_escaped(&template.command)),
        args: some(all_escaped(&template.args)),
        resources: Some(requests_and_limits(&template.resources)),
        env: Some(environment(session, launch)),
        volume_mounts: Some(mounts),
        ports: Some(template.ports.iter().map(port).collect()),
        security_context: given.container_security_context.clone(),
        ..core::Container::default()
    }
}

/// Returns the health check of a main kernel. Pods are never restarted, so there is no liveness or startup probe.
fn readiness_probe(serving: &Serving) -> Option<core::Probe> {
    let (check, port) = (&serving.health_check, IntOrString::Int(serving.port));
    let mut probe = core::Probe {
        period_seconds: Some(check.interval_seconds),
        timeout_seconds: Some(check.timeout_seconds),
        success_threshold: Some(check.success_threshold),
        failure_threshold: Some(check.failure_threshold),
        ..core::Probe::default()
    };
    match check.type_ {
        HealthCheckType::Http => {
            probe.http_get = Some(core::HTTPGetAction { path: Some(check.path.clone()), port, ..Default::default() });
        }
        HealthCheckType::Tcp => probe.tcp_socket = Some(core::TCPSocketAction { port, host: None }),
        HealthCheckType::Grpc => probe.grpc = Some(core::GRPCAction { port: serving.port, service: None }),
        HealthCheckType::None => return None,
    }
    Some(probe)
}

/// Returns a pause before SIGTERM: proxies that still send requests after the endpoint left are served.
fn pre_stop(serving: &Serving) -> Option<core::Lifecycle> {
    let sleep = core::SleepAction { seconds: serving.pre_stop_seconds };
    let handler = core::LifecycleHandler { sleep: Some(sleep), ..core::LifecycleHandler::default() };
    let wanted = serving.pre_stop_seconds > 0;
    wanted.then(|| core::Lifecycle { pre_stop: Some(handler), ..core::Lifecycle::default() })
}

/// Returns the same amounts as requests and as limits.
fn requests_and_limits(resources: &ResourceList) -> core::ResourceRequirements {
    let amounts: BTreeMap<String, CoreQuantity> =
        resources.iter().map(|(name, quantity)| (name.clone(), CoreQuantity(quantity.0.clone()))).collect();
    core::ResourceRequirements { requests: Some(amounts.clone()), limits: Some(amounts), claims: None }
}

fn all_escaped(words: &[String]) -> Vec<String> {
    words.iter().map(|word| escaped(word)).collect()
}

/// Returns the init containers of the gate. One that waits for images is copied out of the operator's image and runs in the
/// kernel's image, so that this image is pulled while the gate waits.
fn gate_containers(launch: &Launch, given: &GroupPodOptions, options: &PodOptions) -> Vec<core::Container> {
    // The gate requests as much as the kernel. This costs nothing, because a pod needs only the larger of both, and a
    // LimitRange that admits the kernel admits the gate.
    let shared = |name: &str| Some((name.to_owned(), launch.template.resources.get(name)?.clone()));
    let same: ResourceList = ["cpu", "memory", "ephemeral-storage"].into_iter().filter_map(shared).collect();
    let copied = format!("{OWN_PATH}/bin/gate");
    let bin = || mount(VOLUME_GATE, format!("{OWN_PATH}/bin"));
    let in_own_image = |name: &str| core::Container {
        name: name.into(),
        image: Some(options.gate_image.clone()),
        image_pull_policy: Some("IfNotPresent".into()),
        resources: Some(requests_and_limits(&same)),
        security_context: given.container_security_context.clone(),
        ..core::Container::default()
    };
    let annotation = read_only(mount(VOLUME_POD, format!("{OWN_PATH}/pod")));
    let wait = |program: &str| Some(vec![program.to_owned(), "wait".into(), format!("{OWN_PATH}/pod/gate")]);
    match launch.gate {
        Gate::None => vec![],
        Gate::Names => vec![core::Container {
            command: wait("/gate"),
            volume_mounts: Some(vec![annotation]),
            ..in_own_image(CONTAINER_GATE)
        }],
        Gate::Images => vec![
            core::Container {
                command: Some(vec!["/gate".into(), "copy".into(), copied.clone()]),
                volume_mounts: Some(vec![bin()]),
                ..in_own_image(CONTAINER_GATE_COPY)
            },
            core::Container {
                image: Some(launch.template.image.clone()),
                image_pull_policy: Some(launch.template.image_pull_policy.to_string()),
                command: wait(&copied),
                volume_mounts: Some(vec![read_only(bin()), annotation]),
                ..in_own_image(CONTAINER_GATE)
            },
        ],
    }
}

/// Returns the claim that a session asks for. One that is deleted with the session has it as its owner.
pub fn claim(session: &Session, group: &GroupName, template: &ClaimTemplate) -> core::PersistentVolumeClaim {
    let name = template.claim_name(session.metadata.name.as_deref().unwrap_or_default());
    let mut metadata = meta(session, name, labels(session, group));
    if template.retention == Retention::Keep {
        metadata.owner_references = None;
    }
    let requests = BTreeMap::from([("storage".to_owned(), CoreQuantity(template.size.0.clone()))]);
    let spec = core::PersistentVolumeClaimSpec {
        access_modes: Some(vec![template.access_mode.to_string()]),
        storage_class_name: template.storage_class_name.clone(),
        resources: Some(core::VolumeResourceRequirements { requests: Some(requests), limits: None }),
        ..core::PersistentVolumeClaimSpec::default()
    };
    core::PersistentVolumeClaim { metadata, spec: Some(spec), status: None }
}

/// Returns the Service that publishes the kernels' names, even before the kernels are ready.
pub fn service(session: &Session, group: &GroupName) -> core::Service {
    let name = session.metadata.name.as_deref().unwrap_or_default();
    let uid = session.metadata.uid.clone().unwrap_or_default();
    let spec = core::ServiceSpec {
        cluster_ip: Some("None".into()),
        publish_not_ready_addresses: Some(true),
        selector: Some(BTreeMap::from([(LABEL_SESSION_UID.to_owned(), uid)])),
        ..core::ServiceSpec::default()
    };
    core::Service { metadata: meta(session, service_name(name), labels(session, group)), spec: Some(spec), status: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rh_004_the_kubelet_counts_the_successes_and_failures_of_a_health_check() {
        let check = |check: serde_json::Value| {
            let serving = serde_json::json!({"port": 8000, "healthCheck": check});
            readiness_probe(&serde_json::from_value(serving).expect("valid"))
        };
        let http = check(serde_json::json!({"type": "HTTP", "successThreshold": 3, "failureThreshold": 2})).expect("a probe");
        assert_eq!((http.success_threshold, http.failure_threshold), (Some(3), Some(2)));
        assert_eq!(http.http_get.and_then(|get| get.path).as_deref(), Some("/health"));
        assert!(check(serde_json::json!({"type": "TCP"})).is_some_and(|probe| probe.tcp_socket.is_some()));
        assert!(check(serde_json::json!({"type": "GRPC"})).is_some_and(|probe| probe.grpc.is_some()));
        assert!(check(serde_json::json!({"type": "None"})).is_none());
    }
}
