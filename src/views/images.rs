//! The images that a node has, by the names that its kubelet reports.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::ContainerImage;

/// The images of one node. A kubelet reports its 50 largest by default, so an image may be there and not be listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Images(BTreeSet<String>);

impl Images {
    pub fn reported(images: &[ContainerImage]) -> Self {
        Self(images.iter().flat_map(|image| image.names.iter().flatten()).map(|name| full(name)).collect())
    }

    /// Whether the kubelet reports an image of this reference.
    pub fn has(&self, reference: &str) -> bool {
        self.0.contains(&full(reference))
    }
}

/// Returns a reference with its registry and its tag, as kubelets report it: `busybox` is `docker.io/library/busybox:latest`.
fn full(reference: &str) -> String {
    let with_registry = match reference.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => reference.to_owned(),
        Some(_) => format!("docker.io/{reference}"),
        None => format!("docker.io/library/{reference}"),
    };
    let last = with_registry.rsplit('/').next().unwrap_or_default();
    if last.contains([':', '@']) { with_registry } else { format!("{with_registry}:latest") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_found_by_each_of_its_names() {
        let names = ["docker.io/library/busybox:1", "registry.test:5000/team/app@sha256:abc", "docker.io/team/app:latest"];
        let names = Some(names.map(str::to_owned).to_vec());
        let images = Images::reported(&[ContainerImage { names, size_bytes: None }]);
        for reference in ["busybox:1", "docker.io/library/busybox:1", "registry.test:5000/team/app@sha256:abc", "team/app"] {
            assert!(images.has(reference), "{reference}");
        }
        for reference in ["busybox", "busybox:2", "registry.test:5000/team/app", "app"] {
            assert!(!images.has(reference), "{reference}");
        }
    }
}
