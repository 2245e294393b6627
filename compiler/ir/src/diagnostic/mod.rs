//! A message for the user: a stable code, what is wrong and where, what was expected, and what to do.

mod excerpt;
mod nearest;
mod size;

use std::fmt;

pub use excerpt::place;
pub use nearest::{did_you_mean, did_you_mean_field, nearest, parser_words};
pub use size::{size, sizes};

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

/// Most characters of a name that a message shows.
const MAX_NAME_CHARS: usize = 120;

/// A name from a model or a file, fit for a terminal: control characters escaped, long names shortened.
pub fn printable(name: &str) -> String {
    let mut text: String = name.chars().take(MAX_NAME_CHARS).map(shown).collect();
    if name.chars().nth(MAX_NAME_CHARS).is_some() {
        text.push('…');
    }
    text
}

/// A character as a terminal may show it. What would move the cursor, change colours, turn the direction of text, or not be
/// seen at all is escaped; a tab becomes a space. Quotes stay quotes.
fn shown(c: char) -> String {
    let unseen = matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}');
    match c {
        '\t' => " ".to_string(),
        c if c.is_control() || unseen => c.escape_default().to_string(),
        c => c.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::printable;

    #[test]
    fn names_cannot_change_the_terminal() {
        assert_eq!(printable("a \"quoted\" `name` \\ é"), "a \"quoted\" `name` \\ é");
        assert_eq!(printable("a\u{1b}[31m\n\0\u{202e}b"), "a\\u{1b}[31m\\n\\u{0}\\u{202e}b");
        assert_eq!(printable(&"x".repeat(500)).chars().count(), 121);
    }
}
