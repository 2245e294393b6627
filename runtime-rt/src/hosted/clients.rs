//! Who talks to a device from outside its cluster: programs on this machine, over a Unix socket or standard input and
//! output, in frames ([`crate::frame`]).
//!
//! A device greets with a `Hello` frame, from which its plan and number follow. A client sends `Input` (the message number is
//! 0, or the number behind a route's), `Budget`, `Reset`, `Subscribe`, `Status` and `Stop`. To its inputs it hears exactly one
//! `Record` each, under the numbers that it gave them; if it has subscribed, every `Output` of the device and, of every
//! inference, `Profile` and `Report`, under the input's number that the record has.

use std::boxed::Box;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::FileTypeExt;
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
trait Duplex: Read + Write + Send {
    /// Ends it, also for who waits to read from it.
    fn end(&self) {}
}

impl Duplex for UnixStream {
    fn end(&self) {
        let _ = self.shutdown(Shutdown::Both);
    }
}

/// Standard input cannot be ended from here; there is one of it.
impl Duplex for super::Pipes {}

type Line = FramedStream<StdStream<Box<dyn Duplex>>>;

/// Most clients at a time.
const CLIENTS: usize = 16;

/// A client that does not read for so long is let go: answers are written by the program's thread.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long nobody is taken when the system has nothing left to take him with.
const SCARCE: Duration = Duration::from_millis(100);

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
            // What was sent of it may have been half a frame. Who still waits for what the client says is told: a program
            // that neither reads nor ends would keep a thread and a connection for ever, and so would the next one.
            self.gone.store(true, Ordering::Relaxed);
            line.stream().0.end();
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
        let listener = listen_at(path).map_err(told)?;
        let (clients, running) = (self.clone(), running.clone());
        let serve = move || {
            for stream in listener.incoming() {
                let streams = stream.and_then(|stream| {
                    stream.set_write_timeout(Some(PATIENCE))?;
                    Ok((stream.try_clone()?, stream))
                });
                match streams {
                    Ok((reads, writes)) => clients.serve(Box::new(reads), Box::new(writes), running.clone(), false),
                    // Nothing is to be had at the moment (descriptors, memory): asking again at once has no end.
                    Err(_) => std::thread::sleep(SCARCE),
                }
            }
        };
        std::thread::Builder::new().name("clients".into()).spawn(serve).map_err(told)?;
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
        let (all, served) = (self.clone(), client.clone());
        let serve = move || {
            let mut reads = FramedStream::new(StdStream(reads), all.identity);
            client.send(Kind::Hello, Turn::default(), &[]);
            let stops = all.listen_to(&client, &mut reads, &running);
            client.gone.store(true, Ordering::Relaxed);
            all.lock().retain(|other| other.number != number);
            if stops || ends_all {
                running.stop();
            }
        };
        if std::thread::Builder::new().name("client".into()).spawn(serve).is_err() {
            // The system has no more threads: that is this client's bad luck, not that of the next.
            served.gone.store(true, Ordering::Relaxed);
            self.lock().retain(|other| other.number != number);
        }
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

/// A listener at a place where nobody listens: who finds the file there can connect. What an earlier life of this
/// device has left there is replaced.
fn listen_at(path: &Path) -> io::Result<UnixListener> {
    let is_socket = |path: &Path| std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    let refuses =
        |path: &Path| UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    if is_socket(path) && refuses(path) {
        std::fs::remove_file(path)?;
    }
    // A socket refuses between the call that makes its file and the one by which it listens: it is named after both.
    let beside = path.with_file_name(format!(".{:x}", std::process::id()));
    if is_socket(&beside) {
        std::fs::remove_file(&beside)?;
    }
    let listener = match UnixListener::bind(&beside) {
        Ok(listener) => listener,
        // This name is longer than a socket's can be, and the other is not.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => return UnixListener::bind(path),
        Err(error) => return Err(error),
    };
    // Unlike renaming, this replaces nothing.
    let named = std::fs::hard_link(&beside, path);
    std::fs::remove_file(&beside)?;
    named.map(|()| listener)
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

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;
    use crate::hosted::driver::{Places, Watch, start};
    use crate::node::{Plan, Route, Step};
    use std::fs;
    use std::path::PathBuf;
    use std::time::Instant;

    const PLAN: Plan<'static> = Plan {
        hash: 7,
        device: 0,
        input: 0,
        output: 0,
        peers: &[],
        routes: &[Route { steps: &[Step::Compute], devices: 1, links: &[] }],
        family: None,
        detect_us: 300_000,
        hung_us: 0,
    };

    const OURS: Identity = Identity { plan_hash: PLAN.hash, device: 0 };

    /// A folder of this test's own.
    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("partita-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("a folder");
        folder
    }

    #[test]
    fn who_finds_the_socket_can_connect() {
        let folder = folder("found");
        let path = folder.join("socket");
        for _ in 0..50 {
            let finds = std::thread::spawn({
                let path = path.clone();
                move || {
                    while !path.exists() {}
                    UnixStream::connect(&path)
                }
            });
            let listener = listen_at(&path).expect("nobody listens");
            finds.join().expect("no panic").expect("somebody listens");
            drop(listener);
            fs::remove_file(&path).expect("it is there");
        }
        // One that an earlier life has left is replaced; somebody else's is not, nor is another file.
        drop(listen_at(&path).expect("nobody listens"));
        let listener = listen_at(&path).expect("nobody listens any more");
        assert!(listen_at(&path).is_err_and(|error| error.kind() == io::ErrorKind::AlreadyExists));
        assert!(UnixStream::connect(&path).is_ok());
        let file = folder.join("file");
        fs::write(&file, "mine").expect("the folder is ours");
        assert!(listen_at(&file).is_err());
        assert_eq!(fs::read_to_string(&file).expect("it is there"), "mine");
        assert_eq!(fs::read_dir(&folder).expect("it is ours").count(), 2, "nothing else is left behind");
        drop(listener);
        // Names may be as long as the system takes them.
        let room = 107 - folder.as_os_str().len() - 1;
        let long = folder.join("s".repeat(room));
        drop(listen_at(&long).expect("it is short enough"));
        fs::remove_dir_all(&folder).expect("it is ours");
    }

    /// Nothing to compute.
    struct Empty;

    // SAFETY: there is no memory.
    unsafe impl crate::hosted::driver::Steps for Empty {
        fn memory(&self) -> (*mut u8, usize) {
            (core::ptr::NonNull::dangling().as_ptr(), 0)
        }

        fn input_bytes(&self, _route: u8) -> usize {
            0
        }

        fn load(&mut self, _route: u8, _input: &[u8]) {}

        fn step(&mut self, _route: u8, _step: u16) -> crate::node::Flow {
            crate::node::Flow::Next
        }

        fn output(&self, _route: u8, _exit: Option<u32>) -> &[u8] {
            &[]
        }
    }

    #[test]
    fn who_does_not_read_is_let_go_and_leaves_nothing() {
        let folder = folder("reads-not");
        let path = folder.join("socket");
        let clients = Clients::new(OURS, std::vec![0], &[]);
        let none = |_: u32, _: u8, _: &[u8]| {};
        let running = start(PLAN, 1, Places::default(), Box::new(Empty), Box::new(none), Watch::default());
        let running = Arc::new(running.expect("it needs nobody"));
        clients.listen(&path, &running).expect("nobody listens");
        let mut line = FramedStream::new(StdStream(UnixStream::connect(&path).expect("it listens")), OURS);
        line.shake_hands_with_any().expect("it is a device");
        line.send(Kind::Subscribe, 0, WANTS_ANSWERS, &[]).expect("it reads");
        let begun = Instant::now();
        let knows = |count: usize| clients.lock().len() == count;
        while clients.lock().iter().all(|client| client.wants.load(Ordering::Relaxed) == 0) {
            assert!(begun.elapsed() < Duration::from_secs(10), "it has heard the subscription");
        }
        assert!(knows(1));
        // More than a socket holds.
        clients.tell(WANTS_ANSWERS, Kind::Output, Turn::default(), &std::vec![0; 4 << 20]);
        assert!(begun.elapsed() >= PATIENCE, "it waits as long as it says");
        // Its thread ends though the connection is still open at this end.
        while !knows(0) {
            assert!(begun.elapsed() < Duration::from_secs(10), "its thread has not ended");
            std::thread::sleep(Duration::from_millis(5));
        }
        drop(line);
        running.stop();
        fs::remove_dir_all(&folder).expect("it is ours");
    }
}
