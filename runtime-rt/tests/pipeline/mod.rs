//! A pipeline of three nodes on threads, over real sockets. Each adds its number to what comes.

use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use partita_rt::hosted::driver::{Keys, Place, Places, Running, Steps, Watch, start};
use partita_rt::hosted::identity;
use partita_rt::node::{Flow, Medium, Outcome, Part, Peer, Plan, Route, Step};
use partita_rt::noise::Private;

/// Bytes of a tensor.
pub const BYTES: usize = 8192;

/// A device of a pipeline: what comes, and what leaves, each plus the device's number.
pub struct Adds {
    memory: *mut u8,
    number: u8,
}

// SAFETY: the memory is leaked, and used by one program and its node.
unsafe impl Send for Adds {}

impl Adds {
    pub fn new(number: u8) -> Adds {
        Adds { memory: Vec::leak(vec![0u8; 2 * BYTES]).as_mut_ptr(), number }
    }
}

// SAFETY: the memory is leaked and stays where it is; it is reached through its pointer alone, where the plan says.
unsafe impl Steps for Adds {
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
pub fn plan(device: u8) -> Plan<'static> {
    plan_over(device, Medium::Connection, 4096)
}

/// The same over another medium.
pub fn plan_over(device: u8, medium: Medium, chunk_bytes: u16) -> Plan<'static> {
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

/// The private key of a device.
pub fn private(number: u8) -> Private {
    Private::new([number + 1; 32])
}

/// By what a device and its peers know each other.
pub fn keys(plan: &Plan<'_>) -> Keys {
    let peers = plan.peers.iter().map(|peer| private(peer.device).public()).collect();
    Keys { private: private(plan.device), peers, secret: identity::secret().expect("the system has a random source") }
}

/// A device of the pipeline.
pub fn device(number: u8, ports: &[SocketAddr], answers: &Sender<Vec<u8>>) -> Running {
    let plan = plan(number);
    device_as(plan, keys(&plan), ports, answers)
}

/// A device with any plan and keys.
pub fn device_as(plan: Plan<'static>, keys: Keys, ports: &[SocketAddr], answers: &Sender<Vec<u8>>) -> Running {
    let places = Places {
        keys: Some(keys),
        listen: Some(ports[usize::from(plan.device)]),
        peers: plan.peers.iter().map(|peer| Place::At(ports[usize::from(peer.device)])).collect(),
    };
    let answers = answers.clone();
    let seed = Instant::now().elapsed().as_nanos() as u64 ^ std::process::id() as u64 ^ (&raw const answers) as u64;
    let deliver = move |_: u32, _: u8, bytes: &[u8]| drop(answers.send(bytes.to_vec()));
    start(plan, seed, places, Box::new(Adds::new(plan.device)), Box::new(deliver), Watch::default())
        .expect("the port is free")
}

/// Addresses at which nobody listens yet.
pub fn ports() -> Vec<SocketAddr> {
    let listeners: Vec<TcpListener> =
        (0..3).map(|_| TcpListener::bind("127.0.0.1:0").expect("a port is free")).collect();
    listeners.iter().map(|listener| listener.local_addr().expect("it is bound")).collect()
}

/// Ports, devices, and both ends of where they put their answers.
pub type Cluster = (Vec<SocketAddr>, Vec<Running>, Sender<Vec<u8>>, Receiver<Vec<u8>>);

pub fn cluster() -> Cluster {
    let ports = ports();
    let (sends, answers) = channel();
    let devices = (0..3).map(|number| device(number, &ports, &sends)).collect();
    (ports, devices, sends, answers)
}

/// Asks until there is an answer, and says how long that took.
pub fn ask(lead: &Running, answers: &Receiver<Vec<u8>>, seed: u8, patience: Duration) -> Duration {
    let input: Vec<u8> = (0..BYTES).map(|at| (at as u8).wrapping_mul(seed)).collect();
    let begun = Instant::now();
    let record = lead.infer(&input, patience).expect("there is room");
    assert_eq!(record.outcome, Outcome::Full, "{record:?} after {:?}", begun.elapsed());
    let answer = answers.recv_timeout(Duration::from_secs(1)).expect("it was delivered");
    let expected: Vec<u8> = input.iter().map(|byte| byte.wrapping_add(3)).collect();
    assert!(answer == expected, "another answer than that of this input");
    begun.elapsed()
}
