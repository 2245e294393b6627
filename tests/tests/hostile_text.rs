//! Text from files stays text: whatever stands in names and descriptions of a model, a cluster and a target, none of it
//! becomes code, markup or an option in what is emitted, and all of that still parses.

use std::path::Path;

use onnx_protobuf::{GraphProto, Message, NodeProto};
use partita_tests::command::{compile, compile_binary};
use partita_tests::onnx::{self, constant, ints, value_info};
use partita_tests::place::files_below;

/// Must not stand anywhere but in comments and strings.
const MARK: &str = "INJECTED";

/// What ends lines, strings, comments, tags, cells and commands, each before the mark.
const ENDINGS: &[&str] = &[
    "\n",
    "\r",
    "\0",
    "\"",
    "'",
    "\\",
    "\\\"",
    "*/",
    "/*",
    "//",
    "`",
    "</script><script>",
    "<b>",
    "&lt;",
    "|",
    "$(",
    "${",
    "%n",
    "{{",
    "{%",
    "}}",
    "-->",
    "]]>",
    "#",
    ";",
    "\u{202e}",
    "\u{2028}",
    "\u{feff}",
    "=",
    "[",
    "--",
];

/// Characters that no line of text may have in a key that is one line.
fn is_line(text: &str) -> bool {
    !text.contains(char::is_control)
}

/// A name with every ending in it.
fn hostile(endings: impl Iterator<Item = &'static str>) -> String {
    endings.map(|ending| format!("{ending}{MARK}()")).collect()
}

#[test]
fn names_and_descriptions_never_become_code() {
    let everything = hostile(ENDINGS.iter().copied());
    for target in ["host", "raspberry-pi-4", "cortex-m7"] {
        bundle(&everything, "plain", "plain", target);
    }
    // Keys that are one short line, one ending after the other.
    let one_line: Vec<&str> = ENDINGS.iter().copied().filter(|ending| is_line(ending)).collect();
    for endings in one_line.chunks(3) {
        let text = hostile(endings.iter().copied());
        bundle("plain", &text, &text, "host");
    }
}

/// Compiles a model with such names for a cluster and a target with such names, and reads everything that is emitted.
fn bundle(model: &str, cluster: &str, description: &str, target: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let name = |part: &str| format!("{model}{part}");
    let node = |op: &str, inputs: &[String], output: String, attributes| NodeProto {
        name: name(op),
        op_type: op.to_string(),
        input: inputs.to_vec(),
        output: vec![output],
        attribute: attributes,
        ..NodeProto::default()
    };
    let nodes = vec![
        node("Conv", &[name("x"), name("w")], name("a"), vec![ints("pads", &[1; 4])]),
        node("Softmax", &[name("a")], name("y"), Vec::new()),
    ];
    let graph = GraphProto {
        name: name("graph"),
        node: nodes,
        initializer: vec![constant(&name("w"), &[4, 3, 3, 3], vec![0.5; 108])],
        input: vec![value_info(&name("x"), &[1, 3, 8, 8])],
        output: vec![value_info(&name("y"), &[])],
        ..GraphProto::default()
    };
    std::fs::write(folder.path().join("model.onnx"), onnx::model(17, graph).write_to_bytes().expect("bytes"))
        .expect("written");
    let targets = partita_tests::place::files_below(&partita_tests::place::repository(), &|path| {
        path.file_name().is_some_and(|file| file.to_string_lossy() == format!("{target}.toml"))
    });
    let text = std::fs::read_to_string(&targets[0]).expect("a target of ours");
    let own: Vec<String> = text
        .lines()
        .map(|line| match line.starts_with("description = ") {
            true => format!("description = {}", toml_string(description)),
            false => line.to_string(),
        })
        .collect();
    std::fs::write(folder.path().join("own.toml"), own.join("\n")).expect("written");
    let (transport, security) = if target.starts_with("cortex") { ("uart", "none") } else { ("tcp", "noise") };
    let cluster = format!(
        "[cluster]\nname = {}\nsecurity = \"{security}\"\ninput = \"d-0\"\noutput = \"d-1\"\n[[device]]\nname = \"d\"\ntarget = \"./own.toml\"\ncount = 2\n\
         address = \"10.0.0.1:7100\"\n[[link]]\nbetween = [\"d\"]\ntransport = \"{transport}\"\nbandwidth = \"115200 bit/s\"\n",
        toml_string(cluster)
    );
    std::fs::write(folder.path().join("cluster.toml"), cluster).expect("written");
    let out = folder.path().join("out");
    let output = compile()
        .arg(folder.path().join("model.onnx"))
        .arg("--targets")
        .arg(folder.path().join("cluster.toml"))
        .args(["--strategy", "pipeline", "--out"])
        .arg(&out)
        .output()
        .expect("it runs");
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success(), "{} {said}", compile_binary().display());
    assert!(!said.contains(['\u{202e}', '\u{2028}', '\0', '\r']), "{said:?}");
    let files = files_below(&out, &|path| !path.components().any(|part| part.as_os_str() == "runtime-rt"));
    assert!(files.len() > 8, "{files:?}");
    for file in files {
        check(&file);
    }
}

/// What a file may hold, by its kind.
fn check(file: &Path) {
    let Ok(text) = std::fs::read_to_string(file) else { return };
    let extension = file.extension().unwrap_or_default().to_string_lossy().into_owned();
    let shown = file.display();
    let unseen = |c: char| c.is_control() && !"\n\t".contains(c) || "\u{202e}\u{2028}\u{feff}".contains(c);
    match extension.as_str() {
        "rs" | "x" => {
            assert!(!text.contains(unseen), "{shown}");
            let code = without_comments_and_strings(&text);
            assert!(!code.contains(MARK), "{shown}:\n{code}");
        }
        "toml" => {
            assert!(!text.contains(unseen), "{shown}");
            let code: String =
                text.lines().map(|line| line.split('#').next().unwrap_or("").to_string() + "\n").collect();
            assert!(!without_comments_and_strings(&code).contains(MARK), "{shown}:\n{code}");
        }
        "html" => {
            for tag in ["<script>INJECTED", "<b>INJECTED", "\"INJECTED"] {
                assert!(!text.contains(tag), "{shown}: {tag}");
            }
        }
        "md" => assert!(!text.contains("<script>") && !text.contains("<b>") && !text.contains(unseen), "{shown}"),
        "service" => {
            let at_the_beginning = text.lines().any(|line| line.trim_start().starts_with(MARK));
            // Doubled, they stand for themselves.
            let replaced = text.replace("$$", "").replace("%%", "");
            assert!(!at_the_beginning && !replaced.contains(['$', '%']) && !text.contains(unseen), "{shown}");
            assert!(
                text.lines().filter(|line| line.starts_with("ExecStart=")).all(|line| !line.contains(MARK)),
                "{shown}"
            );
        }
        "json" => {
            let whole: Result<serde_json::Value, _> = serde_json::from_str(&text);
            assert!(whole.is_ok(), "{shown}");
        }
        _ => {}
    }
}

/// Rust without its comments, strings and characters.
fn without_comments_and_strings(text: &str) -> String {
    let mut code = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if first == '"' {
            let mut escaped = false;
            let end = rest.char_indices().skip(1).find(|(_, c)| {
                let ends = *c == '"' && !escaped;
                escaped = *c == '\\' && !escaped;
                ends
            });
            end.map_or(rest.len(), |(end, _)| end + 1)
        } else {
            code.push(first);
            first.len_utf8()
        };
        rest = &rest[skipped..];
    }
    code
}

/// A string as TOML writes it.
fn toml_string(text: &str) -> String {
    let escaped: String = text
        .chars()
        .map(|c| match c {
            '"' | '\\' => format!("\\{c}"),
            c if c.is_control() => format!("\\u{:04x}", c as u32),
            c => c.to_string(),
        })
        .collect();
    format!("\"{escaped}\"")
}

#[test]
fn names_that_would_be_paths_or_code_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let host = files_below(&partita_tests::place::repository(), &|path| path.ends_with("targets/host.toml"));
    let text = std::fs::read_to_string(&host[0]).expect("a target of ours");
    for ending in ENDINGS.iter().copied().chain(["", "../x", "-rf", " "]) {
        let name = if ending.is_empty() { String::new() } else { format!("{ending}{MARK}") };
        let changed: Vec<String> = text
            .lines()
            .map(|line| match line.starts_with("name = ") {
                true => format!("name = {}", toml_string(&name)),
                false => line.to_string(),
            })
            .collect();
        std::fs::write(folder.path().join("own.toml"), changed.join("\n")).expect("written");
        let refused = partita::config::target::load("./own.toml", folder.path()).expect_err(&name);
        assert_eq!(refused.code, "E0168", "{name}");
        assert!(!refused.to_string().contains(['\u{202e}', '\0', '\r']), "{refused}");
    }
    for description in ["two\nlines", "a\0b", &"x".repeat(301)] {
        let changed: Vec<String> = text
            .lines()
            .map(|line| match line.starts_with("description = ") {
                true => format!("description = {}", toml_string(description)),
                false => line.to_string(),
            })
            .collect();
        std::fs::write(folder.path().join("own.toml"), changed.join("\n")).expect("written");
        assert!(partita::config::target::load("./own.toml", folder.path()).is_err(), "{description}");
    }
}
