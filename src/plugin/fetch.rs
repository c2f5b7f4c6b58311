//! Reads what the questions need. What its user may not see is left out, and said.

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::ListParams;
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use crate::api::*;

/// How many objects are read at a time.
const PAGE: u32 = 1000;
/// Most objects of one kind that are read.
const MAX: usize = 200_000;

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
        let mut params = params.limit(PAGE);
        let mut all = vec![];
        loop {
            let page = api.list(&params).await?;
            all.extend(page.items);
            match page.metadata.continue_.filter(|next| !next.is_empty()) {
                Some(next) if all.len() < MAX => params = params.continue_token(&next),
                Some(_) => {
                    eprintln!("there are more than {MAX}: the rest is left out");
                    return Ok(all);
                }
                None => return Ok(all),
            }
        }
    }

    /// The same, or None where its user may not look.
    async fn visible<K>(api: Api<K>, params: ListParams) -> kube::Result<Option<Vec<K>>>
    where
        K: Clone + DeserializeOwned + std::fmt::Debug,
    {
        seen(Self::list(api, params).await)
    }

    pub async fn session(&self, name: &str) -> kube::Result<Session> {
        self.here::<Session>().get(name).await
    }

    pub async fn sessions(&self) -> kube::Result<Vec<Session>> {
        Self::list(self.here(), ListParams::default()).await
    }

    /// Those of all namespaces; of this one, where its user may not see more.
    pub async fn all_sessions(&self) -> kube::Result<Vec<Session>> {
        match Self::visible(self.everywhere(), ListParams::default()).await? {
            Some(all) => Ok(all),
            None => self.sessions().await,
        }
    }

    /// All groups, or the one of that name; None where its user may not look.
    pub async fn groups(&self, name: Option<&str>) -> kube::Result<Option<Vec<ScalingGroup>>> {
        match name {
            Some(name) => Ok(seen(self.everywhere::<ScalingGroup>().get(name).await)?.map(|group| vec![group])),
            None => Self::visible(self.everywhere(), ListParams::default()).await,
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

    pub async fn pods(&self, session: &Session) -> kube::Result<Option<Vec<Pod>>> {
        Self::visible(self.here(), Self::of(session)).await
    }

    pub async fn top(&self) -> kube::Result<TopOf> {
        let all = ListParams::default;
        Ok(TopOf {
            nodes: Self::visible(self.everywhere(), all()).await?,
            pods: Self::visible(self.everywhere(), all()).await?,
            keypairs: Self::visible(self.everywhere(), all()).await?,
            users: Self::visible(self.everywhere(), all()).await?,
            projects: Self::visible(self.everywhere(), all()).await?,
            domains: Self::visible(self.everywhere(), all()).await?,
        })
    }
}

/// What was read, or None where its user may not look.
fn seen<T>(read: kube::Result<T>) -> kube::Result<Option<T>> {
    match read {
        Err(kube::Error::Api(status)) if status.code == 403 => Ok(None),
        other => other.map(Some),
    }
}
