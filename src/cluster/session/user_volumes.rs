//! The volumes that users give their kernels: claims, files and scratch directories. Pure.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as CoreQuantity;

use super::parts::{mount, read_only};
use crate::api::*;

/// The object that a file comes from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Source<'t> {
    ConfigMap(&'t str),
    Secret(&'t str),
}

pub fn volumes(session: &Session, template: &KernelTemplate) -> Vec<core::Volume> {
    let claims: BTreeSet<&str> = template.volumes.iter().map(|volume| volume.claim_name.as_str()).collect();
    let claims = claims.into_iter().map(|claim| core::Volume {
        name: claim_volume(claim),
        persistent_volume_claim: Some(core::PersistentVolumeClaimVolumeSource {
            claim_name: session.claim_name(claim),
            read_only: None,
        }),
        ..core::Volume::default()
    });
    let scratch = template.scratch.iter().enumerate().map(|(index, scratch)| {
        let size_limit = Some(CoreQuantity(scratch.size.0.clone()));
        let empty_dir = Some(core::EmptyDirVolumeSource { medium: None, size_limit });
        core::Volume { name: scratch_volume(index), empty_dir, ..core::Volume::default() }
    });
    claims.chain(file_volumes(template)).chain(scratch).collect()
}

/// Returns a volume for each ConfigMap and Secret, with the keys that files name and no others.
fn file_volumes(template: &KernelTemplate) -> impl Iterator<Item = core::Volume> {
    let mut keys: BTreeMap<Source<'_>, BTreeMap<&str, bool>> = BTreeMap::new();
    for file in &template.files {
        if let Some((source, key)) = source_of(file) {
            *keys.entry(source).or_default().entry(key).or_default() |= file.executable;
        }
    }
    keys.into_iter().map(|(source, keys)| {
        let item = |(key, executable): (&str, bool)| core::KeyToPath {
            key: key.into(),
            path: key.into(),
            mode: Some(if executable { 0o555 } else { 0o444 }),
        };
        let items = Some(keys.into_iter().map(item).collect());
        let mut volume = core::Volume { name: file_volume(source), ..core::Volume::default() };
        match source {
            Source::ConfigMap(name) => {
                volume.config_map = Some(core::ConfigMapVolumeSource { name: name.into(), items, ..Default::default() });
            }
            Source::Secret(name) => {
                volume.secret = Some(core::SecretVolumeSource { secret_name: Some(name.into()), items, ..Default::default() });
            }
        }
        volume
    })
}

pub fn mounts(template: &KernelTemplate) -> Vec<core::VolumeMount> {
    let claims = template.volumes.iter().map(|volume| core::VolumeMount {
        read_only: Some(volume.read_only),
        sub_path: volume.sub_path.clone(),
        ..mount(&claim_volume(&volume.claim_name), volume.mount_path.clone())
    });
    let files = template.files.iter().filter_map(|file| {
        let (source, key) = source_of(file)?;
        let at = mount(&file_volume(source), file.path.clone());
        Some(read_only(core::VolumeMount { sub_path: Some(key.into()), ..at }))
    });
    let scratch = template.scratch.iter().enumerate();
    let scratch = scratch.map(|(index, scratch)| mount(&scratch_volume(index), scratch.mount_path.clone()));
    claims.chain(files).chain(scratch).collect()
}

fn source_of(file: &File) -> Option<(Source<'_>, &str)> {
    let config_map = file.config_map_key_ref.as_ref().map(|map| (Source::ConfigMap(&map.name), map.key.as_str()));
    config_map.or_else(|| file.secret_key_ref.as_ref().map(|secret| (Source::Secret(&secret.name), secret.key.as_str())))
}

/// Returns a volume name for the claim that is mounted by this name. It is a hash, because a claim's name may be longer than a volume's.
fn claim_volume(claim: &str) -> String {
    format!("claim-{}", short_hash(claim))
}

fn file_volume(source: Source<'_>) -> String {
    match source {
        Source::ConfigMap(name) => format!("file-{}", short_hash(&format!("configmap/{name}"))),
        Source::Secret(name) => format!("file-{}", short_hash(&format!("secret/{name}"))),
    }
}

fn scratch_volume(index: usize) -> String {
    format!("scratch-{index}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Returns a session `s` of one kernel, and the kernel.
    fn session_of(spec: serde_json::Value, kernel: serde_json::Value) -> (Session, KernelTemplate) {
        let mut full = json!({"accessKey": "key", "kernels": [kernel]});
        full.as_object_mut().expect("a spec").extend(spec.as_object().cloned().unwrap_or_default());
        let session = Session::new("s", serde_json::from_value(full).expect("a session"));
        let kernel = session.spec.kernels[0].clone();
        (session, kernel)
    }

    #[test]
    fn a_volume_mounts_the_claim_that_is_created_for_the_session_or_one_of_the_namespace() {
        let mounts = json!([{"claimName": "work", "mountPath": "/work"}, {"claimName": "data", "mountPath": "/data"}]);
        let kernel = json!({"image": "i", "resources": {"cpu": "1"}, "volumes": mounts});
        let (session, template) = session_of(json!({"claims": [{"name": "work", "size": "1Gi"}]}), kernel);
        let volumes = volumes(&session, &template);
        let claims: Vec<_> = volumes.iter().filter_map(|volume| volume.persistent_volume_claim.as_ref()).collect();
        let mut names: Vec<&str> = claims.iter().map(|claim| claim.claim_name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["data", "s-work"]);
        let mounted = super::mounts(&template);
        assert!(mounted.iter().all(|mount| volumes.iter().any(|volume| volume.name == mount.name)), "{mounted:?}");
    }

    #[test]
    fn a_pod_gets_the_keys_that_its_files_name_and_no_others() {
        let file = |path: &str, source: &str, name: &str, key: &str| json!({"path": path, source: {"name": name, "key": key}});
        let mut script = file("/work/run.sh", "configMapKeyRef", "code", "run.sh");
        script["executable"] = json!(true);
        let files =
            [script, file("/work/a.py", "configMapKeyRef", "code", "a.py"), file("/work/token", "secretKeyRef", "code", "token")];
        let template = json!({"image": "i", "resources": {"cpu": "1"}, "files": files, "scratch": [{"mountPath": "/scratch", "size": "5Gi"}]});
        let (session, template) = session_of(json!({}), template);
        let volumes = volumes(&session, &template);
        let keys = |items: Option<&Vec<core::KeyToPath>>| -> Vec<(String, Option<i32>)> {
            items.into_iter().flatten().map(|item| (item.key.clone(), item.mode)).collect()
        };
        let map = volumes.iter().find_map(|volume| volume.config_map.as_ref()).expect("a ConfigMap");
        assert_eq!(keys(map.items.as_ref()), [("a.py".into(), Some(0o444)), ("run.sh".into(), Some(0o555))]);
        let secret = volumes.iter().find_map(|volume| volume.secret.as_ref()).expect("a Secret");
        assert_eq!(keys(secret.items.as_ref()), [("token".into(), Some(0o444))]);
        let mounts = mounts(&template);
        assert!(mounts.iter().all(|mount| volumes.iter().any(|volume| volume.name == mount.name)), "{mounts:?}");
        let token = mounts.iter().find(|mount| mount.mount_path == "/work/token").expect("a mount");
        assert_eq!((token.sub_path.as_deref(), token.read_only), (Some("token"), Some(true)));
        assert_eq!(mounts.last().map(|mount| mount.mount_path.as_str()), Some("/scratch"));
    }
}
