//! A fake API server for unit tests, which answers requests from a list.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use http::Response;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

/// The server's reaction to one request.
pub enum Answer {
    /// It answers with this object.
    Object(Value),
    /// It answers with the object that the request carries, at this resource version.
    Accept(u32),
    /// It refuses: code, reason, message.
    Fail(u16, &'static str, &'static str),
    /// It never answers.
    Never,
}

/// The answers that are left, and the requests that came.
#[derive(Clone, Default)]
pub struct Fake {
    answers: Arc<Mutex<VecDeque<Answer>>>,
    requests: Arc<Mutex<Vec<String>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no test panics while it holds this")
}

impl Fake {
    pub fn new(answers: impl IntoIterator<Item = Answer>) -> Self {
        let fake = Self::default();
        lock(&fake.answers).extend(answers);
        fake
    }

    /// Returns the requests so far, as the method and the last two parts of the path.
    pub fn requests(&self) -> Vec<String> {
        lock(&self.requests).clone()
    }

    pub fn client(&self) -> Client {
        let fake = self.clone();
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let fake = fake.clone();
            async move {
                let (parts, body) = request.into_parts();
                let path: Vec<&str> = parts.uri.path().rsplitn(3, '/').collect();
                let path = path[..path.len().min(2)].iter().rev().copied().collect::<Vec<_>>().join("/");
                lock(&fake.requests).push(format!("{} {path}", parts.method));
                let sent: Value = serde_json::from_slice(&body.collect_bytes().await?).unwrap_or_default();
                let next = lock(&fake.answers).pop_front();
                let (code, body) = match next {
                    Some(Answer::Object(object)) => (200, object),
                    Some(Answer::Accept(version)) => {
                        let mut object = sent;
                        object["metadata"]["resourceVersion"] = json!(version.to_string());
                        (200, object)
                    }
                    Some(Answer::Fail(code, reason, message)) => {
                        (code, json!({"status": "Failure", "code": code, "reason": reason, "message": message}))
                    }
                    Some(Answer::Never) => {
                        std::future::pending::<()>().await;
                        (500, json!({}))
                    }
                    None => (
                        500,
                        json!({"status": "Failure", "code": 500, "reason": "InternalError", "message": "no answer is left"}),
                    ),
                };
                Response::builder().status(code).body(Body::from(body.to_string().into_bytes())).map_err(kube::Error::HttpError)
            }
        });
        Client::new(service, "default")
    }
}
