//! Builds the objects of a session: kernels, pods, the Service for its names, the Secret with its SSH keys. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Pod, Secret, Service};
use kube::Resource;
use serde_json::{Map, Value, json};

use crate::api::*;
use crate::session::effect::Launch;
use crate::session::kernels::{service_name, ssh_secret_name};

/// The path of the operator's own files in a kernel.
pub const OWN_PATH: &str = "/opt/sokovan";
/// Keeps service meshes out of a kernel's pod, because their containers would not be counted. A scaling group may override
/// it.
const NO_ISTIO: [&str; 2] = ["sidecar.istio.io/inject", "false"];
const NO_LINKERD: [&str; 2] = ["linkerd.io/inject", "disabled"];

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

fn owner<K: Resource<DynamicType = ()>>(object: &K) -> Value {
    json!([{
        "apiVersion": K::api_version(&()), "kind": K::kind(&()), "controller": true, "blockOwnerDeletion": true,
        "name": object.meta().name, "uid": object.meta().uid,
    }])
}

fn labels(session: &Session, group: &GroupName) -> BTreeMap<String, String> {
    let meta = &session.metadata;
    BTreeMap::from([
        (LABEL_SESSION.into(), meta.name.clone().unwrap_or_default()),
        (LABEL_SESSION_UID.into(), meta.uid.clone().unwrap_or_default()),
        (LABEL_GROUP.into(), group.0.clone()),
    ])
}

fn kernel_labels(session: &Session, group: &GroupName, launch: &Launch) -> BTreeMap<String, String> {
    let mut labels = labels(session, group);
    labels.insert(LABEL_KERNEL.into(), launch.hostname.clone());
    labels.insert(LABEL_GENERATION.into(), launch.generation.to_string());
    labels
}

pub fn kernel(session: &Session, group: &GroupName, launch: &Launch) -> serde_json::Result<Kernel> {
    serde_json::from_value(json!({
        "apiVersion": Kernel::api_version(&()), "kind": Kernel::kind(&()),
        "metadata": {
            "name": launch.name, "namespace": session.metadata.namespace,
            "labels": kernel_labels(session, group, launch), "ownerReferences": owner(session),
        },
        "spec": {
            "session": session.metadata.name, "sessionUid": session.metadata.uid,
            "role": launch.template.role, "index": launch.index, "localRank": launch.local_rank,
            "hostname": launch.hostname, "allocationGeneration": launch.generation, "scalingGroup": group,
            "node": launch.node, "image": launch.template.image, "resources": launch.template.resources,
        },
    }))
}

/// Returns the pod of a kernel. The kernel must exist already, because its uid is in the pod's owner and environment.
pub fn pod(
    session: &Session,
    group: Option<&ScalingGroup>,
    kernel: &Kernel,
    launch: &Launch,
    options: &PodOptions,
) -> serde_json::Result<Pod> {
    let group_name = &kernel.spec.scaling_group;
    let given = group.map(|group| group.spec.pod.clone()).unwrap_or_default();
    let name = session.metadata.name.clone().unwrap_or_default();
    let namespace = session.metadata.namespace.clone().unwrap_or_default();
    let mut labels = BTreeMap::from([NO_ISTIO.map(str::to_owned).into()]);
    labels.extend(given.labels.clone());
    labels.extend(kernel_labels(session, group_name, launch));
    let mut annotations = BTreeMap::from([NO_LINKERD.map(str::to_owned).into()]);
    annotations.extend(given.annotations.clone());
    let mut spec = json!({
        "restartPolicy": "Never",
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": session.spec.termination.grace_period_seconds,
        "hostname": launch.hostname,
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [launch.node]}]}
        ]}}},
        "tolerations": tolerations(&given),
        "volumes": volumes(session, launch),
        "containers": [main_container(session, kernel, launch, &given)],
    });
    let fields = spec.as_object_mut().into_iter();
    for fields in fields {
        if launch.gated {
            let service = service_name(&name);
            fields.insert("initContainers".into(), gate_containers(launch, &given, options));
            fields.extend(own_names_first(&service, &namespace, options));
            fields.insert("subdomain".into(), json!(service));
        }
        insert_some(fields, "runtimeClassName", given.runtime_class_name.as_ref());
        insert_some(fields, "securityContext", given.security_context.as_ref());
        if !given.image_pull_secrets.is_empty() {
            fields.insert("imagePullSecrets".into(), json!(given.image_pull_secrets));
        }
    }
    serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": launch.name, "namespace": namespace, "labels": labels, "annotations": annotations,
            "ownerReferences": owner(kernel), "finalizers": [FINALIZER_POD],
        },
        "spec": spec,
    }))
}

/// Returns a DNS configuration that searches the session's own names first, so that a Service `main1` of the namespace does
/// not hide the kernel `main1`. Kubernetes puts its search domains before a pod's, unless the pod has a complete
/// configuration, which needs the address of the DNS server.
fn own_names_first(service: &str, namespace: &str, options: &PodOptions) -> Map<String, Value> {
    let domain = &options.cluster_domain;
    let own = format!("{service}.{namespace}.svc.{domain}");
    let Some(server) = options.cluster_dns else {
        return Map::from_iter([("dnsConfig".to_owned(), json!({"searches": [own]}))]);
    };
    let searches = [own, format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
    let ndots = json!({"name": "ndots", "value": "5"});
    let config = json!({"nameservers": [server], "searches": searches, "options": [ndots]});
    Map::from_iter([("dnsPolicy".to_owned(), json!("None")), ("dnsConfig".to_owned(), config)])
}

fn insert_some<T: serde::Serialize>(fields: &mut Map<String, Value>, name: &str, value: Option<&T>) {
    if let Some(value) = value {
        fields.insert(name.into(), json!(value));
    }
}

/// Returns the scaling group's tolerations, and two that keep Kubernetes from evicting our pods when a node fails.
fn tolerations(given: &GroupPodOptions) -> Value {
    let mut all = vec![
        json!({"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"}),
        json!({"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute"}),
    ];
    all.extend(given.tolerations.iter().map(|toleration| json!(toleration)));
    Value::Array(all)
}

fn volumes(session: &Session, launch: &Launch) -> Value {
    let mut all = vec![json!({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": launch.template.shared_memory}})];
    if launch.gated {
        let (name, uid) = (&session.metadata.name, &session.metadata.uid);
        let secret = ssh_secret_name(name.as_deref().unwrap_or_default(), uid.as_deref().unwrap_or_default());
        all.push(json!({"name": "sokovan-gate", "emptyDir": {"medium": "Memory", "sizeLimit": "4Mi"}}));
        all.push(json!({"name": "sokovan-pod", "downwardAPI": {"items": [
            {"path": "gate", "fieldRef": {"fieldPath": format!("metadata.annotations['{ANNOTATION_GATE}']")}}
        ]}}));
        all.push(json!({"name": "sokovan-ssh", "secret": {"secretName": secret, "defaultMode": 0o400}}));
    }
    let mut claims: Vec<&str> = launch.template.volumes.iter().map(|volume| volume.claim_name.as_str()).collect();
    claims.sort_unstable();
    claims.dedup();
    for claim in claims {
        all.push(json!({"name": claim_volume(claim), "persistentVolumeClaim": {"claimName": claim}}));
    }
    Value::Array(all)
}

/// Returns a volume name for a claim. It is a hash, because a claim's name may be longer than a volume's.
fn claim_volume(claim: &str) -> String {
    format!("claim-{}", crate::session::kernels::short_hash(claim))
}

fn main_container(session: &Session, kernel: &Kernel, launch: &Launch, given: &GroupPodOptions) -> Value {
    let template = &launch.template;
    let mut mounts = vec![json!({"name": "shm", "mountPath": "/dev/shm"})];
    if launch.gated {
        mounts.push(json!({"name": "sokovan-ssh", "mountPath": format!("{OWN_PATH}/ssh"), "readOnly": true}));
    }
    for volume in &template.volumes {
        let mut mount = json!({
            "name": claim_volume(&volume.claim_name), "mountPath": volume.mount_path, "readOnly": volume.read_only,
        });
        if let (Some(fields), Some(path)) = (mount.as_object_mut(), &volume.sub_path) {
            fields.insert("subPath".into(), json!(path));
        }
        mounts.push(mount);
    }
    let ports = template
        .ports
        .iter()
        .map(|port| json!({"name": port.name, "containerPort": port.container_port, "protocol": port.protocol.to_string()}));
    let mut container = json!({
        "name": CONTAINER_MAIN, "image": template.image, "imagePullPolicy": template.image_pull_policy,
        "resources": {"requests": template.resources, "limits": template.resources},
        "env": environment(session, kernel, launch), "volumeMounts": mounts, "ports": ports.collect::<Vec<_>>(),
    });
    for fields in container.as_object_mut().into_iter() {
        if !template.command.is_empty() {
            fields.insert("command".into(), json!(all_escaped(&template.command)));
        }
        if !template.args.is_empty() {
            fields.insert("args".into(), json!(all_escaped(&template.args)));
        }
        insert_some(fields, "securityContext", given.container_security_context.as_ref());
    }
    container
}

/// Escapes a command or value, so that Kubernetes does not expand `$(NAME)` or turn `$$` into `$`.
fn escaped(word: &str) -> String {
    word.replace('$', "$$")
}

fn all_escaped(words: &[String]) -> Vec<String> {
    words.iter().map(|word| escaped(word)).collect()
}

/// Returns the init containers of the gate. The gate is copied out of the operator's image and runs in the kernel's image,
/// so that this image is pulled while the gate waits.
fn gate_containers(launch: &Launch, given: &GroupPodOptions, options: &PodOptions) -> Value {
    // The gate requests as much as the kernel. This costs nothing, because a pod needs only the larger of both, and a
    // LimitRange that admits the kernel admits the gate.
    let of_kernel = |name: &str| Some((name.to_owned(), launch.template.resources.get(name)?.clone()));
    let amounts: ResourceList = ["cpu", "memory", "ephemeral-storage"].into_iter().filter_map(of_kernel).collect();
    let resources = json!({"requests": amounts, "limits": amounts});
    let binary = format!("{OWN_PATH}/bin/gate");
    let bin = json!({"name": "sokovan-gate", "mountPath": format!("{OWN_PATH}/bin")});
    let mut copy = json!({
        "name": CONTAINER_GATE_COPY, "image": options.gate_image, "imagePullPolicy": "IfNotPresent",
        "command": ["/gate", "copy", binary], "resources": resources, "volumeMounts": [bin],
    });
    let mut gate = json!({
        "name": CONTAINER_GATE, "image": launch.template.image, "imagePullPolicy": launch.template.image_pull_policy,
        "command": [binary, "wait", format!("{OWN_PATH}/pod/gate")], "resources": resources,
        "volumeMounts": [
            {"name": "sokovan-gate", "mountPath": format!("{OWN_PATH}/bin"), "readOnly": true},
            {"name": "sokovan-pod", "mountPath": format!("{OWN_PATH}/pod"), "readOnly": true},
        ],
    });
    for fields in copy.as_object_mut().into_iter().chain(gate.as_object_mut()) {
        insert_some(fields, "securityContext", given.container_security_context.as_ref());
    }
    json!([copy, gate])
}

/// Returns the operator's variables (docs/sessions.md#environment), then the session's own.
fn environment(session: &Session, kernel: &Kernel, launch: &Launch) -> Vec<Value> {
    let slots = expand(&session.spec.kernels);
    let hosts: Vec<&str> = slots.iter().map(|slot| slot.hostname.as_str()).collect();
    let (main, others): (Vec<_>, Vec<_>) = session.spec.kernels.iter().partition(|k| k.role == crate::api::MAIN_ROLE);
    let replicas = main.into_iter().chain(others).map(|k| format!("{}:{}", k.role, k.replicas));
    let ports = launch.template.ports.iter();
    let ports = ports.map(|port| format!("{}:{}:{}", port.name, port.protocol.to_string().to_lowercase(), port.container_port));
    let own = [
        ("SESSION_ID", session.metadata.uid.clone().unwrap_or_default()),
        ("SESSION_NAME", session.metadata.name.clone().unwrap_or_default()),
        ("CLUSTER_SIZE", slots.len().to_string()),
        ("CLUSTER_REPLICAS", replicas.collect::<Vec<_>>().join(",")),
        ("CLUSTER_HOSTS", hosts.join(",")),
        ("ACCESS_KEY", session.spec.access_key.0.clone()),
        ("KERNEL_ID", kernel.metadata.uid.clone().unwrap_or_default()),
        ("KERNEL_IMAGE", launch.template.image.clone()),
        ("CLUSTER_ROLE", launch.template.role.clone()),
        ("CLUSTER_IDX", launch.index.to_string()),
        ("CLUSTER_LOCAL_RANK", launch.local_rank.to_string()),
        ("CLUSTER_HOST", launch.hostname.clone()),
        ("SERVICE_PORTS", ports.collect::<Vec<_>>().join(",")),
    ];
    let own =
        own.into_iter().map(|(name, value)| json!({"name": format!("{RESERVED_ENV_PREFIX}{name}"), "value": escaped(&value)}));
    own.chain(launch.template.env.iter().map(|variable| match &variable.secret_key_ref {
        Some(key) => json!({"name": variable.name, "valueFrom": {"secretKeyRef": {"name": key.name, "key": key.key}}}),
        None => {
            json!({"name": variable.name, "value": escaped(variable.value.as_deref().unwrap_or_default())})
        }
    }))
    .collect()
}

/// Returns the Service that publishes the kernels' names, even before the kernels are ready.
pub fn service(session: &Session, group: &GroupName) -> serde_json::Result<Service> {
    let name = session.metadata.name.clone().unwrap_or_default();
    serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": service_name(&name), "namespace": session.metadata.namespace,
            "labels": labels(session, group), "ownerReferences": owner(session),
        },
        "spec": {
            "clusterIP": "None", "publishNotReadyAddresses": true,
            "selector": {LABEL_SESSION_UID: session.metadata.uid},
        },
    }))
}

/// Returns the Secret with the SSH key pair through which the kernels of one session reach each other.
pub fn ssh_secret(session: &Session, group: &GroupName, keys: &SshKeys) -> serde_json::Result<Secret> {
    let name = session.metadata.name.clone().unwrap_or_default();
    let uid = session.metadata.uid.clone().unwrap_or_default();
    serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Secret", "immutable": true,
        "metadata": {
            "name": ssh_secret_name(&name, &uid), "namespace": session.metadata.namespace,
            "labels": labels(session, group), "ownerReferences": owner(session),
        },
        "stringData": {
            "id_cluster": keys.private, "id_cluster.pub": keys.public, "authorized_keys": keys.public,
        },
    }))
}

/// An SSH key pair in OpenSSH's format. Each file ends with a newline.
pub struct SshKeys {
    pub private: String,
    pub public: String,
}

impl SshKeys {
    pub fn generate() -> Result<Self, ssh_key::Error> {
        let mut key = ssh_key::PrivateKey::random(&mut ssh_key::rand_core::OsRng, ssh_key::Algorithm::Ed25519)?;
        key.set_comment("sokovan");
        let private = key.to_openssh(ssh_key::LineEnding::LF)?.to_string();
        Ok(Self { private, public: format!("{}\n", key.public_key().to_openssh()?) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sessions_commands_and_values_reach_its_program_unchanged() {
        // The kubelet turns `$$` into `$`, and must find nothing to expand.
        for word in ["$(HOME)", "$$(HOME)", "pa$$word", "$$", "$", "100 $"] {
            let sent = escaped(word);
            assert_eq!(sent.replace("$$", "$"), word);
            assert!(!sent.replace("$$", "").contains('$'), "{sent}");
        }
    }
}
