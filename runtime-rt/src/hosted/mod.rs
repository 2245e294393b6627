//! `main` of a device with an operating system: its command line ([`process`]), and what is around its node ([`driver`]).
//!
//! Between two devices the one with the lower number listens and the other connects, or both send datagrams to each other;
//! start order does not matter.

use std::format;
use std::io::{Read, Write};
use std::process::ExitCode;
use std::string::{String, ToString};
use std::time::{Duration, Instant};
use std::vec::Vec;

mod account;
mod bench;
pub mod client;
mod clients;
pub mod driver;
pub mod identity;
mod links;
mod memory;
mod places;
pub mod process;
mod serial;
mod service;
mod steps;

pub use memory::map_ahead;

/// What a device knows of itself and its peers.
#[derive(Clone, Copy, Debug)]
pub struct Device {
    /// Its name in the cluster.
    pub name: &'static str,
    /// Its number in the cluster.
    pub index: usize,
    /// Plan it was compiled from.
    pub plan_hash: u64,
    /// Number and name of each peer.
    pub peers: &'static [(usize, &'static str)],
    /// Peers at the other end of a serial line, and its rate in bits per second.
    pub serial: &'static [(usize, u32)],
    /// Whether peers have to prove who they are (`security = "noise"` in the cluster file).
    pub secure: bool,
}

const USAGE: &str = "\
keygen [--identity FILE]      make this device's private key, and print its public key
options:
  --listen HOST:PORT          where peers with higher numbers connect (TCP), or all send datagrams (UDP)
  --peer NAME=HOST:PORT       where a peer with a lower number listens (TCP), or any takes datagrams (UDP)
  --uart NAME=PATH            serial line to a peer: a device such as /dev/ttyS0, unix:SOCKET, or unix-listen:SOCKET
  --identity FILE             this device's private key; by default what systemd hands over as `identity`, or DEVICE.key beside
                              this program or in ../identity
  --trusted FILE              public keys of all devices, a line `NAME KEY` each; by default `trusted` in these folders
  --deadline-ms N             give up on a silent peer after this time, the same on all devices [default: as planned]
  --socket PATH               serve programs of this machine there; by default RUNTIME_DIRECTORY/socket, if that is set
  --stdio                     serve standard input and output
  --status                    print the status of the device that runs here, from its socket; fail if it does not answer
  --talk                      connect standard input and output to the socket of the device that runs here
  --profile                   time every step and report it with each answer
  --slower X                  imitate a slower processor: every step takes X times the least it has needed, by sleeping
  --input FILE --output FILE  infer once from and to files of raw little-endian elements
  --bench-ms N                then infer again for this time, and print how long it takes (of a program without peers)
Without --input, frames with inputs come on standard input and answers leave on standard output.";

/// The command line.
struct Arguments {
    listen: Option<String>,
    peers: Vec<(String, String)>,
    uarts: Vec<(String, String)>,
    identity: Option<String>,
    trusted: Option<String>,
    keygen: bool,
    deadline: Option<Duration>,
    socket: Option<String>,
    stdio: bool,
    status: bool,
    talk: bool,
    input: Option<String>,
    output: Option<String>,
    profile: bool,
    slower: f64,
    bench: Option<Duration>,
}

/// Reads the command line of device `name` and does what it says; tells what went wrong.
fn as_process(name: &str, work: impl FnOnce(&Arguments) -> Result<(), String>) -> ExitCode {
    let arguments = match parse(std::env::args().skip(1)) {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            std::println!("device `{name}`\n{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(message) => {
            std::eprintln!("{name}: {message}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match work(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            std::eprintln!("{name}: {message}");
            ExitCode::FAILURE
        }
    }
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Option<Arguments>, String> {
    let mut arguments = Arguments {
        listen: None,
        peers: Vec::new(),
        uarts: Vec::new(),
        identity: None,
        trusted: None,
        keygen: false,
        deadline: None,
        socket: None,
        stdio: false,
        status: false,
        talk: false,
        input: None,
        output: None,
        profile: false,
        slower: 1.0,
        bench: None,
    };
    while let Some(word) = words.next() {
        if word == "--help" || word == "-h" {
            return Ok(None);
        }
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        let pair = |text: String| match text.split_once('=') {
            Some((name, place)) => Ok((name.to_string(), place.to_string())),
            None => Err(format!("`{text}`: expected NAME=PLACE")),
        };
        match word.as_str() {
            "--listen" => arguments.listen = Some(value()?),
            "--peer" => arguments.peers.push(pair(value()?)?),
            "--uart" => arguments.uarts.push(pair(value()?)?),
            "--identity" => arguments.identity = Some(value()?),
            "--trusted" => arguments.trusted = Some(value()?),
            "keygen" => arguments.keygen = true,
            "--deadline-ms" => {
                let text = value()?;
                let milliseconds = text.parse::<u64>().ok().filter(|milliseconds| *milliseconds > 0);
                let deadline = Duration::from_millis(milliseconds.ok_or(format!("`{text}` is not a time"))?);
                arguments.deadline = Some(deadline);
            }
            "--profile" => arguments.profile = true,
            "--socket" => arguments.socket = Some(value()?),
            "--stdio" => arguments.stdio = true,
            "--status" => arguments.status = true,
            "--talk" => arguments.talk = true,
            "--slower" => {
                let text = value()?;
                let slower = text.parse::<f64>().ok().filter(|slower| (1.0..=1e4).contains(slower));
                arguments.slower = slower.ok_or(format!("`{text}` is not a factor from 1 to 10000"))?;
            }
            "--bench-ms" => {
                let text = value()?;
                let milliseconds = text.parse().map_err(|_| format!("`{text}` is not a time"))?;
                arguments.bench = Some(Duration::from_millis(milliseconds));
            }
            "--input" => arguments.input = Some(value()?),
            "--output" => arguments.output = Some(value()?),
            other => return Err(format!("unknown option `{other}`")),
        }
    }
    Ok(Some(arguments))
}

/// Standard input and output as one stream.
struct Pipes;

impl Read for Pipes {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        std::io::stdin().lock().read(buffer)
    }
}

impl Write for Pipes {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        std::io::stdout().lock().write(buffer)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stdout().lock().flush()
    }
}

/// Tries until it works or time is up; peers may start later.
fn retry<T>(give_up: Instant, mut attempt: impl FnMut() -> std::io::Result<T>) -> std::io::Result<T> {
    loop {
        match attempt() {
            Err(_) if Instant::now() < give_up => std::thread::sleep(Duration::from_millis(5)),
            result => return result,
        }
    }
}
