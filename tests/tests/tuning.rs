//! `--tune`: the alternatives of each convolution are measured, and the record is used.

use std::fs;
use std::path::Path;

use onnx_protobuf::{GraphProto, Message, ModelProto};
use partita_tests::command::{compile, succeed};
use partita_tests::onnx;

const CLUSTER: &str =
    "[cluster]\nname = \"one\"\ninput = \"d\"\noutput = \"d\"\n\n[[device]]\nname = \"d\"\ntarget = \"host\"\n";

/// Four convolutions of whole vectors on any machine, three of which Winograd's algorithm may do.
fn model() -> ModelProto {
    let mut graph = GraphProto {
        name: "convolutions".to_string(),
        input: vec![onnx::value_info("t0", &[1, 16, 20, 20])],
        output: vec![onnx::value_info("t4", &[1, 48, 20, 20])],
        ..GraphProto::default()
    };
    for (index, (channels, filters, kernel)) in
        [(16, 32, 3), (32, 16, 1), (16, 16, 3), (16, 48, 3)].into_iter().enumerate()
    {
        let (x, w, y) = (format!("t{index}"), format!("w{index}"), format!("t{}", index + 1));
        let count = filters * channels * kernel * kernel;
        let weights = (0..count).map(|at| (at * 37 % 101) as f32 / 101.0 - 0.5).collect();
        graph.initializer.push(onnx::constant(&w, &[filters, channels, kernel, kernel], weights));
        graph.node.push(onnx::node("Conv", &[&x, &w], &[&y], vec![onnx::ints("pads", &[kernel / 2; 4])]));
    }
    onnx::model(17, graph)
}

fn run(cluster: &Path, out: &Path, options: &[&str]) -> String {
    let path = cluster.with_file_name("model.onnx");
    fs::write(&path, model().write_to_bytes().expect("bytes")).expect("the folder can be written");
    let mut command = compile();
    command.arg(path).arg("--targets").arg(cluster).arg("--out").arg(out).args(options);
    String::from_utf8_lossy(&succeed(&mut command).stdout).into_owned()
}

#[test]
fn the_quickest_alternatives_are_kept_and_taken() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (cluster, out) = (folder.path().join("cluster.toml"), folder.path().join("out"));
    fs::write(&cluster, CLUSTER).expect("the folder can be written");
    let said = run(&cluster, &out, &["--tune"]);
    assert!(said.contains("whole model: ") && said.contains("cluster.tuned.toml"), "{said}");
    let record = folder.path().join("cluster.tuned.toml");
    let text = fs::read_to_string(&record).expect("the record is written");
    let count = text.matches("[[convolution]]").count();
    assert!(count > 3 && text.matches("target = \"host\"").count() == count, "{text}");
    // Every convolution is done as the record says, and computes the same.
    let forced = text
        .lines()
        .map(|line| if line.starts_with("form = ") { "form = \"direct\"" } else { line })
        .collect::<Vec<&str>>()
        .join("\n");
    fs::write(&record, forced).expect("the record can be written");
    run(&cluster, &out, &["--verify"]);
    let winograd =
        |out: &Path| fs::read_to_string(out.join("report.json")).expect("a report").matches("error_bound").count();
    assert_eq!(winograd(&out), 0, "all is direct");
    fs::remove_file(&record).expect("the record can be removed");
    run(&cluster, &out, &["--build"]);
    assert!(winograd(&out) > 0, "by estimate some is not");
}

#[test]
fn a_broken_record_is_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let cluster = folder.path().join("cluster.toml");
    fs::write(&cluster, CLUSTER).expect("the folder can be written");
    fs::write(folder.path().join("cluster.tuned.toml"), "[[convolution]]\nvectors = 99\n").expect("written");
    let output = compile()
        .args(["examples/resnet/model.onnx", "--simulate", "--targets"])
        .arg(&cluster)
        .output()
        .expect("the compiler starts");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("E0173") && said.contains("cluster.tuned.toml"), "{said}");
}
