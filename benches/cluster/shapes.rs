//! The shapes of work that a benchmark compares: bare pods, plain Jobs, sessions and gangs.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use sokovan::api::Session;

use crate::objects::{ABSENT, Image, PRESENT, SMALL, job, pod, session};
use crate::run::{Run, pod_runs, session_runs};

/// One shape. An object of it has so many pods.
#[derive(Clone, Copy)]
pub enum Shape {
    Pod,
    Job(usize),
    /// A session whose image its nodes have, or have not.
    Session(usize, Image),
}

/// All shapes, in the order in which they are measured.
pub const ALL: [Shape; 11] = [
    Shape::Pod,
    Shape::Job(1),
    Shape::Session(1, PRESENT),
    Shape::Job(10),
    Shape::Session(3, PRESENT),
    Shape::Session(10, PRESENT),
    Shape::Session(20, PRESENT),
    Shape::Session(3, ABSENT),
    Shape::Session(10, ABSENT),
    Shape::Session(20, ABSENT),
    Shape::Pod,
];

impl Shape {
    pub fn pods(self) -> usize {
        match self {
            Self::Pod => 1,
            Self::Job(pods) | Self::Session(pods, _) => pods,
        }
    }

    pub fn is_session(self) -> bool {
        matches!(self, Self::Session(..))
    }

    pub fn name(self) -> String {
        match self {
            Self::Pod => "bare pods".into(),
            Self::Job(pods) => format!("Jobs of {pods}"),
            Self::Session(1, _) => "sessions of 1".into(),
            Self::Session(pods, PRESENT) => format!("gangs of {pods}, images present"),
            Self::Session(pods, Image { .. }) => format!("gangs of {pods}, gated"),
        }
    }

    /// Creates so many objects, and returns the seconds until all their pods run.
    pub async fn start(self, run: &Run, prefix: &str, count: usize) -> f64 {
        let names: Vec<String> = (0..count).map(|number| format!("{prefix}-{number}")).collect();
        match self {
            Self::Pod => {
                let pods: Vec<Pod> = names.iter().map(|name| pod(name, SMALL)).collect();
                run.create(&pods, pod_runs).await
            }
            Self::Job(pods) => {
                // The status of a Job is late, so its pods are watched.
                let jobs: Vec<Job> = names.iter().map(|name| job(name, pods, SMALL)).collect();
                run.timed(run.create_all(&jobs), run.until_pods_run(count * pods)).await
            }
            Self::Session(pods, image) => {
                let spec = |name: &String| session(name, pods - 1, image, SMALL, &json!({}));
                run.create(&names.iter().map(spec).collect::<Vec<Session>>(), session_runs).await
            }
        }
    }

    /// Deletes all objects, and returns the seconds until they and their pods are gone.
    pub async fn end(self, run: &Run) -> f64 {
        match self {
            Self::Pod => run.delete_all::<Pod>().await,
            Self::Job(_) => run.delete_all::<Job>().await + run.delete_all::<Pod>().await,
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
