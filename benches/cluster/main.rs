//! Benchmarks on a cluster of simulated nodes, each beside bare pods in the same run. Run by `kit/bench NAME`, which gives
//! them the cluster and the operator's binary. The last line each prints is JSON.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on may panic")]

mod objects;
mod operator;
mod queue;
mod run;
mod scale;
mod sessions;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

/// A number from the environment, or what it is without.
fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let kubeconfig = Kubeconfig::read_from(std::env::var("SOKOVAN_TEST_KUBECONFIG").expect("run by kit/bench")).unwrap();
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    config.default_retry = false;
    let client = Client::try_from(config).unwrap();
    let figures = match arguments.first().map(String::as_str) {
        Some("sessions") => {
            let counts: Vec<usize> = arguments[1..].iter().filter_map(|argument| argument.parse().ok()).collect();
            sessions::bench(&client, if counts.is_empty() { vec![500, 2000] } else { counts }).await
        }
        Some("scale") => scale::bench(&client).await,
        Some("queue") => queue::bench(&client).await,
        _ => panic!("which benchmark? sessions, scale, queue"),
    };
    println!("{figures}");
}
