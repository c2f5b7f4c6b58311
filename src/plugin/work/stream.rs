//! Opens streams into pods. A refusal comes with the API server's own words.

use k8s_openapi::api::core::v1::Pod;
use kube::api::{AttachParams, AttachedProcess, Portforwarder};
use kube::client::UpgradeConnectionError;
use serde_json::Value;

use crate::api::CONTAINER_MAIN;
use crate::plugin::fetch::Reader;

/// Starts a program in the main container of a pod.
pub async fn exec(reader: &Reader, pod: &str, command: &[String], params: &AttachParams) -> anyhow::Result<AttachedProcess> {
    match reader.namespaced::<Pod>().exec(pod, command, params).await {
        Ok(process) => Ok(process),
        Err(error) => {
            Err(explained(reader, pod, &format!("exec?container={CONTAINER_MAIN}&stdout=true&command=true"), error).await)
        }
    }
}

/// Opens a connection to a port of a pod.
pub async fn port(reader: &Reader, pod: &str, port: u16) -> anyhow::Result<Portforwarder> {
    match reader.namespaced::<Pod>().portforward(pod, &[port]).await {
        Ok(forwarder) => Ok(forwarder),
        Err(error) => Err(explained(reader, pod, &format!("portforward?ports={port}"), error).await),
    }
}

/// The library does not read why a stream is refused. The same request without a stream is refused with the same words.
async fn explained(reader: &Reader, pod: &str, request: &str, error: kube::Error) -> anyhow::Error {
    let kube::Error::UpgradeConnection(UpgradeConnectionError::ProtocolSwitch(code)) = &error else { return error.into() };
    let path = format!("/api/v1/namespaces/{}/pods/{pod}/{request}", reader.namespace);
    let Ok(request) = http::Request::post(path).body(vec![]) else { return error.into() };
    match reader.client.request::<Value>(request).await {
        Err(kube::Error::Api(answer)) if answer.code == code.as_u16() => anyhow::anyhow!("{}", answer.message),
        Ok(_) | Err(_) => error.into(),
    }
}
