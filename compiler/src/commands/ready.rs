//! Looks before anything long begins: data files, folders for results, emulators, linkers, Rust's targets, addresses.

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};

use crate::cli::{Arguments, preparation};
use crate::config::{Cluster, Device, System};
use crate::data;
use crate::diagnostic::Diagnostic;
use crate::driver::Failure;
use crate::exits::existing_exits::divided;
use crate::fit;
use crate::graph::{Graph, TensorId, Value};
use crate::samples::{self, Samples};

/// Labelled samples of --evaluate, one sample each.
pub(super) struct Labelled {
    /// The samples.
    pub(super) inputs: Vec<Value>,
    /// Their classes.
    pub(super) labels: Vec<usize>,
    /// Name of the output that is judged, and of all that there are.
    pub(super) judged: String,
    /// How many outputs the model has.
    pub(super) outputs: usize,
}

/// Files that are named on the command line: what is read must be there and of the right kind, what is written must have
/// a folder.
pub(super) fn check_files(arguments: &Arguments) -> Result<(), Failure> {
    files(arguments).map_err(Failure::Environment)
}

fn files(arguments: &Arguments) -> anyhow::Result<()> {
    for (option, path) in arguments.data_files() {
        let is_file = std::fs::metadata(path).with_context(|| format!("{option}: opening `{}`", path.display()));
        ensure!(is_file?.is_file(), "{option}: `{}` is not a file", path.display());
        data::refuse_other_formats(path).context(option)?;
    }
    for (option, path) in arguments.written_files() {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        ensure!(folder.is_dir(), "{option}: there is no folder `{}`", folder.display());
        ensure!(!path.is_dir(), "{option}: `{}` is a folder", path.display());
        // Nobody may read from a pipe, and a device is no file; a terminal or /dev/null is written as any program does.
        let is_other = std::fs::metadata(path).is_ok_and(|it| !it.is_file() && !it.file_type().is_char_device());
        ensure!(!is_other, "{option}: `{}` is no regular file", path.display());
    }
    if let Some(out) = &arguments.out {
        ensure!(!out.is_file(), "--out: `{}` is a file; give a folder", out.display());
        let nearest = out.ancestors().find(|folder| folder.as_os_str().is_empty() || folder.exists());
        if let Some(nearest) = nearest.filter(|folder| !folder.as_os_str().is_empty()) {
            ensure!(nearest.is_dir(), "--out: `{}` is a file; give a folder", nearest.display());
        }
    }
    if let Some(launcher) = &arguments.launcher {
        ensure!(
            find(&launcher.to_string_lossy()).is_some(),
            "--launcher: there is no program `{}`",
            launcher.display()
        );
    }
    Ok(())
}

/// Programs and Rust targets without which devices can neither be built nor run.
pub(super) fn check_tools<'a>(
    arguments: &Arguments,
    devices: impl IntoIterator<Item = &'a Device>,
) -> Result<(), Failure> {
    let runs = arguments.run || arguments.evaluate.is_some() || arguments.verify || arguments.measure || arguments.tune;
    let mut devices = devices.into_iter();
    devices.try_for_each(|device| tools(arguments, device, runs)).map_err(Failure::Environment)
}

/// Whether what would be measured runs in emulators here; refused unless the user insists.
pub(super) fn check_measuring(arguments: &Arguments, cluster: &Cluster) -> Result<bool, Failure> {
    let emulated = |device: &&Device| device.target.emulator.is_some() && arguments.launcher.is_none();
    let Some(device) = cluster.devices.iter().find(emulated) else { return Ok(false) };
    if arguments.measure_emulated {
        return Ok(true);
    }
    let program = device.target.emulator.as_ref().and_then(|emulator| emulator.command.first());
    let message = format!(
        "device `{}` would run in {} on this machine, whose times say nothing about a {}",
        device.name,
        program.map_or("an emulator", String::as_str),
        device.target.name
    );
    let help =
        "give --launcher, a program that starts the devices where they are; or --measure-emulated, to try the tool out";
    Err(Failure::Input(vec![Diagnostic::new("E0174", message).help(help)]))
}

fn tools(arguments: &Arguments, device: &Device, runs: bool) -> anyhow::Result<()> {
    let cargo = std::env::var_os("CARGO").map_or_else(|| "cargo".to_string(), |path| path.to_string_lossy().into());
    ensure!(
        find(&cargo).is_some(),
        "`{cargo}`, which builds the device crates, is not installed; install Rust from rustup.rs"
    );
    // Build scripts are linked for this machine, whatever the device is.
    ensure!(find("cc").is_some(), "the linker `cc` is not installed, which Rust needs; on Debian: apt install gcc");
    let triple = &device.target.triple;
    ensure!(
        triple == "host" || has_rust_target(triple),
        "device `{}` needs Rust's target {triple}: run `rustup target add {triple}`",
        device.name
    );
    for flag in crate::bundle::rust_flags(device) {
        if let Some(linker) = flag.strip_prefix("linker=").filter(|linker| *linker != "rust-lld") {
            ensure!(
                find(linker).is_some(),
                "device `{}` needs the linker `{linker}`, which is not installed; on Debian: apt install {}",
                device.name,
                package(linker)
            );
        }
    }
    if !runs {
        return Ok(());
    }
    if arguments.launcher.is_some() {
        ensure!(
            device.address.is_some() || device.target.system == System::CortexM,
            "device `{}` has no address; with --launcher, cluster.toml says where each device listens",
            device.name
        );
        return Ok(());
    }
    match &device.target.emulator {
        Some(emulator) => {
            let program = emulator.command.first().map_or("", String::as_str);
            ensure!(
                find(program).is_some(),
                "device `{}` needs `{program}` to run on this machine, which is not installed; on Debian: apt install {}; \
                 or reach the device itself with --launcher",
                device.name,
                package(program)
            );
        }
        None if device.target.system == System::CortexM => bail!(
            "target `{}` of device `{}` has no [emulator] to run its firmware on this machine",
            device.target.name,
            device.name
        ),
        None => {}
    }
    Ok(())
}

/// Debian's package of a program.
fn package(program: &str) -> &str {
    match program {
        "arm-linux-gnueabihf-gcc" => "gcc-arm-linux-gnueabihf",
        "qemu-system-arm" => "qemu-system-arm",
        user if user.starts_with("qemu-") => "qemu-user",
        other => other,
    }
}

/// Where a program is: at its path, or in one of the folders of `PATH`.
fn find(program: &str) -> Option<PathBuf> {
    if program.contains('/') {
        return Path::new(program).is_file().then(|| PathBuf::from(program));
    }
    let folders = std::env::var_os("PATH")?;
    std::env::split_paths(&folders).map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// Whether Rust can compile for a target. A compiler that does not say where it keeps them is believed to.
fn has_rust_target(triple: &str) -> bool {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let Ok(output) = Command::new(rustc).args(["--print", "sysroot"]).output() else { return true };
    let root = String::from_utf8_lossy(&output.stdout).trim().to_string();
    root.is_empty() || Path::new(&root).join("lib/rustlib").join(triple).join("lib").is_dir()
}

/// Refuses to prepare data twice: with `[input]` in the cluster file they lie in their files as they are handed in.
pub(super) fn check_preparation(arguments: &Arguments, cluster: &Cluster) -> Result<(), Failure> {
    let Some(form) = &cluster.input_form else { return Ok(()) };
    let twice = if arguments.layout == fit::DataLayout::Nhwc && form.channels_last {
        "--layout nhwc"
    } else if arguments.normalize.is_some() {
        "--normalize"
    } else {
        return Ok(());
    };
    let message = format!("{twice} is not needed: with [input] in the cluster file, the program does that itself");
    let help = format!("leave {twice} out, and give data as the camera or microphone does");
    Err(Failure::Input(vec![Diagnostic::new("E0145", message).help(help)]))
}

/// The input of --run, read and arranged for one sample or for all that are answered together.
pub(super) fn input(arguments: &Arguments, graph: &Graph) -> anyhow::Result<Option<Vec<Value>>> {
    let Some(path) = &arguments.input else { return Ok(None) };
    let names: Vec<&str> = graph.given_inputs().iter().map(|input| graph.tensor(*input).name.as_str()).collect();
    let arrays = data::read_npz_for(path, &names)?;
    let bound = samples::bind(graph, &arrays, &preparation(arguments));
    Ok(Some(bound.with_context(|| format!("`{}` does not fit the model", path.display()))?))
}

/// The samples of --evaluate, with the output that they judge.
pub(super) fn evaluation(arguments: &Arguments, graph: &Graph) -> Result<Option<Labelled>, Failure> {
    let Some(path) = &arguments.evaluate else { return Ok(None) };
    // Outputs that are exits leave the model's answer.
    let (judged, outputs) = match &arguments.exit_outputs[..] {
        [] => (graph.returned_outputs().first().copied(), graph.returned_outputs().len()),
        names => (Some(divided(graph, names).map_err(|refusal| Failure::Input(vec![refusal]))?.1), 1),
    };
    let judged = judged.context("the model has no output to judge");
    let labelled = judged.and_then(|output| labelled(arguments, path, graph, output, outputs));
    labelled.map(Some).map_err(Failure::Environment)
}

/// Labelled samples that fit the model: their classes are those of `output`, one of `outputs`.
fn labelled(
    arguments: &Arguments,
    path: &Path,
    graph: &Graph,
    output: TensorId,
    outputs: usize,
) -> anyhow::Result<Labelled> {
    let misfit = || format!("`{}` does not fit the model", path.display());
    let Samples { inputs, labels } =
        samples::load(path, graph, &preparation(arguments), arguments.samples).with_context(misfit)?;
    let labels = labels.with_context(|| format!("`{}` has no labels: array `y`", path.display()))?;
    let name = crate::diagnostic::printable(&graph.tensor(output).name);
    let classes = graph.tensor_type(output).element_count();
    ensure!(
        classes > 1,
        "output `{name}` is {}: no scores of classes that labels could be compared with",
        graph.tensor_type(output)
    );
    if let Some((message, help)) = fit::label_fault(&labels, classes) {
        return Err(anyhow::anyhow!("{message}; {help}")).with_context(misfit);
    }
    Ok(Labelled { inputs, labels, judged: name, outputs })
}
