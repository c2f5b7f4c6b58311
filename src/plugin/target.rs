//! Names of objects on the command line, as kubectl takes them: `NAME` or `KIND/NAME`.

use std::str::FromStr;

use kube::ResourceExt;

/// The kinds that a command can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Session,
    Deployment,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Deployment => "deployment",
        }
    }

    /// The name of an object as kubectl prints it with `-o name`.
    pub fn full_name(self, name: &str) -> String {
        format!("{}.sokovan.dev/{name}", self.as_str())
    }
}

/// An object that the user names. Without a kind, it is a session, or a deployment if there is no such session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub kind: Option<Kind>,
    pub name: String,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (kind, name) = match text.split_once('/') {
            Some((kind, name)) => (Some(kind_of(kind)?), name),
            None => (None, text),
        };
        match name.is_empty() || name.contains('/') {
            true => Err("give NAME or KIND/NAME".into()),
            false => Ok(Self { kind, name: name.into() }),
        }
    }
}

/// The kind of that name, plural or short name, with or without the API group.
fn kind_of(text: &str) -> Result<Kind, String> {
    match text.to_lowercase().trim_end_matches(".sokovan.dev") {
        "session" | "sessions" | "ses" => Ok(Kind::Session),
        "deployment" | "deployments" | "sdep" => Ok(Kind::Deployment),
        other => Err(format!("{other} is not a kind of this command: use session or deployment")),
    }
}

/// The name of a deployment, with or without its kind.
pub fn deployment(text: &str) -> Result<String, String> {
    match text.parse()? {
        Target { kind: None | Some(Kind::Deployment), name } => Ok(name),
        Target { kind: Some(Kind::Session), .. } => Err("a session has no rollout: name a deployment".into()),
    }
}

/// The name of a session, with or without its kind.
pub fn session(text: &str) -> Result<String, String> {
    match text.parse()? {
        Target { kind: None | Some(Kind::Session), name } => Ok(name),
        Target { kind: Some(Kind::Deployment), .. } => Err("name a session, not a deployment".into()),
    }
}

/// The name and the namespace of an object, as arguments of a command.
pub fn arguments<K: ResourceExt>(object: &K) -> String {
    match object.namespace() {
        Some(namespace) => format!("{} -n {namespace}", object.name_any()),
        None => object.name_any(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_named_with_or_without_its_kind() {
        let target = |kind, name: &str| Ok(Target { kind, name: name.into() });
        assert_eq!("train".parse(), target(None, "train"));
        assert_eq!("session/train".parse(), target(Some(Kind::Session), "train"));
        for kind in ["sdep", "Deployment", "deployments.sokovan.dev"] {
            assert_eq!(format!("{kind}/chat").parse(), target(Some(Kind::Deployment), "chat"), "{kind}");
        }
        for wrong in ["pod/a", "sdep/", "", "sdep/a/b"] {
            assert!(wrong.parse::<Target>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_rollout_is_that_of_a_deployment() {
        assert_eq!(deployment("chat"), Ok("chat".into()));
        assert_eq!(deployment("sdep/chat"), Ok("chat".into()));
        assert!(deployment("ses/train").is_err());
        assert_eq!(session("ses/train"), Ok("train".into()));
        assert!(session("sdep/chat").is_err());
    }
}
