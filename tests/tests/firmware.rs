//! Linked programs are what the report says: their arena is their RAM, and firmware holds neither an allocator nor a
//! panic path.

use partita_tests::bundle::{ClusterText, forbidden_symbols, symbols};
use partita_tests::command::{compile, succeed};
use partita_tests::place;

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
            .args(["--build", "--symbols"]),
    );
    let report = std::fs::read_to_string(out.join("report.json")).expect("the report was written");
    (folder, serde_json::from_str(&report).expect("the report is JSON"))
}

#[test]
fn firmware_links_no_allocator_and_no_panic_path() {
    for target in ["cortex-m4f", "cortex-m7", "cortex-m33", "cortex-m55"] {
        let (folder, _) = build(target);
        let found = symbols(&folder.path().join("out/symbols/only"));
        assert!(
            found.iter().any(|(name, _)| name.contains("MODEL")),
            "{target}: the symbol table does not even name the model, so this test would prove nothing"
        );
        assert_eq!(forbidden_symbols(&folder.path().join("out/symbols/only")), Vec::<String>::new(), "{target}");
    }
}

#[test]
fn the_arena_in_the_report_is_the_arena_in_the_program() {
    for target in ["host", "cortex-m7"] {
        let (folder, report) = build(target);
        let arena_bytes = report["devices"][0]["arena_bytes"].as_u64().expect("the report says the arena's size");
        let found = symbols(&folder.path().join("out/symbols/only"));
        let model = found.iter().find(|(name, _)| name.contains("MODEL")).expect("main holds the model in a static");
        assert_eq!(model.1, arena_bytes.next_multiple_of(64), "{target}: {model:?}");
        let ram_bytes = report["devices"][0]["ram_bytes"].as_u64().expect("the report says the program's RAM");
        assert!(ram_bytes >= arena_bytes, "{target}: RAM {ram_bytes} is less than the arena {arena_bytes}");
    }
}
