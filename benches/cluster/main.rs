//! Benchmarks on a cluster of simulated nodes, each compared with bare pods or apps/v1 in the same run. Run them with `kit/bench NAME`,
//! which provides the cluster and the operator's binary. The last line of the output is JSON.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot continue may panic")]

mod latency;
mod objects;
mod operator;
mod peers;
mod queue;
mod run;
mod scale;
mod serving;
mod sessions;
mod shapes;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

/// Returns a number from the environment, or its default.
fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let kubeconfig =
        Kubeconfig::read_from(std::env::var("SOKOVAN_TEST_KUBECONFIG").expect("kit/bench sets SOKOVAN_TEST_KUBECONFIG")).unwrap();
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    config.default_retry = false;
    let client = Client::try_from(config).unwrap();
    let figures = match arguments.first().map(String::as_str) {
        Some("sessions") => {
            let counts: Vec<usize> = arguments[1..].iter().filter_map(|argument| argument.parse().ok()).collect();
            sessions::bench(&client, if counts.is_empty() { vec![1000] } else { counts }).await
        }
        Some("peers") => peers::bench(&client, arguments.get(1).and_then(|argument| argument.parse().ok()).unwrap_or(500)).await,
        Some("scale") => scale::bench(&client).await,
        Some("queue") => queue::bench(&client).await,
        Some("serving") => serving::bench(&client, arguments.get(1).and_then(|argument| argument.parse().ok())).await,
        _ => panic!("unknown benchmark: choose sessions, peers, scale, queue or serving"),
    };
    println!("{figures}");
}
