//! Three processes that share the digit reader, built once and started as often as needed, with a cable between each two.

use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use partita::data;
use partita::graph::{Value, eval};
use partita::onnx::{ImportOptions, import};
use rustix::process::{Pid, Signal, kill_process};

use crate::bundle::{ClusterText, read_report};
use crate::command::{compile, succeed};
use crate::device::free_place;
use crate::place;
use crate::relay::Relay;

/// Devices, by number.
pub const NAMES: [&str; 3] = ["a", "b", "c"];

/// How the devices share the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Input on the first, output on the last: an inference needs all three and both cables.
    Pipeline,
    /// Input and output on the first, `survive = 1`: it does without either of the others.
    Survives,
}

impl Shape {
    /// For readers.
    pub fn word(self) -> &'static str {
        match self {
            Shape::Pipeline => "pipeline",
            Shape::Survives => "survive = 1",
        }
    }

    /// The device that gives answers.
    pub fn output(self) -> usize {
        if self == Shape::Pipeline { 2 } else { 0 }
    }

    /// Pairs of devices with a cable between them.
    pub fn cables(self) -> &'static [(usize, usize)] {
        if self == Shape::Pipeline { &[(0, 1), (1, 2)] } else { &[(0, 1), (0, 2), (1, 2)] }
    }
}

/// What the cables carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
    /// A serial line.
    Uart,
}

impl Carrier {
    /// As the cluster file says it.
    pub fn word(self) -> &'static str {
        match self {
            Carrier::Tcp => "tcp",
            Carrier::Udp => "udp",
            Carrier::Uart => "uart",
        }
    }
}

/// A built bundle, and what it answers.
pub struct Bundle {
    /// How its devices share the work.
    pub shape: Shape,
    /// What carries its links.
    pub carrier: Carrier,
    /// The plan, as programs that talk to devices have to know it.
    pub plan_hash: u64,
    /// The bytes of inputs, all different.
    pub inputs: Vec<Vec<u8>>,
    /// The answer to each, by the reference kernels.
    pub answers: Vec<Vec<f32>>,
    out: PathBuf,
    _folder: tempfile::TempDir,
}

impl Bundle {
    /// Compiles and builds it. The boards are slow in the cost model, so that sharing is worth it, and compute here as fast
    /// as they can.
    pub fn build(shape: Shape, carrier: Carrier) -> Bundle {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let text = ClusterText::new(NAMES[0], NAMES[shape.output()]);
        let text = NAMES.iter().fold(text, |text, name| text.device(name, "host", "cpu = 0.002"));
        let bandwidth = if carrier == Carrier::Uart { "4 Mbit/s" } else { "1 Gbit/s" };
        let link =
            |text: ClusterText, (a, b): &(usize, usize)| text.link(NAMES[*a], NAMES[*b], carrier.word(), bandwidth);
        let text = shape.cables().iter().fold(text, link);
        let text = if shape == Shape::Survives { text.cluster_key("survive = 1") } else { text };
        let out = folder.path().join("out");
        let example = place::repository().join("examples/digits");
        let mut command = compile();
        command.arg(example.join("model.onnx")).arg("--targets").arg(text.write(folder.path()));
        command.args(["--strategy", "pipeline", "--link-error", "exact", "--build", "--out"]).arg(&out);
        succeed(&mut command);
        let hash = read_report(&out)["plan"]["hash"].as_str().map(|hash| u64::from_str_radix(hash, 16));
        let (inputs, answers) = samples(&example);
        let plan_hash = hash.and_then(Result::ok).expect("the report says its plan");
        Bundle { shape, carrier, plan_hash, inputs, answers, out, _folder: folder }
    }
}

/// The test samples of an example, and what the reference kernels answer.
fn samples(example: &Path) -> (Vec<Vec<u8>>, Vec<Vec<f32>>) {
    let graph = import(&example.join("model.onnx"), &ImportOptions::default()).expect("the example imports");
    let arrays = data::read_npz(&example.join("test.npz")).expect("the example has samples");
    let pixels = &arrays.iter().find(|(name, _)| name == "x").expect("pixels").1;
    let pixels = data::to_f32(&pixels.data);
    let shape = graph.shape(graph.inputs[0]).to_vec();
    let answer = |sample: &[f32]| {
        let input = Value::f32(shape.clone(), sample.to_vec());
        data::to_f32(&eval::evaluate(&graph, &[input]).expect("it is computed")[0].data).to_vec()
    };
    let samples = pixels.chunks_exact(shape.iter().product());
    let bytes = |sample: &[f32]| sample.iter().flat_map(|x| x.to_le_bytes()).collect();
    samples.map(|sample| (bytes(sample), answer(sample))).unzip()
}

/// The processes of a bundle, and their cables.
pub struct Cluster {
    /// What runs.
    pub bundle: Arc<Bundle>,
    /// In the order of [`Shape::cables`].
    pub cables: Vec<Relay>,
    folder: tempfile::TempDir,
    /// Where devices listen.
    pub places: [SocketAddr; 3],
    processes: [Option<Child>; 3],
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for process in self.processes.iter_mut().flatten() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Cluster {
    /// Starts all devices.
    pub fn start(bundle: &Arc<Bundle>, seed: u64) -> Cluster {
        let places = [(); 3].map(|()| free_place().parse::<SocketAddr>().expect("an address"));
        let cable = |(a, b): &(usize, usize)| match bundle.carrier {
            Carrier::Tcp => Relay::connections(places[*a], seed),
            Carrier::Udp => Relay::datagrams([places[*a], places[*b]], seed),
            Carrier::Uart => Relay::line(seed),
        };
        let cables = bundle.shape.cables().iter().map(|ends| cable(ends).expect("a cable can be made")).collect();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let processes = [const { None }; 3];
        let mut cluster = Cluster { bundle: bundle.clone(), cables, folder, places, processes };
        (0..NAMES.len()).for_each(|device| cluster.revive(device));
        cluster
    }

    /// Where a device serves programs of this machine.
    pub fn socket(&self, device: usize) -> PathBuf {
        self.folder.path().join(format!("{}.socket", NAMES[device]))
    }

    /// Starts a device, as a supervisor does.
    pub fn revive(&mut self, device: usize) {
        let mut command = Command::new(self.bundle.out.join("bin").join(NAMES[device]));
        command.arg("--socket").arg(self.socket(device)).arg("--listen").arg(self.places[device].to_string());
        for ((a, b), cable) in self.bundle.shape.cables().iter().zip(&self.cables) {
            let (peer, end) = match device {
                _ if device == *a => (*b, 0),
                _ if device == *b => (*a, 1),
                _ => continue,
            };
            let place = format!("{}={}", NAMES[peer], cable.places[end]);
            match self.bundle.carrier {
                Carrier::Uart => drop(command.args(["--uart", &place])),
                Carrier::Tcp | Carrier::Udp if cable.places[end].is_empty() => {}
                Carrier::Tcp | Carrier::Udp => drop(command.args(["--peer", &place])),
            }
        }
        self.processes[device] = Some(command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts"));
    }

    /// Number of a device's process.
    pub fn process_id(&self, device: usize) -> u32 {
        self.processes[device].as_ref().expect("it runs").id()
    }

    /// Sends a signal to a device.
    pub fn signal(&self, device: usize, signal: Signal) {
        let process = self.processes[device].as_ref().expect("it runs");
        let _ = kill_process(Pid::from_child(process), signal);
    }

    /// Ends a device without notice, and waits until it is gone.
    pub fn kill(&mut self, device: usize) {
        let mut process = self.processes[device].take().expect("it runs");
        let _ = process.kill();
        let _ = process.wait();
    }

    /// Cables of a device.
    pub fn cables_of(&self, device: usize) -> impl Iterator<Item = &Relay> {
        let ends = self.bundle.shape.cables().iter();
        ends.zip(&self.cables).filter(move |((a, b), _)| [*a, *b].contains(&device)).map(|(_, cable)| cable)
    }

    /// Waits until a device serves programs.
    pub fn connect(&self, device: usize, patience: Duration) -> Option<UnixStream> {
        let begun = Instant::now();
        loop {
            match UnixStream::connect(self.socket(device)) {
                Ok(stream) => return Some(stream),
                Err(_) if begun.elapsed() > patience => return None,
                Err(_) => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    }
}
