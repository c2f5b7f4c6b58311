//! Reads the objects that the commands show. Objects that the user may not read are None, and the commands say so.

use std::collections::BTreeMap;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use super::revisions::{Recorded, recorded};
use super::target::{Kind, Target};
use crate::api::*;
use crate::session::template;

/// Objects per list request.
const PAGE: u32 = 1000;
/// Bounds the memory for the objects of one kind.
const MAX: usize = 200_000;

/// The most pods whose Events are read.
const MAX_PODS_WITH_EVENTS: usize = 4;
/// The most Events that are read of one pod.
const MAX_EVENTS: u32 = 50;

/// Reads objects with the user's permissions.
#[derive(Clone)]
pub struct Reader {
    pub client: Client,
    pub namespace: String,
}

/// The input of `top`. Kinds that the user may not list are None.
pub struct TopInput {
    pub nodes: Option<Vec<Node>>,
    pub pods: Option<Vec<Pod>>,
    pub keypairs: Option<Vec<Keypair>>,
    pub users: Option<Vec<User>>,
    pub projects: Option<Vec<Project>>,
    pub domains: Option<Vec<Domain>>,
}

/// An object that the user named.
pub enum Object {
    Session(Box<Session>),
    Deployment(Box<Deployment>),
}

/// What belongs to a deployment. Kinds that the user may not list are None.
#[derive(Default)]
pub struct Parts {
    pub routes: Option<Vec<Route>>,
    pub sessions: Option<Vec<Session>>,
    /// The oldest first.
    pub revisions: Option<Vec<Recorded>>,
    /// The last warning about the main pod of a replica, by the name of its session.
    pub warnings: BTreeMap<String, String>,
}

impl Reader {
    pub fn namespaced<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub fn all<K: Resource<DynamicType = ()>>(&self) -> Api<K> {
        Api::all(self.client.clone())
    }

    async fn list<K>(api: Api<K>, params: ListParams) -> kube::Result<Vec<K>>
    where
        K: Clone + DeserializeOwned + std::fmt::Debug,
    {
        let mut params = params.limit(PAGE);
        let mut items = vec![];
        loop {
            let page = api.list(&params).await?;
            items.extend(page.items);
            match page.metadata.continue_.filter(|next| !next.is_empty()) {
                Some(next) if items.len() < MAX => params = params.continue_token(&next),
                Some(_) => {
                    eprintln!("more than {MAX} objects: the rest is omitted");
                    return Ok(items);
                }
                None => return Ok(items),
            }
        }
    }

    /// Lists objects, or returns None if the user may not list them.
    async fn visible<K>(api: Api<K>, params: ListParams) -> kube::Result<Option<Vec<K>>>
    where
        K: Clone + DeserializeOwned + std::fmt::Debug,
    {
        unless_forbidden(Self::list(api, params).await)
    }

    pub async fn session(&self, name: &str) -> kube::Result<Session> {
        let mut session: Session = self.namespaced().get(name).await?;
        let template = match &session.spec.template {
            Some(reference) => self.all::<SessionTemplate>().get(&reference.name).await.ok(), // it adds to what is shown
            None => None,
        };
        template::expand(&mut session, template.as_ref());
        Ok(session)
    }

    pub async fn sessions(&self) -> kube::Result<Vec<Session>> {
        Ok(self.expanded(Self::list(self.namespaced(), ListParams::default()).await?).await)
    }

    /// Gives sessions the kernels of their templates, as far as the user may read those.
    async fn expanded(&self, mut sessions: Vec<Session>) -> Vec<Session> {
        if sessions.iter().any(|session| session.spec.template.is_some()) {
            let templates = Self::list(self.all::<SessionTemplate>(), ListParams::default()).await.unwrap_or_default();
            let named = |name: &str| templates.iter().find(|template| template.name_any() == name);
            for session in &mut sessions {
                let template = session.spec.template.as_ref().and_then(|reference| named(&reference.name));
                template::expand(session, template);
            }
        }
        sessions
    }

    /// Returns the sessions of all namespaces, or of this namespace if the user may not list more.
    pub async fn all_sessions(&self) -> kube::Result<Vec<Session>> {
        match Self::visible(self.all(), ListParams::default()).await? {
            Some(sessions) => Ok(self.expanded(sessions).await),
            None => self.sessions().await,
        }
    }

    /// Returns all scaling groups, or the one of that name. None if the user may not read them.
    pub async fn groups(&self, name: Option<&str>) -> kube::Result<Option<Vec<ScalingGroup>>> {
        match name {
            Some(name) => Ok(unless_forbidden(self.all::<ScalingGroup>().get(name).await)?.map(|group| vec![group])),
            None => Self::visible(self.all(), ListParams::default()).await,
        }
    }

    pub async fn group_of(&self, session: &Session) -> Option<ScalingGroup> {
        self.all().get(session.group()?.as_str()).await.ok()
    }

    fn selector(session: &Session) -> ListParams {
        ListParams::default().labels(&format!("{LABEL_SESSION_UID}={}", session.uid().unwrap_or_default()))
    }

    pub async fn kernels(&self, session: &Session) -> kube::Result<Vec<Kernel>> {
        Self::list(self.namespaced(), Self::selector(session)).await
    }

    pub async fn pods(&self, session: &Session) -> kube::Result<Option<Vec<Pod>>> {
        Self::visible(self.namespaced(), Self::selector(session)).await
    }

    /// Returns the object of that name.
    pub async fn object(&self, target: &Target) -> kube::Result<Object> {
        if target.kind == Some(Kind::Deployment) {
            return Ok(Object::Deployment(Box::new(self.deployment(&target.name).await?)));
        }
        let session = self.session(&target.name).await;
        let is_missing = matches!(&session, Err(kube::Error::Api(status)) if status.code == 404);
        if target.kind.is_none()
            && is_missing
            && let Ok(deployment) = self.deployment(&target.name).await
        {
            return Ok(Object::Deployment(Box::new(deployment)));
        }
        Ok(Object::Session(Box::new(session?)))
    }

    pub async fn deployment(&self, name: &str) -> kube::Result<Deployment> {
        self.namespaced::<Deployment>().get(name).await
    }

    pub async fn patch_deployment(&self, name: &str, patch: &Patch<serde_json::Value>) -> kube::Result<Deployment> {
        self.namespaced::<Deployment>().patch(name, &PatchParams::default(), patch).await
    }

    /// Reads what belongs to a deployment.
    pub async fn parts(&self, deployment: &Deployment) -> kube::Result<Parts> {
        let own = belongs_to(deployment);
        Ok(Parts {
            routes: Self::visible(self.namespaced(), own.clone()).await?,
            sessions: Self::visible(self.namespaced(), own).await?,
            revisions: self.revisions(deployment).await?,
            warnings: BTreeMap::new(),
        })
    }

    /// Returns the revisions of a deployment, the oldest first.
    pub async fn revisions(&self, deployment: &Deployment) -> kube::Result<Option<Vec<Recorded>>> {
        let objects = Self::visible::<ControllerRevision>(self.namespaced(), belongs_to(deployment)).await?;
        Ok(objects.map(|objects| recorded(deployment, objects)))
    }

    /// Returns the pods of some sessions.
    pub async fn pods_of(&self, sessions: &[Session]) -> kube::Result<Option<Vec<Pod>>> {
        let uids: Vec<&str> = sessions.iter().filter_map(|session| session.metadata.uid.as_deref()).collect();
        let is_one = |pod: &Pod| pod.labels().get(LABEL_SESSION_UID).is_some_and(|uid| uids.contains(&uid.as_str()));
        let pods = Self::visible(self.namespaced(), ListParams::default().labels(LABEL_SESSION_UID)).await?;
        Ok(pods.map(|pods: Vec<Pod>| pods.into_iter().filter(is_one).collect()))
    }

    /// Returns the last warning about the main pods of a deployment that are not ready, by the name of their session. They add to
    /// an explanation, so a read that fails leaves them out.
    pub async fn warnings(&self, deployment: &Deployment) -> BTreeMap<String, String> {
        let pods = Self::list::<Pod>(self.namespaced(), belongs_to(deployment)).await.unwrap_or_default();
        let mut warnings = BTreeMap::new();
        for pod in pods.iter().filter(|pod| is_unready(pod)).take(MAX_PODS_WITH_EVENTS) {
            let fields = format!("involvedObject.uid={},type=Warning", pod.uid().unwrap_or_default());
            let events = self.namespaced::<Event>().list(&ListParams::default().fields(&fields).limit(MAX_EVENTS)).await;
            let session = pod.labels().get(LABEL_SESSION).cloned();
            warnings.extend(session.zip(events.ok().and_then(|events| last_warning(events.items))));
        }
        warnings
    }

    pub async fn top(&self) -> kube::Result<TopInput> {
        let params = ListParams::default;
        Ok(TopInput {
            nodes: Self::visible(self.all(), params()).await?,
            pods: Self::visible(self.all(), params()).await?,
            keypairs: Self::visible(self.all(), params()).await?,
            users: Self::visible(self.all(), params()).await?,
            projects: Self::visible(self.all(), params()).await?,
            domains: Self::visible(self.all(), params()).await?,
        })
    }
}

/// Turns a refusal for lack of permission into None.
fn unless_forbidden<T>(result: kube::Result<T>) -> kube::Result<Option<T>> {
    match result {
        Err(kube::Error::Api(status)) if status.code == 403 => Ok(None),
        other => other.map(Some),
    }
}

/// Selects what belongs to a deployment.
fn belongs_to(deployment: &Deployment) -> ListParams {
    ListParams::default().labels(&format!("{LABEL_DEPLOYMENT_UID}={}", deployment.uid().unwrap_or_default()))
}

/// Whether a pod runs, or is on its way to, and is not ready.
fn is_unready(pod: &Pod) -> bool {
    let Some(status) = &pod.status else { return true };
    let ready =
        status.conditions.iter().flatten().any(|condition| condition.type_ == "ContainersReady" && condition.status == "True");
    !ready && !matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"))
}

/// Reason and message of the latest Event.
fn last_warning(events: Vec<Event>) -> Option<String> {
    let time = |event: &Event| {
        let series = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref()).map(|time| time.0);
        let last = event.last_timestamp.as_ref().map(|time| time.0);
        series.or(last).or(event.event_time.as_ref().map(|time| time.0))
    };
    let event = events.into_iter().max_by_key(time)?;
    Some(format!("{}: {}", event.reason.unwrap_or_default(), event.message.unwrap_or_default()))
}
