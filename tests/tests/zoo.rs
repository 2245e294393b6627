//! The model zoo: architectures with random weights and one reference answer each, on single devices and split.
//!
//! Four small models lie in `../shared/zoo`; `PARTITA_ZOO=folder` adds the large ones (see that folder's README). Models
//! that are absent are skipped with a word; the committed models of `examples/` are tested in `examples.rs`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use partita_tests::bundle::{ClusterText, TOLERANCE, check};
use partita_tests::place::{self, further};
use partita_tests::reference;

/// Models that take seconds, not minutes, under emulation.
const SMALL: &[&str] = &["dscnn", "ecg1d", "resnet8", "squeezenet1_1"];

/// Models beyond the small ones that must answer as the reference does.
const LARGE: &[&str] = &["alexnet", "googlenet", "mobilenet_v2", "resnet18", "resnet50", "vgg16"];

/// Models that must at least compile, or be refused with a list of what is missing.
const FURTHER: &[&str] = &["c3d", "tiny_yolov2", "vit_tiny", "xception", "yolov2"];

struct ZooModel {
    model: PathBuf,
    reference: PathBuf,
}

/// Models at hand, by name.
fn zoo() -> BTreeMap<String, ZooModel> {
    let folders =
        [std::env::var_os("PARTITA_ZOO").map(PathBuf::from), place::shared().map(|folder| folder.join("zoo"))];
    let mut models = BTreeMap::new();
    for folder in folders.into_iter().flatten() {
        for model in place::files_below(&folder, &|path| path.extension().is_some_and(|extension| extension == "onnx"))
        {
            let reference = model.with_extension("npz");
            let name = model.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            if reference.is_file() {
                models.entry(name).or_insert(ZooModel { model, reference });
            }
        }
    }
    models
}

/// Calls `test` with each of the named models that is at hand.
fn each(names: &[&str], mut test: impl FnMut(&str, &Path, &Path)) {
    let zoo = zoo();
    for name in names {
        match zoo.get(*name) {
            Some(model) => test(name, &model.model, &model.reference),
            None => println!("skipped: {name} is not at hand (set PARTITA_ZOO)"),
        }
    }
}

fn each_on(names: &[&str], target: &str) {
    each(names, |name, model, reference| {
        check(&format!("{name} on {target}"), model, &ClusterText::single(target), reference, &[]);
    });
}

fn each_by_reference_kernels(names: &[&str]) {
    each(names, |name, model, answer| {
        let difference = reference::difference(model, answer);
        println!("{name} by reference kernels: differs by {difference:.1e} of the largest element");
        assert!(difference <= TOLERANCE, "{name}: differs by {difference:.2e} of the largest element");
    });
}

#[test]
fn small_models_by_reference_kernels() {
    each_by_reference_kernels(SMALL);
}

#[test]
fn large_models_by_reference_kernels() {
    each_by_reference_kernels(LARGE);
}

#[test]
fn further_models_by_reference_kernels() {
    each_by_reference_kernels(FURTHER);
}

#[test]
fn small_models_on_the_host() {
    each_on(SMALL, "host");
}

#[test]
fn small_models_on_aarch64() {
    each_on(&further(&["dscnn", "ecg1d"], &["resnet8", "squeezenet1_1"]), "raspberry-pi-4");
}

#[test]
fn small_models_on_armv7() {
    each_on(&further(&["dscnn"], &["resnet8"]), "armv7");
    each_on(&further(&[], &["resnet8"]), "armv7-vfp");
}

#[test]
fn large_models_on_the_host() {
    each_on(LARGE, "host");
}

#[test]
fn large_models_on_aarch64() {
    each_on(LARGE, "raspberry-pi-4");
}

#[test]
fn further_models_on_the_host() {
    each_on(FURTHER, "host");
}

#[test]
fn microcontroller_models_on_cortex_m7() {
    each_on(&further(&["dscnn"], &["resnet8"]), "cortex-m7");
}

#[test]
fn microcontroller_models_on_cortex_m4f() {
    each_on(&further(&["dscnn"], &["resnet8"]), "cortex-m4f");
}

/// No board holds more than 20 MiB of the 45 MiB of weights, so each of the three must take part.
#[test]
fn resnet18_as_a_pipeline_of_three_aarch64_devices() {
    each(&["resnet18"], |name, model, reference| {
        let mut cluster = ClusterText::new("first", "third");
        for device in ["first", "second", "third"] {
            cluster = cluster.device(device, "raspberry-pi-4", "flash = \"21 MiB\"");
        }
        for (a, b) in [("first", "second"), ("second", "third"), ("first", "third")] {
            cluster = cluster.link(a, b, "tcp", "100 Mbit/s");
        }
        let run = check(&format!("{name} on three boards"), model, &cluster, reference, &["--strategy", "pipeline"]);
        assert_eq!(run.computing, ["first", "second", "third"]);
    });
}

#[test]
fn dscnn_split_between_cortex_m7_and_aarch64_over_uart() {
    each(&["dscnn"], |name, model, reference| {
        let cluster = ClusterText::new("sensor", "board")
            .open()
            .device("sensor", "cortex-m7", "")
            .device("board", "raspberry-pi-4", "")
            .link("sensor", "board", "uart", "2 Mbit/s");
        let label = format!("{name} on a Cortex-M7 and a board");
        let run = check(&label, model, &cluster, reference, &["--strategy", "pipeline"]);
        assert_eq!(run.computing, ["sensor", "board"]);
    });
}
