//! Runs a bundle on this machine: every device a process, foreign ones under QEMU, their links over loopback.

mod heard;
pub mod local;
mod outcome;
mod process;

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use crate::bundle::identity;
use crate::config::Transport;
use partita_rt::frame::{Kind, WANTS_ANSWERS, WANTS_COSTS};
use partita_rt::hosted::identity::{make, to_hex};
use partita_rt::node::{Outcome, Record};
use partita_rt::{DeviceCosts, Identity};

pub use outcome::{DeviceReport, InferenceResult, RunError};

use crate::interrupt::TemporaryFolder;
use heard::Heard;
use process::{Event, Process};

/// Time for reports to arrive after the answer, beside that which the answer took.
const REPORT_TIME: Duration = Duration::from_secs(2);

/// How long a peer on this machine may be silent, if nobody says.
const SILENCE: Duration = Duration::from_secs(30);

/// One device of a running cluster.
#[derive(Clone, Debug)]
pub struct LocalDevice {
    /// Name in the cluster.
    pub name: String,
    /// Number in the cluster.
    pub index: usize,
    /// Its executable.
    pub binary: PathBuf,
    /// `host:port` on which peers reach it where it runs, if cluster.toml says.
    pub address: Option<String>,
    /// Runs without an operating system.
    pub firmware: bool,
    /// Program and arguments that run foreign executables.
    pub emulator: Option<Vec<String>>,
    /// Its links.
    pub links: Vec<LocalLink>,
    /// Whether the input is fed here.
    pub holds_input: bool,
    /// Whether the answer comes from here.
    pub holds_output: bool,
    /// Whether it has anything to do, on each route.
    pub busy: Vec<bool>,
}

/// A link of a device.
#[derive(Clone, Debug)]
pub struct LocalLink {
    /// Number of the peer.
    pub peer: usize,
    /// Name of the peer.
    pub peer_name: String,
    /// What carries it.
    pub transport: Transport,
}

/// How a cluster is run.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Plan of all devices.
    pub plan_hash: u64,
    /// Give up on an answer after this time.
    pub deadline: Duration,
    /// Program that starts each device: it is given the device's name, the executable and its arguments, and may enter
    /// a namespace or go to another machine. Devices then use the addresses of cluster.toml.
    pub launcher: Option<PathBuf>,
    /// Devices time every step.
    pub profile: bool,
    /// Devices give up on a silent peer after this time; by default after their own.
    pub silence: Option<Duration>,
    /// The devices share several routes: one that ends does not end the others.
    pub several_routes: bool,
    /// Devices prove who they are: keys are made for this run, unless a launcher starts them where they have their own.
    pub secure: bool,
}

/// A cluster of local processes. Dropping it ends them.
pub struct LocalCluster {
    processes: Vec<Process>,
    devices: Vec<LocalDevice>,
    events: Receiver<(usize, Event)>,
    options: RunOptions,
    inferences: u32,
    /// Devices that have ended, where that does not end the others.
    ended: Vec<bool>,
    // Sockets of serial lines; removed with the cluster.
    _folder: TemporaryFolder,
}

impl LocalCluster {
    /// Starts every device.
    pub fn start(devices: &[LocalDevice], options: &RunOptions) -> Result<LocalCluster, RunError> {
        let folder = TemporaryFolder::new("partita-run-")?;
        let addresses = addresses(devices, options)?;
        if options.secure && options.launcher.is_none() {
            make_keys(devices, &folder)?;
        }
        let (sender, events) = channel();
        // Firmware first: its sockets must exist before others can connect.
        let mut order: Vec<usize> = (0..devices.len()).collect();
        order.sort_by_key(|position| !devices[*position].firmware);
        let mut processes: Vec<Option<Process>> = (0..devices.len()).map(|_| None).collect();
        for position in order {
            let device = &devices[position];
            let command = command(devices, device, &folder, &addresses, options);
            // What a launcher starts may run on another machine.
            let socket = device.firmware || options.launcher.is_none();
            let control = socket.then(|| control_socket(&folder, device));
            let identity = Identity { plan_hash: options.plan_hash, device: u8::MAX };
            let process =
                Process::start(position, &command, (control, device.firmware), identity, sender.clone()).map_err(
                    |source| RunError::Start { device: device.name.clone(), command: command.join(" "), source },
                )?;
            processes[position] = Some(process);
        }
        let processes = processes.into_iter().flatten().collect();
        let mut cluster = LocalCluster {
            processes,
            devices: devices.to_vec(),
            events,
            options: options.clone(),
            inferences: 0,
            ended: vec![false; devices.len()],
            _folder: folder,
        };
        cluster.subscribe()?;
        Ok(cluster)
    }

    /// Has every device tell of its answers and of what they cost; waits until all of them have heard it.
    fn subscribe(&mut self) -> Result<(), RunError> {
        let budget_us = u64::try_from(self.budget().as_micros()).unwrap_or(u64::MAX);
        // Others have been told on their command line.
        let silence_us = u64::try_from(self.options.silence.unwrap_or(SILENCE).as_micros()).unwrap_or(u64::MAX);
        for position in 0..self.devices.len() {
            let process = &mut self.processes[position];
            if self.devices[position].firmware
                && let Err(reason) = process.send(Kind::Silence, 0, 0, &silence_us.to_le_bytes())
            {
                return Err(self.stopped(position, reason.to_string()));
            }
            let told = process.send(Kind::Subscribe, 0, WANTS_ANSWERS | WANTS_COSTS, &[]);
            let told = told.and_then(|()| process.send(Kind::Budget, 0, 0, &budget_us.to_le_bytes()));
            if let Err(reason) = told.and_then(|()| process.send(Kind::Status, 0, 0, &[])) {
                return Err(self.stopped(position, reason.to_string()));
            }
        }
        let begin = Instant::now();
        let mut heard: Vec<Option<DeviceReport>> = vec![None; self.devices.len()];
        while heard.iter().any(Option::is_none) {
            match self.events.recv_timeout(self.options.deadline.saturating_sub(begin.elapsed())) {
                Ok((position, Event::Frame(header, _))) if header.kind == Kind::Status => {
                    heard[position] = Some(DeviceReport::default());
                }
                Ok((_, Event::Frame(..))) => {}
                Ok((position, Event::End(reason))) => return Err(self.stopped(position, reason)),
                Err(_) => return Err(self.deadline(&heard)),
            }
        }
        Ok(())
    }

    /// How long an inference may take. Where routes are left that do without a device, nobody waits for long for what will
    /// not come back.
    fn budget(&self) -> Duration {
        match self.options.silence.filter(|_| self.options.several_routes) {
            Some(silence) => (silence * 10).min(self.options.deadline),
            None => self.options.deadline,
        }
    }

    /// One inference: feeds the input, waits for the output and every device's report. One that devices give up is
    /// repeated.
    pub fn infer(&mut self, input: &[u8]) -> Result<InferenceResult, RunError> {
        self.infer_on(input, None)
    }

    /// The same on a given route, where there are several; it is not repeated.
    pub fn infer_on(&mut self, input: &[u8], route: Option<u8>) -> Result<InferenceResult, RunError> {
        let begin = Instant::now();
        self.ask(input, route, begin)
    }

    /// One inference, from the input that is handed in to its record, its answer and what every device says it has cost.
    fn ask(&mut self, input: &[u8], route: Option<u8>, begin: Instant) -> Result<InferenceResult, RunError> {
        let number = self.inferences;
        self.inferences += 1;
        let wanted = route.map_or(0, |route| u16::from(route) + 1);
        for position in 0..self.devices.len() {
            if self.devices[position].holds_input
                && let Err(reason) = self.processes[position].send(Kind::Input, number, wanted, input)
            {
                return Err(self.stopped(position, reason.to_string()));
            }
        }
        let mut heard = Heard::new(number, self.devices.len());
        loop {
            let missing = heard.missing(&self.devices, &self.ended);
            if let Some(record) = heard.record.filter(|_| missing.is_empty()) {
                return self.result(record, heard);
            }
            let dispensable = heard.record.is_some() && missing.iter().all(|position| self.may_end(*position));
            let deadline =
                if dispensable { heard.took() * 2 + REPORT_TIME } else { self.options.deadline + REPORT_TIME };
            match self.events.recv_timeout(deadline.saturating_sub(begin.elapsed())) {
                Ok((position, Event::Frame(header, payload))) => {
                    if let Err(reason) = heard.take(position, &header, payload, begin.elapsed()) {
                        return Err(self.stopped(position, reason));
                    }
                }
                Ok((position, Event::End(_))) if self.may_end(position) => self.ended[position] = true,
                Ok((position, Event::End(reason))) => return Err(self.stopped(position, reason)),
                Err(_) if dispensable => missing.iter().for_each(|position| self.ended[*position] = true),
                Err(_) => {
                    let there = (0..self.devices.len()).map(|at| (!missing.contains(&at)).then(DeviceReport::default));
                    return Err(self.deadline(&there.collect::<Vec<_>>()));
                }
            }
        }
    }

    /// What has been heard of an inference, once nothing is missing.
    fn result(&mut self, record: Record, mut heard: Heard) -> Result<InferenceResult, RunError> {
        let given_up = usize::from(record.tries).saturating_sub(1);
        let reason = match record.outcome {
            Outcome::Late => "there was no answer in time",
            Outcome::Failed(_) => "devices or links are gone",
            Outcome::Full | Outcome::Exit(..) | Outcome::Variant(..) => {
                let costs: Vec<Option<DeviceCosts>> = heard.costs(record.input);
                let reported = self.devices.iter().zip(&costs);
                let reports = reported.filter_map(|(device, costs)| Some(DeviceReport::of(&device.name, (*costs)?)));
                let reports: Vec<DeviceReport> = reports.collect();
                let profiles = heard.profiles(record.input);
                let answer = heard.answer(record.input).unwrap_or_default();
                return Ok(InferenceResult {
                    output: answer.bytes,
                    wall_time: answer.time,
                    exit: heard::exit(&record),
                    route: heard::route(&record),
                    given_up,
                    reports,
                    profiles,
                });
            }
        };
        Err(RunError::GivenUp { reason: reason.to_string(), times: given_up + 1, said: self.said() })
    }

    /// Whether the others go on without a device.
    fn may_end(&self, position: usize) -> bool {
        let device = &self.devices[position];
        self.options.several_routes && !device.holds_input && !device.holds_output
    }

    /// Ends a device's process, as if it had lost its power.
    pub fn kill(&mut self, position: usize) {
        self.processes[position].kill();
    }

    /// The process of a device.
    pub fn process_id(&self, position: usize) -> Option<u32> {
        self.processes[position].id()
    }

    /// A device ended. What it said last may still be on its way; the device that failed first says most.
    fn stopped(&mut self, position: usize, reason: String) -> RunError {
        std::thread::sleep(Duration::from_millis(100));
        let said = self.said();
        // One that was killed did not choose to end; the others followed.
        let killed = (0..self.processes.len())
            .find(|other| self.processes[*other].exit_status().is_some_and(|status| status.code().is_none()));
        let position = killed.unwrap_or(position);
        let ended = self.processes[position].exit_status();
        let reason = ended.map_or(reason, |status| status.to_string());
        RunError::Stopped { device: self.devices[position].name.clone(), reason, said }
    }

    /// What devices wrote to standard error.
    fn said(&self) -> String {
        let words = self.processes.iter().map(|process| crate::diagnostic::printable(process.said().trim()));
        let says = words.zip(&self.devices).filter(|(words, _)| !words.is_empty());
        says.map(|(words, device)| format!("\n  {} says: {words}", device.name)).collect()
    }

    fn deadline(&mut self, reports: &[Option<DeviceReport>]) -> RunError {
        let waiting: Vec<&str> = self
            .devices
            .iter()
            .zip(reports)
            .filter(|(_, report)| report.is_none())
            .map(|(device, _)| device.name.as_str())
            .collect();
        let said = self.said();
        RunError::Deadline { seconds: self.options.deadline.as_secs(), waiting: waiting.join(", "), said }
    }
}

/// Where each device listens: as cluster.toml says for a launcher, else ports of this machine that were free a moment
/// ago.
fn addresses(devices: &[LocalDevice], options: &RunOptions) -> Result<Vec<String>, RunError> {
    if options.launcher.is_some() {
        let address = |device: &LocalDevice| device.address.clone().ok_or(RunError::NoAddress(device.name.clone()));
        return devices.iter().map(address).collect();
    }
    let listeners =
        devices.iter().map(|_| std::net::TcpListener::bind("127.0.0.1:0")).collect::<std::io::Result<Vec<_>>>()?;
    listeners.iter().map(|listener| Ok(listener.local_addr()?.to_string())).collect()
}

fn control_socket(folder: &Path, device: &LocalDevice) -> PathBuf {
    folder.join(format!("control-{}", device.index))
}

/// The socket of the serial line between two devices.
fn uart_socket(folder: &Path, a: usize, b: usize) -> PathBuf {
    folder.join(format!("uart-{}-{}", a.min(b), a.max(b)))
}

/// The command line that starts a device.
/// Keys for one run, in its folder.
fn make_keys(devices: &[LocalDevice], folder: &Path) -> Result<(), RunError> {
    let mut trusted = String::new();
    for device in devices {
        let public = make(&folder.join(key_file(device))).map_err(std::io::Error::other)?;
        trusted += &format!("{} {}\n", device.name, to_hex(&public));
    }
    Ok(std::fs::write(folder.join(identity::TRUSTED), trusted)?)
}

fn key_file(device: &LocalDevice) -> String {
    format!("{}.key", device.name)
}

fn command(
    devices: &[LocalDevice],
    device: &LocalDevice,
    folder: &Path,
    addresses: &[String],
    options: &RunOptions,
) -> Vec<String> {
    let mut command = match &options.launcher {
        Some(launcher) => vec![launcher.display().to_string(), device.name.clone()],
        None => device.emulator.clone().unwrap_or_default(),
    };
    let binary = std::path::absolute(&device.binary).unwrap_or_else(|_| device.binary.clone());
    if device.firmware {
        let socket = |id: String, path: &Path, server: bool| {
            let role = if server { "server=on,wait=on" } else { "server=off" };
            let chardev = format!("socket,id={id},path={},{role}", path.display());
            ["-chardev".to_string(), chardev, "-serial".to_string(), format!("chardev:{id}")]
        };
        command.extend(["-display", "none", "-monitor", "none"].map(str::to_string));
        command.extend(socket("control".to_string(), &control_socket(folder, device), true));
        for link in device.links.iter().filter(|link| link.transport == Transport::Uart) {
            let peer_is_firmware = devices.iter().any(|other| other.index == link.peer && other.firmware);
            let server = !peer_is_firmware || device.index < link.peer;
            command.extend(socket(format!("link{}", link.peer), &uart_socket(folder, device.index, link.peer), server));
        }
        command.extend(["-kernel".to_string(), binary.display().to_string()]);
        return command;
    }
    command.push(binary.display().to_string());
    if options.profile {
        command.push("--profile".to_string());
    }
    // Nothing here is as fast as planned, emulated boards least of all.
    let silence = options.silence.unwrap_or(SILENCE);
    command.extend(["--deadline-ms".to_string(), silence.as_millis().to_string()]);
    match &options.launcher {
        Some(_) => command.push("--stdio".to_string()),
        None => command.extend(["--socket".to_string(), control_socket(folder, device).display().to_string()]),
    }
    if options.secure && options.launcher.is_none() {
        let file = |name: &str| folder.join(name).display().to_string();
        command.extend(["--identity".to_string(), file(&key_file(device))]);
        command.extend(["--trusted".to_string(), file(identity::TRUSTED)]);
    }
    let address = |index: usize| {
        devices.iter().position(|other| other.index == index).map_or(String::new(), |at| addresses[at].clone())
    };
    if device.links.iter().any(|link| link.transport.listens(device.index, link.peer)) {
        command.extend(["--listen".to_string(), address(device.index)]);
    }
    for link in &device.links {
        if link.transport == Transport::Uart {
            let peer_is_firmware = devices.iter().any(|other| other.index == link.peer && other.firmware);
            let kind = if peer_is_firmware || device.index > link.peer { "unix" } else { "unix-listen" };
            let path = uart_socket(folder, device.index, link.peer);
            command.extend(["--uart".to_string(), format!("{}={kind}:{}", link.peer_name, path.display())]);
        } else if link.transport.calls(device.index, link.peer) {
            command.extend(["--peer".to_string(), format!("{}={}", link.peer_name, address(link.peer))]);
        }
    }
    command
}
