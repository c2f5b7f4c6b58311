//! The work of the chart's hooks: apply the CRDs, wait until sessions are accepted, and run a session as a test.

use std::time::Duration;

use anyhow::{Context, bail};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

use crate::api::{Session, SessionPhase, crds};

/// The longest time that anything is waited for.
const PATIENCE: Duration = Duration::from_secs(180);
const INTERVAL: Duration = Duration::from_secs(1);
/// The name of the tried session, and of the keypair and the scaling group that it names, which do not exist.
const STARTUP_CHECK: &str = "startup-check";

/// Applies the CRDs of this version, and waits until the API server serves them.
///
/// # Errors
/// If the API server refuses one, or does not serve it within three minutes.
pub async fn apply_crds(client: &Client) -> anyhow::Result<()> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    for crd in crds() {
        let name = crd.metadata.name.clone().unwrap_or_default();
        let applied = api.patch(&name, &PatchParams::apply("sokovan-crds").force(), &Patch::Apply(&crd)).await;
        applied.with_context(|| format!("CRD {name} cannot be applied"))?;
        until(&format!("CRD {name} is not served"), || async {
            let conditions = api.get(&name).await?.status.and_then(|status| status.conditions).unwrap_or_default();
            let is_served = conditions.iter().any(|condition| condition.type_ == "Established" && condition.status == "True");
            Ok(is_served.then_some(()))
        })
        .await?;
        tracing::info!(crd = name, "applied");
    }
    Ok(())
}

/// Waits until an operator holds the lease and the API server accepts a session.
///
/// # Errors
/// If that takes more than three minutes: the last answer.
pub async fn await_ready(client: &Client, namespace: &str, lease: &str) -> anyhow::Result<()> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), namespace);
    until("no operator leads", || async {
        let spec = leases.get_opt(lease).await?.and_then(|lease| lease.spec);
        Ok(spec.and_then(|spec| spec.holder_identity).filter(|holder| !holder.is_empty()))
    })
    .await?;
    let session = session(STARTUP_CHECK, STARTUP_CHECK, STARTUP_CHECK, "none")?;
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    let sessions: Api<Session> = Api::namespaced(client.clone(), namespace);
    until("the API server accepts no sessions", || async { Ok(Some(sessions.create(&dry_run, &session).await?)) }).await?;
    tracing::info!("an operator leads, and the API server accepts sessions");
    Ok(())
}

/// Runs a session until all its kernels run, and removes it.
///
/// # Errors
/// If it does not run within three minutes: the last reason.
pub async fn run_session(client: &Client, namespace: &str, access_key: &str, group: &str, image: &str) -> anyhow::Result<()> {
    let sessions: Api<Session> = Api::namespaced(client.clone(), namespace);
    let name = format!("test-{:08x}", rand::random::<u32>());
    sessions.create(&PostParams::default(), &session(&name, access_key, group, image)?).await?;
    let ran = until("the session does not run", || async {
        let session = sessions.get(&name).await?;
        let status = session.status.unwrap_or_default();
        match status.phase {
            SessionPhase::Running => Ok(Some(())),
            phase if phase.is_terminal() && status.started_at.is_some() => Ok(Some(())),
            phase => bail!("it is {phase}: {}", status.message.clone().unwrap_or_default()),
        }
    })
    .await;
    sessions.delete(&name, &DeleteParams::default()).await?;
    ran.inspect(|()| tracing::info!(session = name, "ran"))
}

/// A session of the operator's own image, which is there already. `crds` prints and exits.
fn session(name: &str, access_key: &str, group: &str, image: &str) -> anyhow::Result<Session> {
    let kernel = json!({"image": image, "args": ["crds"], "resources": {"cpu": "10m", "memory": "64Mi"}});
    let spec = json!({"accessKey": access_key, "scalingGroup": group, "type": "Batch", "kernels": [kernel], "ttlSecondsAfterFinished": 60});
    Ok(Session::new(name, serde_json::from_value(spec)?))
}

/// Asks until there is an answer. An error is an answer that may change.
async fn until<T, F: Future<Output = anyhow::Result<Option<T>>>>(problem: &str, ask: impl Fn() -> F) -> anyhow::Result<T> {
    let started = tokio::time::Instant::now();
    loop {
        let last = match ask().await {
            Ok(Some(answer)) => return Ok(answer),
            Ok(None) => anyhow::anyhow!("not yet"),
            Err(error) => error,
        };
        if started.elapsed() > PATIENCE {
            return Err(last.context(problem.to_owned()));
        }
        tracing::info!("{problem}: {last}");
        tokio::time::sleep(INTERVAL).await;
    }
}
