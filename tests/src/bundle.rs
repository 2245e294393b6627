//! Compiling a model for a cluster, running it there, and comparing its answer with a reference.

use std::path::{Path, PathBuf};

use object::{Object, ObjectSymbol};

use crate::arrays;
use crate::command::{compile, require, succeed};

/// Largest difference from the reference, relative to its largest element, that float arithmetic in another order may
/// make (the project's bound for whole networks).
pub const TOLERANCE: f64 = 1e-4;

/// A cluster.toml under construction.
pub struct ClusterText {
    text: String,
}

impl ClusterText {
    /// A cluster without devices.
    pub fn new(input: &str, output: &str) -> ClusterText {
        ClusterText { text: format!("[cluster]\nname = \"test\"\ninput = \"{input}\"\noutput = \"{output}\"\n") }
    }

    /// A cluster of one device.
    pub fn single(target: &str) -> ClusterText {
        ClusterText::new("one", "one").device("one", target, "")
    }

    /// Whoever reaches its devices is believed.
    pub fn open(self) -> ClusterText {
        self.cluster_key("security = \"none\"")
    }

    /// Adds a line to the table of the cluster.
    pub fn cluster_key(mut self, line: &str) -> ClusterText {
        self.text = self.text.replacen("[cluster]\n", &format!("[cluster]\n{line}\n"), 1);
        self
    }

    /// Adds a device; `limits` are further lines of its table.
    pub fn device(mut self, name: &str, target: &str, limits: &str) -> ClusterText {
        self.text += &format!("\n[[device]]\nname = \"{name}\"\ntarget = \"{target}\"\n{limits}\n");
        self
    }

    /// Adds a link.
    pub fn link(mut self, a: &str, b: &str, transport: &str, bandwidth: &str) -> ClusterText {
        self.text += &format!(
            "\n[[link]]\nbetween = [\"{a}\", \"{b}\"]\ntransport = \"{transport}\"\nbandwidth = \"{bandwidth}\"\n\
             latency = \"0.5 ms\"\n"
        );
        self
    }

    /// Adds a network of several devices; `more` are further lines of its table.
    pub fn network(mut self, between: &[&str], more: &str) -> ClusterText {
        self.text += &format!("\n[[link]]\nbetween = {between:?}\ntransport = \"tcp\"\n{more}\n");
        self
    }

    /// Writes the file into a folder.
    pub fn write(&self, folder: &Path) -> PathBuf {
        let path = folder.join("cluster.toml");
        std::fs::write(&path, &self.text).expect("the temporary folder is writable");
        path
    }
}

/// What a run of the whole cluster told.
pub struct Run {
    /// Largest difference of any output, relative to the largest element of that output.
    pub difference: f64,
    /// Devices that computed something, in the order of the report.
    pub computing: Vec<String>,
    /// The report.
    pub report: serde_json::Value,
}

/// Compiles `model` for the cluster, runs it on the inputs in `reference` and compares with the outputs there.
///
/// Panics if anything on the way fails.
pub fn run(model: &Path, cluster: &ClusterText, reference: &Path, more: &[&str]) -> Run {
    for (target, emulator) in [
        ("raspberry-pi", "qemu-aarch64"),
        ("aarch64", "qemu-aarch64"),
        ("armv7", "qemu-arm"),
        ("cortex-m", "qemu-system-arm"),
    ] {
        if cluster.text.contains(&format!("target = \"{target}")) {
            require(emulator);
        }
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (out, answer) = (folder.path().join("out"), folder.path().join("answer.npz"));
    let output = succeed(
        compile()
            .arg(model)
            .arg("--targets")
            .arg(cluster.write(folder.path()))
            .arg("--out")
            .arg(&out)
            .args(["--run", "--input"])
            .arg(reference)
            .arg("--output")
            .arg(&answer)
            // Answers are compared with those of one device, unless links are what is tried.
            .args(if more.iter().any(|word| ["--link-error", "--plan"].contains(word)) {
                &[][..]
            } else {
                &["--link-error", "exact"]
            })
            .args(more),
    );
    let expected = arrays::read_f32(reference);
    let answers = arrays::read_f32(&answer);
    assert!(!answers.is_empty(), "no answer was written: {}", String::from_utf8_lossy(&output.stdout));
    let difference = answers.iter().fold(0.0f64, |worst, (name, array)| {
        let expected = expected.get(name).unwrap_or_else(|| panic!("the reference has no array `{name}`"));
        assert_eq!(array.shape, expected.shape, "shape of `{name}`");
        worst.max(arrays::relative_difference(&array.elements, &expected.elements))
    });
    let report = read_report(&out);
    let devices = report["devices"].as_array().expect("the report lists devices");
    let computing = devices
        .iter()
        .filter(|device| device["macs"].as_u64().is_some_and(|macs| macs > 0))
        .map(|device| device["name"].as_str().expect("a device has a name").to_string())
        .collect();
    Run { difference, computing, report }
}

/// The report of a bundle.
pub fn read_report(out: &Path) -> serde_json::Value {
    let text = std::fs::read_to_string(out.join("report.json")).expect("the bundle has a report");
    serde_json::from_str(&text).expect("the report is JSON")
}

/// Runs as [`run`] does, prints the difference, and fails if it is beyond [`TOLERANCE`].
pub fn check(label: &str, model: &Path, cluster: &ClusterText, reference: &Path, more: &[&str]) -> Run {
    let run = run(model, cluster, reference, more);
    println!(
        "{label}: differs by {:.1e} of the largest element, computed by {}",
        run.difference,
        run.computing.join(", ")
    );
    assert!(run.difference <= TOLERANCE, "{label}: differs by {:.2e} of the largest element", run.difference);
    run
}

/// Symbols of a linked program: name and size.
pub fn symbols(binary: &Path) -> Vec<(String, u64)> {
    let bytes = std::fs::read(binary).expect("the program was built");
    let file = object::File::parse(&*bytes).expect("the program is an object file");
    file.symbols().map(|symbol| (symbol.name().unwrap_or_default().to_string(), symbol.size())).collect()
}

/// Names in a linked program that tell of an allocator or a panic path.
pub fn forbidden_symbols(binary: &Path) -> Vec<String> {
    let forbidden = ["panic", "__rust_alloc", "__rg_alloc", "unwrap_failed", "expect_failed", "Formatter"];
    let names = symbols(binary).into_iter().map(|(name, _)| name);
    names.filter(|name| forbidden.iter().any(|word| name.contains(word))).collect()
}
