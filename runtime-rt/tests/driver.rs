//! Nodes on threads, over real sockets: answers, devices that go and come back, and connections of strangers.
#![cfg(feature = "std")]

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use partita_rt::hosted::driver::{Place, Places, Running, Steps, Watch, start};
use partita_rt::node::random::Random;
use partita_rt::node::{Flow, Medium, Outcome, Part, Peer, Plan, Route, Step};

/// Bytes of a tensor.
const BYTES: usize = 8192;

/// A device of a pipeline: what comes, and what leaves, each plus the device's number.
struct Adds {
    memory: *mut u8,
    number: u8,
}

// SAFETY: the memory is leaked, and used by one program and its node.
unsafe impl Send for Adds {}

impl Adds {
    fn new(number: u8) -> Adds {
        Adds { memory: Vec::leak(vec![0u8; 2 * BYTES]).as_mut_ptr(), number }
    }
}

impl Steps for Adds {
    fn memory(&self) -> (*mut u8, usize) {
        (self.memory, 2 * BYTES)
    }

    fn input_bytes(&self, _route: u8) -> usize {
        BYTES
    }

    fn load(&mut self, _route: u8, input: &[u8]) {
        // SAFETY: inside the memory, and nothing comes while an input is loaded.
        unsafe { core::ptr::copy_nonoverlapping(input.as_ptr(), self.memory, input.len().min(BYTES)) };
    }

    fn step(&mut self, _route: u8, _step: u16) -> Flow {
        for at in 0..BYTES {
            // SAFETY: inside the memory; the plan says when links use which half.
            unsafe { *self.memory.add(BYTES + at) = (*self.memory.add(at)).wrapping_add(self.number) };
        }
        Flow::Next
    }

    fn output(&self, _route: u8, _exit: Option<u32>) -> &[u8] {
        // SAFETY: inside the memory, and nobody writes there before the next inference.
        unsafe { core::slice::from_raw_parts(self.memory.add(BYTES), BYTES) }
    }
}

fn part(peer: u8, message: u16, offset_bytes: usize, bound: u16) -> Part {
    Part { peer, message, offset_bytes: offset_bytes as u32, bytes: BYTES as u32, bound }
}

/// The plan of a device of a pipeline of three; the first has the input, the last the answer.
fn plan(device: u8) -> Plan<'static> {
    plan_over(device, Medium::Connection, 4096)
}

/// The same over another medium.
fn plan_over(device: u8, medium: Medium, chunk_bytes: u16) -> Plan<'static> {
    let comes =
        |bound| Step::Exchange { sends: &[], receives: vec![part(device - 1, u16::from(device) - 1, 0, bound)].leak() };
    let leaves =
        |bound| Step::Exchange { sends: vec![part(device + 1, device.into(), BYTES, bound)].leak(), receives: &[] };
    let steps = match device {
        0 => vec![Step::Compute, leaves(2)],
        1 => vec![comes(0), Step::Compute, leaves(3)],
        _ => vec![comes(0), Step::Compute],
    };
    let peer = |peer: u8| Peer { device: peer, medium, chunk_bytes, calls: device > peer };
    let peers = [device.wrapping_sub(1), device + 1].into_iter().filter(|peer| *peer < 3).map(peer).collect::<Vec<_>>();
    let routes = vec![Route { steps: steps.leak(), devices: 0b111, links: &[(0, 1), (1, 2)] }];
    Plan {
        hash: 7,
        device,
        input: 0,
        output: 2,
        peers: peers.leak(),
        routes: routes.leak(),
        family: None,
        detect_us: 300_000,
        hung_us: 0,
    }
}

fn device(number: u8, ports: &[SocketAddr], answers: &Sender<Vec<u8>>) -> Running {
    let places = Places {
        listen: Some(ports[usize::from(number)]),
        peers: plan(number).peers.iter().map(|peer| Place::At(ports[usize::from(peer.device)])).collect(),
    };
    let answers = answers.clone();
    let seed = Instant::now().elapsed().as_nanos() as u64 ^ std::process::id() as u64 ^ (&raw const answers) as u64;
    let deliver = move |_: u32, _: u8, bytes: &[u8]| drop(answers.send(bytes.to_vec()));
    start(plan(number), seed, places, Box::new(Adds::new(number)), Box::new(deliver), Watch::default())
        .expect("the port is free")
}

/// Ports, devices, and both ends of where they put their answers.
type Cluster = (Vec<SocketAddr>, Vec<Running>, Sender<Vec<u8>>, Receiver<Vec<u8>>);

fn cluster() -> Cluster {
    let listeners: Vec<TcpListener> =
        (0..3).map(|_| TcpListener::bind("127.0.0.1:0").expect("a port is free")).collect();
    let ports: Vec<SocketAddr> = listeners.iter().map(|listener| listener.local_addr().expect("it is bound")).collect();
    drop(listeners);
    let (sends, answers) = channel();
    let devices = (0..3).map(|number| device(number, &ports, &sends)).collect();
    (ports, devices, sends, answers)
}

/// Asks until there is an answer, and says how long that took.
fn ask(lead: &Running, answers: &Receiver<Vec<u8>>, seed: u8, patience: Duration) -> Duration {
    let input: Vec<u8> = (0..BYTES).map(|at| (at as u8).wrapping_mul(seed)).collect();
    let begun = Instant::now();
    let record = lead.infer(&input, patience).expect("there is room");
    assert_eq!(record.outcome, Outcome::Full, "{record:?} after {:?}", begun.elapsed());
    let answer = answers.recv_timeout(Duration::from_secs(1)).expect("it was delivered");
    let expected: Vec<u8> = input.iter().map(|byte| byte.wrapping_add(3)).collect();
    assert!(answer == expected, "another answer than that of this input");
    begun.elapsed()
}

#[test]
fn a_pipeline_answers_and_survives_each_of_its_devices() {
    let (ports, mut devices, sends, answers) = cluster();
    let patience = Duration::from_secs(20);
    for seed in 0..50 {
        ask(&devices[0], &answers, seed, patience);
    }
    for number in [1, 2, 1] {
        devices.remove(usize::from(number)).stop();
        std::thread::sleep(Duration::from_millis(30));
        devices.insert(number.into(), device(number, &ports, &sends));
        for seed in 50..60 {
            let took = ask(&devices[0], &answers, seed, patience);
            assert!(took < Duration::from_secs(10), "after device {number} was started again: {took:?}");
        }
    }
    devices.into_iter().for_each(|device| device.stop());
}

#[test]
fn several_inputs_are_under_way_at_once_and_records_keep_their_order() {
    let (_ports, devices, _sends, answers) = cluster();
    ask(&devices[0], &answers, 1, Duration::from_secs(20));
    let mut tags = Vec::new();
    let mut records = 0;
    while records < 300 {
        let submit = |at: usize| devices[0].submit(&[at as u8; BYTES], Duration::from_secs(20));
        while tags.len() < 300 {
            let Some(tag) = submit(tags.len()) else { break };
            tags.push(tag);
        }
        let record = devices[0].next_record().expect("it runs");
        assert_eq!((record.tag, record.outcome), (tags[records], Outcome::Full));
        let answer = answers.recv_timeout(Duration::from_secs(1)).expect("it was delivered");
        assert!(answer.iter().all(|byte| *byte == (records as u8).wrapping_add(3)), "of input {records}");
        records += 1;
    }
    devices.into_iter().for_each(|device| device.stop());
}

#[test]
fn strangers_delay_nobody() {
    let (ports, devices, _sends, answers) = cluster();
    let mut strangers = Vec::new();
    for at in 0..200 {
        let mut stranger = TcpStream::connect(ports[at % 2]).expect("it listens");
        if at % 3 == 0 {
            stranger.write_all(&[at as u8; 300]).expect("it takes some");
        }
        if at % 3 == 1 {
            stranger.write_all(b"Pt").expect("it takes some");
        }
        strangers.push(stranger);
    }
    for seed in 0..20 {
        ask(&devices[0], &answers, seed, Duration::from_secs(20));
    }
    drop(strangers);
    devices.into_iter().for_each(|device| device.stop());
}

/// Passes datagrams on between two sockets, of which one in ten is lost and some come twice.
fn bad_air(sockets: [UdpSocket; 2], ends: [SocketAddr; 2], stop: Arc<AtomicBool>) {
    let mut bytes = [0u8; 2048];
    let mut random = Random::new(3);
    while !stop.load(Ordering::Relaxed) {
        for at in 0..2 {
            while let Ok(count) = sockets[at].recv(&mut bytes) {
                let copies = match random.below(20) {
                    0 | 1 => 0,
                    2 => 2,
                    _ => 1,
                };
                for _ in 0..copies {
                    let _ = sockets[1 - at].send_to(&bytes[..count], ends[1 - at]);
                }
            }
        }
        std::thread::sleep(Duration::from_micros(200));
    }
}

#[test]
fn datagrams_that_are_lost_are_sent_again() {
    let socket = || {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port is free");
        socket.set_nonblocking(true).expect("it can be");
        socket
    };
    let (stop, (sends, answers)) = (Arc::new(AtomicBool::new(false)), channel());
    let mut places: Vec<Vec<Place>> = vec![Vec::new(), Vec::new(), Vec::new()];
    let mut threads = Vec::new();
    for (low, high) in [(0, 1), (1, 2)] {
        let ends = [socket(), socket()].map(|socket| socket.local_addr().expect("it is bound"));
        let middle = [socket(), socket()];
        let remote = |at: usize| middle[at].local_addr().expect("it is bound");
        places[low].push(Place::Datagrams { local: ends[0], remote: remote(0) });
        places[high].push(Place::Datagrams { local: ends[1], remote: remote(1) });
        let stop = stop.clone();
        threads.push(std::thread::spawn(move || bad_air(middle, ends, stop)));
    }
    let devices: Vec<Running> = (0u8..)
        .zip(places)
        .map(|(number, peers)| {
            let answers = sends.clone();
            let deliver = move |_: u32, _: u8, bytes: &[u8]| drop(answers.send(bytes.to_vec()));
            let places = Places { listen: None, peers };
            let plan = plan_over(number, Medium::Datagrams, 1200);
            start(plan, number.into(), places, Box::new(Adds::new(number)), Box::new(deliver), Watch::default())
                .expect("ports are free")
        })
        .collect();
    for seed in 0..30 {
        ask(&devices[0], &answers, seed, Duration::from_secs(20));
    }
    devices.into_iter().for_each(|device| device.stop());
    stop.store(true, Ordering::Relaxed);
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
}

#[test]
fn lines_carry_frames_too() {
    let (sends, answers) = channel();
    let mut places: Vec<Vec<Place>> = vec![Vec::new(), Vec::new(), Vec::new()];
    for (low, high) in [(0, 1), (1, 2)] {
        let (one, other) = UnixStream::pair().expect("sockets can be made");
        for (device, end) in [(low, one), (high, other)] {
            end.set_nonblocking(true).expect("it can be");
            let open = move || Ok(OwnedFd::from(end.try_clone()?));
            places[device].push(Place::Line(Box::new(open)));
        }
    }
    let devices: Vec<Running> = (0u8..)
        .zip(places)
        .map(|(number, peers)| {
            let answers = sends.clone();
            let deliver = move |_: u32, _: u8, bytes: &[u8]| drop(answers.send(bytes.to_vec()));
            let plan = plan_over(number, Medium::Line, 256);
            let places = Places { listen: None, peers };
            start(plan, number.into(), places, Box::new(Adds::new(number)), Box::new(deliver), Watch::default())
                .expect("it starts")
        })
        .collect();
    for seed in 0..30 {
        ask(&devices[0], &answers, seed, Duration::from_secs(20));
    }
    devices.into_iter().for_each(|device| device.stop());
}
