//! Machines to install on: namespaces with an ssh server each, on one network with the one who installs. Needs root, `ip`,
//! `unshare` and `sshd`; whatever a machine writes, it writes into memory of its own (`machines/machine`).

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::place;

/// How long an ssh server may take to listen.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a machine has.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// No systemd; room for so many bytes in the home folder of the user `pi`, as tmpfs is told.
    Plain(&'static str),
    /// Something that stands for systemd (`machines/systemctl`).
    Systemd,
}

/// Machines and their network. All of it goes with the value.
pub struct Machines {
    /// For keys, configuration and whatever a test puts there.
    pub folder: tempfile::TempDir,
    /// Addresses, in order.
    pub addresses: Vec<String>,
    /// Begin of the names of their network namespaces; theirs end in their number, that of who installs in `s`.
    prefix: String,
    processes: Vec<Child>,
}

impl Drop for Machines {
    fn drop(&mut self) {
        // The first process of a namespace takes all others with it.
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
        for namespace in self.namespaces() {
            let _ = Command::new("ip").args(["netns", "del", &namespace]).stderr(Stdio::null()).status();
        }
    }
}

impl Machines {
    /// Starts machines. None, with a word, where that is not possible.
    pub fn start(kinds: &[Kind]) -> Option<Machines> {
        let skip = |why: &str| {
            println!("skipped: {why}");
            None
        };
        let is_root = std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
        if !is_root {
            return skip("namespaces with ssh servers need root");
        }
        let Some(sshd) = sshd() else { return skip("there is no sshd (`tests/setup` unpacks it)") };
        if ["ip", "unshare", "ssh", "ssh-keygen"].iter().any(|program| find(program).is_none()) {
            return skip("there is no `ip`, `unshare`, `ssh` or `ssh-keygen`");
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        static STARTED: AtomicUsize = AtomicUsize::new(0);
        let prefix = format!("partita-{}-{}-", std::process::id(), STARTED.fetch_add(1, Ordering::Relaxed));
        let addresses = (1..=kinds.len()).map(|number| format!("10.77.0.{number}")).collect();
        let mut machines = Machines { folder, addresses, prefix, processes: Vec::new() };
        if !machines.network() {
            return skip("network namespaces are refused");
        }
        machines.keys();
        for (number, kind) in kinds.iter().enumerate() {
            let words = match kind {
                Kind::Plain(home_bytes) => [*home_bytes, "plain"],
                Kind::Systemd => ["1m", "systemd"],
            };
            let mut command = machines.inside(Some(number), "unshare");
            command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private"]);
            command.arg(place::repository().join("tests/machines/machine")).arg(machines.folder.path());
            command.arg(&machines.addresses[number]).arg(&sshd).args(words).stdin(Stdio::null());
            command.env("LD_LIBRARY_PATH", libraries(&sshd));
            machines.processes.push(command.spawn().expect("`ip` starts"));
        }
        let begun = Instant::now();
        for number in 0..kinds.len() {
            while !machines.shell(number, "true").output().expect("ssh starts").status.success() {
                if begun.elapsed() > PATIENCE {
                    return skip("ssh servers cannot be started in namespaces");
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        Some(machines)
    }

    fn namespaces(&self) -> Vec<String> {
        let numbers = (0..self.addresses.len()).map(|number| number.to_string());
        numbers.chain(["s".to_string()]).map(|end| format!("{}{end}", self.prefix)).collect()
    }

    /// Namespaces, and a switch between them; whether that is allowed.
    fn network(&self) -> bool {
        let ip = |words: &str| {
            let output = Command::new("ip").args(words.split(' ')).output().expect("`ip` starts");
            output.status.success()
        };
        let here = format!("{}s", self.prefix);
        let mut done = ip(&format!("netns add {here}"))
            && ip(&format!("-n {here} link add switch type bridge"))
            && ip(&format!("-n {here} addr add 10.77.0.254/24 dev switch"))
            && ip(&format!("-n {here} link set switch up"))
            && ip(&format!("-n {here} link set lo up"));
        for (number, address) in self.addresses.iter().enumerate() {
            let there = format!("{}{number}", self.prefix);
            done = done
                && ip(&format!("netns add {there}"))
                && ip(&format!("-n {here} link add port{number} type veth peer name eth0 netns {there}"))
                && ip(&format!("-n {here} link set port{number} master switch up"))
                && ip(&format!("-n {there} addr add {address}/24 dev eth0"))
                && ip(&format!("-n {there} link set eth0 up"))
                && ip(&format!("-n {there} link set lo up"));
        }
        done
    }

    /// Keys of client and hosts, and an `ssh` that uses them and no configuration of this machine.
    fn keys(&self) {
        let at = |name: &str| self.folder.path().join(name);
        for name in ["client", "host"] {
            let mut command = Command::new("ssh-keygen");
            command.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(at(name));
            assert!(command.status().expect("ssh-keygen starts").success());
        }
        let host = std::fs::read_to_string(at("host.pub")).expect("it was made");
        let known: String = self.addresses.iter().map(|address| format!("{address} {host}")).collect();
        std::fs::write(at("known"), known).expect("the folder is ours");
        let ssh = find("ssh").expect("it was looked for");
        let config = format!(
            "IdentityFile {}\nIdentitiesOnly yes\nUserKnownHostsFile {}\nGlobalKnownHostsFile none\nUser pi\n",
            at("client").display(),
            at("known").display()
        );
        std::fs::write(at("config"), config).expect("the folder is ours");
        std::fs::create_dir(at("bin")).expect("the folder is ours");
        let script = format!("#!/bin/sh\nexec {} -F {} \"$@\"\n", ssh.display(), at("config").display());
        std::fs::write(at("bin/ssh"), script).expect("the folder is ours");
        std::fs::set_permissions(at("bin/ssh"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .expect("it is ours");
    }

    /// A program in the network of a machine, or of who installs.
    pub fn inside(&self, machine: Option<usize>, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let end = machine.map_or("s".to_string(), |number| number.to_string());
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &format!("{}{end}", self.prefix)]).arg(program);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::iter::once(self.folder.path().join("bin")).chain(std::env::split_paths(&path));
        command.env("PATH", std::env::join_paths(folders).expect("no folder has a colon"));
        command
    }

    /// A line of shell on a machine, as the user `pi`, or another one who is named: `root@` before the address.
    pub fn shell(&self, machine: usize, line: &str) -> Command {
        let mut command = self.inside(None, "ssh");
        command.args(["-o", "BatchMode=yes", "-o", "ConnectTimeout=5", &self.addresses[machine], line]);
        command
    }
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// Where `tests/setup` has unpacked an ssh server, or this machine's own.
fn sshd() -> Option<PathBuf> {
    let here = std::env::current_exe().unwrap_or_default();
    let unpacked = here.ancestors().nth(3).map(|target| target.join("sshd/usr/sbin/sshd"));
    unpacked.into_iter().chain([PathBuf::from("/usr/sbin/sshd")]).find(|path| path.is_file())
}

/// Libraries that were unpacked with it.
fn libraries(sshd: &Path) -> std::ffi::OsString {
    let root = sshd.ancestors().nth(3).unwrap_or(Path::new("/"));
    let folders = place::files_below(&root.join("usr/lib"), &|path| path.to_string_lossy().contains(".so"));
    let folders: std::collections::BTreeSet<&Path> = folders.iter().filter_map(|file| file.parent()).collect();
    if root == Path::new("/") { "".into() } else { std::env::join_paths(folders).unwrap_or_default() }
}
