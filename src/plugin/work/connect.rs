//! `connect`: forwards a port of this machine to a kernel. The pod is looked up for each connection, so that a session that was
//! started again, or another replica of a deployment, is reached by the next one.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{anyhow, bail};
use clap::Args;
use futures::TryStreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::pods;
use crate::api::{Deployment, KernelTemplate, MAIN_HOSTNAME, Route, RoutePhase, Session, Traffic};
use crate::plugin::fetch::{Object, Reader};
use crate::plugin::target::{Kind, Target};
use crate::plugin::watch::changes;
use crate::plugin::{readable, show};

#[derive(Args)]
pub struct ConnectArgs {
    /// The name or the number of a port. If absent, the first port in the kernel's spec.
    port: Option<String>,
    /// The kernel of a session, for example sub2.
    #[arg(short, long, default_value = MAIN_HOSTNAME)]
    kernel: String,
    /// The port of this machine. If absent, any free port.
    #[arg(long, default_value_t = 0)]
    local_port: u16,
    /// Open the address in a browser.
    #[arg(long)]
    open: bool,
}

/// The most connections at a time.
const MAX_CONNECTIONS: usize = 64;
/// The longest wait for a pod and its port, for each connection.
const PATIENCE: Duration = Duration::from_secs(20);

/// The object that a port is forwarded to.
#[derive(Clone, Debug)]
enum End {
    Session { name: String, kernel: String },
    Deployment(String),
}

pub async fn run(reader: &Reader, object: &Target, how: &ConnectArgs) -> anyhow::Result<()> {
    let (end, port) = match reader.object(object).await? {
        Object::Session(session) => {
            pods::running(reader, &session.name_any(), &how.kernel).await?;
            let port = port_of(&session.spec.kernels, &how.kernel, how.port.as_deref()).map_err(|error| anyhow!(error))?;
            (End::Session { name: session.name_any(), kernel: how.kernel.clone() }, port)
        }
        Object::Deployment(deployment) => {
            let port = port_of_model(&deployment, how.port.as_deref()).map_err(|error| anyhow!(error))?;
            (End::Deployment(deployment.name_any()), port)
        }
    };
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, how.local_port))).await;
    let listener = listener.map_err(|error| anyhow!("cannot listen on local port {}: {error}", how.local_port))?;
    let url = format!("http://{}", listener.local_addr()?);
    show(&format!("{} {} port {port} is at {url}\n", object_kind(&end).as_str(), object.name))?;
    if how.open {
        open::that_detached(&url)?;
    }
    tokio::select! {
        served = serve(reader, &listener, &end, port) => served,
        ended = until_ended(reader, &end) => ended,
    }
}

fn object_kind(end: &End) -> Kind {
    match end {
        End::Session { .. } => Kind::Session,
        End::Deployment(_) => Kind::Deployment,
    }
}

/// Returns the number of a kernel's port.
fn port_of(kernels: &[KernelTemplate], kernel: &str, wanted: Option<&str>) -> Result<u16, String> {
    let role = pods::role_of(kernel);
    let ports = kernels.iter().find(|template| template.role == role).map(|template| template.ports.as_slice());
    let ports = ports.unwrap_or_default();
    let number = |number: i32| u16::try_from(number).map_err(|_| format!("{number} is not a valid port number"));
    match wanted {
        Some(wanted) => match (ports.iter().find(|port| port.name == wanted), wanted.parse()) {
            (Some(port), _) => number(port.container_port),
            (None, Ok(port)) => Ok(port),
            (None, Err(_)) => {
                let names: Vec<&str> = ports.iter().map(|port| port.name.as_str()).collect();
                Err(format!(
                    "{kernel} has no port {wanted}; its ports: {}",
                    if names.is_empty() { "none".into() } else { names.join(", ") }
                ))
            }
        },
        None => match ports.first() {
            Some(port) => number(port.container_port),
            None => Err(format!("{kernel} has no port in its spec: give a number")),
        },
    }
}

/// Returns the port that a deployment's Service sends requests to.
fn port_of_model(deployment: &Deployment, wanted: Option<&str>) -> Result<u16, String> {
    match (wanted, deployment.spec.model.port) {
        (Some(wanted), _) => port_of(&deployment.spec.template.kernels, MAIN_HOSTNAME, Some(wanted)),
        (None, Some(port)) => u16::try_from(port).map_err(|_| format!("{port} is not a valid port number")),
        (None, None) => Err("its model has no port in its spec: give a number".into()),
    }
}

/// Accepts connections, each on a stream of its own. A failure is printed and ends only its own connection.
async fn serve(reader: &Reader, listener: &TcpListener, end: &End, port: u16) -> anyhow::Result<()> {
    let free = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let permit = free.clone().acquire_owned().await?;
        let (mut connection, _) = listener.accept().await?;
        let (reader, end) = (reader.clone(), end.clone());
        tokio::spawn(async move {
            if let Err(error) = forward(&reader, &end, port, &mut connection).await {
                eprintln!("{}", readable(error));
            }
            drop(permit);
        });
    }
}

async fn forward(reader: &Reader, end: &End, port: u16, connection: &mut TcpStream) -> anyhow::Result<()> {
    let found = tokio::time::timeout(PATIENCE, async {
        let pod = pod_of(reader, end).await?;
        anyhow::Ok(reader.namespaced::<Pod>().portforward(&pod, &[port]).await?)
    });
    let mut forwarder = found.await.map_err(|_| anyhow!("the pod did not answer within {} s", PATIENCE.as_secs()))??;
    let mut stream = forwarder.take_stream(port).ok_or_else(|| anyhow!("port {port} was not opened"))?;
    let refused = forwarder.take_error(port);
    // The other side may close first: that ends a connection and is no error.
    let _ = tokio::io::copy_bidirectional(connection, &mut stream).await;
    drop(stream);
    let refused = match refused {
        Some(refused) => tokio::time::timeout(Duration::from_millis(100), refused).await.ok().flatten(),
        None => None,
    };
    forwarder.abort();
    match refused {
        Some(error) => bail!("port {port}: {error}"),
        None => Ok(()),
    }
}

/// Returns the pod for the next connection. Among the healthy replicas of a deployment, each is as likely as another.
async fn pod_of(reader: &Reader, end: &End) -> anyhow::Result<String> {
    let (session, kernel) = match end {
        End::Session { name, kernel } => (name.clone(), kernel.as_str()),
        End::Deployment(name) => {
            let deployment = reader.deployment(name).await?;
            let routes = reader.parts(&deployment).await?.routes.ok_or_else(|| anyhow!("you may not list routes"))?;
            let healthy: Vec<&Route> = routes.iter().filter(|route| serves(route)).collect();
            let chosen = healthy.get(nanoseconds() % healthy.len().max(1));
            let route = chosen.ok_or_else(|| anyhow!("deployment {name} has no healthy replica"))?;
            (route.spec.session.clone(), MAIN_HOSTNAME)
        }
    };
    Ok(pods::running(reader, &session, kernel).await?.name_any())
}

fn serves(route: &Route) -> bool {
    let status = route.status.as_ref();
    status.is_some_and(|status| status.phase == RoutePhase::Running && status.traffic == Traffic::In)
}

/// Enough chance to spread connections.
fn nanoseconds() -> usize {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    now.subsec_nanos() as usize / 1000
}

/// Returns once there is nothing left to connect to.
async fn until_ended(reader: &Reader, end: &End) -> anyhow::Result<()> {
    match end {
        End::Session { name, .. } => {
            let mut changes = std::pin::pin!(changes(reader.namespaced::<Session>(), name));
            while let Some(session) = changes.try_next().await? {
                match session {
                    None => bail!("session {name} was deleted"),
                    Some(session) if session.phase().is_terminal() => bail!("session {name} is {}", session.phase()),
                    Some(_) => {}
                }
            }
        }
        End::Deployment(name) => {
            let mut changes = std::pin::pin!(changes(reader.namespaced::<Deployment>(), name));
            while let Some(deployment) = changes.try_next().await? {
                if deployment.is_none_or(|deployment| deployment.metadata.deletion_timestamp.is_some()) {
                    bail!("deployment {name} was deleted");
                }
            }
        }
    }
    bail!("the watch ended")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::handlers::testing::session;
    use serde_json::json;

    #[test]
    fn a_port_has_a_name_or_a_number_and_the_first_is_the_default() {
        let kernels = json!([{"image": "a", "resources": {"cpu": "1"}, "ports": [
            {"name": "notebook", "containerPort": 8888}, {"name": "board", "containerPort": 6006}]}]);
        let kernels = session(json!({"kernels": kernels})).spec.kernels;
        assert_eq!(port_of(&kernels, "main1", None), Ok(8888));
        assert_eq!(port_of(&kernels, "main1", Some("board")), Ok(6006));
        assert_eq!(port_of(&kernels, "main1", Some("9000")), Ok(9000), "a kernel may listen on more than it names");
        assert_eq!(port_of(&kernels, "main1", Some("x")), Err("main1 has no port x; its ports: notebook, board".into()));
        assert!(port_of(&kernels, "sub1", None).is_err_and(|why| why.contains("give a number")));
    }
}
