//! Carries out effects of routes. Each may be repeated: what exists already counts as done if it is ours.

use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::json;

use super::builders;
use super::host::{CarriedOut, ServingHost};
use crate::api::*;
use crate::cluster::objects::{exactly, not_found_is_fine};
use crate::cluster::store::identity::key_of;
use crate::lifecycle::EffectError;
use crate::route::Routes;
use crate::route::effect::Effect;
use crate::route::snapshot::RouteItem;
use crate::views::PodRef;

impl CarriedOut for Routes {
    async fn carry_out(host: &ServingHost, item: &RouteItem, effect: &Effect) -> Result<(), EffectError> {
        let (namespace, name) = key_of(&item.route.metadata);
        match effect {
            Effect::CreateSession(spec) => host.create_session(&item.route, spec).await,
            Effect::SetTraffic { pod, on } => host.set_traffic(pod, *on).await,
            Effect::ConfirmNoPod => host.confirm_no_pod(&namespace, item.session.as_deref()).await,
            Effect::EndSession { grace, forced } => {
                let uid = item.session.as_ref().and_then(|session| session.metadata.uid.as_ref());
                host.end_session(&namespace, &item.route.spec.session, uid, *grace, *forced).await
            }
            Effect::DeleteSession => {
                let uid = item.session.as_ref().and_then(|session| session.metadata.uid.clone());
                let held = host.writer.delete::<Session>("session-delete", &namespace, &name, exactly(uid)).await?;
                held.into_iter().for_each(|session| _ = host.world.upsert_session(session));
                Ok(())
            }
            Effect::ReleaseRoute => host.writer.release::<Route>("route-finalizer", &item.route.metadata, FINALIZER_ROUTE).await,
        }
    }
}

impl ServingHost {
    /// A pod may exist that no watch has reported yet. It must leave the traffic before its session ends.
    async fn confirm_no_pod(&self, namespace: &str, session: Option<&Session>) -> Result<(), EffectError> {
        let Some(uid) = session.and_then(|session| session.metadata.uid.as_ref()) else { return Ok(()) };
        let main = ListParams::default().labels(&format!("{LABEL_SESSION_UID}={uid},{LABEL_KERNEL}={MAIN_HOSTNAME}"));
        let pods = self.writer.read(self.writer.api::<Pod>(namespace).list(&main)).await?.items;
        let live: Vec<&Pod> = pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect();
        live.iter().for_each(|pod| self.world.upsert_pod(pod));
        match live.first().and_then(|pod| pod.metadata.name.as_ref()) {
            Some(name) => Err(EffectError::Again(format!("pod {name} exists"))),
            None => Ok(()),
        }
    }

    async fn create_session(&self, route: &Route, spec: &SessionSpec) -> Result<(), EffectError> {
        let session = builders::session(route, spec);
        let (namespace, owner) = (key_of(&route.metadata).0, route.metadata.uid.as_deref());
        let created = self.writer.create_ours("session-create", &namespace, &session, owner).await?;
        self.world.upsert_session(created);
        Ok(())
    }

    async fn set_traffic(&self, pod: &PodRef, on: bool) -> Result<(), EffectError> {
        let value = if on { TRAFFIC_ON } else { TRAFFIC_OFF };
        let patch = json!({"metadata": {"uid": pod.uid, "labels": {LABEL_TRAFFIC: value}}});
        let api = self.writer.api::<Pod>(&pod.namespace);
        let patched =
            self.writer.write("pod-traffic", api.patch(&pod.name, &PatchParams::default(), &Patch::Merge(&patch))).await;
        if let Ok(patched) = &patched {
            self.world.upsert_pod(patched);
        }
        not_found_is_fine(patched)
    }
}
