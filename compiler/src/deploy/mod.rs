//! Installs a built cluster on its machines over ssh: a new version is laid beside the old one, all devices are switched to
//! it, and back if the cluster does not answer.
//!
//! What is done on a machine is `on_device.sh`; whether the cluster answers, the caller knows.

mod machine;
pub mod state;

use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};
use sha2::{Digest, Sha256};

use crate::bundle::cargo::BuiltDevice;
use crate::bundle::deployment::{Service, device_files, services};
use crate::bundle::identity;
use crate::config::{Cluster, Device, System};
use crate::diagnostic::{Diagnostic, printable};
use crate::driver::{Compiled, Failure};
use crate::interrupt::TemporaryFolder;

pub use machine::{Carrier, Machine};
use state::DeviceState;

/// Room that a machine has to have beside the files, for the old version and logs.
const SPARE_KIB: u64 = 4096;

/// One device that is installed.
struct Site {
    machine: Machine,
    service: Service,
    found: Found,
    /// Empty until its files are there.
    version: String,
}

/// What there is on a machine before anything is done.
struct Found {
    free_kib: u64,
    /// Version that runs there, if anything does.
    version: Option<String>,
}

/// A plan on its way to its machines.
pub struct Deployment {
    sites: Vec<Site>,
    /// Devices that an earlier plan has used and this one does not.
    retired: Vec<Machine>,
}

impl Deployment {
    /// Looks at all machines before anything is built.
    ///
    /// Errors: everything that is in the way on any of them (E0700), at once.
    pub fn look(compiled: &Compiled) -> Result<Deployment, Failure> {
        let cluster = &compiled.cluster;
        refuse_firmware(compiled)?;
        let services = services(compiled).map_err(|message| Failure::Input(vec![Diagnostic::new("E0700", message)]))?;
        let taking_part = compiled.routed.placed.programs.iter().map(|program| &cluster.devices[program.device]);
        let taking_part: Vec<&Device> = taking_part.collect();
        let found = at_once(&taking_part, |device| probe(cluster, device));
        let (mut sites, mut problems) = (Vec::new(), Vec::new());
        for (service, found) in services.into_iter().zip(found) {
            match found {
                Ok((machine, found)) => sites.push(Site { machine, service, found, version: String::new() }),
                Err(diagnostic) => problems.push(diagnostic),
            }
        }
        refuse_all(problems)?;
        let others = cluster.devices.iter().filter(|device| !taking_part.iter().any(|other| other.name == device.name));
        let others = others.filter(|device| device.target.system == System::Linux);
        let others: Vec<Machine> = others.filter_map(|device| Machine::of(cluster, device)).collect();
        // Who is not reached is not in the way.
        let found = at_once(&others, |machine| machine.run("probe", &[], &[]));
        let is_installed =
            |said: &Result<String, Diagnostic>| said.as_ref().is_ok_and(|said| word(said, "version").is_some());
        let retired = others.into_iter().zip(found).filter(|(_, said)| is_installed(said)).map(|(machine, _)| machine);
        Ok(Deployment { sites, retired: retired.collect() })
    }

    /// Carries the programs to the machines; what runs there goes on.
    ///
    /// Errors: machines that have no room or on which a program does not start (E0700).
    pub fn carry(&mut self, compiled: &Compiled, built: &[BuiltDevice], out: &Path) -> Result<(), Failure> {
        let mut all_files = Vec::with_capacity(built.len());
        let mut problems = Vec::new();
        for (site, built) in self.sites.iter_mut().zip(built) {
            let (version, files) = version(&site.service, &compiled.cluster, built, compiled.plan_hash, out)
                .map_err(Failure::Environment)?;
            let needed_kib = 2 * files.len() as u64 / 1024 + SPARE_KIB;
            if site.found.free_kib < needed_kib {
                let free_kib = site.found.free_kib;
                let message = site.machine.says(&format!("{free_kib} KiB are free there, {needed_kib} KiB are needed"));
                problems.push(Diagnostic::new("E0700", message).help("make room there"));
            }
            site.version = version;
            all_files.push(files);
        }
        refuse_all(problems)?;
        let loads: Vec<(&Site, Vec<u8>)> = self.sites.iter().zip(all_files).collect();
        let put = at_once(&loads, |(site, files)| site.machine.run("put", &[&site.version], files));
        let problems: Vec<Diagnostic> = put.into_iter().filter_map(Result::err).collect();
        if !problems.is_empty() {
            // What runs there may be of the same version.
            let others = self.sites.iter().filter(|site| site.found.version.as_ref() != Some(&site.version));
            at_once(&others.collect::<Vec<_>>(), |site| site.machine.run("drop", &[&site.version], &[]));
        }
        refuse_all(problems)
    }

    /// Switches all machines to the new version, which starts there.
    pub fn switch(&self) -> Result<(), Vec<Diagnostic>> {
        let switched = at_once(&self.sites, |site| site.machine.run("switch", &[&site.version], &[]));
        let problems: Vec<Diagnostic> = switched.into_iter().filter_map(Result::err).collect();
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    /// Switches all machines back to what ran there before; what could not be done.
    pub fn go_back(&self) -> Vec<Diagnostic> {
        let back = |site: &Site| site.machine.run("back", &[&site.version, site.before()], &[]);
        at_once(&self.sites, back).into_iter().filter_map(Result::err).collect()
    }

    /// Removes versions before the last, and what runs on machines that the plan does not use; what could not be done.
    pub fn tidy(&self) -> Vec<Diagnostic> {
        let keep = |site: &Site| site.machine.run("keep", &[&site.version, site.before()], &[]);
        let kept = at_once(&self.sites, keep).into_iter();
        let removed = at_once(&self.retired, |machine| machine.run("remove", &[], &[]));
        kept.chain(removed).filter_map(Result::err).collect()
    }

    /// Whether any device ran a version before.
    pub fn replaces(&self) -> bool {
        self.sites.iter().any(|site| site.found.version.is_some())
    }

    /// Names of devices that the plan does not use any more.
    pub fn retired(&self) -> impl Iterator<Item = &str> {
        self.retired.iter().map(|machine| machine.device.as_str())
    }
}

/// What every device of a cluster says of itself.
pub fn states(cluster: &Cluster) -> Vec<DeviceState> {
    at_once(&cluster.devices, |device| {
        let host = device.place().map_or("", |(host, _)| host);
        if device.target.system == System::CortexM {
            return DeviceState::unknown(&device.name, host, "a microcontroller");
        }
        let Some(machine) = Machine::of(cluster, device) else {
            return DeviceState::unknown(&device.name, host, "without address");
        };
        match machine.run("status", &[], &[]) {
            Ok(said) => DeviceState::parse(&device.name, host, &said),
            Err(diagnostic) => {
                let state = DeviceState::unknown(&device.name, host, "unreached");
                DeviceState { fault: Some(diagnostic.message), ..state }
            }
        }
    })
}

/// Stops every device of a cluster and removes what was installed there. Gives the names of those that had something.
///
/// Errors (E0700): machines on which that was not possible.
pub fn remove(cluster: &Cluster) -> Result<Vec<String>, Failure> {
    let machines: Vec<Machine> = cluster
        .devices
        .iter()
        .filter(|device| device.target.system == System::Linux)
        .filter_map(|device| Machine::of(cluster, device))
        .collect();
    let done = at_once(&machines, |machine| {
        let found = machine.run("probe", &[], &[])?;
        machine.run("remove", &[], &[]).map(|_| word(&found, "version").map(|_| machine.device.clone()))
    });
    let (done, problems): (Vec<_>, Vec<_>) = done.into_iter().partition(Result::is_ok);
    refuse_all(problems.into_iter().filter_map(Result::err).collect())?;
    Ok(done.into_iter().filter_map(|removed| removed.ok().flatten()).collect())
}

fn refuse_all(problems: Vec<Diagnostic>) -> Result<(), Failure> {
    if problems.is_empty() { Ok(()) } else { Err(Failure::Input(problems)) }
}

/// Firmware is not installed over ssh, and neither are clusters of which it is a part.
fn refuse_firmware(compiled: &Compiled) -> Result<(), Failure> {
    let devices = compiled.routed.placed.programs.iter().map(|program| &compiled.cluster.devices[program.device]);
    let boards: Vec<&str> =
        devices.filter(|device| device.target.system == System::CortexM).map(|device| device.name.as_str()).collect();
    let Some(first) = boards.first() else { return Ok(()) };
    let message = format!("`{}` cannot be installed over ssh: microcontrollers take part", boards.join("`, `"));
    let help = format!(
        "build with --build, flash each board, for example `probe-rs run --chip CHIP bin/{first}`, and start the other \
         programs by hand: deploy/README.md"
    );
    Err(Failure::Input(vec![Diagnostic::new("E0700", message).help(help)]))
}

impl Site {
    /// The version that ran there before, as a word for the script.
    fn before(&self) -> &str {
        self.found.version.as_deref().unwrap_or("-")
    }
}

/// Everything of the version that a device gets, and its name: plan and digest of the files, but that of its private key.
fn version(
    service: &Service,
    cluster: &Cluster,
    built: &BuiltDevice,
    plan_hash: u64,
    out: &Path,
) -> anyhow::Result<(String, Vec<u8>)> {
    let folder = TemporaryFolder::new("partita-deploy-").context("creating a temporary folder")?;
    let at = |name: &str| folder.join(name);
    std::fs::copy(&built.binary, at("program")).with_context(|| format!("copying `{}`", built.binary.display()))?;
    let [(_, unit), (_, script)] = device_files(service, &cluster.name)?;
    for (name, text) in [("unit.service", unit), ("supervise.sh", script)] {
        std::fs::write(at(name), text).with_context(|| format!("writing `{name}`"))?;
    }
    let mut names = vec!["program", "unit.service", "supervise.sh"];
    if service.is_secure {
        let trusted = out.join(identity::FOLDER).join(identity::TRUSTED);
        std::fs::copy(&trusted, at("trusted")).with_context(|| format!("copying `{}`", trusted.display()))?;
        names.push("trusted");
    }
    let mut digest = Sha256::new();
    for name in &names {
        digest.update(std::fs::read(at(name)).with_context(|| format!("reading `{name}`"))?);
    }
    if service.brings_key {
        // Nobody but its owner reads it here, on its way, or there.
        let key = identity::private_key(out, &service.device);
        std::fs::copy(&key, at("identity.key")).with_context(|| format!("copying `{}`", key.display()))?;
        names.push("identity.key");
    }
    let digest: String = digest.finalize().iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    Ok((format!("{plan_hash:016x}-{digest}"), tar(&folder, &names)?))
}

/// Files of a folder as the system's tar writes them.
fn tar(folder: &Path, names: &[&str]) -> anyhow::Result<Vec<u8>> {
    let output = Command::new("tar").arg("-C").arg(folder).args(["-cf", "-"]).args(names).output();
    let output = output.context("starting `tar`, which packs what devices get")?;
    ensure!(output.status.success(), "tar: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(output.stdout)
}

/// The machine of a device, if its program can run there, and what it has.
fn probe(cluster: &Cluster, device: &Device) -> Result<(Machine, Found), Diagnostic> {
    let Some(machine) = Machine::of(cluster, device) else {
        let message = format!("device `{}` has no address, so nobody can log in there", device.name);
        return Err(Diagnostic::new("E0700", message).help("give it one in the cluster file: address = \"HOST:PORT\""));
    };
    let said = machine.run("probe", &[], &[])?;
    let kind = word(&said, "machine").unwrap_or_default();
    let triple = if device.target.triple == "host" { std::env::consts::ARCH } else { device.target.triple.as_str() };
    if !runs(triple, &kind) {
        let message =
            machine.says(&format!("the machine is {}, its program is for {}", printable(&kind), device.target.name));
        let help = "give it another `target` in the cluster file, or another `address`";
        return Err(Diagnostic::new("E0700", message).help(help));
    }
    let free_kib = word(&said, "free_kib").and_then(|text| text.parse().ok()).unwrap_or(0);
    Ok((machine, Found { free_kib, version: word(&said, "version").filter(|version| is_version(version)) }))
}

/// What a machine says is installed becomes a word of a command line again.
fn is_version(text: &str) -> bool {
    text.len() <= 64 && text.chars().all(|c| c.is_ascii_hexdigit() || c == '-') && !text.starts_with('-')
}

/// Whether a program for a target can run on what `uname -m` says: 32-bit ones do on 64-bit kernels.
fn runs(triple: &str, machine: &str) -> bool {
    let machines: &[&str] = match triple.split('-').next().unwrap_or_default() {
        "x86_64" => &["x86_64", "amd64"],
        "aarch64" => &["aarch64", "arm64"],
        "armv7" | "thumbv7neon" | "arm" => &["armv7l", "armv8l", "aarch64", "arm64"],
        other => return other == machine,
    };
    machines.contains(&machine)
}

/// The value of a `key=value` line, unless it is empty.
fn word(said: &str, key: &str) -> Option<String> {
    let value = said.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
    (!value.is_empty()).then(|| value.to_string())
}

/// The same done for all, each in a thread of its own: machines far away are waited for together.
fn at_once<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    /// Connections at a time.
    const AT_ONCE: usize = 16;
    let mut results = Vec::with_capacity(items.len());
    for some in items.chunks(AT_ONCE) {
        std::thread::scope(|scope| {
            let threads: Vec<_> = some.iter().map(|item| scope.spawn(|| work(item))).collect();
            for thread in threads {
                results.push(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            }
        });
    }
    results
}

#[cfg(test)]
mod tests {
    use super::{at_once, runs};

    #[test]
    fn programs_run_on_machines_of_their_kind() {
        for (triple, machine, expected) in [
            ("aarch64-unknown-linux-musl", "aarch64", true),
            ("aarch64-unknown-linux-musl", "x86_64", false),
            ("armv7-unknown-linux-gnueabihf", "aarch64", true),
            ("armv7-unknown-linux-gnueabihf", "armv6l", false),
            ("x86_64", "x86_64", true),
            ("riscv64gc", "x86_64", false),
        ] {
            assert_eq!(runs(triple, machine), expected, "{triple} on {machine}");
        }
    }

    #[test]
    fn results_keep_their_order() {
        let items: Vec<u64> = (0..40).collect();
        assert_eq!(at_once(&items, |item| item * 2), items.iter().map(|item| item * 2).collect::<Vec<_>>());
    }
}
