//! Colours, where they are shown: on a terminal, unless NO_COLOR is set.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::IsTerminal;

/// Whether text is coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    Plain,
    Coloured,
}

/// The colours that tell kernels apart: all readable on dark and on light ground.
const KERNELS: [u8; 6] = [36, 33, 32, 35, 34, 31];
const RESET: &str = "\x1b[0m";

impl Style {
    pub fn of_output() -> Self {
        #[cfg(windows)]
        crossterm::ansi_support::supports_ansi(); // turns it on
        Self::chosen(std::io::stdout().is_terminal(), std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()))
    }

    fn chosen(is_terminal: bool, is_forbidden: bool) -> Self {
        if is_terminal && !is_forbidden { Self::Coloured } else { Self::Plain }
    }

    /// The name of a kernel before its lines.
    pub fn of_kernel(self, kernel: &str) -> String {
        let mut hasher = DefaultHasher::new();
        kernel.hash(&mut hasher);
        let colour = KERNELS[usize::try_from(hasher.finish() % KERNELS.len() as u64).unwrap_or(0)];
        match self {
            Self::Plain => format!("{kernel} |"),
            Self::Coloured => format!("\x1b[{colour}m{kernel} |{RESET}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_for_terminals_whose_user_wants_them() {
        assert_eq!(Style::chosen(true, false), Style::Coloured);
        assert_eq!(Style::chosen(false, false), Style::Plain);
        assert_eq!(Style::chosen(true, true), Style::Plain);
        assert_eq!(Style::Plain.of_kernel("sub1"), "sub1 |");
        assert!(Style::Coloured.of_kernel("sub1").starts_with("\x1b["));
    }
}
