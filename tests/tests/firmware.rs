//! Linked programs are what the report says: their arena is their RAM, and firmware holds neither an allocator nor a
//! panic path.

use partita_tests::bundle::{ClusterText, forbidden_symbols, symbols};
use partita_tests::command::{compile, succeed};
use partita_tests::place::{self, further};

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
fn firmware_links_no_allocator_and_no_panic_path_and_its_arena_is_the_one_in_the_report() {
    for target in further(&["host", "cortex-m4f", "cortex-m55"], &["cortex-m7", "cortex-m33"]) {
        let (folder, report) = build(target);
        let program = folder.path().join("out/symbols/only");
        let found = symbols(&program);
        let model = found.iter().find(|(name, _)| name.contains("MODEL")).expect("main holds the model in a static");
        if target != "host" {
            assert_eq!(forbidden_symbols(&program), Vec::<String>::new(), "{target}");
        }
        let arena_bytes = report["devices"][0]["arena_bytes"].as_u64().expect("the report says the arena's size");
        assert_eq!(model.1, arena_bytes.next_multiple_of(64), "{target}: {model:?}");
        let ram_bytes = report["devices"][0]["ram_bytes"].as_u64().expect("the report says the program's RAM");
        assert!(ram_bytes >= arena_bytes, "{target}: RAM {ram_bytes} is less than the arena {arena_bytes}");
    }
}

/// 64 numbers, repeated to at least `pixels`, of which 32 are multiplied into `columns`: working memory and weights as large
/// as one likes, with an input that an emulated serial line carries in no time.
fn model(pixels: usize, columns: usize) -> tempfile::NamedTempFile {
    use partita_tests::onnx::{constant, int, model, node, value_info};
    use protobuf::Message;
    let weights = (0..32 * columns).map(|at| (at * 37 % 101) as f32 / 101.0 - 0.5).collect();
    let starts = onnx_protobuf::TensorProto { data_type: 7, int64_data: vec![0], ..constant("starts", &[1], vec![]) };
    let ends = onnx_protobuf::TensorProto { data_type: 7, int64_data: vec![32], ..constant("ends", &[1], vec![]) };
    let repeats = vec![1, pixels.div_ceil(64) as i64];
    let repeats = onnx_protobuf::TensorProto { data_type: 7, int64_data: repeats, ..constant("repeats", &[2], vec![]) };
    let axes = onnx_protobuf::TensorProto { data_type: 7, int64_data: vec![1], ..constant("axes", &[1], vec![]) };
    let graph = onnx_protobuf::GraphProto {
        name: "largest".to_string(),
        node: vec![
            node("Tile", &["x", "repeats"], &["many"], vec![]),
            node("Softmax", &["many"], &["shares"], vec![int("axis", 1)]),
            node("Slice", &["shares", "starts", "ends", "axes"], &["some"], vec![]),
            node("Gemm", &["some", "w"], &["scores"], vec![]),
            node("ReduceMax", &["scores"], &["y"], vec![partita_tests::onnx::ints("axes", &[1])]),
        ],
        input: vec![value_info("x", &[1, 64])],
        output: vec![value_info("y", &[1, 1])],
        initializer: vec![constant("w", &[32, columns as i64], weights), starts, ends, axes, repeats],
        ..onnx_protobuf::GraphProto::default()
    };
    let file = tempfile::Builder::new().suffix(".onnx").tempfile().expect("a temporary file");
    std::fs::write(file.path(), model(13, graph).write_to_bytes().expect("plain data")).expect("the file is ours");
    file
}

/// The largest number that is accepted, to one part in 8. From below: what is far too large takes long.
fn largest(accepts: impl Fn(usize) -> bool) -> usize {
    let mut low = 64;
    assert!(accepts(low));
    while accepts(4 * low) {
        low *= 4;
    }
    let mut high = 4 * low;
    while high - low > low / 8 {
        let middle = low.midpoint(high);
        *(if accepts(middle) { &mut low } else { &mut high }) = middle;
    }
    low
}

/// What a target file promises is there on the board that its programs run on: the largest program that the compiler accepts
/// answers as the reference does. Targets with an operating system promise the memory of whole machines, which no test fills.
#[test]
fn the_largest_program_of_every_microcontroller_answers() {
    for target in ["cortex-m4f", "cortex-m7", "cortex-m33", "cortex-m55"] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let cluster = ClusterText::new("only", "only").device("only", target, "").write(folder.path());
        let fits = |pixels: usize, columns: usize| {
            let options = partita::driver::Options::default();
            partita::driver::compile(model(pixels, columns).path(), &cluster, &options, &mut ()).is_ok()
        };
        let columns = largest(|columns| fits(64, columns));
        let pixels = largest(|pixels| fits(pixels, columns));
        let model = model(pixels, columns);
        let out = folder.path().join("out");
        let mut command = compile();
        command.arg(model.path()).arg("--targets").arg(&cluster).arg("--out").arg(&out);
        succeed(command.args(["--run", "--verify"]));
        let report = partita_tests::bundle::read_report(&out);
        let device = &report["devices"][0];
        let limits = partita::config::target::load(target, folder.path()).expect("the target is ours");
        println!("{target}: {device}");
        let (ram, flash) = (device["ram_bytes"].as_u64().unwrap_or(0), device["flash_bytes"].as_u64().unwrap_or(0));
        assert!(ram * 10 > limits.ram_bytes * 8 && ram <= limits.ram_bytes, "{target}: {ram} of {}", limits.ram_bytes);
        assert!(flash * 10 > limits.flash_bytes * 8 && flash <= limits.flash_bytes, "{target}: {flash}");
    }
}

/// Boards that talk to boards: what has the input and what has the answer are firmware, and nothing else is there.
#[test]
fn firmware_with_peers_answers_and_links_no_panic_path_either() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let cluster = ["a", "b", "c"].iter().zip(["cortex-m4f", "cortex-m33", "cortex-m4f"]);
    let cluster =
        cluster.fold(ClusterText::new("a", "c").open(), |cluster, (name, target)| cluster.device(name, target, ""));
    let cluster = cluster.link("a", "b", "uart", "1 Mbit/s").link("b", "c", "uart", "1 Mbit/s").write(folder.path());
    let out = folder.path().join("out");
    let mut command = compile();
    command.arg(place::repository().join("examples/digits/model.onnx")).arg("--targets").arg(&cluster);
    command.arg("--out").arg(&out).args(["--strategy", "pipeline", "--run", "--verify", "--symbols"]);
    succeed(&mut command);
    let report = partita_tests::bundle::read_report(&out);
    for device in report["devices"].as_array().expect("devices") {
        let name = device["name"].as_str().expect("a device has a name");
        assert!(device["macs"].as_u64().is_some_and(|macs| macs > 0), "`{name}` has nothing to do");
        let program = out.join("symbols").join(name);
        assert_eq!(forbidden_symbols(&program), Vec::<String>::new(), "{name}");
        let sum = |key: &str| device[key].as_u64().expect(key);
        // The node and at most two links, and the input that is kept.
        let beside = sum("ram_bytes") - sum("arena_bytes");
        assert!(beside < 15 << 10, "`{name}` has {beside} bytes beside its arena");
        println!(
            "{name}: {} B of code, {} B of flash, {beside} B beside the arena",
            sum("code_bytes"),
            sum("flash_bytes")
        );
    }
}
