//! The templates folder, embedded, and its one way to render: strict about undefined names, and every text is escaped for
//! the language it is put into, so that no name from a model, a cluster or a target becomes code. Text that is code says so
//! in the template: `{{ step.code | safe }}`.

use std::sync::LazyLock;

use anyhow::Context;
use include_dir::{Dir, include_dir};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::ValueKind;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior};

static TEMPLATES: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/assets/templates");

/// All templates, parsed when the first one is asked for.
static ENVIRONMENT: LazyLock<Result<Environment<'static>, Error>> = LazyLock::new(environment);

/// Renders the template at a path inside the templates folder, such as `crate/lib.rs.j2`.
///
/// Errors: no such template, an undefined name, or a text that cannot stand where the template puts it.
pub fn render(path: &str, context: minijinja::Value) -> anyhow::Result<String> {
    let environment = ENVIRONMENT.as_ref().map_err(|error| anyhow::anyhow!("parsing the templates: {error}"))?;
    let template = environment.get_template(path).with_context(|| format!("template `{path}` is not embedded"))?;
    template.render(context).with_context(|| format!("rendering template `{path}`"))
}

fn environment() -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment
        .set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).keep_trailing_newline(true).build()?);
    environment.set_auto_escape_callback(|path| match Language::of(path) {
        Language::Html => AutoEscape::Html,
        _ => AutoEscape::None,
    });
    environment.set_formatter(|out, state, value| {
        let language = Language::of(state.name());
        match value.as_str() {
            Some(text) if value.kind() == ValueKind::String && !value.is_safe() && language != Language::Html => {
                let escaped = language.escape(text).ok_or_else(|| {
                    let message = format!("`{}` cannot stand in a template of this kind", text.escape_default());
                    Error::new(ErrorKind::BadEscape, message)
                })?;
                Ok(out.write_str(&escaped)?)
            }
            // As Rust and TOML spell them; the engine does as Python does.
            _ if value.kind() == ValueKind::Bool && language != Language::Html => {
                Ok(out.write_str(if value.is_true() { "true" } else { "false" })?)
            }
            _ => minijinja::escape_formatter(out, state, value),
        }
    });
    let mut folders = vec![&TEMPLATES];
    while let Some(folder) = folders.pop() {
        folders.extend(folder.dirs());
        for file in folder.files() {
            let (path, source) = (file.path().to_str(), file.contents_utf8());
            let (Some(path), Some(source)) = (path, source) else {
                let message = format!("`{}` is no text", file.path().display());
                return Err(Error::new(ErrorKind::TemplateNotFound, message));
            };
            environment.add_template(path, source)?;
        }
    }
    Ok(environment)
}

/// What a template is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Language {
    Html,
    Markdown,
    /// Rust, linker scripts: comments, and strings between double quotes.
    Source,
    Toml,
    /// A systemd unit.
    Unit,
    /// A shell script; what would have to be quoted is refused.
    Shell,
    /// Kernels: everything in them is code of ours.
    Code,
}

impl Language {
    /// By the template's folder and name.
    fn of(path: &str) -> Language {
        let name = path.trim_end_matches(".j2");
        match name.rsplit_once('.').map_or("", |(_, extension)| extension) {
            _ if name.starts_with("kernels/") => Language::Code,
            "html" => Language::Html,
            "md" => Language::Markdown,
            "toml" | "lock" => Language::Toml,
            "service" | "timer" | "socket" => Language::Unit,
            "rs" | "x" => Language::Source,
            _ => Language::Shell,
        }
    }

    /// The text, such that it is only text there; none where it cannot be.
    fn escape(self, text: &str) -> Option<String> {
        let visible = || text.chars().map(|c| if c.is_control() || is_unseen(c) { ' ' } else { c });
        Some(match self {
            // HTML is escaped by the engine itself.
            Language::Html | Language::Code => text.to_string(),
            Language::Markdown => visible().fold(String::new(), |mut out, c| {
                match c {
                    '<' => out.push_str("&lt;"),
                    '>' => out.push_str("&gt;"),
                    '&' => out.push_str("&amp;"),
                    // It may stand between backquotes, where nothing is escaped.
                    '`' => out.push('\''),
                    '|' | '\\' | '*' | '[' | ']' | '#' | '!' => out.extend(['\\', c]),
                    _ => out.push(c),
                }
                out
            }),
            Language::Source => visible()
                .collect::<String>()
                .replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace("*/", "* /")
                .replace("/*", "/ *"),
            Language::Toml => visible().collect::<String>().replace('\\', "\\\\").replace('"', "\\\""),
            // `%` and `$` begin what systemd replaces; a backslash at the end continues the line.
            Language::Unit => {
                visible().collect::<String>().replace('%', "%%").replace('$', "$$").replace(['\\', '"', '\''], "_")
            }
            Language::Shell => {
                let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:/@+=,[] ".contains(c);
                return text.chars().all(plain).then(|| text.to_string());
            }
        })
    }
}

/// Characters that change how others are read without being seen: marks of direction, joiners, separators of lines.
fn is_unseen(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::{Language, environment};

    /// What would end a comment, a string, a line, a cell or a tag.
    const HOSTILE: &str = "a\n\"b*/ </script><b> `c` |d| $(e) %f \u{202e}g\0 \\ \u{2028}h";

    #[test]
    fn every_template_can_be_parsed() {
        let environment = environment().expect("templates are sound");
        let paths: Vec<&str> = environment.templates().map(|(path, _)| path).collect();
        for path in ["crate/model.rs.j2", "kernels/scalar.rs.j2", "report/report.html.j2"] {
            assert!(paths.contains(&path), "{path} is not among {paths:?}");
        }
    }

    #[test]
    fn text_stays_text_in_every_language() {
        for (path, never) in [
            ("deploy/README.md.j2", &["\n", "<", ">", "`", " |d"][..]),
            ("crate/lib.rs.j2", &["\n", "*/", "\0", "\u{202e}", "\u{2028}"]),
            ("cortex-m/memory.x.j2", &["\n", "*/"]),
            ("crate/Cargo.toml.j2", &["\n", "\0", "\u{2028}"]),
            ("deploy/device.service.j2", &["\n", "\"", " %f", " $(", "\\"]),
        ] {
            let escaped = Language::of(path).escape(HOSTILE).expect("it can be escaped");
            for part in never {
                assert!(!escaped.contains(part), "{path}: {part:?} in {escaped}");
            }
        }
        for path in ["crate/lib.rs.j2", "crate/Cargo.toml.j2"] {
            let escaped = Language::of(path).escape(HOSTILE).expect("it can be escaped");
            let quotes: Vec<usize> = escaped.match_indices('"').map(|(at, _)| at).collect();
            assert!(quotes.iter().all(|at| escaped[..*at].ends_with('\\')), "{escaped}");
        }
        assert_eq!(Language::of("deploy/install.sh.j2").escape(HOSTILE), None);
        assert_eq!(Language::of("deploy/install.sh.j2").escape("cam-1:7100").as_deref(), Some("cam-1:7100"));
        assert_eq!(Language::of("kernels/avx2.rs.j2"), Language::Code);
    }
}
