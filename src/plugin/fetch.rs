//! Reads what the questions need. What its user may not see is left out, and said.

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::ListParams;
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use crate::api::*;

/// Most objects of one kind that are read.
const MOST: u32 = 20_000;

/// Reads as its user.
pub struct Reader {
    pub client: Client,
    pub namespace: String,
}

/// What `top` is made of; None where its user may not look.
pub struct TopOf {
    pub nodes: Option<Vec<Node>>,
    pub pods: Option<Vec<Pod>>,
    pub keypairs: Option<Vec<Keypair>>,
    pub users: Option<Vec<User>>,
    pub projects: Option<Vec<Project>>,
    pub domains: Option<Vec<Domain>>,
}

impl Reader {
    pub fn here<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn everywhere<K: Resource<DynamicType = ()>>(&self) -> Api<K> {
        Api::all(self.client.clone())
    }

    async fn list<K>(api: Api<K>, params: ListParams) -> kube::Result<Vec<K>>
    where
        K: Clone + DeserializeOwned + std::fmt::Debug,
    {
        Ok(api.list(&params.limit(MOST)).await?.items)
    }

    pub async fn session(&self, name: &str) -> kube::Result<Session> {
        self.here::<Session>().get(name).await
    }

    pub async fn sessions(&self) -> kube::Result<Vec<Session>> {
        Self::list(self.here(), ListParams::default()).await
    }

    /// Those of all namespaces; of this one, where its user may not see more.
    pub async fn all_sessions(&self) -> kube::Result<Vec<Session>> {
        match Self::list(self.everywhere(), ListParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 403 => self.sessions().await,
            other => other,
        }
    }

    pub async fn groups(&self, name: Option<&str>) -> kube::Result<Vec<ScalingGroup>> {
        match name {
            Some(name) => Ok(vec![self.everywhere::<ScalingGroup>().get(name).await?]),
            None => Self::list(self.everywhere(), ListParams::default()).await,
        }
    }

    pub async fn group_of(&self, session: &Session) -> Option<ScalingGroup> {
        self.everywhere().get(session.group()?.as_str()).await.ok()
    }

    fn of(session: &Session) -> ListParams {
        ListParams::default().labels(&format!("{LABEL_SESSION_UID}={}", session.uid().unwrap_or_default()))
    }

    pub async fn kernels(&self, session: &Session) -> kube::Result<Vec<Kernel>> {
        Self::list(self.here(), Self::of(session)).await
    }

    pub async fn pods(&self, session: &Session) -> kube::Result<Vec<Pod>> {
        Self::list(self.here(), Self::of(session)).await
    }

    pub async fn top(&self) -> TopOf {
        let all = ListParams::default;
        TopOf {
            nodes: Self::list(self.everywhere(), all()).await.ok(),
            pods: Self::list(self.everywhere(), all()).await.ok(),
            keypairs: Self::list(self.everywhere(), all()).await.ok(),
            users: Self::list(self.everywhere(), all()).await.ok(),
            projects: Self::list(self.everywhere(), all()).await.ok(),
            domains: Self::list(self.everywhere(), all()).await.ok(),
        }
    }
}
