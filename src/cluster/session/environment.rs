//! The environment of a kernel. Pure.

use k8s_openapi::api::core::v1 as core;

use super::parts::escaped;
use super::ssh;
use crate::api::*;
use crate::session::effect::Launch;

/// The port of the first process of distributed training, as PyTorch has it.
const MASTER_PORT: u16 = 29500;

/// Returns the operator's variables (docs/sessions.md#environment), then the session's own.
pub fn environment(session: &Session, launch: &Launch) -> Vec<core::EnvVar> {
    let slots = expand(&session.spec.kernels);
    let hosts: Vec<&str> = slots.iter().map(|slot| slot.hostname.as_str()).collect();
    let replicas = main_first(&session.spec.kernels).map(|k| format!("{}:{}", k.role, k.replicas));
    let ports = launch.template.ports.iter();
    let ports = ports.map(|port| format!("{}:{}:{}", port.name, port.protocol.to_string().to_lowercase(), port.container_port));
    let own = [
        ("SESSION_ID", session.metadata.uid.clone().unwrap_or_default()),
        ("SESSION_NAME", session.metadata.name.clone().unwrap_or_default()),
        ("CLUSTER_SIZE", slots.len().to_string()),
        ("CLUSTER_REPLICAS", replicas.collect::<Vec<_>>().join(",")),
        ("CLUSTER_HOSTS", hosts.join(",")),
        ("ACCESS_KEY", session.spec.access_key.0.clone()),
        ("KERNEL_IMAGE", launch.template.image.clone()),
        ("CLUSTER_ROLE", launch.template.role.clone()),
        ("CLUSTER_IDX", launch.index.to_string()),
        ("CLUSTER_LOCAL_RANK", launch.local_rank.to_string()),
        ("CLUSTER_HOST", launch.hostname.clone()),
        ("SERVICE_PORTS", ports.collect::<Vec<_>>().join(",")),
    ];
    let literal = |name: String, value: &str| core::EnvVar { name, value: Some(escaped(value)), value_from: None };
    let own = own.into_iter().map(|(name, value)| literal(format!("{RESERVED_ENV_PREFIX}{name}"), &value));
    let distributed =
        distributed(launch, slots.len()).into_iter().filter(|(name, _)| !launch.template.env.iter().any(|v| v.name == *name));
    let distributed = distributed.map(|(name, value)| literal(name.to_owned(), &value));
    let users = launch.template.env.iter().map(|variable| match &variable.secret_key_ref {
        Some(key) => {
            let key = core::SecretKeySelector { name: key.name.clone(), key: key.key.clone(), optional: None };
            let source = core::EnvVarSource { secret_key_ref: Some(key), ..core::EnvVarSource::default() };
            core::EnvVar { name: variable.name.clone(), value: None, value_from: Some(source) }
        }
        None => literal(variable.name.clone(), variable.value.as_deref().unwrap_or_default()),
    });
    own.chain([kernel_id()]).chain(distributed).chain(users).collect()
}

/// Returns what programs for distributed training and for MPI read, with one process in each kernel. A launcher such as torchrun sets
/// other values for its own processes, and a session's own variables win. One kernel alone has none: many programs would wait for others.
fn distributed(launch: &Launch, kernels: usize) -> Vec<(&'static str, String)> {
    if !launch.in_gang {
        return vec![];
    }
    vec![
        ("MASTER_ADDR", MAIN_HOSTNAME.to_owned()),
        ("MASTER_PORT", MASTER_PORT.to_string()),
        ("WORLD_SIZE", kernels.to_string()),
        ("RANK", launch.local_rank.to_string()),
        ("LOCAL_WORLD_SIZE", "1".to_owned()),
        ("OMPI_MCA_orte_default_hostfile", ssh::HOSTFILE.to_owned()),
        ("PRTE_MCA_prte_default_hostfile", ssh::HOSTFILE.to_owned()),
    ]
}

/// Returns the variable with the uid of the kernel's pod.
fn kernel_id() -> core::EnvVar {
    let field = core::ObjectFieldSelector { field_path: "metadata.uid".into(), api_version: None };
    let source = core::EnvVarSource { field_ref: Some(field), ..core::EnvVarSource::default() };
    core::EnvVar { name: format!("{RESERVED_ENV_PREFIX}KERNEL_ID"), value: None, value_from: Some(source) }
}
