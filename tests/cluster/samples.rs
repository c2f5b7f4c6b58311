//! The samples pass the API server's validation and the chart's policies.

use kube::api::PostParams;
use kube::core::{DynamicObject, GroupVersionKind};
use kube::{Api, ResourceExt, discovery};
use serde::Deserialize;

use crate::common::client;

#[tokio::test]
async fn the_api_server_accepts_every_sample() {
    let client = client().await;
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    let mut count = 0;
    for file in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/samples")).unwrap() {
        let path = file.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        for document in serde_yaml::Deserializer::from_str(&text) {
            let mut object = DynamicObject::deserialize(document).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let types = object.types.clone().expect("a kind");
            let kind = GroupVersionKind::try_from(&types).unwrap();
            // The test cluster has no KEDA, so its objects are only read.
            if kind.group == "keda.sh" {
                continue;
            }
            let (resource, capabilities) = discovery::pinned_kind(&client, &kind).await.unwrap();
            let api: Api<DynamicObject> = match capabilities.scope {
                discovery::Scope::Cluster => Api::all_with(client.clone(), &resource),
                discovery::Scope::Namespaced => {
                    // The object's own namespace may be part of the sample, and then does not exist.
                    object.metadata.namespace = None;
                    Api::namespaced_with(client.clone(), "sessions", &resource)
                }
            };
            match api.create(&dry, &object).await {
                Ok(_) => count += 1,
                Err(kube::Error::Api(status)) if status.is_already_exists() => count += 1,
                Err(error) => panic!("{}: {}: {error}", path.display(), object.name_any()),
            }
        }
    }
    assert!(count >= 12, "{count}");
}
