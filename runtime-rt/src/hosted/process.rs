//! The process of a device: its command line, its links, and the node that runs its program until it is told to stop.

use std::boxed::Box;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::ExitCode;
use std::string::{String, ToString};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::vec::Vec;
use std::{format, io};

use super::clients::Clients;
use super::driver::{Opener, Place, Places, Results, Steps, Watch, start};
use super::serial::{self, open_line};
use super::steps::StepTimes;
use super::{Arguments, Device, as_process, bench, identity as keys, retry, service};
use crate::node::{Flow, Medium, Outcome, Plan, Why};
use crate::{Identity, Observer, Turn};

/// Runs a device until it is told to stop. Peers of `device` are in the order of the plan's.
///
/// Not generic: node and links are compiled with this crate, once for all programs.
pub fn run(device: &Device, plan: &Plan<'static>, program: Box<dyn Steps>) -> ExitCode {
    as_process(device.name, |arguments| work(device, plan, program, arguments))
}

fn work(
    device: &Device,
    plan: &Plan<'static>,
    mut program: Box<dyn Steps>,
    arguments: &Arguments,
) -> Result<(), String> {
    let started = Instant::now();
    let identity = Identity { plan_hash: plan.hash, device: device.index as u8 };
    if arguments.status {
        // A number of no device: who asks is none.
        std::print!("{}", service::status(Identity { device: u8::MAX, ..identity }, arguments)?);
        return Ok(());
    }
    if arguments.talk {
        return service::talk(arguments);
    }
    if arguments.keygen {
        std::print!("{}", keys::keygen(device, arguments)?);
        return Ok(());
    }
    let input = match &arguments.input {
        None => None,
        Some(path) => {
            let bytes = std::fs::read(path).map_err(|error| format!("{path}: {error}"))?;
            if bytes.len() != program.input_bytes(0) {
                return Err(format!("{path} has {} bytes, the model wants {}", bytes.len(), program.input_bytes(0)));
            }
            Some(bytes)
        }
    };
    if plan.peers.is_empty() && (input.is_some() || arguments.output.is_some() || arguments.bench.is_some()) {
        let output = alone(&mut *program, plan, input.as_deref(), &mut ());
        if let Some(path) = &arguments.output {
            std::fs::write(path, output).map_err(|error| format!("{path}: {error}"))?;
        }
        if let Some(time) = arguments.bench {
            let first = started.elapsed();
            let input = input.unwrap_or_else(|| std::vec![0; program.input_bytes(0)]);
            std::println!("{}", bench::bench(&mut *program, plan, &input, time, first));
        }
        return Ok(());
    }
    if arguments.bench.is_some() {
        return Err(
            "--bench-ms is for programs without peers: `compile --measure` times the steps of the others".into()
        );
    }
    let places = places(device, plan, arguments)?;
    let detect_us =
        arguments.deadline.map_or(plan.detect_us, |deadline| u32::try_from(deadline.as_micros()).unwrap_or(u32::MAX));
    let plan = Plan { detect_us, ..*plan };
    let watch = Watch { profile: arguments.profile, slower: arguments.slower };
    if input.is_some() || arguments.output.is_some() {
        return once(plan, places, program, input.as_deref(), arguments);
    }
    let input_bytes = (0..plan.routes.len()).map(|route| program.input_bytes(route as u8)).collect();
    let clients = Clients::new(identity, input_bytes, device.peers);
    let running = start(plan, seed()?, places, program, Box::new(clients.clone()), watch)?;
    let running = Arc::new(running);
    if let Some(path) = service::socket(arguments).filter(|_| arguments.socket.is_some() || !arguments.stdio) {
        clients.listen(&path, &running)?;
    }
    service::begin(&running);
    if arguments.stdio {
        clients.serve_standard(&running);
    }
    while let Some(record) = running.next_record() {
        clients.record(&record);
    }
    running.stop();
    Ok(())
}

/// One inference of a program without peers; its answer.
pub(super) fn alone<'s>(
    program: &'s mut dyn Steps,
    plan: &Plan<'_>,
    input: Option<&[u8]>,
    observer: &mut impl Observer,
) -> &'s [u8] {
    if let Some(input) = input {
        program.load(0, input);
    }
    let mut left = None;
    for step in 0..plan.routes.first().map_or(0, |route| route.steps.len()) {
        if let Flow::Leave(exit, _) = program.step(0, step as u16) {
            left = Some(exit);
            break;
        }
        observer.step(step);
    }
    program.keep(0);
    program.output(0, left)
}

/// The first answer, once it is there.
#[derive(Default)]
struct First {
    answer: Mutex<Option<Vec<u8>>>,
    there: Condvar,
}

impl Results for Arc<First> {
    fn answer(&mut self, _input: u32, _route: u8, bytes: &[u8]) {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| bytes.to_vec());
        self.there.notify_one();
    }
}

/// One inference from and to files, with peers that do the same.
fn once(
    plan: Plan<'static>,
    places: Places,
    program: Box<dyn Steps>,
    input: Option<&[u8]>,
    arguments: &Arguments,
) -> Result<(), String> {
    let first = Arc::new(First::default());
    let results = Box::new(first.clone());
    let running = start(plan, seed()?, places, program, results, Watch::default())?;
    if let Some(input) = input {
        let record = running.infer(input, Duration::from_secs(300)).ok_or("inputs are not given to this device")?;
        match record.outcome {
            Outcome::Full | Outcome::Exit(..) | Outcome::Variant(..) => {}
            Outcome::Late => return Err("there was no answer in time".into()),
            Outcome::Failed(Why::NoRoute) => return Err("peers that are needed are not there".into()),
            Outcome::Failed(Why::Stopped) => return Err("it was stopped".into()),
        }
    }
    if let Some(path) = &arguments.output {
        let answer = first.answer.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = first.there.wait_while(answer, |answer| answer.is_none()).unwrap_or_else(PoisonError::into_inner);
        std::fs::write(path, answer.as_deref().unwrap_or_default()).map_err(|error| format!("{path}: {error}"))?;
    }
    // Peers are to hear that it is over.
    std::thread::sleep(Duration::from_millis(50));
    running.stop();
    Ok(())
}

/// A number that nobody guesses.
fn seed() -> Result<u64, String> {
    let mut bytes = [0; 8];
    let read = std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    read.map(|()| u64::from_ne_bytes(bytes)).map_err(|error| format!("/dev/urandom: {error}"))
}

/// Where everybody is.
fn places(device: &Device, plan: &Plan<'_>, arguments: &Arguments) -> Result<Places, String> {
    let mut listens = false;
    let mut peers = Vec::new();
    for (peer, (index, name)) in plan.peers.iter().zip(device.peers) {
        let named =
            |places: &[(String, String)]| places.iter().find(|(other, _)| other == name).map(|(_, at)| at.clone());
        let place = match (peer.medium, named(&arguments.uarts)) {
            (Medium::Connection, _) if !peer.calls => {
                listens = true;
                Place::Connects
            }
            (Medium::Connection, _) => Place::At(place_of(name, named(&arguments.peers), address)?),
            (Medium::Datagrams, _) => {
                let remote = place_of(name, named(&arguments.peers), datagram_address)?;
                let here = arguments.listen.as_ref();
                let here =
                    here.ok_or_else(|| format!("{name} sends datagrams here, but there is no --listen HOST:PORT"))?;
                let local = datagram_address(here).map_err(|error| format!("{here}: {error}"))?;
                Place::Datagrams { local: of_family(local, &remote), remote }
            }
            (Medium::Line, None) => return Err(serial::where_is(name)),
            (Medium::Line, Some(place)) => {
                let baud = device.serial.iter().find(|(other, _)| other == index).map_or(0, |(_, baud)| *baud);
                let open = opener(&place, baud).map_err(|error| format!("{name} at {place}: {error}"))?;
                Place::Line(open)
            }
        };
        peers.push(place);
    }
    let listen = match (listens, &arguments.listen) {
        (false, _) => None,
        (true, None) => return Err("peers connect here, but there is no --listen HOST:PORT".into()),
        (true, Some(place)) => Some(address(place).map_err(|error| format!("{place}: {error}"))?),
    };
    let keys = if device.secure { Some(keys::keys(device, arguments)?) } else { None };
    Ok(Places { keys, listen, peers })
}

/// Where a peer is, as the command line says.
fn place_of(
    name: &str,
    place: Option<String>,
    address: fn(&str) -> io::Result<SocketAddr>,
) -> Result<SocketAddr, String> {
    let place = place.ok_or_else(|| format!("where is {name}? say --peer {name}=HOST:PORT"))?;
    address(&place).map_err(|error| format!("{name} at {place}: {error}"))
}

/// Every address of this machine, in the family of a peer's.
fn of_family(local: SocketAddr, remote: &SocketAddr) -> SocketAddr {
    let any: IpAddr = if remote.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    if local.ip().is_unspecified() { SocketAddr::new(any, local.port()) } else { local }
}

/// The first address of a name.
fn address(place: &str) -> io::Result<SocketAddr> {
    resolved(place, |_| true)
}

/// Where datagrams go and come from: both ends have to choose the same of a name's addresses, so the first of IPv4, if there
/// is one.
fn datagram_address(place: &str) -> io::Result<SocketAddr> {
    resolved(place, SocketAddr::is_ipv4)
}

/// The first address of a name that is preferred, else the first; names may be known a little later than this device starts.
fn resolved(place: &str, preferred: fn(&SocketAddr) -> bool) -> io::Result<SocketAddr> {
    let resolve = || -> io::Result<SocketAddr> {
        let all: Vec<SocketAddr> = place.to_socket_addrs()?.collect();
        let found = all.iter().find(|address| preferred(address)).or(all.first());
        found.copied().ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
    };
    match resolve() {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Err(error),
        Err(_) => retry(Instant::now() + Duration::from_secs(10), resolve),
        found => found,
    }
}

/// How a line is opened; sockets stand for one between emulators. What cannot ever be opened is told at once.
fn opener(place: &str, baud: u32) -> io::Result<Box<Opener>> {
    fn ready(stream: UnixStream) -> io::Result<OwnedFd> {
        stream.set_nonblocking(true)?;
        Ok(stream.into())
    }
    if let Some(path) = place.strip_prefix("unix-listen:") {
        let listener = UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        return Ok(Box::new(move || ready(listener.accept()?.0)));
    }
    if let Some(path) = place.strip_prefix("unix:") {
        let path = path.to_string();
        return Ok(Box::new(move || ready(UnixStream::connect(&path)?)));
    }
    let path = place.to_string();
    let open = move || -> io::Result<OwnedFd> { Ok(open_line(Path::new(&path), baud)?.into()) };
    match open() {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Err(error),
        // It may be plugged in later.
        _ => Ok(Box::new(open)),
    }
}

/// A program as [`bench`] runs it.
pub(super) fn timed(program: &mut dyn Steps, plan: &Plan<'_>, times: &mut StepTimes) {
    times.begin(Turn { inference: 0, route: 0 });
    alone(program, plan, None, times);
}
