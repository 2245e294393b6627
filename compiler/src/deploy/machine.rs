//! A device's machine, reached with the system's own `ssh`: its configuration, keys and known hosts apply. Everything that
//! is done there is one shell script with words as arguments; nothing of a file becomes shell.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::bundle::deployment::{cluster_word, service_name};
use crate::config::{Cluster, Device};
use crate::diagnostic::{Diagnostic, printable};

/// What runs on the machine.
const SCRIPT: &str = include_str!("on_device.sh");

/// How long an operation may take; a program of 100 MB through 10 Mbit/s takes 80 s.
const PATIENCE: Duration = Duration::from_secs(300);

/// Most that is read of what an operation says.
const MOST_BYTES: u64 = 1 << 20;

/// A device's machine.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The device.
    pub device: String,
    /// Name or address of its host.
    pub host: String,
    user: Option<String>,
    port: Option<u16>,
    /// What every operation is told: service, cluster, device.
    words: [String; 3],
}

impl Machine {
    /// The machine of a device; none if the cluster file gives no address.
    pub fn of(cluster: &Cluster, device: &Device) -> Option<Machine> {
        Some(Machine {
            device: device.name.clone(),
            host: device.place()?.0.to_string(),
            user: device.user.clone(),
            port: device.ssh_port,
            words: [service_name(&cluster.name, &device.name), cluster_word(&cluster.name), device.name.clone()],
        })
    }

    /// As whom and where one logs in, as a user types it.
    fn login(&self) -> String {
        let port = self.port.map(|port| format!("-p {port} ")).unwrap_or_default();
        let user = self.user.as_ref().map(|user| format!("{user}@")).unwrap_or_default();
        format!("{port}{user}{}", self.host)
    }

    /// `ssh` with an operation of the script; with rights of root where systemd runs and `sudo` asks for no password.
    fn command(&self, operation: &str, more: &[&str]) -> Command {
        let words = [operation].into_iter().chain(self.words.iter().map(String::as_str)).chain(more.iter().copied());
        let words: String = words.map(|word| format!(" {}", quoted(word))).collect();
        let script = format!(
            "partita={}; if [ -d /run/systemd/system ] && [ \"$(id -u)\" -ne 0 ] && sudo -n true 2>/dev/null; then \
             exec sudo -n sh -c \"$partita\" partita{words}; fi; exec sh -c \"$partita\" partita{words}",
            quoted(SCRIPT)
        );
        let mut command = Command::new("ssh");
        for option in ["BatchMode=yes", "ConnectTimeout=10", "ServerAliveInterval=5", "ServerAliveCountMax=3"] {
            command.args(["-o", option]);
        }
        command.arg("-T");
        if let Some(port) = self.port {
            command.args(["-p", &port.to_string()]);
        }
        if let Some(user) = &self.user {
            command.args(["-l", user]);
        }
        command.args(["--", &self.host]).arg(script);
        command
    }

    /// Does an operation, with bytes as its standard input; what it says.
    ///
    /// Errors (E0700): the machine is not reached, does not know us, or says what is wrong.
    pub fn run(&self, operation: &str, more: &[&str], input: &[u8]) -> Result<String, Diagnostic> {
        let mut command = self.command(operation, more);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| {
            Diagnostic::new("E0700", format!("`ssh` cannot be started: {error}")).help("install OpenSSH's client")
        })?;
        let (mut stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (ended, said, complaint) = std::thread::scope(|scope| {
            // Who does not read it to the end says why.
            scope.spawn(move || stdin.take().map(|mut stdin| stdin.write_all(input)));
            let said = scope.spawn(move || read(stdout));
            let complaint = scope.spawn(move || read(stderr));
            let ended = wait(&mut child);
            (ended, said.join().unwrap_or_default(), complaint.join().unwrap_or_default())
        });
        match ended {
            Some(Some(0)) => Ok(said),
            Some(Some(255)) => Err(self.unreached(&complaint)),
            Some(_) => Err(self.complains(&complaint)),
            None => Err(self.complains(&format!("`{operation}` took longer than {} s", PATIENCE.as_secs()))),
        }
    }

    /// A connection to the socket of the device that runs there, and the process that carries it.
    pub fn talk(&self) -> std::io::Result<(Carrier, UnixStream)> {
        let (here, there) = UnixStream::pair()?;
        let other = OwnedFd::from(there.try_clone()?);
        let mut command = self.command("talk", &[]);
        command.stdin(OwnedFd::from(there)).stdout(other).stderr(Stdio::null());
        Ok((Carrier(command.spawn()?), here))
    }

    /// What is wrong there, as a message.
    pub fn says(&self, what: &str) -> String {
        format!("device `{}` ({}): {what}", self.device, self.host)
    }

    fn complains(&self, complaint: &str) -> Diagnostic {
        let last = complaint.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it does not say why");
        Diagnostic::new("E0700", self.says(&printable(last)))
    }

    /// Why ssh did not get there, and what to do.
    fn unreached(&self, complaint: &str) -> Diagnostic {
        let login = self.login();
        let help = if complaint.contains("Host key verification failed") {
            format!(
                "its host key is not known here; log in once by hand, and compare the key that is shown: ssh {login}"
            )
        } else if complaint.contains("Permission denied") {
            format!("nobody types passwords here; give it your public key: ssh-copy-id {login}")
        } else {
            format!(
                "see whether you get there by hand: ssh {login}; ~/.ssh/config applies, and `user` and `ssh_port` of the device"
            )
        };
        self.complains(complaint).note("ssh does not get there").help(help)
    }
}

/// A process that is ended with its owner.
pub struct Carrier(Child);

impl Drop for Carrier {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn read(stream: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    if let Some(stream) = stream {
        let _ = stream.take(MOST_BYTES).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The exit status of a process, which is ended if it takes too long.
fn wait(child: &mut Child) -> Option<Option<i32>> {
    let begun = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status.code()),
            Ok(None) if begun.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(10)),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
        }
    }
}

/// A word of a shell, whatever is in it.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::quoted;

    #[test]
    fn the_shell_gives_back_what_was_quoted() {
        for text in ["", "a b", "it's", "$(x) `y` \\ \" '' \n !", "-n", "*"] {
            let output = Command::new("sh").args(["-c", &format!("printf %s {}", quoted(text))]).output();
            assert_eq!(String::from_utf8_lossy(&output.expect("there is a shell").stdout), text);
        }
    }
}
