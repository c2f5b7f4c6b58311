//! Reads the objects that the commands show. Objects that the user may not read are None, and the commands say so.

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::ListParams;
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use crate::api::*;

/// Objects per list request.
const PAGE: u32 = 1000;
/// Bounds the memory for the objects of one kind.
const MAX: usize = 200_000;

/// Reads objects with the user's permissions.
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

impl Reader {
    pub fn namespaced<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn all<K: Resource<DynamicType = ()>>(&self) -> Api<K> {
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
        self.namespaced::<Session>().get(name).await
    }

    pub async fn sessions(&self) -> kube::Result<Vec<Session>> {
        Self::list(self.namespaced(), ListParams::default()).await
    }

    /// Returns the sessions of all namespaces, or of this namespace if the user may not list more.
    pub async fn all_sessions(&self) -> kube::Result<Vec<Session>> {
        match Self::visible(self.all(), ListParams::default()).await? {
            Some(sessions) => Ok(sessions),
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
