//! The templates folder, embedded, and its one way to render: strict about undefined names, no HTML escaping except
//! for `.html`.

use anyhow::Context;
use include_dir::{Dir, include_dir};
use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, UndefinedBehavior};

static TEMPLATES: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/assets/templates");

/// Renders the template at a path inside the templates folder, such as `crate/lib.rs.j2`.
pub fn render(path: &str, context: minijinja::Value) -> anyhow::Result<String> {
    let source = TEMPLATES
        .get_file(path)
        .and_then(|file| file.contents_utf8())
        .with_context(|| format!("template `{path}` is not embedded"))?;
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment
        .set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).keep_trailing_newline(true).build()?);
    environment.set_auto_escape_callback(
        |name| {
            if name.contains(".html") { AutoEscape::Html } else { AutoEscape::None }
        },
    );
    environment.add_template(path, source).with_context(|| format!("parsing template `{path}`"))?;
    let template = environment.get_template(path).with_context(|| format!("finding template `{path}`"))?;
    template.render(context).with_context(|| format!("rendering template `{path}`"))
}
