//! A pipeline of three nodes on threads, over real sockets. Each adds its number to what comes.

use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use partita_rt::hosted::driver::{Keys, Place, Places, Running, Watch, start};
use partita_rt::hosted::identity;
use partita_rt::node::{Medium, Outcome, Plan};
use partita_rt::noise::Private;

use crate::adding;

/// Bytes of a tensor.
pub const BYTES: usize = 8192;

/// The program of a device.
pub type Adds = adding::Adds<BYTES>;

/// The plan of a device of a pipeline of three; the first has the input, the last the answer.
pub fn plan(device: u8) -> Plan<'static> {
    adding::plan::<BYTES>(device, Medium::Connection, 4096)
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
