//! A session that the operator cannot read, as after a downgrade to an older version.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;
use kube::api::{DeleteParams, DynamicObject, PostParams};
use kube::core::ApiResource;
use serde_json::{Value, json};
use sokovan::api::*;

use crate::common::{client, eventually};
use crate::{FOREVER, session, sessions};

const STARTS_AT: &str = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/startsAt";

/// Replaces the CRD's pattern for `startsAt`, or removes it. Returns the previous pattern.
async fn swap_pattern(pattern: Option<Value>) -> Option<Value> {
    let definitions: Api<CustomResourceDefinition> = Api::all(client().await);
    let mut definition = serde_json::to_value(definitions.get("sessions.sokovan.dev").await.unwrap()).unwrap();
    let field = definition.pointer_mut(STARTS_AT).and_then(Value::as_object_mut).unwrap();
    let before = field.remove("pattern");
    field.extend(pattern.map(|pattern| ("pattern".to_owned(), pattern)));
    let definition = serde_json::from_value(definition).unwrap();
    definitions.replace("sessions.sokovan.dev", &PostParams::default(), &definition).await.unwrap();
    before
}

#[tokio::test]
async fn an_unreadable_session_does_not_affect_others_and_can_be_deleted() {
    let space = sessions().await;
    let pattern = swap_pattern(None).await;
    assert!(pattern.is_some());
    let kind = ApiResource::erase::<Session>(&());
    let objects: Api<DynamicObject> = Api::namespaced_with(space.client.clone(), &space.namespace, &kind);
    let object = session("unreadable", FOREVER, json!({"startsAt": "2026-01-01T00:00:00+99:99"}));
    let mut object: DynamicObject = serde_json::from_value(object).unwrap();
    object.metadata.finalizers = Some(vec![FINALIZER_SESSION.into()]);
    eventually("the session to be accepted without the pattern", || async {
        objects.create(&PostParams::default(), &object).await.map_err(|error| error.to_string())
    })
    .await;
    swap_pattern(pattern).await;
    space.create(session("readable", FOREVER, json!({}))).await.unwrap();
    space.until_phase("readable", SessionPhase::Running).await;
    space.delete("readable").await;
    space.until_gone::<Session>("readable").await;
    assert!(objects.get("unreadable").await.unwrap().data.get("status").is_none(), "an unreadable session gets no status");
    objects.delete("unreadable", &DeleteParams::default()).await.unwrap();
    space.until_gone::<Session>("unreadable").await;
}
