//! `main` of a device with an operating system: arguments, connections, and the loop.
//!
//! Between two devices the one with the lower number listens and the other connects; start order does not matter.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::ExitCode;
use std::string::{String, ToString};
use std::time::{Duration, Instant};
use std::vec::Vec;
use std::{boxed::Box, format};

use crate::serve::{Failure, Program, serve, serve_family};
use crate::{Error, Family, FramedStream, Identity, PeerLinks, StdStream};

mod account;
mod bench;
pub mod client;
mod clients;
pub mod driver;
mod exchange;
mod lanes;
mod memory;
pub mod process;
mod serial;
mod service;
mod silence;
mod steps;

pub use exchange::HostedLinks;
pub use memory::map_ahead;
use serial::{Greeting, Serial};
use steps::StepTimes;

/// A stream in both directions.
pub trait Duplex: Read + Write + Send {}

impl<T: Read + Write + Send> Duplex for T {}

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
}

const USAGE: &str = "\
options:
  --listen HOST:PORT          where peers with higher numbers connect
  --peer NAME=HOST:PORT       where a peer with a lower number listens (TCP)
  --uart NAME=PATH            serial line to a peer: a device such as /dev/ttyS0, unix:SOCKET, or unix-listen:SOCKET
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

/// How long a peer may be silent, if nobody says.
const DEADLINE: Duration = Duration::from_secs(30);

/// The command line.
struct Arguments {
    listen: Option<String>,
    peers: Vec<(String, String)>,
    uarts: Vec<(String, String)>,
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

impl Arguments {
    /// What looks at every step, if anything is to.
    fn steps(&self) -> Option<StepTimes> {
        (self.profile || self.slower > 1.0).then(|| StepTimes::new(self.profile, self.slower))
    }
}

/// Runs a device's program until its work ends. `N` is the number of peers.
pub fn main<P: Program, const N: usize>(device: &Device, program: &mut P) -> ExitCode {
    run::<P, N>(device, program, |program, links, control, steps| match steps {
        Some(mut steps) => serve(program, links, control, now_us, &mut steps),
        None => serve(program, links, control, now_us, &mut ()),
    })
}

/// The same for a program with several routes; apart, so that others do not carry what it needs.
pub fn main_of_family<P: Program, const N: usize>(
    device: &Device,
    family: &'static Family,
    program: &mut P,
) -> ExitCode {
    let family = (device.index, family);
    run::<P, N>(device, program, |program, links, control, steps| {
        links.expect_routes();
        match steps {
            Some(mut steps) => serve_family(program, family, links, control, now_us, &mut steps),
            None => serve_family(program, family, links, control, now_us, &mut ()),
        }
    })
}

type Control = FramedStream<StdStream<Pipes>>;

fn run<P: Program, const N: usize>(
    device: &Device,
    program: &mut P,
    serve: impl FnOnce(&mut P, &mut HostedLinks<N>, &mut Control, Option<StepTimes>) -> Result<(), Failure>,
) -> ExitCode {
    as_process(device.name, |arguments| work::<P, N>(device, program, arguments, serve))
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

fn work<P: Program, const N: usize>(
    device: &Device,
    program: &mut P,
    arguments: &Arguments,
    serve: impl FnOnce(&mut P, &mut HostedLinks<N>, &mut Control, Option<StepTimes>) -> Result<(), Failure>,
) -> Result<(), String> {
    if arguments.bench.is_some() {
        return Err(
            "--bench-ms is for programs without peers: `compile --measure` times the steps of the others".into()
        );
    }
    if arguments.status || arguments.talk {
        return Err("this program has no socket: it serves standard input and output".into());
    }
    let mut links = connect::<N>(device, arguments)?;
    let identity = Identity { plan_hash: device.plan_hash, device: device.index as u8 };
    if arguments.input.is_some() || arguments.output.is_some() {
        return infer_files(program, &mut links, arguments);
    }
    let mut control = FramedStream::new(StdStream(Pipes), identity);
    let served = serve(program, &mut links, &mut control, arguments.steps());
    served.map_err(|failure| match failure {
        Failure::Control(error) => format!("standard input or output: {error}"),
        Failure::Program(error) => error.to_string(),
    })
}

fn infer_files<P: Program, const N: usize>(
    program: &mut P,
    links: &mut HostedLinks<N>,
    arguments: &Arguments,
) -> Result<(), String> {
    if let Some(path) = &arguments.input {
        let bytes = std::fs::read(path).map_err(|error| format!("{path}: {error}"))?;
        let input = program.input_mut();
        if bytes.len() != input.len() {
            return Err(format!("{path} has {} bytes, the model wants {}", bytes.len(), input.len()));
        }
        input.copy_from_slice(&bytes);
    }
    program.run(links, &mut ()).map_err(|error| error.to_string())?;
    match &arguments.output {
        Some(path) => std::fs::write(path, program.output()).map_err(|error| format!("{path}: {error}")),
        None => Ok(()),
    }
}

/// Microseconds since the first call.
fn now_us() -> u64 {
    use std::sync::OnceLock;
    static BEGIN: OnceLock<Instant> = OnceLock::new();
    u64::try_from(BEGIN.get_or_init(Instant::now).elapsed().as_micros()).unwrap_or(u64::MAX)
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

type Line = FramedStream<StdStream<Box<dyn Duplex>>>;

/// A link to a peer, and its socket if it has one that can be polled.
type Connection = (usize, Line, Option<TcpStream>);

/// A link to every peer, hands shaken.
fn connect<const N: usize>(device: &Device, arguments: &Arguments) -> Result<HostedLinks<N>, String> {
    let identity = Identity { plan_hash: device.plan_hash, device: device.index as u8 };
    let deadline = arguments.deadline.unwrap_or(DEADLINE);
    let give_up = Instant::now() + deadline;
    let mut lines: Vec<Connection> = Vec::new();
    let named = |places: &[(String, String)], name: &str| {
        places.iter().find(|(other, _)| other == name).map(|(_, place)| place.clone())
    };
    let mut listening: Vec<(usize, &str)> = Vec::new();
    for (index, name) in device.peers {
        if let Some(place) = named(&arguments.uarts, name) {
            let baud = device.serial.iter().find(|(peer, _)| peer == index).map_or(0, |(_, baud)| *baud);
            let greeting = Greeting::until(give_up);
            let stream = open_uart(&place, baud, deadline, give_up, &greeting);
            let stream = stream.map_err(|error| format!("{name} at {place}: {error}"))?;
            let mut line = FramedStream::over_serial(StdStream(stream), identity);
            line.shake_hands(*index as u8).map_err(|error| format!("{name} at {place}: {error}"))?;
            greeting.end();
            lines.push((*index, line, None));
        } else if device.serial.iter().any(|(peer, _)| peer == index) {
            return Err(serial::where_is(name));
        } else if device.index < *index {
            listening.push((*index, name));
        } else {
            let place =
                named(&arguments.peers, name).ok_or_else(|| format!("where is {name}? say --peer {name}=HOST:PORT"))?;
            let stream =
                retry(give_up, || TcpStream::connect(&place)).map_err(|error| format!("{name} at {place}: {error}"))?;
            let (stream, socket) = tcp(stream, deadline)?;
            let mut line = FramedStream::new(StdStream(stream), identity);
            line.shake_hands(*index as u8).map_err(|error| format!("{name}: {error}"))?;
            lines.push((*index, line, Some(socket)));
        }
    }
    if !listening.is_empty() {
        let place = arguments.listen.as_deref().ok_or("peers connect here, but there is no --listen HOST:PORT")?;
        let listener = retry(give_up, || TcpListener::bind(place)).map_err(|error| format!("{place}: {error}"))?;
        accept(&listener, identity, &listening, deadline, give_up, &mut lines)?;
    }
    let mut ordered: Vec<(usize, Line)> = Vec::with_capacity(N);
    let mut sockets = Vec::with_capacity(N);
    for (index, _) in device.peers {
        if let Some(at) = lines.iter().position(|(other, _, _)| other == index) {
            let (index, line, socket) = lines.swap_remove(at);
            ordered.push((index, line));
            sockets.extend(socket.map(|socket| (index, socket)));
        }
    }
    let links: [(usize, Line); N] = ordered.try_into().map_err(|_| "some peers are not connected".to_string())?;
    Ok(HostedLinks::new(PeerLinks::new(links), sockets, deadline))
}

/// Takes connections until every expected peer is there; one that is refused does not end the wait.
fn accept(
    listener: &TcpListener,
    identity: Identity,
    expected: &[(usize, &str)],
    deadline: Duration,
    give_up: Instant,
    lines: &mut Vec<Connection>,
) -> Result<(), String> {
    listener.set_nonblocking(true).map_err(|error| error.to_string())?;
    let mut missing: Vec<(usize, &str)> = expected.to_vec();
    let mut refused = String::new();
    while !missing.is_empty() {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock && Instant::now() < give_up => {
                std::thread::sleep(Duration::from_millis(2));
                continue;
            }
            Err(_) if Instant::now() >= give_up => {
                let names: Vec<&str> = missing.iter().map(|(_, name)| *name).collect();
                return Err(format!("{} did not connect in time{refused}", names.join(", ")));
            }
            Err(error) => return Err(error.to_string()),
        };
        stream.set_nonblocking(false).map_err(|error| error.to_string())?;
        // A connection that says nothing must not keep the others waiting for long.
        let (stream, socket) = tcp(stream, deadline.min(GREETING))?;
        let mut line = FramedStream::new(StdStream(stream), identity);
        match line.shake_hands_with_any() {
            Ok(sender) => match missing.iter().position(|(index, _)| *index == usize::from(sender)) {
                Some(at) => {
                    let (index, _) = missing.swap_remove(at);
                    set_deadline(&socket, deadline).map_err(|error| error.to_string())?;
                    lines.push((index, line, Some(socket)));
                }
                None => refused = format!("; refused device number {sender}"),
            },
            Err(Error::WrongPlan) => {
                std::eprintln!("refused a peer that was compiled from another plan");
                refused = "; refused a peer that was compiled from another plan".to_string();
            }
            Err(error) => refused = format!("; refused a connection: {error}"),
        }
    }
    Ok(())
}

/// How long a new connection may take to say who it is.
const GREETING: Duration = Duration::from_secs(2);

/// A stream for single messages, and the same socket for exchanges.
fn tcp(stream: TcpStream, deadline: Duration) -> Result<(Box<dyn Duplex>, TcpStream), String> {
    let set = || -> std::io::Result<TcpStream> {
        stream.set_nodelay(true)?;
        set_deadline(&stream, deadline)?;
        stream.try_clone()
    };
    let socket = set().map_err(|error| error.to_string())?;
    Ok((Box::new(stream), socket))
}

fn set_deadline(stream: &TcpStream, deadline: Duration) -> std::io::Result<()> {
    stream.set_read_timeout(Some(deadline))?;
    stream.set_write_timeout(Some(deadline))
}

/// Opens a serial line; sockets stand for one between emulators.
fn open_uart(
    place: &str,
    baud: u32,
    deadline: Duration,
    give_up: Instant,
    greeting: &Greeting,
) -> std::io::Result<Box<dyn Duplex>> {
    let socket = |stream: UnixStream| -> std::io::Result<Box<dyn Duplex>> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(deadline))?;
        stream.set_write_timeout(Some(deadline))?;
        Ok(Box::new(stream))
    };
    if let Some(path) = place.strip_prefix("unix-listen:") {
        let listener = UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        return socket(retry(give_up, || listener.accept())?.0);
    }
    if let Some(path) = place.strip_prefix("unix:") {
        return socket(retry(give_up, || UnixStream::connect(path))?);
    }
    Ok(Box::new(Serial::open(Path::new(place), baud, deadline, greeting.clone())?))
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
