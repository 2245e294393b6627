//! Linked programs are what the report says: their arena is their RAM, and firmware holds neither an allocator nor a
//! panic path.

use std::path::Path;

use object::{Object, ObjectSymbol};
use partita_tests::bundle::ClusterText;
use partita_tests::command::{compile, succeed};
use partita_tests::place;

/// Symbols of a linked program: name and size.
fn symbols(binary: &Path) -> Vec<(String, u64)> {
    let bytes = std::fs::read(binary).expect("the program was built");
    let file = object::File::parse(&*bytes).expect("the program is an object file");
    file.symbols().map(|symbol| (symbol.name().unwrap_or_default().to_string(), symbol.size())).collect()
}

/// Builds the digit reader for one device; gives the output folder and the report.
fn build(target: &str) -> (tempfile::TempDir, serde_json::Value) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let cluster = ClusterText::new("only", "only").device("only", target, "").write(folder.path());
    let out = folder.path().join("out");
    succeed(
        compile()
            .arg(place::repository().join("examples/digits/model.onnx"))
            .arg("--targets")
            .arg(&cluster)
            .arg("--out")
            .arg(&out)
            .arg("--build"),
    );
    let report = std::fs::read_to_string(out.join("report.json")).expect("the report was written");
    (folder, serde_json::from_str(&report).expect("the report is JSON"))
}

#[test]
fn firmware_links_no_allocator_and_no_panic_path() {
    for target in ["cortex-m4f", "cortex-m7", "cortex-m33", "cortex-m55"] {
        let (folder, _) = build(target);
        let found = symbols(&folder.path().join("out/bin/only"));
        assert!(
            found.iter().any(|(name, _)| name.contains("MODEL")),
            "{target}: the symbol table does not even name the model, so this test would prove nothing"
        );
        for (name, _) in &found {
            for forbidden in ["panic", "__rust_alloc", "__rg_alloc", "unwrap_failed", "expect_failed", "Formatter"] {
                assert!(!name.contains(forbidden), "{target}: the program links `{name}`");
            }
        }
    }
}

#[test]
fn the_arena_in_the_report_is_the_arena_in_the_program() {
    for target in ["host", "cortex-m7"] {
        let (folder, report) = build(target);
        let arena_bytes = report["devices"][0]["arena_bytes"].as_u64().expect("the report says the arena's size");
        let found = symbols(&folder.path().join("out/bin/only"));
        let model = found.iter().find(|(name, _)| name.contains("MODEL")).expect("main holds the model in a static");
        assert_eq!(model.1, arena_bytes.next_multiple_of(64), "{target}: {model:?}");
        let ram_bytes = report["devices"][0]["ram_bytes"].as_u64().expect("the report says the program's RAM");
        assert!(ram_bytes >= arena_bytes, "{target}: RAM {ram_bytes} is less than the arena {arena_bytes}");
    }
}
