//! Which modules of a crate import which, read from their source, and the cycles among them.
//!
//! A module is a file. What a file names through `crate::`, `super::`, `self::` or a child's name is looked up as the Rust
//! compiler does: through modules, re-exports and imports, down to the file that has it. Re-exports themselves import nothing, so
//! a `mod.rs` may offer what its children have. What is there for tests only does not count.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A module, by the names on its way from the crate's root.
type Module = Vec<String>;

/// The modules of one crate.
#[derive(Default)]
pub struct Modules {
    /// Names that each module uses, as paths.
    uses: BTreeMap<Module, Vec<Module>>,
    /// Names that each module offers beside its own, and from where.
    offers: BTreeMap<Module, BTreeMap<String, Module>>,
}

impl Modules {
    /// Reads all files below a crate's `src`, but not those of programs.
    pub fn read(src: &Path) -> Modules {
        let mut sources = BTreeMap::new();
        for path in crate::place::files_below(src, &|path| path.extension().is_some_and(|extension| extension == "rs"))
        {
            let relative = path.strip_prefix(src).expect("it lies below").with_extension("");
            let mut module: Module = relative.iter().map(|part| part.to_string_lossy().into_owned()).collect();
            if module[0] == "bin" || module == ["main"] {
                continue;
            }
            if module == ["lib"] || module.last().is_some_and(|last| last == "mod") {
                module.pop();
            }
            sources.insert(module, std::fs::read_to_string(&path).expect("it can be read"));
        }
        Modules::of(&sources)
    }

    /// Of modules and their source.
    pub fn of(sources: &BTreeMap<Module, String>) -> Modules {
        let mut modules = Modules::default();
        let tests: Vec<Module> = sources.iter().flat_map(|(module, text)| test_modules(module, text)).collect();
        for (module, text) in sources.iter().filter(|(module, _)| !tests.iter().any(|test| module.starts_with(test))) {
            let (uses, offers) = named(&code(text), |child| sources.contains_key(&joined(module, &[child])));
            modules.uses.insert(module.clone(), uses);
            modules.offers.insert(module.clone(), offers);
        }
        modules
    }

    /// The file that has what a path names in a module; none if it is of another crate.
    fn resolve(&self, module: &[String], path: &[String], depth: usize) -> Option<Module> {
        let (mut at, mut rest) = match path.first()?.as_str() {
            "crate" => (Vec::new(), &path[1..]),
            "self" => (module.to_vec(), &path[1..]),
            "super" => (module[..module.len().checked_sub(1)?].to_vec(), &path[1..]),
            first => {
                let is_own = self.uses.contains_key(&joined(module, &[first]));
                let is_offered = self.offers.get(module)?.contains_key(first);
                (is_own || is_offered).then(|| (module.to_vec(), path))?
            }
        };
        while let Some(name) = rest.first() {
            let child = joined(&at, &[name]);
            if name == "super" {
                at.pop();
            } else if self.uses.contains_key(&child) {
                at = child;
            } else {
                let offered = self.offers.get(&at).and_then(|offers| offers.get(name));
                // A path that names itself would be asked for ever.
                return match offered.filter(|_| depth < 8) {
                    Some(from) => self.resolve(&at, from, depth + 1),
                    None => Some(at),
                };
            }
            rest = &rest[1..];
        }
        Some(at)
    }

    /// Which modules each module imports.
    fn imports(&self) -> BTreeMap<&Module, BTreeSet<Module>> {
        let of = |(module, uses): (&Module, &Vec<Module>)| {
            let found = uses.iter().filter_map(|path| self.resolve(module, path, 0));
            found.filter(|other| other != module).collect()
        };
        self.uses.iter().map(|entry| (entry.0, of(entry))).collect()
    }

    /// Modules that import each other, directly or through others, each as `a::b`; only cycles of more than one module.
    pub fn cycles(&self) -> Vec<Vec<String>> {
        let imports = self.imports();
        let reached: BTreeMap<&Module, BTreeSet<&Module>> =
            imports.keys().map(|module| (*module, reachable(module, &imports))).collect();
        let mut found: BTreeSet<Vec<String>> = BTreeSet::new();
        for (module, reach) in &reached {
            let cycle = reach.iter().filter(|other| reached[*other].contains(module));
            let cycle: Vec<String> = cycle.map(|module| shown(module)).collect();
            if cycle.len() > 1 {
                found.insert(cycle);
            }
        }
        found.into_iter().collect()
    }
}

/// All that a module imports, through others, too.
fn reachable<'a>(from: &Module, imports: &'a BTreeMap<&Module, BTreeSet<Module>>) -> BTreeSet<&'a Module> {
    let mut found = BTreeSet::new();
    let mut next: Vec<&Module> = imports[from].iter().collect();
    while let Some(module) = next.pop() {
        if imports.contains_key(module) && found.insert(module) {
            next.extend(&imports[module]);
        }
    }
    found
}

fn shown(module: &[String]) -> String {
    if module.is_empty() { "lib".to_string() } else { module.join("::") }
}

fn joined(module: &[String], names: &[&str]) -> Module {
    module.iter().cloned().chain(names.iter().map(|name| (*name).to_string())).collect()
}

/// Modules in files of their own that are there for tests only.
fn test_modules(module: &[String], text: &str) -> Vec<Module> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let is_test = |pair: &&[&str]| is_for_tests(pair[0]) && pair[1].ends_with(';');
    let name = |pair: &[&str]| Some(pair[1].trim_end_matches(';').split_once("mod ")?.1.to_string());
    lines.windows(2).filter(is_test).filter_map(name).map(|name| joined(module, &[&name])).collect()
}

/// Whether what follows is compiled for tests only.
fn is_for_tests(attribute: &str) -> bool {
    attribute == "#[cfg(test)]" || attribute.starts_with("#[cfg(all(test,")
}

/// The text without comments, strings, and what is there for tests.
fn code(text: &str) -> String {
    let mut kept = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if is_for_tests(line) {
            // As rustfmt leaves it: what opens at the margin closes there.
            if lines.next().is_some_and(|line| line.ends_with('{')) {
                lines.by_ref().find(|line| *line == "}");
            }
            continue;
        }
        let line = line.split("//").next().unwrap_or_default();
        let outside = line.split('"').step_by(2);
        kept.extend(outside);
        kept.push('\n');
    }
    kept
}

/// Paths that a text names, and by name what its declarations bring in.
fn named(text: &str, is_child: impl Fn(&str) -> bool) -> (Vec<Module>, BTreeMap<String, Module>) {
    let (mut uses, mut offers, mut offered) = (Vec::new(), BTreeMap::new(), Vec::new());
    let mut body = String::new();
    for statement in text.split_inclusive(';') {
        // What stands before the declaration: attributes, the end of something else.
        let begin =
            statement.rfind("\nuse ").or(statement.rfind(" use ")).or(statement.starts_with("use ").then_some(0));
        let Some(begin) = begin.filter(|_| statement.ends_with(';')) else {
            body.push_str(statement);
            continue;
        };
        let before = &statement[..begin];
        body.push_str(before);
        let visible = before.rsplit('\n').next().unwrap_or_default();
        let declared = statement[begin..].trim().trim_start_matches("use ").trim_end_matches(';');
        for path in expanded(declared) {
            // Children may name what their parents import, too.
            if let Some(name) = path.last() {
                offers.insert(name.clone(), path.clone());
            }
            if visible.contains("pub") { &mut offered } else { &mut uses }.push(path);
        }
    }
    let words = body.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'));
    let paths = words.filter(|word| word.contains("::")).map(|word| word.split("::").map(str::to_string).collect());
    let is_own = |path: &Module| ["crate", "super", "self"].contains(&path[0].as_str()) || is_child(&path[0]);
    uses.extend(paths.filter(is_own));
    // What is offered to others may be used here, too.
    let is_declared = |line: &&str| line.contains("mod ") && line.ends_with(';');
    let own: String = body.lines().filter(|line| !is_declared(line)).collect::<Vec<_>>().join("\n");
    let words: BTreeSet<&str> = own.split(|c: char| !(c.is_alphanumeric() || c == '_')).collect();
    uses.extend(offered.into_iter().filter(|path| path.last().is_some_and(|name| words.contains(name.as_str()))));
    (uses, offers)
}

/// The paths of a tree such as `a::{b, c::{d, self}}`.
fn expanded(tree: &str) -> Vec<Module> {
    let tree = tree.trim();
    let Some((head, rest)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap_or_default();
        let path: Module = path.split("::").map(|name| name.trim().to_string()).collect();
        return if path == [""] { Vec::new() } else { vec![path] };
    };
    let head: Module = head.split("::").map(str::trim).filter(|name| !name.is_empty()).map(str::to_string).collect();
    let inner = rest.trim_end().strip_suffix('}').unwrap_or(rest);
    let (mut depth, mut begin, mut parts) = (0, 0, Vec::new());
    for (at, c) in inner.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&inner[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&inner[begin..]);
    let with_head = |path: Module| match path.as_slice() {
        [own] if own == "self" => head.clone(),
        _ => head.iter().cloned().chain(path).collect(),
    };
    parts.into_iter().flat_map(expanded).map(with_head).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cycles(files: &[(&str, &str)]) -> Vec<Vec<String>> {
        let module = |name: &str| name.split("::").filter(|part| !part.is_empty()).map(str::to_string).collect();
        let sources = files.iter().map(|(name, text)| (module(name), (*text).to_string())).collect();
        Modules::of(&sources).cycles()
    }

    #[test]
    fn modules_that_import_each_other_are_found() {
        let files = [
            ("", "mod a;\nmod b;\nmod c;\npub use a::A;\n"),
            ("a", "use crate::b::B;\n"),
            ("b", "use super::{c, c::C};\n"),
            ("c", "fn f() {\n    crate::a::g()\n}\n"),
        ];
        assert_eq!(cycles(&files), [["a", "b", "c"]]);
        assert!(cycles(&files[..3]).is_empty());
    }

    #[test]
    fn names_are_looked_up_through_re_exports() {
        let root = "mod types;\nmod work;\npub use types::{One, Two as Other};\npub fn all() {\n    work::go()\n}\n";
        let direct = [("", root), ("types", ""), ("work", "use crate::One;\n")];
        assert!(cycles(&direct).is_empty(), "the root only offers what `types` has");
        let back = [("", root), ("types", ""), ("work", "use super::all;\n")];
        assert_eq!(cycles(&back), [["lib", "work"]]);
        let used = [("", "mod a;\npub use a::A;\npub struct Whole(A);\n"), ("a", "use super::Whole;\n")];
        assert_eq!(cycles(&used), [["lib", "a"]]);
    }

    #[test]
    fn tests_comments_and_strings_import_nothing() {
        let a = "// crate::b::f\nconst TEXT: &str = \"crate::b::f\";\n#[cfg(all(test, unix))]\nmod tests {\n    use crate::b;\n}\n";
        assert!(cycles(&[("a", a), ("b", "use crate::a;\n")]).is_empty());
        let outside =
            [("", "#[cfg(test)]\nmod checks;\nmod a;\n"), ("a", "use crate::checks;\n"), ("checks", "use crate::a;\n")];
        assert!(cycles(&outside).is_empty());
    }
}
