//! The measured operator: a process outside the cluster, observed through its metrics and /proc.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::run::PATIENCE;

const LISTEN: &str = "127.0.0.1:18088";

pub struct Operator(Child);

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The API server of the kit's cluster, a process of this machine.
pub struct ApiServer(u32);

impl ApiServer {
    pub fn find() -> Self {
        Self(std::env::var("APISERVER_PID").expect("kit/bench sets APISERVER_PID").parse().unwrap())
    }

    pub fn cpu_seconds(&self) -> f64 {
        cpu_seconds(self.0)
    }
}

/// Returns the CPU time of a process, in user and system mode.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    ticks / 100.0
}

/// The number of writes so far, by kind of write.
pub type Writes = BTreeMap<String, f64>;

impl Operator {
    /// Starts the operator and waits until it leads.
    pub async fn start() -> Self {
        let binary = std::env::var("OPERATOR_BINARY").expect("OPERATOR_BINARY");
        let log = std::fs::File::create(std::env::var("OPERATOR_LOG").unwrap_or("/dev/null".into())).unwrap();
        let child = Command::new(binary)
            .args(["operator", "--listen", LISTEN, "--identity", "bench"])
            .env("RUST_LOG", std::env::var("RUST_LOG").unwrap_or("warn".into()))
            .stdout(log)
            .stderr(Stdio::inherit())
            .spawn()
            .expect("the operator can be started");
        let operator = Self(child);
        let start = Instant::now();
        while !metrics().is_some_and(|text| text.lines().any(|line| line == "sokovan_leader 1")) {
            assert!(start.elapsed() < PATIENCE, "the operator does not lead");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        operator
    }

    pub fn cpu_seconds(&self) -> f64 {
        cpu_seconds(self.0.id())
    }

    pub fn peak_mib(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
    }

    pub fn writes(&self) -> Writes {
        let text = metrics().expect("the operator serves its metrics");
        let writes = text.lines().filter_map(|line| line.strip_prefix("sokovan_api_writes_total{write=\""));
        writes.filter_map(|line| line.split_once("\"} ")).map(|(what, n)| (what.into(), n.parse().unwrap())).collect()
    }

    /// Waits until the operator has written nothing for a while, and so has finished its work.
    pub async fn quiet(&self) -> Writes {
        self.until(|before, now| before == now).await
    }

    /// Waits until the operator has written nothing except Events for a while.
    pub async fn settled(&self) -> Writes {
        self.until(|before, now| between(before, now, false) == 0.0).await
    }

    async fn until(&self, holds: impl Fn(&Writes, &Writes) -> bool) -> Writes {
        let mut last = self.writes();
        loop {
            tokio::time::sleep(Duration::from_secs(3)).await;
            let now = self.writes();
            if holds(&last, &now) {
                return now;
            }
            last = now;
        }
    }
}

/// Returns the number of writes between two readings: of Events, or of everything else.
pub fn between(before: &Writes, after: &Writes, events: bool) -> f64 {
    grown(before, after).filter(|(what, _)| (*what == "event") == events).map(|(_, n)| n).sum()
}

/// Returns the writes between two readings by kind, each divided by `n`, in descending order.
pub fn each(before: &Writes, after: &Writes, n: f64) -> String {
    let mut shares: Vec<_> = grown(before, after).map(|(what, count)| (what, count / n)).collect();
    shares.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    let shown = shares.iter().filter(|(_, share)| *share >= 0.005).map(|(what, share)| format!("{what} {share:.2}"));
    shown.collect::<Vec<_>>().join(", ")
}

fn grown<'a>(before: &Writes, after: &'a Writes) -> impl Iterator<Item = (&'a str, f64)> {
    after.iter().map(|(what, n)| (what.as_str(), n - before.get(what).copied().unwrap_or(0.0)))
}

fn metrics() -> Option<String> {
    let mut stream = TcpStream::connect(LISTEN).ok()?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}
