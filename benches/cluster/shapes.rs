//! The shapes of work that a benchmark compares: bare pods, plain Jobs, sessions and gangs.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use serde_json::{Value, json};
use sokovan::api::Session;

use crate::objects::{ABSENT, PRESENT, SMALL, job, pod, session};
use crate::peers::{self, QUEUE, QUEUE_LABEL};
use crate::run::{Run, pod_runs, session_runs};

/// One shape. An object of it has so many pods.
#[derive(Clone, Copy)]
pub enum Shape {
    Pod,
    Job(usize),
    /// A Job that waits in a queue of Kueue.
    Kueue(usize),
    Session(usize, Start),
}

/// How the kernels of a session start.
#[derive(Clone, Copy)]
pub enum Start {
    /// No node reports the image, so a gate waits for its pull.
    Pulls,
    /// All nodes have the image, and a gate waits for the names.
    Together,
    /// All nodes have the image, and nothing is waited for.
    Alone,
}

/// All shapes, in the order in which they are measured.
pub const ALL: [Shape; 14] = [
    Shape::Pod,
    Shape::Job(1),
    Shape::Session(1, Start::Together),
    Shape::Job(10),
    Shape::Session(3, Start::Alone),
    Shape::Session(10, Start::Alone),
    Shape::Session(20, Start::Alone),
    Shape::Session(3, Start::Together),
    Shape::Session(10, Start::Together),
    Shape::Session(20, Start::Together),
    Shape::Session(3, Start::Pulls),
    Shape::Session(10, Start::Pulls),
    Shape::Session(20, Start::Pulls),
    Shape::Pod,
];

/// The shapes that are also measured alone, and compared with Kueue.
pub const MAIN: [Shape; 7] = [
    Shape::Pod,
    Shape::Job(1),
    Shape::Session(1, Start::Together),
    Shape::Job(10),
    Shape::Session(10, Start::Alone),
    Shape::Session(10, Start::Together),
    Shape::Session(10, Start::Pulls),
];

impl Shape {
    pub fn pods(self) -> usize {
        match self {
            Self::Pod => 1,
            Self::Job(pods) | Self::Kueue(pods) | Self::Session(pods, _) => pods,
        }
    }

    pub fn is_session(self) -> bool {
        matches!(self, Self::Session(..))
    }

    pub fn name(self) -> String {
        match self {
            Self::Pod => "bare pods".into(),
            Self::Job(pods) => format!("Jobs of {pods}"),
            Self::Kueue(pods) => format!("Jobs of {pods} through Kueue"),
            Self::Session(1, _) => "sessions of 1".into(),
            Self::Session(pods, Start::Pulls) => format!("gangs of {pods}, first pull"),
            Self::Session(pods, Start::Together) => format!("gangs of {pods}, images present"),
            Self::Session(pods, Start::Alone) => format!("gangs of {pods}, images present, startTogether: false"),
        }
    }

    /// Returns a namespace of its own. Kueue's has a queue.
    pub async fn run(self, client: &Client, name: &str) -> Run {
        let run = Run::new(client, name, "default").await;
        if let Self::Kueue(_) = self {
            peers::queue_in(&run).await;
        }
        run
    }

    /// Creates so many objects, and returns the seconds until all their pods run.
    pub async fn start(self, run: &Run, prefix: &str, count: usize) -> f64 {
        let names: Vec<String> = (0..count).map(|number| format!("{prefix}-{number}")).collect();
        match self {
            Self::Pod => {
                let pods: Vec<Pod> = names.iter().map(|name| pod(name, SMALL)).collect();
                run.create(&pods, pod_runs).await
            }
            Self::Job(pods) | Self::Kueue(pods) => {
                // The status of a Job is late, so its pods are watched.
                let jobs: Vec<Job> = names.iter().map(|name| self.job(name, pods)).collect();
                run.timed(run.create_all(&jobs), run.until_pods_run(count * pods)).await
            }
            Self::Session(pods, start) => {
                let (image, together) = match start {
                    Start::Pulls => (ABSENT, true),
                    Start::Together => (PRESENT, true),
                    Start::Alone => (PRESENT, false),
                };
                let more = json!({"startTogether": together});
                let spec = |name: &String| session(name, pods - 1, image, SMALL, &more);
                run.create(&names.iter().map(spec).collect::<Vec<Session>>(), session_runs).await
            }
        }
    }

    fn job(self, name: &str, pods: usize) -> Job {
        let mut job = job(name, pods, SMALL);
        if let Self::Kueue(_) = self {
            job.metadata.labels = Some([(QUEUE_LABEL.to_owned(), QUEUE.to_owned())].into());
            job.spec.as_mut().expect("a spec").suspend = Some(true);
        }
        job
    }

    /// Deletes all objects, and returns the seconds until they and their pods are gone.
    pub async fn end(self, run: &Run) -> f64 {
        match self {
            Self::Pod => run.delete_all::<Pod>().await,
            Self::Job(_) | Self::Kueue(_) => run.delete_all::<Job>().await + run.delete_all::<Pod>().await,
            Self::Session(..) => run.delete_all::<Session>().await,
        }
    }
}

/// One measured row.
pub fn row(shape: Shape, count: usize, seconds: f64, figures: Value) -> Value {
    let n = count as f64;
    let mut row = json!({
        "shape": shape.name(), "objects": count, "pods": count * shape.pods(),
        "objects_per_s": n / seconds, "pods_per_s": n * shape.pods() as f64 / seconds,
    });
    for (name, value) in figures.as_object().into_iter().flatten() {
        row[name] = value.clone();
    }
    row
}
