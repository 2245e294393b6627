//! A device's process as a service of its machine: it says when it is ready and that it goes on (systemd's protocol,
//! sd_notify(3)), and its program is also what asks a running one for its status and hands its socket on.

use std::env;
use std::io::{Read, Write, copy};
use std::net::Shutdown;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::string::{String, ToString};
use std::sync::Arc;
use std::time::Duration;
use std::{format, io};

use super::driver::Running;
use super::{Arguments, Pipes};
use crate::frame::Kind;
use crate::{FramedStream, Identity, StdStream};

/// Where this machine's programs are served: what the command line says, or the folder that systemd has made.
pub(super) fn socket(arguments: &Arguments) -> Option<PathBuf> {
    let made = || env::var_os("RUNTIME_DIRECTORY").map(|folder| Path::new(&folder).join("socket"));
    arguments.socket.as_ref().map(PathBuf::from).or_else(made)
}

/// The status of the device that runs here, as it says it (Prometheus text).
///
/// Errors: nobody listens at the socket, or who does is of another plan.
pub(super) fn status(identity: Identity, arguments: &Arguments) -> Result<String, String> {
    /// A device answers at once.
    const PATIENCE: Duration = Duration::from_secs(5);
    let (path, stream) = connect(arguments)?;
    let told = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    stream.set_read_timeout(Some(PATIENCE)).map_err(|error| told(&error))?;
    let mut line = FramedStream::new(StdStream(stream), identity);
    let mut ask = || {
        line.shake_hands_with_any()?;
        line.send(Kind::Status, 0, 0, &[])?;
        let header = line.receive_header()?;
        let mut bytes = std::vec![0; header.length as usize];
        line.receive_payload(&header, &mut bytes).map(|()| String::from_utf8_lossy(&bytes).into_owned())
    };
    ask().map_err(|error| told(&error))
}

/// Standard input and output as a connection to the socket of the device that runs here, for clients on other machines:
/// `ssh MACHINE PROGRAM --talk`. Ends with the connection.
pub(super) fn talk(arguments: &Arguments) -> Result<(), String> {
    let (path, mut stream) = connect(arguments)?;
    let told = |error: io::Error| format!("{}: {error}", path.display());
    let mut sends = stream.try_clone().map_err(told)?;
    std::thread::spawn(move || {
        let _ = copy(&mut Pipes, &mut sends);
        let _ = sends.shutdown(Shutdown::Both);
    });
    let mut buffer = std::vec![0; 64 << 10];
    loop {
        match stream.read(&mut buffer).map_err(told)? {
            0 => return Ok(()),
            count => {
                let mut out = Pipes;
                out.write_all(&buffer[..count]).and_then(|()| out.flush()).map_err(|error| error.to_string())?;
            }
        }
    }
}

fn connect(arguments: &Arguments) -> Result<(PathBuf, UnixStream), String> {
    let path = socket(arguments).ok_or("where is the device's socket? say --socket PATH")?;
    let stream = UnixStream::connect(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok((path, stream))
}

/// Tells systemd that the device is ready, and from then on that both of its threads go on, if systemd wants to hear it.
pub(super) fn begin(running: &Arc<Running>) {
    notify("READY=1");
    let interval_us = env::var("WATCHDOG_USEC").ok().and_then(|text| text.parse().ok());
    let Some(interval_us) = interval_us.filter(|us: &u64| *us > 0) else { return };
    let (running, interval) = (running.clone(), Duration::from_micros(interval_us) / 3);
    std::thread::spawn(move || {
        loop {
            if running.goes_on(interval) {
                notify("WATCHDOG=1");
            }
            std::thread::sleep(interval);
        }
    });
}

/// A datagram to `NOTIFY_SOCKET`; `@` stands for the null byte of an abstract address. Nobody may want to hear it.
fn notify(message: &str) {
    let Some(place) = env::var_os("NOTIFY_SOCKET") else { return };
    let place = match place.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(&place),
    };
    let sent = place.and_then(|place| UnixDatagram::unbound()?.send_to_addr(message.as_bytes(), &place));
    if let Err(error) = sent {
        std::eprintln!("telling systemd `{message}`: {error}");
    }
}
