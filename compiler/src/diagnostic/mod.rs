//! A message for the user: a stable code, what is wrong and where, what was expected, and what to do.

pub mod codes;

use std::fmt;

pub use codes::explain;

/// An error in the model, the cluster or the command line, or, with a code `W..` or `N..`, a warning or a note. Displays as
/// `error[E0130]: node `conv1` (Conv, #3): stride is 0`, then notes and help, a line each.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub struct Diagnostic {
    /// Stable code, such as `E0130`; `--explain` expands it.
    pub code: &'static str,
    /// What is wrong, naming the user's thing; control characters of model names are escaped.
    pub message: String,
    /// More facts.
    pub notes: Vec<String>,
    /// What to do.
    pub help: Option<String>,
}

impl Diagnostic {
    /// A message without notes.
    pub fn new(code: &'static str, message: impl Into<String>) -> Diagnostic {
        Diagnostic { code, message: message.into(), notes: Vec::new(), help: None }
    }

    /// Adds a fact.
    pub fn note(mut self, note: impl Into<String>) -> Diagnostic {
        self.notes.push(note.into());
        self
    }

    /// Adds what to do.
    pub fn help(mut self, help: impl Into<String>) -> Diagnostic {
        self.help = Some(help.into());
        self
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.code.as_bytes() {
            [b'W', ..] => "warning",
            [b'N', ..] => "note",
            _ => "error",
        };
        write!(f, "{severity}[{}]: {}", self.code, self.message)?;
        for note in &self.notes {
            write!(f, "\n  = note: {note}")?;
        }
        if let Some(help) = &self.help {
            write!(f, "\n  = help: {help}")?;
        }
        Ok(())
    }
}

/// A name from a model or a file, fit for a terminal: control characters escaped, long names shortened.
pub fn printable(name: &str) -> String {
    let mut text: String = name.chars().take(120).flat_map(char::escape_debug).collect();
    if name.chars().nth(120).is_some() {
        text.push('…');
    }
    text
}
