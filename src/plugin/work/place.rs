//! A place on the command line of `cp`: a path of this machine, or SESSION[/KERNEL]:PATH. Pure.

use std::path::PathBuf;
use std::str::FromStr;

use crate::api::MAIN_HOSTNAME;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Here(PathBuf),
    There { session: String, kernel: String, path: String },
}

impl FromStr for Place {
    type Err = String;

    /// As with kubectl, a path of this machine that contains a colon begins with `./` or `/`. A drive letter is no session.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let Some((object, path)) = text.split_once(':').filter(|(object, _)| is_name(object)) else {
            return if text.is_empty() { Err("the path is empty".into()) } else { Ok(Self::Here(text.into())) };
        };
        let (session, kernel) = object.split_once('/').unwrap_or((object, MAIN_HOSTNAME));
        match path {
            "" => Err(format!("name a path in {session}: {session}:PATH")),
            path => Ok(Self::There { session: session.into(), kernel: kernel.into(), path: path.into() }),
        }
    }
}

fn is_name(object: &str) -> bool {
    let is_word = |word: &str| !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    let is_drive = cfg!(windows) && object.len() == 1;
    !is_drive && object.split('/').count() <= 2 && object.split('/').all(is_word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_in_a_session_has_its_name_before_a_colon() {
        let there = |session: &str, kernel: &str, path: &str| {
            Ok(Place::There { session: session.into(), kernel: kernel.into(), path: path.into() })
        };
        assert_eq!("train:/data/out.txt".parse(), there("train", "main1", "/data/out.txt"));
        assert_eq!("train/sub2:out".parse(), there("train", "sub2", "out"));
        for here in ["out.txt", "./a:b", "/tmp/a:b", "../x", "Data:x"] {
            assert_eq!(here.parse(), Ok(Place::Here(here.into())));
        }
        assert!("train:".parse::<Place>().is_err() && "".parse::<Place>().is_err());
    }
}
