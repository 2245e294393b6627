//! Keys of a target file.

use partita::config::{cluster_file, target};
use partita::driver::{self, Options};
use partita_tests::place;

use super::super::small;
use super::Shown::{self, Differs, Refused, Test};
use super::{check_lines, known_keys, outcome, outcome_with, single, walk};

/// A board with an operating system and a key for everything that such a target may say.
pub const LINUX_TARGET: &str = "\
name = \"board\"
description = \"a board\"
triple = \"aarch64-unknown-linux-musl\"
cpu = \"cortex-a53\"
system = \"linux\"
instruction-set = \"neon\"
dot-product = false
vector-registers = 32
in-order = false
winograd = true
threads = 1
cores = 2
l1-bytes = 32768
l2-bytes = 2048
prefetch-bytes = 128
clock-hz = 1.2e9
ram-bytes = 1073741824
flash-bytes = 16000000000

[rate]
conv-macs-per-second = 4e9
depthwise-macs-per-second = 1.2e9
result-per-second = 1e10
element-per-second = 1.5e8
memory-bytes-per-second = 2e9
message-microseconds = 40.0
link-bytes-per-second = 2.5e8
thread-gain = 0.5
thread-memory-gain = 0.25

[energy]
picojoule-per-mac = 200.0
picojoule-per-byte = 200.0
idle-watt = 1.4
link-nanojoule-per-byte = 80.0

[emulator]
command = [\"qemu-aarch64\"]
";

/// Firmware with a key for everything that only such a target may say.
const FIRMWARE_TARGET: &str = "\
name = \"chip\"
description = \"a chip\"
triple = \"thumbv7em-none-eabihf\"
cpu = \"cortex-m7\"
system = \"cortex-m\"
instruction-set = \"scalar\"
vector-registers = 8
l1-bytes = 16384
l2-bytes = 0
clock-hz = 480e6
ram-bytes = 1048576
flash-bytes = 2097152

[rate]
conv-macs-per-second = 2.4e8
depthwise-macs-per-second = 1.4e8
element-per-second = 4.8e7
memory-bytes-per-second = 9.6e8

[energy]
picojoule-per-mac = 900.0
picojoule-per-byte = 20.0
idle-watt = 0.02
link-nanojoule-per-byte = 50.0

[emulator]
command = [\"qemu-system-arm\", \"-M\", \"mps2-an500\"]

[memory-map]
flash-origin = 0x00000000
ram-origin = 0x20000000
stack-bytes = 16384
uart-base = [0x40004000, 0x40005000]
uart-hz = 25e6
core-hz = 25e6
";

/// Keys of a target file, by table; those of `memory-map` in the firmware's, all others in the board's.
const TARGET_KEYS: &[(&str, &str, Shown)] = &[
    ("", "name", Differs("name = \"board\"", "name = \"other\"")),
    ("", "description", Differs("a board", "another board")),
    ("", "triple", Differs("-musl", "-gnu")),
    ("", "cpu", Differs("cortex-a53", "cortex-a72")),
    ("", "system", Refused("\"linux\"", "\"cortex-m\"", "`winograd` takes too much memory")),
    ("", "instruction-set", Differs("\"neon\"", "\"scalar\"")),
    ("", "dot-product", Test(dot_products_are_of_whole_numbers)),
    ("", "vector-registers", Differs("vector-registers = 32", "vector-registers = 16")),
    ("", "in-order", Differs("in-order = false", "in-order = true")),
    ("", "winograd", Differs("winograd = true", "winograd = false")),
    // Its name until 0.1.
    ("", "minimal-filtering", Differs("winograd = true", "minimal-filtering = false")),
    ("", "threads", Differs("threads = 1", "threads = 2")),
    ("", "cores", Test(all_cores_are_as_many_as_the_target_has)),
    ("", "l1-bytes", Test(caches_bound_what_kernels_keep)),
    ("", "l2-bytes", Differs("l2-bytes = 2048", "l2-bytes = 1048576")),
    ("", "prefetch-bytes", Differs("prefetch-bytes = 128", "prefetch-bytes = 256")),
    ("", "clock-hz", Refused("1.2e9\nram", "1.2e8\nram", "above two per lane and cycle")),
    ("", "ram-bytes", Refused("ram-bytes = 1073741824", "ram-bytes = 65536", "E0170")),
    ("", "flash-bytes", Refused("flash-bytes = 16000000000", "flash-bytes = 65536", "E0170")),
    ("rate", "conv-macs-per-second", Differs("= 4e9", "= 2e9")),
    ("rate", "depthwise-macs-per-second", Test(depthwise_rates_are_for_depthwise_convolutions)),
    ("rate", "result-per-second", Differs("= 1e10", "= 1e7")),
    ("rate", "element-per-second", Differs("= 1.5e8", "= 1.5e6")),
    ("rate", "memory-bytes-per-second", Differs("= 2e9", "= 2e7")),
    ("rate", "message-microseconds", Test(messages_cost_what_targets_say)),
    ("rate", "link-bytes-per-second", Test(messages_cost_what_targets_say)),
    ("rate", "thread-gain", Test(threads_gain_what_targets_say)),
    ("rate", "thread-memory-gain", Test(threads_gain_what_targets_say)),
    ("energy", "picojoule-per-mac", Differs("per-mac = 200.0", "per-mac = 100.0")),
    ("energy", "picojoule-per-byte", Differs("per-byte = 200.0", "per-byte = 100.0")),
    ("energy", "idle-watt", Differs("idle-watt = 1.4", "idle-watt = 1.5")),
    ("energy", "link-nanojoule-per-byte", Test(messages_cost_what_targets_say)),
    ("emulator", "command", Test(emulators_are_looked_for)),
    ("memory-map", "flash-origin", Differs("flash-origin = 0x00000000", "flash-origin = 0x08000000")),
    ("memory-map", "ram-origin", Differs("ram-origin = 0x20000000", "ram-origin = 0x24000000")),
    ("memory-map", "stack-bytes", Refused("stack-bytes = 16384", "stack-bytes = 1040000", "E0170")),
    ("memory-map", "uart-base", Differs("0x40004000", "0x40014000")),
    ("memory-map", "uart-hz", Test(bandwidth_reaches_the_uart)),
    ("memory-map", "core-hz", Differs("core-hz = 25e6", "core-hz = 32e6")),
];

#[test]
fn every_key_of_a_target_file_does_something() {
    for table in ["", "rate", "energy", "emulator", "memory-map"] {
        let text = match table {
            "" => format!("no-such-key = 1\n{FIRMWARE_TARGET}"),
            _ => FIRMWARE_TARGET.replace(&format!("[{table}]"), &format!("[{table}]\nno-such-key = 1")),
        };
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(folder.path().join("t.toml"), text).expect("the folder is ours");
        let refusal = target::load("./t.toml", folder.path()).expect_err("the key is unknown");
        let known: Vec<String> = known_keys(&[refusal]);
        let inner = ["rate", "energy", "emulator", "memory-map"];
        let known: Vec<String> = known.into_iter().filter(|key| !inner.contains(&key.as_str())).collect();
        check_lines(TARGET_KEYS, table, &known);
    }
    let text_of = |table: &str| if table == "memory-map" { FIRMWARE_TARGET } else { LINUX_TARGET };
    walk(TARGET_KEYS, text_of, |table, text| match table {
        "memory-map" => outcome(&single("./target.toml"), text, "digits"),
        _ => outcome(&single("./target.toml"), text, small()),
    });
}

/// With the line that says them.
#[test]
fn keys_of_a_target_file_that_cannot_be_are_refused() {
    let vast = FIRMWARE_TARGET.replace("flash-origin = 0x00000000", "flash-origin = 0xfffffff0");
    let overlapping = FIRMWARE_TARGET.replace("ram-origin = 0x20000000", "ram-origin = 0x00100000");
    for (text, line, part) in [
        (LINUX_TARGET.replace("threads = 1", "threads = 4"), "threads = 4", "as many `cores`: 2"),
        (FIRMWARE_TARGET.replace("l2-bytes", "winograd = true\nl2-bytes"), "winograd = true", "too much memory"),
        (FIRMWARE_TARGET.replace("l2-bytes", "threads = 2\nl2-bytes"), "threads = 2", "firmware has 1"),
        (LINUX_TARGET.replace("gain = 0.5", "gain = 7.0"), "thread-gain = 7.0", "`rate.thread-gain`"),
        (vast, "flash-origin = 0xfffffff0", "32-bit"),
        (overlapping, "ram-origin = 0x00100000", "should not overlap"),
    ] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(folder.path().join("t.toml"), &text).expect("the folder is ours");
        let said = target::load("./t.toml", folder.path()).expect_err(part).to_string();
        let number = 1 + text.lines().position(|other| other == line).expect("the line is there");
        assert!(said.contains(part) && said.contains(&format!("./t.toml:{number}:1\n      {line}")), "{said}");
    }
}

/// Predicted latency and energy of the example on two devices that have to share it.
fn shared(target_text: &str) -> (f64, f64) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("target.toml"), target_text).expect("the folder is ours");
    let path = folder.path().join("cluster.toml");
    let text = "[cluster]\nname = \"t\"\ninput = \"a-0\"\noutput = \"a-1\"\n[[device]]\nname = \"a\"\ntarget = \"./target.toml\"\n\
                count = 2\n[[link]]\nbetween = [\"a\"]\ntransport = \"tcp\"\nbandwidth = \"10 Gbit/s\"\n";
    std::fs::write(&path, text).expect("the folder is ours");
    let model = place::repository().join("examples/resnet/model.onnx");
    let options = Options { family: partita::partition::StrategyFamily::Whole, ..Options::default() };
    let compiled = driver::compile(&model, &path, &options, &mut ()).expect("it compiles");
    (compiled.routed.prediction.latency_ms, compiled.routed.prediction.energy_mj)
}

fn messages_cost_what_targets_say() {
    let (latency, energy) = shared(LINUX_TARGET);
    assert!(shared(&LINUX_TARGET.replace("microseconds = 40.0", "microseconds = 4000.0")).0 > latency + 3.0);
    assert!(shared(&LINUX_TARGET.replace("link-bytes-per-second = 2.5e8", "link-bytes-per-second = 1e3")).0 > latency);
    assert!(
        shared(&LINUX_TARGET.replace("link-nanojoule-per-byte = 80.0", "link-nanojoule-per-byte = 8000.0")).1 > energy
    );
}

fn all_cores_are_as_many_as_the_target_has() {
    let threads = |text: &str, wanted: &str| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(folder.path().join("target.toml"), text).expect("the folder is ours");
        let cluster = single("./target.toml") + wanted;
        cluster_file::parse(&cluster, "cluster.toml", folder.path()).expect("it is sound").devices[0].target.threads
    };
    assert_eq!(threads(LINUX_TARGET, ""), 1);
    assert_eq!(threads(LINUX_TARGET, "threads = \"all\""), 2);
    assert_eq!(threads(&LINUX_TARGET.replace("cores = 2", "cores = 4"), "threads = \"all\""), 4);
}

fn threads_gain_what_targets_say() {
    let four = LINUX_TARGET.replace("threads = 1\ncores = 2", "threads = 4\ncores = 4");
    // The first is bound by arithmetic, the second by memory.
    let slow_memory = four.replace("memory-bytes-per-second = 2e9", "memory-bytes-per-second = 2e7");
    for (text, key) in [(&four, "\nthread-gain = 0.5"), (&slow_memory, "thread-memory-gain = 0.25")] {
        let none = text.replace(key, &format!("{} = 0", key.split(" = ").next().unwrap_or_default()));
        assert!(shared(&none).0 > 1.1 * shared(text).0, "`{key}` says nothing");
    }
}

/// A model whose convolution and pool are one kernel, which keeps some rows in between.
fn pooled_convolution() -> Vec<u8> {
    use partita_tests::onnx;
    let weights = (0..16 * 8 * 25).map(|index| (index * 37 % 101) as f32 / 101.0 - 0.5).collect();
    let padding = onnx::ints("pads", &[2, 2, 2, 2]);
    let window = vec![onnx::ints("kernel_shape", &[2, 2]), onnx::ints("strides", &[2, 2])];
    let graph = onnx_protobuf::GraphProto {
        name: "pooled".to_string(),
        node: vec![
            onnx::node("Conv", &["x", "w"], &["between"], vec![padding]),
            onnx::node("MaxPool", &["between"], &["y"], window),
        ],
        input: vec![onnx::value_info("x", &[1, 8, 32, 32])],
        output: vec![onnx::value_info("y", &[1, 16, 16, 16])],
        initializer: vec![onnx::constant("w", &[16, 8, 5, 5], weights)],
        ..onnx_protobuf::GraphProto::default()
    };
    protobuf::Message::write_to_bytes(&onnx::model(17, graph)).expect("it is plain data")
}

/// Where there is no second cache, rows between a convolution and its pool stay in the first.
fn caches_bound_what_kernels_keep() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("model.onnx"), pooled_convolution()).expect("the folder is ours");
    let model = folder.path().to_string_lossy();
    let text = LINUX_TARGET.replace("l2-bytes = 2048", "l2-bytes = 0");
    let of = |text: &str| outcome(&single("./target.toml"), text, &model).expect("it compiles");
    assert!(of(&text) != of(&text.replace("l1-bytes = 32768", "l1-bytes = 64")), "the first cache is ignored");
}

/// The instructions multiply bytes: they are for matrices that are stored so.
fn dot_products_are_of_whole_numbers() {
    let options = Options { weights: partita::config::WeightStorage::Int8, ..Options::default() };
    let of = |text: &str| outcome_with(&single("./target.toml"), text, small(), &options).expect("it compiles");
    assert!(of(LINUX_TARGET) != of(&LINUX_TARGET.replace("dot-product = false", "dot-product = true")));
}

fn depthwise_rates_are_for_depthwise_convolutions() {
    use partita::partition::cost::{Work, seconds};
    let folder = tempfile::tempdir().expect("a temporary folder");
    let of = |text: &str| {
        std::fs::write(folder.path().join("t.toml"), text).expect("the folder is ours");
        let cluster = cluster_file::parse(&single("./t.toml"), "cluster.toml", folder.path());
        cluster.expect("the target is sound").devices.remove(0)
    };
    let work = |depthwise| Work { macs: 1 << 24, channels: 64, depthwise, ..Work::default() };
    let slower = LINUX_TARGET.replace("depthwise-macs-per-second = 1.2e9", "depthwise-macs-per-second = 0.6e9");
    let (before, after) = (of(LINUX_TARGET), of(&slower));
    assert!(seconds(&work(true), &after) > seconds(&work(true), &before) * 1.9);
    assert_eq!(seconds(&work(false), &after), seconds(&work(false), &before));
}

fn emulators_are_looked_for() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("target.toml"), LINUX_TARGET.replace("\"qemu-aarch64\"", "\"qemu-of-nobody\""))
        .expect("the folder is ours");
    let path = folder.path().join("cluster.toml");
    std::fs::write(&path, single("./target.toml")).expect("the folder is ours");
    let mut command = partita_tests::command::compile();
    command.arg("examples/resnet/model.onnx").arg("--targets").arg(&path);
    let output = command.arg("--run").arg("--out").arg(folder.path().join("out")).output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("needs `qemu-of-nobody`") && !said.contains("building"), "{said}");
    assert!(!folder.path().join("out").exists(), "it is looked for before anything is written");
}

/// The rate in the cluster file is the divider in firmware and the rate on Linux; a UART that cannot do it is said.
fn bandwidth_reaches_the_uart() {
    let cluster = |bandwidth: &str| {
        "[cluster]\nname = \"t\"\nsecurity = \"none\"\ninput = \"chip\"\noutput = \"board\"\n[[device]]\nname = \"chip\"\ntarget = \"./target.toml\"\n\
         [[device]]\nname = \"board\"\ntarget = \"raspberry-pi-3\"\n[[link]]\nbetween = [\"chip\", \"board\"]\n\
         transport = \"uart\"\nbandwidth = \""
            .to_string()
            + bandwidth
            + "\"\n"
    };
    for (bandwidth, hz, divider, baud) in [
        ("1 Mbit/s", "25e6", "25", "1000000"),
        ("115200 bit/s", "25e6", "217", "115200"),
        ("1 Mbit/s", "50e6", "50", "1000000"),
        ("2 Mbit/s", "25e6", "16", "1562500"),
    ] {
        let target = FIRMWARE_TARGET.replace("uart-hz = 25e6", &format!("uart-hz = {hz}"));
        let files = outcome(&cluster(bandwidth), &target, "digits").expect("it compiles");
        let (firmware, linux) = (&files["devices/chip/src/main.rs"], &files["devices/board/src/main.rs"]);
        assert!(firmware.contains(&format!(": (usize, u32) = (1073762304, {divider});")), "{bandwidth}: {firmware}");
        assert!(linux.contains(&format!("(0, {baud})")), "{bandwidth}: {linux}");
    }
    let tcp = cluster("1 Mbit/s").replace("\"uart\"", "\"tcp\"");
    let said = outcome(&tcp, FIRMWARE_TARGET, "digits").expect_err("firmware has no sockets");
    assert!(said.contains("E0165") && said.contains("UARTs only"), "{said}");
}
