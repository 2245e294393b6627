//! Builds the device crates of a bundle with cargo, and reads what the linker made of them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};
use object::{Object, ObjectSection, SectionFlags, SectionKind};

use crate::config::{Device, System};

/// A linked device program.
#[derive(Clone, Debug)]
pub struct BuiltDevice {
    /// The executable in the bundle's `bin` folder.
    pub binary: PathBuf,
    /// What its sections need.
    pub sizes: SectionSizes,
}

/// Memory a linked program occupies, from its section table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SectionSizes {
    /// Executable sections.
    pub code_bytes: u64,
    /// Everything that is loaded from storage: code, constants, weights, initial values.
    pub flash_bytes: u64,
    /// Writable memory: initialised and zeroed data, the arena among them.
    pub ram_bytes: u64,
}

/// Builds one device crate and copies its executable to `bin/<device>`.
///
/// Errors: cargo is missing, the target is not installed (says the rustup command), or the crate does not build.
pub fn build_device(bundle: &Path, device: &Device, verbose: bool) -> anyhow::Result<BuiltDevice> {
    let crate_folder = bundle.join("devices").join(&device.name);
    let target_folder = std::path::absolute(bundle.join("target"))?;
    let run = |offline: bool| {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.current_dir(&crate_folder).args(["build", "--release", "--quiet"]);
        if offline {
            command.arg("--offline");
        }
        // The surrounding build, if any, must not leak its flags into the device's.
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("CARGO_") && !text.starts_with("CARGO_HOME") && !text.starts_with("CARGO_HTTP")
                || text == "RUSTFLAGS"
                || text == "CARGO_ENCODED_RUSTFLAGS"
            {
                command.env_remove(&name);
            }
        }
        command.env("CARGO_TARGET_DIR", &target_folder);
        command.output().context("starting cargo, which builds the device crates; install Rust from rustup.rs")
    };
    // Crates that the compiler itself was built with are usually at hand; ask the registry only if not.
    let mut output = run(true)?;
    if !output.status.success() && needs_registry(&output.stderr) {
        output = run(false)?;
    }
    let messages = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        let triple = &device.target.triple;
        if messages.contains("can't find crate for `core`") || messages.contains("target may not be installed") {
            bail!("device `{}` needs Rust's target {triple}: run `rustup target add {triple}`", device.name);
        }
        bail!("building device `{}` in `{}` failed:\n{messages}", device.name, crate_folder.display());
    }
    if verbose && !messages.is_empty() {
        eprint!("{messages}");
    }
    let mut built = target_folder;
    if device.target.triple != "host" {
        built.push(&device.target.triple);
    }
    built.push("release");
    built.push(package_name(&device.name));
    let binary = bundle.join("bin").join(&device.name);
    std::fs::create_dir_all(bundle.join("bin"))?;
    std::fs::copy(&built, &binary).with_context(|| format!("copying `{}`", built.display()))?;
    let sizes = section_sizes(&binary)?;
    check_sizes(device, &sizes)?;
    Ok(BuiltDevice { binary, sizes })
}

fn needs_registry(stderr: &[u8]) -> bool {
    let text = String::from_utf8_lossy(stderr);
    text.contains("--offline") || text.contains("offline mode")
}

/// Name of the cargo package of a device.
pub fn package_name(device: &str) -> String {
    format!("partita-device-{device}")
}

/// Reads the sizes of the sections that are in memory when the program runs.
pub fn section_sizes(binary: &Path) -> anyhow::Result<SectionSizes> {
    let bytes = std::fs::read(binary).with_context(|| format!("reading `{}`", binary.display()))?;
    let file = object::File::parse(&*bytes).with_context(|| format!("reading `{}`", binary.display()))?;
    let mut sizes = SectionSizes::default();
    for section in file.sections() {
        let SectionFlags::Elf { sh_flags, .. } = section.flags() else { continue };
        let has = |flag: object::elf::SectionFlags| sh_flags.0 & flag.0 != 0;
        let (allocated, writable) = (has(object::elf::SHF_ALLOC), has(object::elf::SHF_WRITE));
        if !allocated {
            continue;
        }
        let zeroed = section.kind() == SectionKind::UninitializedData;
        if section.kind() == SectionKind::Text {
            sizes.code_bytes += section.size();
        }
        if !zeroed {
            sizes.flash_bytes += section.size();
        }
        if writable {
            sizes.ram_bytes += section.size();
        }
    }
    Ok(sizes)
}

/// Refuses a program that does not fit its device, now that its real size is known.
fn check_sizes(device: &Device, sizes: &SectionSizes) -> anyhow::Result<()> {
    let in_ram = match device.target.system {
        System::Linux => sizes.ram_bytes + sizes.flash_bytes,
        System::CortexM => sizes.ram_bytes,
    };
    ensure!(
        in_ram <= device.ram_bytes,
        "the linked program of device `{}` needs {in_ram} bytes of RAM, but it has {}",
        device.name,
        device.ram_bytes
    );
    ensure!(
        sizes.flash_bytes <= device.flash_bytes,
        "the linked program of device `{}` needs {} bytes of flash, but it has {}",
        device.name,
        sizes.flash_bytes,
        device.flash_bytes
    );
    Ok(())
}
