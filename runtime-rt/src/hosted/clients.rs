//! Who talks to a device from outside its cluster: programs on this machine, over a Unix socket or standard input and
//! output, in frames ([`crate::frame`]).
//!
//! A device greets with a `Hello` frame, from which its plan and number follow. A client sends `Input` (the message number is
//! 0, or the number behind a route's), `Budget`, `Reset`, `Subscribe`, `Status` and `Stop`. To its inputs it hears exactly one
//! `Record` each, under the numbers that it gave them; if it has subscribed, every `Output` of the device and, of every
//! inference, `Profile` and `Report`, under the input's number that the record has.

use std::boxed::Box;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::string::String;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use std::vec::Vec;
use std::{format, io};

use super::driver::{Results, Running};
use crate::frame::{Kind, WANTS_ANSWERS, WANTS_COSTS};
use crate::node::{Finished, Outcome, Record};
use crate::{DeviceCosts, Error, FramedStream, Identity, StdStream, Turn};

/// A stream in both directions.
trait Duplex: Read + Write + Send {}

impl<T: Read + Write + Send> Duplex for T {}

type Line = FramedStream<StdStream<Box<dyn Duplex>>>;

/// Most clients at a time.
const CLIENTS: usize = 16;

/// A client that does not read for so long is let go: answers are written by the program's thread.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long an input may take if its client has not said.
const BUDGET: Duration = Duration::from_secs(60);

/// One client.
struct Client {
    number: u32,
    /// Towards it.
    line: Mutex<Line>,
    wants: AtomicU16,
    gone: AtomicBool,
}

impl Client {
    fn send(&self, kind: Kind, turn: Turn, payload: &[u8]) {
        if self.gone.load(Ordering::Relaxed) {
            return;
        }
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        if line.send_on(kind, turn, 0, payload).is_err() {
            // What was sent of it may have been half a frame.
            self.gone.store(true, Ordering::Relaxed);
        }
    }
}

/// What became of inputs, by outcome.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    full: u64,
    exit: u64,
    variant: u64,
    late: u64,
    failed: u64,
    took_us: u64,
}

/// All clients of a device.
pub(super) struct Clients {
    identity: Identity,
    /// Bytes of an input on each route.
    input_bytes: Vec<usize>,
    /// Number and name of each peer.
    peers: &'static [(usize, &'static str)],
    /// When it began, in seconds since 1970.
    begun: u64,
    /// Inferences that this device has had a part in.
    finished: AtomicU64,
    clients: Mutex<Vec<Arc<Client>>>,
    tally: Mutex<Tally>,
    next: Mutex<u32>,
}

impl Clients {
    pub(super) fn new(
        identity: Identity,
        input_bytes: Vec<usize>,
        peers: &'static [(usize, &'static str)],
    ) -> Arc<Clients> {
        let begun = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Arc::new(Clients {
            identity,
            input_bytes,
            peers,
            begun,
            finished: AtomicU64::new(0),
            clients: Mutex::default(),
            tally: Mutex::default(),
            next: Mutex::new(1),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Client>>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells everybody who wants to hear of it.
    fn tell(&self, wants: u16, kind: Kind, turn: Turn, payload: &[u8]) {
        let clients: Vec<Arc<Client>> = self.lock().clone();
        for client in clients.iter().filter(|client| client.wants.load(Ordering::Relaxed) & wants != 0) {
            client.send(kind, turn, payload);
        }
    }

    /// Tells the client that gave an input what became of it.
    pub(super) fn record(&self, record: &Record) {
        // Who has heard it finds it counted.
        {
            let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
            let count = match record.outcome {
                Outcome::Full => &mut tally.full,
                Outcome::Exit(..) => &mut tally.exit,
                Outcome::Variant(..) => &mut tally.variant,
                Outcome::Late => &mut tally.late,
                Outcome::Failed(_) => &mut tally.failed,
            };
            *count += 1;
            tally.took_us += record.took_us;
        }
        let (client, number) = ((record.tag >> 32) as u32, record.tag as u32);
        let found = self.lock().iter().find(|other| other.number == client).cloned();
        if let Some(client) = found {
            client.send(Kind::Record, Turn { inference: number, route: 0 }, &record.emit());
        }
    }

    /// Takes clients at a socket, in a thread of its own. One that an earlier life of this device has left is replaced.
    pub(super) fn listen(self: &Arc<Clients>, path: &Path, running: &Arc<Running>) -> Result<(), String> {
        let told = |error: io::Error| format!("{}: {error}", path.display());
        if UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
            std::fs::remove_file(path).map_err(told)?;
        }
        let listener = UnixListener::bind(path).map_err(told)?;
        let (clients, running) = (self.clone(), running.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let other = stream.set_write_timeout(Some(PATIENCE)).and_then(|()| stream.try_clone());
                if let Ok(other) = other {
                    clients.serve(Box::new(stream), Box::new(other), running.clone(), false);
                }
            }
        });
        Ok(())
    }

    /// Standard input and output are a client, whose end is an order to stop.
    pub(super) fn serve_standard(self: &Arc<Clients>, running: &Arc<Running>) {
        self.serve(Box::new(super::Pipes), Box::new(super::Pipes), running.clone(), true);
    }

    fn serve(
        self: &Arc<Clients>,
        reads: Box<dyn Duplex>,
        writes: Box<dyn Duplex>,
        running: Arc<Running>,
        ends_all: bool,
    ) {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let number = *next;
        *next = next.wrapping_add(1);
        let line = Mutex::new(FramedStream::new(StdStream(writes), self.identity));
        let client = Arc::new(Client { number, line, wants: AtomicU16::new(0), gone: AtomicBool::new(false) });
        {
            let mut clients = self.lock();
            clients.retain(|client| !client.gone.load(Ordering::Relaxed));
            if clients.len() >= CLIENTS {
                return;
            }
            clients.push(client.clone());
        }
        let all = self.clone();
        std::thread::spawn(move || {
            let mut reads = FramedStream::new(StdStream(reads), all.identity);
            client.send(Kind::Hello, Turn::default(), &[]);
            let stops = all.listen_to(&client, &mut reads, &running);
            client.gone.store(true, Ordering::Relaxed);
            all.lock().retain(|other| other.number != number);
            if stops || ends_all {
                running.stop();
            }
        });
    }

    /// Does what a client says until it goes; whether the device is to stop.
    fn listen_to(&self, client: &Client, reads: &mut Line, running: &Running) -> bool {
        let mut budget = BUDGET;
        while let Ok(header) = reads.receive_header() {
            let done = match header.kind {
                Kind::Hello if header.length == 0 => Ok(()),
                Kind::Stop => return true,
                Kind::Subscribe if header.length == 0 => {
                    client.wants.store(header.message, Ordering::Relaxed);
                    Ok(())
                }
                Kind::Budget => {
                    let mut bytes = [0; 8];
                    let read = reads.receive_payload(&header, &mut bytes);
                    budget = Duration::from_micros(u64::from_le_bytes(bytes));
                    read
                }
                Kind::Reset if header.length == 0 => {
                    running.reset_states();
                    Ok(())
                }
                Kind::Status if header.length == 0 => {
                    client.send(
                        Kind::Status,
                        Turn { inference: header.inference, route: 0 },
                        self.status(running).as_bytes(),
                    );
                    Ok(())
                }
                Kind::Input => {
                    let route = header.message.checked_sub(1);
                    let wanted = self.input_bytes.get(usize::from(route.unwrap_or(0))).copied();
                    if wanted == Some(header.length as usize) {
                        let mut input = std::vec![0; header.length as usize];
                        let route = route.map(|route| u8::try_from(route).unwrap_or(u8::MAX));
                        let tag = u64::from(client.number) << 32 | u64::from(header.inference);
                        reads.receive_payload(&header, &mut input).and_then(|()| {
                            running.submit_as(tag, &input, route, budget).then_some(()).ok_or(Error::Closed)
                        })
                    } else {
                        Err(Error::WrongLength)
                    }
                }
                _ => Err(Error::WrongMessage),
            };
            if let Err(error) = done {
                std::eprintln!("a client is let go: {error}");
                return false;
            }
        }
        false
    }

    /// What has happened so far, as Prometheus reads it.
    fn status(&self, running: &Running) -> String {
        let Tally { full, exit, variant, late, failed, took_us } =
            *self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = format!(
            "partita_plan_info{{plan=\"{:016x}\",device=\"{}\"}} 1\nprocess_start_time_seconds {}\n",
            self.identity.plan_hash, self.identity.device, self.begun
        );
        text += &format!("partita_inferences_total {}\n", self.finished.load(Ordering::Relaxed));
        for (outcome, count) in
            [("full", full), ("exit", exit), ("variant", variant), ("late", late), ("failed", failed)]
        {
            text += &format!("partita_records_total{{outcome=\"{outcome}\"}} {count}\n");
        }
        for (name, count) in [("record_microseconds_total", took_us)].into_iter().chain(running.counters().named()) {
            text += &format!("partita_{name} {count}\n");
        }
        for (link, (_, peer)) in (0..running.peers()).zip(self.peers) {
            let up = u8::from(running.is_talking(link));
            text += &format!("partita_link_up{{link=\"{link}\",peer=\"{peer}\"}} {up}\n");
            if running.is_of_another_plan(link) {
                text += &format!("partita_link_of_another_plan{{link=\"{link}\",peer=\"{peer}\"}} 1\n");
            }
        }
        text
    }
}

impl Results for Arc<Clients> {
    fn answer(&mut self, input: u32, route: u8, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.tell(WANTS_ANSWERS, Kind::Output, Turn { inference: input, route }, bytes);
        }
    }

    fn finished(&mut self, finished: &Finished, compute_us: u64, steps: &[u8]) {
        self.finished.fetch_add(1, Ordering::Relaxed);
        let turn = Turn { inference: finished.input, route: finished.route };
        let costs = DeviceCosts::from((finished, compute_us));
        if !steps.is_empty() {
            self.tell(WANTS_COSTS, Kind::Profile, turn, steps);
        }
        self.tell(WANTS_COSTS, Kind::Report, turn, &costs.emit());
    }
}
