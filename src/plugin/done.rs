//! The result of a command that changed an object: a line for people, or JSON with the kind as the field of the name.

use std::fmt;

use serde::Serialize;
use serde::ser::SerializeMap;

use super::target::Kind;
use super::{Format, print, show};

pub struct Done {
    pub kind: Kind,
    pub name: String,
    pub result: String,
}

impl Done {
    /// Prints the result, or only the name.
    pub fn print(&self, format: Format) -> anyhow::Result<()> {
        match format {
            Format::Name => show(&format!("{}\n", self.kind.full_name(&self.name))),
            Format::Text | Format::Wide | Format::Json | Format::Yaml => print(format, self),
        }
    }
}

impl Serialize for Done {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_map(Some(2))?;
        fields.serialize_entry(self.kind.as_str(), &self.name)?;
        fields.serialize_entry("result", &self.result)?;
        fields.end()
    }
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} {}", self.kind.full_name(&self.name), self.result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_names_the_object_in_both_formats() {
        let done = |kind| Done { kind, name: "chat".into(), result: "paused".into() };
        assert_eq!(done(Kind::Deployment).to_string(), "deployment.sokovan.dev/chat paused\n");
        let json = serde_json::to_string(&done(Kind::Session)).expect("JSON");
        assert_eq!(json, r#"{"session":"chat","result":"paused"}"#);
    }
}
