//! Emitted processes as a service runs them: no standard input, a socket each, ended with their owner.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A running device.
pub struct Device {
    /// The process.
    pub process: Child,
    /// Where it serves programs of this machine.
    pub socket: PathBuf,
}

impl Drop for Device {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Starts the program of a device of a bundle; its socket is `NAME.socket` beside the bundle.
pub fn start(bundle: &Path, name: &str, arguments: &[&str]) -> Device {
    let socket = bundle.with_file_name(format!("{name}.socket"));
    let mut command = Command::new(bundle.join("bin").join(name));
    let process = command.arg("--socket").arg(&socket).args(arguments).stdin(Stdio::null()).spawn().expect("it starts");
    Device { process, socket }
}

/// An address of this machine at which nobody listens.
pub fn free_place() -> String {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port is free").to_string()
}
