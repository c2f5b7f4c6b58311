//! The files with which kernels of one session log in to each other, and with which mpirun finds them: SSH keys, a client
//! configuration, a host file. Pure, except for the keys.

use k8s_openapi::api::core::v1 as core;

use super::parts::{OWN_PATH, mount, read_only};
use crate::api::*;
use crate::session::kernel_record::{labels, meta};
use crate::session::kernels::ssh_secret_name;

/// The hosts of the session and the processes that each may run, in the format of Open MPI.
pub const HOSTFILE: &str = "/opt/sokovan/ssh/hostfile";

const VOLUME: &str = "sokovan-ssh";
const PRIVATE: &str = "id_cluster";
/// The same key for users other than root. SSH refuses a key that its owner, root, shares with others; another user may read it.
const PRIVATE_OF_OTHERS: &str = "id_cluster_user";
/// The port of the kernels' SSH servers. Sessions cannot use it for anything else.
const PORT: u16 = 2200;
const SSH_FOLDER: &str = "/etc/ssh";
/// Where the client of most distributions looks for more configuration.
const CLIENT_CONFIG: &str = "/etc/ssh/ssh_config.d/sokovan.conf";

pub fn volume(session: &Session) -> core::Volume {
    let file = |key: &str, path: &str, mode: i32| core::KeyToPath { key: key.into(), path: path.into(), mode: Some(mode) };
    let public = ["id_cluster.pub", "authorized_keys", "config", "hostfile"].map(|name| file(name, name, 0o444));
    let private = [file(PRIVATE, PRIVATE, 0o400), file(PRIVATE, PRIVATE_OF_OTHERS, 0o444)];
    let secret = core::SecretVolumeSource {
        secret_name: Some(secret_name(session)),
        items: Some(private.into_iter().chain(public).collect()),
        ..core::SecretVolumeSource::default()
    };
    core::Volume { name: VOLUME.into(), secret: Some(secret), ..core::Volume::default() }
}

/// Returns the operator's mounts, given the user's. A kernel with an SSH configuration of its own keeps that.
pub fn mounts(users: &[core::VolumeMount]) -> Vec<core::VolumeMount> {
    let config = core::VolumeMount { sub_path: Some("config".into()), ..mount(VOLUME, CLIENT_CONFIG.into()) };
    let has_own = users.iter().any(|mount| mount.mount_path == SSH_FOLDER || mount.mount_path.starts_with("/etc/ssh/"));
    let own = read_only(mount(VOLUME, format!("{OWN_PATH}/ssh")));
    std::iter::once(own).chain((!has_own).then(|| read_only(config))).collect()
}

/// Returns the client configuration: `ssh sub1` needs no option. The hosts' keys are not known, but their names are the session's own.
fn config(session: &Session) -> String {
    let hosts: Vec<String> = expand(&session.spec.kernels).into_iter().map(|slot| slot.hostname).collect();
    let directory = format!("{OWN_PATH}/ssh");
    format!(
        "Host {}\n  Port {PORT}\n  IdentityFile {directory}/{PRIVATE}\n  IdentityFile {directory}/{PRIVATE_OF_OTHERS}\n  \
         StrictHostKeyChecking no\n  UserKnownHostsFile /dev/null\n  LogLevel ERROR\n",
        hosts.join(" ")
    )
}

/// Returns the host file: as many processes for each kernel as it has GPUs, or else whole cores, and at least one.
fn hostfile(session: &Session) -> String {
    let line = |slot: KernelSlot<'_>| format!("{} slots={}\n", slot.hostname, processes(&slot.template.resources));
    expand(&session.spec.kernels).into_iter().map(line).collect()
}

fn processes(resources: &ResourceList) -> i64 {
    let gpus =
        resources.iter().filter(|(name, _)| name.ends_with("/gpu")).map(|(_, amount)| amount.amount().milli() / 1000).sum();
    let cores = resources.get("cpu").map_or(0, |cores| cores.amount().milli() / 1000);
    std::cmp::max(if gpus > 0 { gpus } else { cores }, 1)
}

fn secret_name(session: &Session) -> String {
    let (name, uid) = (session.metadata.name.as_deref(), session.metadata.uid.as_deref());
    ssh_secret_name(name.unwrap_or_default(), uid.unwrap_or_default())
}

/// Returns the Secret with the SSH key pair through which the kernels of one session reach each other.
pub fn secret(session: &Session, group: &GroupName, keys: &SshKeys) -> core::Secret {
    let files = [
        (PRIVATE, keys.private.clone()),
        ("id_cluster.pub", keys.public.clone()),
        ("authorized_keys", keys.public.clone()),
        ("config", config(session)),
        ("hostfile", hostfile(session)),
    ];
    core::Secret {
        metadata: meta(session, secret_name(session), labels(session, group)),
        immutable: Some(true),
        string_data: Some(files.into_iter().map(|(file, key)| (file.to_owned(), key)).collect()),
        ..core::Secret::default()
    }
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
    use crate::session::handlers::testing::session;
    use serde_json::json;

    fn gang() -> Session {
        let kernel = |role: &str, replicas: i32, resources| json!({"role": role, "replicas": replicas, "image": "i", "resources": resources});
        let main = kernel("main", 1, json!({"cpu": "500m", "memory": "1Gi"}));
        session(json!({"kernels": [main, kernel("sub", 2, json!({"cpu": "16", "memory": "1Gi", "nvidia.com/gpu": "8"}))]}))
    }

    #[test]
    fn a_kernel_with_files_in_etc_ssh_gets_no_configuration_there() {
        assert_eq!(mounts(&[]).len(), 2);
        assert_eq!(mounts(&[mount("c", "/etc/ssh".into())]).len(), 1);
        assert_eq!(mounts(&[mount("c", "/etc/ssh/ssh_config.d".into())]).len(), 1);
    }

    #[test]
    fn mpi_starts_a_process_for_each_gpu_or_core() {
        assert_eq!(hostfile(&gang()), "main1 slots=1\nsub1 slots=8\nsub2 slots=8\n");
    }

    #[test]
    fn every_host_of_the_session_is_reached_without_options_by_root_and_by_others() {
        let config = config(&gang());
        assert!(config.starts_with("Host main1 sub1 sub2\n  Port 2200\n"), "{config}");
        let items = volume(&gang()).secret.and_then(|secret| secret.items).expect("items");
        let mode = |path: &str| items.iter().find(|item| item.path == path).and_then(|item| item.mode);
        assert_eq!((mode("id_cluster"), mode("id_cluster_user")), (Some(0o400), Some(0o444)));
        let paths: Vec<&str> = config.lines().filter_map(|line| line.trim().strip_prefix("IdentityFile ")).collect();
        assert!(paths.iter().all(|path| items.iter().any(|item| path.ends_with(&format!("/{}", item.path)))), "{paths:?}");
    }
}
