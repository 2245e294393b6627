//! Builds the device crates of a bundle with cargo.
//!
//! A crate is built in a work folder that looks like the bundle: the runtime is copied, the devices are linked. What all
//! bundles have in common is compiled once and comes from [`super::cache`]. The work folder is named after what is
//! built and the compiler is told to write another name for it, so that the program does not depend on where it was made.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, bail, ensure};
use partita_learn::progress::say;

use super::cache::{self, Cache, Entry};
use super::executable::{self, SectionSizes};
use super::put;
use crate::config::{Device, System};
use crate::emit::model::library_name;
use crate::interrupt;

/// A linked device program.
#[derive(Clone, Debug)]
pub struct BuiltDevice {
    /// The executable in the bundle's `bin` folder, without symbols.
    pub binary: PathBuf,
    /// The same with symbols and line numbers, if they were asked for: in the bundle's `symbols` folder.
    pub symbols: Option<PathBuf>,
    /// What its sections need.
    pub sizes: SectionSizes,
}

/// How programs are built.
#[derive(Clone, Copy, Debug, Default)]
pub struct BuildOptions {
    /// Show what cargo says.
    pub verbose: bool,
    /// Keep the symbols of every program beside it.
    pub symbols: bool,
}

/// Folder of programs in a bundle.
pub const PROGRAMS: &str = "bin";

/// Folder of their symbols.
pub const SYMBOLS: &str = "symbols";

/// Builds one device crate and puts its executable to `bin/<device>`.
///
/// Errors: cargo is missing, the target is not installed (says the rustup command), or the crate does not build.
pub fn build_device(bundle: &Path, device: &Device, options: BuildOptions) -> anyhow::Result<BuiltDevice> {
    let mut built = build_devices(bundle, &[device], options)?;
    built.pop().context("cargo built nothing")
}

/// Builds device crates, those with the same settings at once. Results are in the order of `devices`.
pub fn build_devices(bundle: &Path, devices: &[&Device], options: BuildOptions) -> anyhow::Result<Vec<BuiltDevice>> {
    let bundle = std::path::absolute(bundle)?;
    let settings: Vec<String> = devices.iter().map(|device| settings(&bundle, device)).collect::<Result<_, _>>()?;
    let mut built: Vec<Option<BuiltDevice>> = vec![None; devices.len()];
    for first in 0..devices.len() {
        if built[first].is_some() {
            continue;
        }
        let alike: Vec<usize> = (first..devices.len()).filter(|other| settings[*other] == settings[first]).collect();
        let group: Vec<&Device> = alike.iter().map(|index| devices[*index]).collect();
        let results = Group { bundle: &bundle, devices: &group, settings: &settings[first], options }.build()?;
        alike.into_iter().zip(results).for_each(|(index, result)| built[index] = Some(result));
    }
    let built: Vec<BuiltDevice> =
        built.into_iter().map(|one| one.context("cargo built nothing")).collect::<Result<_, _>>()?;
    let programs: Vec<&Path> = built
        .iter()
        .flat_map(|one| [Some(&one.binary), one.symbols.as_ref()])
        .flatten()
        .map(PathBuf::as_path)
        .collect();
    super::output::add_programs(&bundle, &programs)?;
    Ok(built)
}

/// What cargo reads for a device beside its sources.
fn settings(bundle: &Path, device: &Device) -> anyhow::Result<String> {
    let path = bundle.join("devices").join(&device.name).join(".cargo/config.toml");
    std::fs::read_to_string(&path).with_context(|| format!("reading `{}`", path.display()))
}

/// Devices that cargo builds at once.
struct Group<'a> {
    bundle: &'a Path,
    devices: &'a [&'a Device],
    settings: &'a str,
    options: BuildOptions,
}

impl Group<'_> {
    fn build(&self) -> anyhow::Result<Vec<BuiltDevice>> {
        let cache = Cache::open()?;
        let rustc_version = rustc_version(&self.crate_folder())?;
        let work = cache.work_folder(&self.name()?)?;
        let target = work.path().join("target");
        {
            let entry = self.entry(&cache, &rustc_version)?;
            copy_parts(&entry, work.path())?;
        }
        for name in ["Cargo.toml", "Cargo.lock"] {
            let from = self.bundle.join(name);
            std::fs::copy(&from, work.path().join(name)).with_context(|| format!("reading `{}`", from.display()))?;
        }
        std::os::unix::fs::symlink(self.bundle.join("devices"), work.path().join("devices"))?;
        let packages: Vec<String> = self.devices.iter().map(|device| package_name(&device.name)).collect();
        self.cargo(&cache, work.path(), &packages, &self.libraries(&rustc_version))?;
        let mut folder = target;
        if self.devices[0].target.triple != "host" {
            folder.push(&self.devices[0].target.triple);
        }
        folder.push("release");
        self.devices.iter().map(|device| self.take(&folder, device)).collect()
    }

    /// Names what is built. Weights are large, and programs that differ in nothing else are of one plan.
    fn name(&self) -> anyhow::Result<String> {
        let mut files = vec![self.bundle.join("Cargo.lock")];
        for device in self.devices {
            let sources = files_below(&self.bundle.join("devices").join(&device.name))?;
            files.extend(sources.into_iter().filter(|path| path.extension().is_none_or(|extension| extension != "a")));
        }
        Ok(cache::name_of(&contents(self.bundle, &files)?))
    }

    /// What these devices have in common with those of other bundles, compiled.
    fn entry(&self, cache: &Cache, rustc_version: &str) -> anyhow::Result<Entry> {
        let runtime = files_below(&self.bundle.join("runtime-rt"))?;
        let firmware = self.devices[0].target.system == System::CortexM;
        let seed = super::seed_files(firmware)?;
        let mut parts = contents(self.bundle, &runtime)?;
        parts.extend(seed.iter().map(|(_, text)| text.clone().into_bytes()));
        parts.push(rustc_version.as_bytes().to_vec());
        let kind = cache::name_of(&parts);
        parts.push(self.settings.as_bytes().to_vec());
        parts.push(self.flags(cache).join(" ").into_bytes());
        let cargo = |folder: &Path| {
            seed.iter().try_for_each(|(path, text)| put(folder, path, text.as_bytes()))?;
            self.cargo(cache, folder, &[package_name(super::SEED)], &[])
        };
        let make = |folder: &Path| {
            for path in &runtime {
                let bytes = std::fs::read(path).with_context(|| format!("reading `{}`", path.display()))?;
                put(folder, path.strip_prefix(self.bundle).unwrap_or(path), &bytes)?;
            }
            cargo(folder)
        };
        let name = cache::name_of(&parts);
        if !firmware {
            return cache.entry(&name, make);
        }
        // Two thirds of what firmware needs are macros, which run on this machine: made for the first microcontroller,
        // they are everybody's.
        let first = cache.entry(&kind, make)?;
        cache.entry(&name, |folder| {
            copy_parts(&first, folder)?;
            let own = [OsStr::new("release"), OsStr::new(&self.devices[0].target.triple)];
            for entry in std::fs::read_dir(folder.join("target"))? {
                let entry = entry?;
                if entry.file_type()?.is_dir() && !own.contains(&entry.file_name().as_os_str()) {
                    std::fs::remove_dir_all(entry.path())?;
                }
            }
            cargo(folder)
        })
    }

    /// Where cargo and rustup look for what the user has set: the first device's folder.
    fn crate_folder(&self) -> PathBuf {
        self.bundle.join("devices").join(&self.devices[0].name)
    }

    /// What build scripts would say of the devices' libraries, as cargo's settings: then no script is compiled and run.
    /// Those of firmware say more than settings can.
    fn libraries(&self, rustc_version: &str) -> Vec<String> {
        let host = rustc_version.lines().find_map(|line| line.strip_prefix("host: "));
        let of_device = |device: &Device| {
            let triple = if device.target.triple == "host" { host? } else { &device.target.triple };
            let folder = self.bundle.join("devices").join(&device.name);
            let search = toml::Value::from(vec![format!("native={}", folder.to_str()?)]);
            let library = toml::Value::from(vec![format!("static:-bundle={}", library_name(&device.name))]);
            let package = package_name(&device.name);
            let setting = |key: &str, value| format!("target.{triple}.{package}.{key}={value}");
            Some([setting("rustc-link-search", search), setting("rustc-link-lib", library)])
        };
        let hosted = self.devices.iter().copied().filter(|device| device.target.system != System::CortexM);
        hosted.filter_map(of_device).flatten().collect()
    }

    /// Runs cargo on packages of a workspace.
    fn cargo(
        &self,
        cache: &Cache,
        workspace: &Path,
        packages: &[String],
        further_settings: &[String],
    ) -> anyhow::Result<()> {
        let names = self.devices.iter().map(|device| format!("`{}`", device.name)).collect::<Vec<_>>().join(", ");
        let (flags, target) = (self.flags(cache).join("\u{1f}"), workspace.join("target"));
        let run = |offline: bool| {
            let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
            command.current_dir(self.crate_folder()).args(["build", "--release", "--quiet", "--locked"]);
            command.arg("--manifest-path").arg(workspace.join("Cargo.toml"));
            for package in packages {
                command.args(["--package", package]);
            }
            // What is linked is stripped here, so that program and symbols are of one piece.
            command.args(["--config", "profile.release.strip=\"none\""]);
            for setting in further_settings {
                command.args(["--config", setting]);
            }
            if offline {
                command.arg("--offline");
            }
            // The surrounding build, if any, must not leak its flags into the device's.
            for (name, _) in std::env::vars_os().filter(|(name, _)| leaks(&name.to_string_lossy())) {
                command.env_remove(&name);
            }
            command.env("CARGO_ENCODED_RUSTFLAGS", &flags);
            command.env("CARGO_TARGET_DIR", &target).env("CARGO_BUILD_BUILD_DIR", &target);
            interrupt::output(&mut command)
                .context("starting cargo, which builds the device crates; install Rust from rustup.rs")
        };
        // Crates that the compiler itself was built with are usually at hand; ask the registry only if not.
        let mut output = run(true)?;
        if !output.status.success() && needs_registry(&output.stderr) {
            output = run(false)?;
        }
        self.judge(&output, &names)
    }

    fn judge(&self, output: &Output, names: &str) -> anyhow::Result<()> {
        let messages = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            let triple = &self.devices[0].target.triple;
            if messages.contains("can't find crate for `core`") || messages.contains("target may not be installed") {
                bail!("device {names} needs Rust's target {triple}: run `rustup target add {triple}`");
            }
            bail!("building device {names} in `{}` failed:\n{messages}", self.crate_folder().display());
        }
        if self.options.verbose && !messages.is_empty() {
            say(messages.trim_end());
        }
        Ok(())
    }

    /// Compiler flags: the device's, and names for folders that are this machine's alone.
    fn flags(&self, cache: &Cache) -> Vec<String> {
        let cargo_home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
        let cargo_home = cargo_home.or_else(|| std::env::home_dir().map(|home| home.join(".cargo")));
        let folders = cargo_home.map(|folder| (folder, "/cargo")).into_iter().chain([(cache.work(), "/partita")]);
        let renamed = folders.map(|(folder, name)| format!("--remap-path-prefix={}={name}", folder.display()));
        super::rust_flags(self.devices[0]).into_iter().chain(renamed).collect()
    }

    /// Puts a linked program into the bundle.
    fn take(&self, folder: &Path, device: &Device) -> anyhow::Result<BuiltDevice> {
        let linked = folder.join(package_name(&device.name));
        let mut whole = std::fs::read(&linked).with_context(|| format!("reading `{}`", linked.display()))?;
        executable::identify(&mut whole);
        let binary = self.bundle.join(PROGRAMS).join(&device.name);
        let symbols = self.bundle.join(SYMBOLS).join(&device.name);
        executable::write(&binary, executable::strip(&whole).as_deref().unwrap_or(&whole))?;
        if self.options.symbols {
            executable::write(&symbols, &whole)?;
        } else if symbols.exists() {
            // They would be another program's.
            std::fs::remove_file(&symbols).with_context(|| format!("removing `{}`", symbols.display()))?;
        }
        let sizes = executable::section_sizes(&binary)?;
        check_sizes(device, &sizes)?;
        Ok(BuiltDevice { binary, symbols: self.options.symbols.then_some(symbols), sizes })
    }
}

/// What an entry holds, to go on with in another folder.
fn copy_parts(entry: &Entry, folder: &Path) -> anyhow::Result<()> {
    ["runtime-rt", "target"].iter().try_for_each(|name| cache::copy(&entry.path.join(name), &folder.join(name)))
}

/// Whether a variable of a surrounding build would change how a device's crate is built.
fn leaks(name: &str) -> bool {
    let kept = ["CARGO_HOME", "CARGO_HTTP", "CARGO_NET", "CARGO_REGISTR", "CARGO_SOURCE"];
    let linker = name.starts_with("CARGO_TARGET_") && name.ends_with("_LINKER");
    let others = ["RUSTFLAGS", "RUSTC_WORKSPACE_WRAPPER"];
    others.contains(&name) || name.starts_with("CARGO_") && !kept.iter().any(|kept| name.starts_with(kept)) && !linker
}

fn needs_registry(stderr: &[u8]) -> bool {
    let text = String::from_utf8_lossy(stderr);
    text.contains("--offline") || text.contains("offline mode")
}

/// What the Rust compiler says of itself, in a folder that may choose its own.
fn rustc_version(folder: &Path) -> anyhow::Result<String> {
    let output = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| OsString::from("rustc")))
        .current_dir(folder)
        .arg("-vV")
        .output()
        .context("starting rustc, which builds the device crates; install Rust from rustup.rs")?;
    ensure!(output.status.success(), "`rustc -vV` failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Files below a folder, in order of path; what cargo made is left out.
fn files_below(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let entries = std::fs::read_dir(folder).with_context(|| format!("reading `{}`", folder.display()))?;
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            if entry.file_name() != "target" {
                found.extend(files_below(&entry.path())?);
            }
        } else {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// What files are called, relative to a folder, and what they hold.
fn contents(folder: &Path, files: &[PathBuf]) -> anyhow::Result<Vec<Vec<u8>>> {
    let mut parts = Vec::with_capacity(2 * files.len());
    for path in files {
        parts.push(path.strip_prefix(folder).unwrap_or(path).as_os_str().as_encoded_bytes().to_vec());
        parts.push(std::fs::read(path).with_context(|| format!("reading `{}`", path.display()))?);
    }
    Ok(parts)
}

/// Name of the cargo package of a device.
pub fn package_name(device: &str) -> String {
    format!("partita-device-{device}")
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
