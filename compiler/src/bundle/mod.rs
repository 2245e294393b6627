//! The output folder: a crate per device, the plan, the reports, deployment files.
//!
//! Everything is written into a staging folder beside the output and swapped in at the end, so a failure leaves an
//! earlier bundle untouched; what the user has put into it stays ([`output`]). The folder stands alone: the runtime's
//! source is copied in.

pub mod cache;
pub mod cargo;
pub mod deployment;
pub mod executable;
pub mod identity;
pub mod output;
pub mod report;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, ensure};
use include_dir::{Dir, include_dir};
use minijinja::context;
use minijinja::value::{Serde, Value};

use crate::config::target::LEAST_DIVIDER;
use crate::config::{Device, System, Transport};
use crate::driver::Compiled;
use crate::emit::model::{EmittedModel, KernelsPlace, emit_model, is_object, peers, threads};
use crate::emit::steps::sanitize;
use crate::emit::templates;
use crate::interrupt::TemporaryFolder;
use crate::program::Step;
use partita_learn::progress::say;
use partita_rt::node::plan::DEVICES;

/// Its manifest has another name here, because cargo leaves folders with a manifest out of packages.
static RUNTIME: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/assets/runtime-rt");

/// Writes the bundle of a compiled model to `out`.
pub fn write(out: &Path, compiled: &Compiled, report: &report::Report) -> anyhow::Result<()> {
    let parent = out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).with_context(|| format!("creating `{}`", parent.display()))?;
    output::check(out)?;
    check_wire(compiled)?;
    identity::check(&compiled.cluster).map_err(|problem| anyhow!(problem.message))?;
    check_lines(compiled)?;
    let staging = TemporaryFolder::below(parent, ".partita-")
        .with_context(|| format!("creating a folder in `{}`", parent.display()))?;
    write_files(&staging, compiled, report)?;
    output::replace(staging, out)?;
    identity::write(out, compiled)
}

/// Devices that a frame can name; the last number is the local runner's.
const WIRE_DEVICES: usize = 255;

/// Messages of an inference that a frame can number.
const WIRE_MESSAGES: usize = 1 << 16;

/// Whether frames can carry the plan.
pub fn check_wire(compiled: &Compiled) -> anyhow::Result<()> {
    let devices = compiled.cluster.devices.len();
    ensure!(
        devices <= WIRE_DEVICES,
        "the cluster has {devices} devices, but frames name at most {WIRE_DEVICES}; such a plan can be simulated only (--simulate)"
    );
    let participants = compiled.routed.placed.programs.len();
    ensure!(
        participants <= DEVICES,
        "{participants} devices take part, but nodes know at most {DEVICES}; such a plan can be simulated only (--simulate)"
    );
    let sends = |step: &Step| if let Step::Exchange { sends, .. } = step { sends.len() } else { 0 };
    let messages: usize = compiled.routed.placed.programs.iter().flat_map(|program| &program.steps).map(sends).sum();
    ensure!(
        messages <= WIRE_MESSAGES,
        "the plan has {messages} messages, but frames number at most {WIRE_MESSAGES}; such a plan can be simulated only (--simulate)"
    );
    Ok(())
}

/// Whether boards have as many UARTs as their firmware is to have serial lines. What lines cannot be set to is told.
fn check_lines(compiled: &Compiled) -> anyhow::Result<()> {
    let cluster = &compiled.cluster;
    for (position, program) in compiled.routed.placed.programs.iter().enumerate() {
        let device = &cluster.devices[program.device];
        let peers = peers(&compiled.device_programs(position), compiled.routed.choices.as_ref(), program.device);
        let lines = peers.iter().filter_map(|peer| cluster.link(program.device, *peer));
        let lines: Vec<_> = lines.filter(|link| link.transport == Transport::Uart).collect();
        if let Some(map) = &device.target.memory_map {
            let most = map.uart_base.len().saturating_sub(1);
            ensure!(
                lines.len() <= most,
                "the plan joins device `{}` to {} peers by serial lines, but its board has {most} UARTs beside the console; \
                 such a plan can be simulated only (--simulate)",
                device.name,
                lines.len()
            );
        }
        for link in lines.into_iter().filter(|link| link.between.0 == program.device) {
            let (wanted, baud) = (link.wire_bits_per_second, cluster.baud(link));
            if f64::from(baud) < wanted * 0.98 {
                let (a, b) = (&cluster.devices[link.between.0].name, &cluster.devices[link.between.1].name);
                say(format_args!(
                    "warning: the line between `{a}` and `{b}` will run at {baud} bit/s, the most that its UARTs do, not at \
                     {wanted:.0} as the cluster file says and predictions assume"
                ));
            }
        }
    }
    Ok(())
}

fn write_files(folder: &Path, compiled: &Compiled, report: &report::Report) -> anyhow::Result<()> {
    put(folder, "plan.pb", &compiled.plan_bytes)?;
    write_report(folder, report)?;
    write_programs(folder, compiled)?;
    write_deployment(folder, compiled)
}

/// Writes the programs alone into a fresh folder, ready to be built.
pub fn write_programs(folder: &Path, compiled: &Compiled) -> anyhow::Result<()> {
    let context = compiled.model_context();
    write_runtime(folder)?;
    write_workspace(folder, compiled)?;
    for position in 0..compiled.routed.placed.programs.len() {
        let emitted = emit_model(&compiled.device_programs(position), &context, KernelsPlace::Sibling)?;
        write_crate(folder, position, compiled, emitted)?;
    }
    Ok(())
}

/// Writes `report.json` and `report.html`; also called again with measured figures.
pub fn write_report(folder: &Path, report: &report::Report) -> anyhow::Result<()> {
    let mut json = serde_json::to_string_pretty(report)?;
    json.push('\n');
    put(folder, "report.json", json.as_bytes())?;
    let page = templates::render("report/report.html.j2", Value::from(Serde(report)))?;
    put(folder, "report.html", page.as_bytes())
}

fn write_runtime(folder: &Path) -> anyhow::Result<()> {
    fn copy(folder: &Path, dir: &Dir<'_>) -> anyhow::Result<()> {
        for file in dir.files() {
            let path = if file.path() == Path::new("manifest.toml") { Path::new("Cargo.toml") } else { file.path() };
            put(folder, Path::new("runtime-rt").join(path), file.contents())?;
        }
        dir.dirs().try_for_each(|dir| copy(folder, dir))
    }
    copy(folder, &RUNTIME)
}

/// The workspace of all devices, and which versions of further crates they are built with.
fn write_workspace(folder: &Path, compiled: &Compiled) -> anyhow::Result<()> {
    let devices = compiled.routed.placed.programs.iter().map(|program| &compiled.cluster.devices[program.device]);
    let devices = devices.map(|device| (device.name.as_str(), device.target.system == System::CortexM)).collect();
    workspace_files(devices)?.into_iter().try_for_each(|(path, text)| put(folder, path, text.as_bytes()))
}

/// `Cargo.toml` and `Cargo.lock` of devices, each with whether it is firmware.
fn workspace_files(devices: Vec<(&str, bool)>) -> anyhow::Result<Vec<(&'static str, String)>> {
    let mut packages: Vec<(String, bool)> =
        devices.into_iter().map(|(name, firmware)| (cargo::package_name(name), firmware)).collect();
    packages.sort_unstable();
    let context = context! {
        version => env!("CARGO_PKG_VERSION"),
        firmware => packages.iter().any(|(_, firmware)| *firmware),
        packages => packages.iter().map(|(name, firmware)| context! { name => name, firmware => firmware }).collect::<Vec<_>>(),
    };
    let files = [("Cargo.toml", "bundle/Cargo.toml.j2"), ("Cargo.lock", "bundle/Cargo.lock.j2")];
    let render = |(path, template)| Ok((path, templates::render(template, context.clone())?));
    files.into_iter().map(render).collect()
}

/// Name of the device in [`seed_files`].
const SEED: &str = "seed";

/// A bundle without runtime whose device does nothing: what cargo compiles for it, it compiles for every device.
fn seed_files(firmware: bool) -> anyhow::Result<Vec<(&'static str, String)>> {
    let mut files = workspace_files(vec![(SEED, firmware)])?;
    let context = context! {
        version => env!("CARGO_PKG_VERSION"),
        package => cargo::package_name(SEED),
        library => "",
        firmware => firmware,
    };
    let main = "#![no_std]\n#![no_main]\n\n#[panic_handler]\nfn panic(_: &core::panic::PanicInfo<'_>) -> ! {\n    loop {}\n}\n";
    files.push(("devices/seed/Cargo.toml", templates::render("crate/Cargo.toml.j2", context)?));
    files.push(("devices/seed/src/lib.rs", "#![no_std]\n".to_string()));
    files.push(("devices/seed/src/main.rs", if firmware { main.to_string() } else { "fn main() {}\n".to_string() }));
    Ok(files)
}

fn write_crate(folder: &Path, position: usize, compiled: &Compiled, emitted: EmittedModel) -> anyhow::Result<()> {
    let program = &compiled.routed.placed.programs[position];
    let device = &compiled.cluster.devices[program.device];
    let target = &device.target;
    let firmware = target.system == System::CortexM;
    let root = PathBuf::from("devices").join(&device.name);
    let context = context! {
        version => env!("CARGO_PKG_VERSION"),
        model => sanitize(&compiled.model_name),
        cluster => sanitize(&compiled.cluster.name),
        device => device.name.as_str(),
        target => target.name.as_str(),
        package => cargo::package_name(&device.name),
        crate_name => cargo::package_name(&device.name).replace('-', "_"),
        library => emitted.library.as_str(),
        firmware => firmware,
        object => is_object(target),
        triple => if target.triple == "host" { "" } else { target.triple.as_str() },
        rustflags => rust_flags(device),
        memory_map => Value::from(Serde(&target.memory_map)),
        cycles_per_us => target.memory_map.as_ref().map_or(1, |map| ((map.core_hz * 1e-6).round() as u64).max(1)),
        least_divider => LEAST_DIVIDER,
        ram_bytes => device.ram_bytes,
        flash_bytes => device.flash_bytes,
        links => link_contexts(compiled, position),
        family => compiled.routed.choices.is_some(),
        keeps_input => keeps_input(compiled, position),
        threads => threads(&compiled.device_programs(position)),
        holds_input => !program.inputs.is_empty(),
        holds_output => !program.outputs.is_empty(),
        exits => compiled.graph.exits().len(),
        states => program.state_regions().is_some(),
        secure => identity::is_needed(compiled),
    };
    let mut files = vec![
        ("Cargo.toml", "crate/Cargo.toml.j2"),
        ("build.rs", "crate/build.rs.j2"),
        (".cargo/config.toml", "crate/config.toml.j2"),
        ("src/lib.rs", "crate/lib.rs.j2"),
    ];
    if firmware {
        files.push(("src/main.rs", "cortex-m/main.rs.j2"));
        files.push(("memory.x", "cortex-m/memory.x.j2"));
    } else {
        files.push(("src/main.rs", "linux/main.rs.j2"));
    }
    for (path, template) in files {
        put(folder, root.join(path), templates::render(template, context.clone())?.as_bytes())?;
    }
    put(folder, root.join("src/model.rs"), emitted.model_source.as_bytes())?;
    put(folder, root.join("src/kernels.rs"), emitted.kernels_source.as_bytes())?;
    put(folder, root.join(format!("lib{}.a", emitted.library)), &emitted.library_bytes)
}

/// Whether firmware keeps an input beside the arena: where it may have to be tried again, or on another route.
fn keeps_input(compiled: &Compiled, position: usize) -> bool {
    let (program, choices) = (&compiled.routed.placed.programs[position], compiled.routed.choices.as_ref());
    let alone = peers(&compiled.device_programs(position), choices, program.device).is_empty();
    !program.inputs.is_empty() && (choices.is_some() || !alone)
}

/// Links of one device, as the templates of its `main` want them.
fn link_contexts(compiled: &Compiled, position: usize) -> Vec<Value> {
    let (program, cluster) = (&compiled.routed.placed.programs[position], &compiled.cluster);
    let mut next_uart = 0;
    peers(&compiled.device_programs(position), compiled.routed.choices.as_ref(), program.device)
        .into_iter()
        .map(|peer| {
            let link = cluster.link(program.device, peer);
            let transport = link.map_or(Transport::Tcp, |link| link.transport);
            let baud = link.map_or(0, |link| cluster.baud(link));
            let map = cluster.devices[program.device].target.memory_map.as_ref();
            // UART 0 is the console; links take the next ones in the order of their peers.
            next_uart += usize::from(transport == Transport::Uart);
            context! {
                peer => peer,
                name => cluster.devices[peer].name.as_str(),
                transport => transport.word(),
                uart => next_uart,
                baud => baud,
                divider => map.map_or(0, |map| map.divider(baud)),
                address => cluster.devices[peer].address.clone(),
            }
        })
        .collect()
}

/// Compiler flags of a device's crate.
pub fn rust_flags(device: &Device) -> Vec<String> {
    let target = &device.target;
    let mut flags = Vec::new();
    if !target.cpu.is_empty() {
        flags.extend(["-C".to_string(), format!("target-cpu={}", target.cpu)]);
    }
    // Keys are agreed on once in a connection's life: vectors for that would have a procedural macro built first.
    if target.system == System::Linux {
        flags.push("--cfg=curve25519_dalek_backend=\"serial\"".to_string());
    }
    // musl targets carry their C runtime, and rust-lld comes with Rust: no cross linker has to be installed.
    if target.triple.ends_with("-musl") && target.triple != "host" {
        flags.extend(["-C", "linker=rust-lld", "-C", "link-self-contained=yes"].map(str::to_string));
    }
    // The C library of these boards needs their own linker.
    if target.triple.ends_with("v7-unknown-linux-gnueabihf") || target.triple.starts_with("thumbv7neon-") {
        flags.extend(["-C", "linker=arm-linux-gnueabihf-gcc"].map(str::to_string));
    }
    flags
}

fn write_deployment(folder: &Path, compiled: &Compiled) -> anyhow::Result<()> {
    let devices: Vec<_> = compiled
        .routed
        .placed
        .programs
        .iter()
        .enumerate()
        .map(|(position, program)| {
            let device = &compiled.cluster.devices[program.device];
            context! {
                    name => device.name.as_str(),
                    target => device.target.name.as_str(),
                    description => device.target.description.as_str(),
                    triple => device.target.triple.as_str(),
                    firmware => device.target.system == System::CortexM,
                    address => device.address.clone(),
                    package => cargo::package_name(&device.name),
                    links => link_contexts(compiled, position),
                    holds_input => !program.inputs.is_empty(),
                    holds_output => !program.outputs.is_empty(),
            exits => compiled.graph.exits().len(),
                }
        })
        .collect();
    let files = deployment::files(compiled, devices)?;
    files.into_iter().try_for_each(|(name, text)| put(folder, Path::new("deploy").join(name), text.as_bytes()))
}

fn put(folder: &Path, path: impl AsRef<Path>, bytes: &[u8]) -> anyhow::Result<()> {
    let path = folder.join(path);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("creating `{}`", parent.display()))?;
    }
    fs::write(&path, bytes).with_context(|| format!("writing `{}`", path.display()))
}
