//! What lies between two devices, with faults that can be switched while it carries: connections, datagrams and serial lines of
//! real processes. User space, so it needs no rights and works where the kernel has no `netem`.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use partita_rt::node::random::Random;
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

/// How long a thread waits before it looks at the switches again.
const LOOK: Duration = Duration::from_millis(5);

/// Parts in a million.
const MILLION: u64 = 1_000_000;

/// What is wrong with a cable now; all of it in both directions.
#[derive(Default)]
pub struct Faults {
    /// Nothing passes: connections keep what they carry until it does again, the rest loses it.
    pub cut: AtomicBool,
    /// Datagrams of a million that are lost.
    pub lost: AtomicU32,
    /// When one is lost, so many behind it are, too.
    pub burst: AtomicU32,
    /// Bytes of a million in which a bit is turned.
    pub damaged: AtomicU32,
    /// Bits that were turned.
    pub turned: AtomicU64,
    /// Datagrams that were lost.
    pub gone: AtomicU64,
    stop: AtomicBool,
}

impl Faults {
    fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Relaxed)
    }

    fn stops(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn damage(&self, bytes: &mut [u8], random: &mut Random) {
        let damaged = u64::from(self.damaged.load(Ordering::Relaxed));
        if damaged == 0 {
            return;
        }
        for byte in bytes {
            if random.below(MILLION) < damaged {
                *byte ^= 1 << random.below(8);
                self.turned.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Where one end of a cable is plugged in.
#[derive(Clone, Debug)]
pub enum End {
    /// The device listens there (TCP), or sends and takes datagrams there (UDP).
    Listens(SocketAddr),
    /// The device connects.
    Connects,
    /// A serial line.
    Line,
}

/// A cable between two devices.
pub struct Relay {
    /// What is wrong with it.
    pub faults: Arc<Faults>,
    /// What each device is told of where the other is: an address, or the path of a line. Empty if it is told nothing.
    pub places: [String; 2],
    /// Connections that it carries.
    open: Arc<Mutex<Vec<[TcpStream; 2]>>>,
    /// The devices' ends of lines, so that a line lasts while its device is away.
    _lines: Vec<File>,
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.faults.stop.store(true, Ordering::Relaxed);
        self.reset();
    }
}

impl Relay {
    /// Connections from the second device to the first, which listens at `at`.
    pub fn connections(at: SocketAddr, seed: u64) -> std::io::Result<Relay> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let place = listener.local_addr()?.to_string();
        listener.set_nonblocking(true)?;
        let relay = Relay::new([String::new(), place], Vec::new());
        let (faults, open) = (relay.faults.clone(), relay.open.clone());
        std::thread::spawn(move || {
            let mut seeds = seed;
            while !faults.stops() {
                let Ok((caller, _)) = listener.accept() else {
                    std::thread::sleep(LOOK);
                    continue;
                };
                // Who is cut off reaches nobody; who is refused is refused.
                if let Some(ends) = (!faults.is_cut()).then(|| joined(caller, at).ok()).flatten() {
                    for (from, to) in [(0, 1), (1, 0)] {
                        seeds = seeds.wrapping_add(1);
                        carry(&ends, (from, to), &faults, seeds);
                    }
                    lock(&open).push(ends);
                }
            }
        });
        Ok(relay)
    }

    /// Datagrams between two devices, each of which has its own place.
    pub fn datagrams(devices: [SocketAddr; 2], seed: u64) -> std::io::Result<Relay> {
        let sockets = [UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?];
        let places = [sockets[0].local_addr()?.to_string(), sockets[1].local_addr()?.to_string()];
        let relay = Relay::new(places, Vec::new());
        for (from, to) in [(0, 1), (1, 0)] {
            let [source, sink] = [&sockets[from], &sockets[to]].map(UdpSocket::try_clone);
            let (source, sink, faults) = (source?, sink?, relay.faults.clone());
            source.set_read_timeout(Some(LOOK))?;
            let mut random = Random::new(seed.wrapping_add(from as u64));
            std::thread::spawn(move || {
                let (mut bytes, mut unlucky) = ([0u8; 2048], 0);
                while !faults.stops() {
                    let Ok(count) = source.recv(&mut bytes) else { continue };
                    let lost = faults.lost.load(Ordering::Relaxed);
                    if unlucky == 0 && random.below(MILLION) < u64::from(lost) {
                        unlucky = 1 + faults.burst.load(Ordering::Relaxed);
                    }
                    if unlucky > 0 || faults.is_cut() {
                        unlucky = u32::saturating_sub(unlucky, 1);
                        faults.gone.fetch_add(1, Ordering::Relaxed);
                        continue;
                    }
                    faults.damage(&mut bytes[..count], &mut random);
                    let _ = sink.send_to(&bytes[..count], devices[to]);
                }
            });
        }
        Ok(relay)
    }

    /// A serial line; the devices' ends are pseudo terminals.
    pub fn line(seed: u64) -> std::io::Result<Relay> {
        let (ours, theirs): (Vec<File>, Vec<PathBuf>) = [pair()?, pair()?].into_iter().unzip();
        let places = [theirs[0].display().to_string(), theirs[1].display().to_string()];
        let relay = Relay::new(places, theirs.iter().map(held).collect::<std::io::Result<_>>()?);
        for (from, to) in [(0, 1), (1, 0)] {
            let (mut source, mut sink) = (ours[from].try_clone()?, ours[to].try_clone()?);
            let (faults, mut random) = (relay.faults.clone(), Random::new(seed.wrapping_add(from as u64)));
            std::thread::spawn(move || {
                let mut bytes = [0u8; 4096];
                while !faults.stops() {
                    let Ok(count) = source.read(&mut bytes) else {
                        // No byte has come: the shortest sleep is shorter than a frame takes on any line.
                        std::thread::sleep(Duration::from_micros(50));
                        continue;
                    };
                    if faults.is_cut() {
                        continue;
                    }
                    faults.damage(&mut bytes[..count], &mut random);
                    pour(&mut sink, &bytes[..count]);
                }
            });
        }
        Ok(relay)
    }

    fn new(places: [String; 2], lines: Vec<File>) -> Relay {
        Relay { faults: Arc::default(), places, open: Arc::default(), _lines: lines }
    }

    /// Closes all connections: both ends learn of it at once.
    pub fn reset(&self) {
        for ends in lock(&self.open).drain(..) {
            let _ = ends.each_ref().map(|end| end.shutdown(Shutdown::Both));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A caller and whom it calls.
fn joined(caller: TcpStream, at: SocketAddr) -> std::io::Result<[TcpStream; 2]> {
    let ends = [TcpStream::connect(at)?, caller];
    for end in &ends {
        end.set_nonblocking(false)?;
        end.set_nodelay(true)?;
        end.set_read_timeout(Some(LOOK))?;
    }
    Ok(ends)
}

/// Carries one direction of a connection, until an end closes it: then the other is closed, too, unless the cable is cut; who
/// is at its other end then learns nothing.
fn carry(ends: &[TcpStream; 2], (from, to): (usize, usize), faults: &Arc<Faults>, seed: u64) {
    let (Ok(mut source), Ok(mut sink)) = (ends[from].try_clone(), ends[to].try_clone()) else { return };
    let (faults, mut random) = (faults.clone(), Random::new(seed));
    std::thread::spawn(move || {
        let mut bytes = vec![0u8; 64 << 10];
        while !faults.stops() {
            if faults.is_cut() {
                std::thread::sleep(LOOK);
                continue;
            }
            match source.read(&mut bytes) {
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
                Ok(count) if count > 0 => {
                    // What has come when the cable was cut is carried on when it no longer is.
                    while faults.is_cut() && !faults.stops() {
                        std::thread::sleep(LOOK);
                    }
                    faults.damage(&mut bytes[..count], &mut random);
                    if sink.write_all(&bytes[..count]).is_ok() {
                        continue;
                    }
                }
                _ => {}
            }
            // Over a cable that is cut nobody hears that the other end is gone.
            while faults.is_cut() && !faults.stops() {
                std::thread::sleep(LOOK);
            }
            let _ = (source.shutdown(Shutdown::Both), sink.shutdown(Shutdown::Both));
            return;
        }
    });
}

/// A pseudo terminal does not end while somebody has it open, and is not to echo while its device is away.
fn held(path: &PathBuf) -> std::io::Result<File> {
    let file = File::options().read(true).write(true).open(path)?;
    let mut modes = tcgetattr(&file)?;
    modes.make_raw();
    tcsetattr(&file, OptionalActions::Now, &modes)?;
    Ok(file)
}

/// A pseudo terminal: our end, and the path of the other.
fn pair() -> std::io::Result<(File, PathBuf)> {
    let ours: OwnedFd = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
    grantpt(&ours)?;
    unlockpt(&ours)?;
    fcntl_setfl(&ours, OFlags::RDWR | OFlags::NONBLOCK)?;
    let name = ptsname(&ours, Vec::new())?;
    Ok((File::from(ours), PathBuf::from(name.to_string_lossy().into_owned())))
}

/// Writes what the line takes; nobody may be there to read it, and then it is lost, as on any line.
fn pour(sink: &mut File, bytes: &[u8]) {
    let (mut rest, mut waited) = (bytes, 0);
    while !rest.is_empty() && waited < 200 {
        match sink.write(rest) {
            Ok(count) => rest = &rest[count..],
            Err(_) => {
                waited += 1;
                std::thread::sleep(Duration::from_micros(50));
            }
        }
    }
}
