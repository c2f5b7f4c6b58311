//! `me`: the user's rights and limits, what is used of them, and what waits.

pub mod rights;

use std::collections::BTreeSet;
use std::fmt;

use chrono::{DateTime, Utc};
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use kube::api::PostParams;
use kube::{Api, ResourceExt};
use serde::Serialize;

use super::fetch::Reader;
use super::table::{age, table};
use crate::api::{Keypair, Session, SessionPhase, TenantStatus};
use crate::lifecycle::{created_at, printable};
use rights::{Names, Rights};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Me {
    user: String,
    namespace: String,
    rights: Rights,
    keypairs: Vec<Own>,
    sessions: Vec<Row>,
    #[serde(skip)]
    now: DateTime<Utc>,
}

/// A keypair that the user may use.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Own {
    name: String,
    /// None if the user may not read it.
    usage: Option<TenantStatus>,
    max_priority: Option<i32>,
}

/// A session of one of the user's keypairs.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    name: String,
    phase: SessionPhase,
    since: Option<DateTime<Utc>>,
    message: String,
}

/// The most keypairs that are read.
const MAX_KEYPAIRS: usize = 20;

/// Reads what concerns the user.
pub async fn read(reader: &Reader, now: DateTime<Utc>) -> anyhow::Result<Me> {
    let who = Api::<SelfSubjectReview>::all(reader.client.clone());
    let who = who.create(&PostParams::default(), &SelfSubjectReview::default()).await?;
    let user = who.status.and_then(|status| status.user_info).and_then(|user| user.username).unwrap_or_default();
    let rights = rights::of_user(reader).await?;
    let mut keypairs = vec![];
    if let Names::These(names) = &rights.keypairs {
        for name in names.iter().take(MAX_KEYPAIRS) {
            keypairs.push((name.clone(), reader.all::<Keypair>().get(name).await.ok()));
        }
    }
    Ok(view(user, reader.namespace.clone(), rights, keypairs, &reader.sessions().await?, now))
}

fn view(
    user: String,
    namespace: String,
    rights: Rights,
    keypairs: Vec<(String, Option<Keypair>)>,
    sessions: &[Session],
    now: DateTime<Utc>,
) -> Me {
    let names: BTreeSet<&String> = keypairs.iter().map(|(name, _)| name).collect();
    let is_own = |session: &&Session| rights.keypairs == Names::All || names.contains(&session.spec.access_key.0);
    let row = |session: &Session| {
        let status = session.status.as_ref();
        let message = status.and_then(|status| status.message.clone()).unwrap_or_default();
        Row { name: session.name_any(), phase: session.phase(), since: created_at(session), message }
    };
    let is_open = |session: &&Session| !session.phase().is_terminal();
    let mut rows: Vec<Row> = sessions.iter().filter(is_own).filter(is_open).map(row).collect();
    rows.sort_by(|a, b| (a.since, &a.name).cmp(&(b.since, &b.name)));
    let own = |(name, keypair): (String, Option<Keypair>)| Own {
        max_priority: keypair.as_ref().and_then(|keypair| keypair.spec.max_priority),
        usage: keypair.map(|keypair| keypair.status.unwrap_or_default()),
        name,
    };
    let keypairs = keypairs.into_iter().map(own).collect();
    Me { user, namespace, rights, keypairs, sessions: rows, now }
}

impl fmt::Display for Me {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "user {}, namespace {}", printable(&self.user), self.namespace)?;
        writeln!(f, "scaling groups you may use: {}", self.rights.scaling_groups)?;
        writeln!(f, "keypairs you may use: {}", self.rights.keypairs)?;
        if self.rights.incomplete {
            writeln!(f, "the API server does not know all your rights: a webhook may grant more")?;
        }
        let lacking = [
            (self.rights.create_sessions, "create sessions (role sokovan-edit)"),
            (self.rights.read_pods, "read pods and their logs (role view)"),
            (self.rights.connect, "run programs in kernels and forward ports to them (role sokovan-connect)"),
        ];
        for (_, what) in lacking.iter().filter(|(granted, _)| !granted) {
            writeln!(f, "you may not {what}")?;
        }
        for own in &self.keypairs {
            match &own.usage {
                None => writeln!(f, "\n{}: you may not read its usage", own.name)?,
                Some(usage) => {
                    let priority = own.max_priority.map(|most| format!(", priority at most {most}")).unwrap_or_default();
                    let (running, pending) = (usage.sessions_running, usage.sessions_pending);
                    writeln!(f, "\n{}: {running} running, {pending} waiting{priority}", own.name)?;
                    let row = |it: &crate::api::ResourceUsage| {
                        let limit = it.limit.as_ref().map_or_else(|| "no limit".into(), |limit| limit.0.clone());
                        vec![it.resource.clone(), it.used.0.clone(), limit]
                    };
                    let rows: Vec<_> = usage.resources.iter().map(row).collect();
                    if !rows.is_empty() {
                        f.write_str(&table(&["RESOURCE", "USED", "LIMIT"], &rows, f))?;
                    }
                }
            }
        }
        if self.sessions.is_empty() {
            return writeln!(f, "\nyou have no waiting or running sessions here");
        }
        let row = |row: &Row| vec![row.name.clone(), row.phase.to_string(), age(row.since, self.now), row.message.clone()];
        let rows: Vec<_> = self.sessions.iter().map(row).collect();
        f.write_str("\n")?;
        f.write_str(&table(&["SESSION", "PHASE", "AGE", "MESSAGE"], &rows, f))
    }
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => write!(f, "all"),
            Self::These(names) if names.is_empty() => write!(f, "none"),
            Self::These(names) => write!(f, "{}", names.iter().cloned().collect::<Vec<_>>().join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::handlers::testing::{session, session_in};
    use serde_json::json;

    #[test]
    fn a_user_sees_limits_usage_and_own_sessions_only() {
        let mut rights = Rights { create_sessions: true, read_pods: true, ..Rights::default() };
        rights.keypairs = Names::These(["k".to_owned()].into());
        let keypair = json!({"apiVersion": "sokovan.dev/v1alpha1", "kind": "Keypair", "metadata": {"name": "k"},
            "spec": {"user": "u"}, "status": {"sessionsRunning": 1, "sessionsPending": 2,
                "resources": [{"resource": "cpu", "used": "3", "limit": "8"}]}});
        let keypair = serde_json::from_value(keypair).expect("a keypair");
        let mut own = session(json!({}));
        own.spec.access_key = "k".into();
        let mut other = session(json!({}));
        (other.metadata.name, other.spec.access_key) = (Some("foreign".into()), "other".into());
        let mut ended = session_in(SessionPhase::Terminated);
        (ended.metadata.name, ended.spec.access_key) = (Some("ended".into()), "k".into());
        let keypairs = vec![("k".into(), Some(keypair))];
        let text = view("ada".into(), "ns".into(), rights, keypairs, &[own, other, ended], Utc::now()).to_string();
        assert!(text.contains("k: 1 running, 2 waiting") && text.contains("cpu        3      8"), "{text}");
        assert!(text.contains("you may not run programs in kernels") && !text.contains("may not create"), "{text}");
        assert!(!text.contains("foreign") && !text.contains("ended"), "{text}");
    }
}
