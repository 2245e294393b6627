//! A program of this machine that hands inputs to a cluster and takes its answers.
//!
//! ```no_run
//! use std::path::Path;
//! use partita_rt::hosted::client::Client;
//!
//! # let (plan_hash, picture) = (0, [0_u8; 3136]);
//! let mut cluster = Client::connect(plan_hash, Path::new("/run/partita-hall-cam/socket"), None)?;
//! let mut scores = [0; 40];
//! let record = cluster.infer(&picture, &mut scores)?;
//! # Ok::<(), partita_rt::Error>(())
//! ```
//!
//! When a device that it talks to ends, an input that was under way there is [`Error::Lost`]: nobody can say what became of
//! it. The same client goes on when the device is there again; until then [`Client::submit`] waits, as long as an input may
//! take.

use std::collections::VecDeque;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::string::String;
use std::time::{Duration, Instant};
use std::vec::Vec;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::frame::{Header, Kind, WANTS_ANSWERS};
use crate::node::{Outcome, Record};
use crate::{Error, FramedStream, Identity, StdStream};

type Line = FramedStream<StdStream<UnixStream>>;

/// Number of a client among devices: none of theirs.
const CLIENT: u8 = u8::MAX;

/// Beside the budget of an input, a device may take so long to say what became of it.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long an input may take if nobody says.
const BUDGET: Duration = Duration::from_secs(60);

/// Longest time that is waited for anything; longer budgets are the devices' affair.
const LONGEST: Duration = Duration::from_secs(365 * 86_400);

/// Answers to inputs of other programs come, too; so many that nobody has asked for are kept.
const KEPT: usize = 256;

/// Longest status that is read.
const MOST_STATUS_BYTES: usize = 1 << 20;

/// Between two tries to reach a device that has gone: first and longest.
const CALLS: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// So long after its record, and after its device is there again, an answer that was under way may still come.
const LATE_ANSWER: Duration = Duration::from_millis(500);

/// A device that is talked to.
struct Device {
    /// None while it is away.
    line: Option<Line>,
    /// Where it is reached again; unknown where the connection was given.
    path: Option<PathBuf>,
    /// Since when it is there, or when it is to be called if it is not.
    at: Instant,
    wait: Duration,
}

impl Device {
    fn new(path: Option<&Path>) -> Device {
        Device { line: None, path: path.map(Path::to_path_buf), at: Instant::now(), wait: CALLS.0 }
    }

    /// Whether it is not there and never will be.
    fn is_over(&self) -> bool {
        self.line.is_none() && self.path.is_none()
    }
}

/// An input whose answer has not been taken.
struct Waiting {
    number: u32,
    /// The device with the input has ended since: there is no record if none has come.
    record_lost: bool,
    /// That with the output has: there may be no answer.
    answer_lost: bool,
    recorded: Option<(Instant, Record)>,
}

/// Connections to the devices that hold a cluster's input and output.
pub struct Client {
    plan_hash: u64,
    budget: Duration,
    input: Device,
    /// None if that is the same device.
    output: Option<Device>,
    submitted: u32,
    /// Oldest first.
    waiting: VecDeque<Waiting>,
    /// By the cluster's number for the input.
    answers: VecDeque<(u32, Vec<u8>)>,
    status: Option<String>,
}

impl Client {
    /// Connects to the socket of the device that holds the input, and to that of the one that holds the output if it is
    /// another.
    ///
    /// Errors: nobody listens (`NoLink`), or the device is of another plan (`WrongPlan`).
    pub fn connect(plan_hash: u64, input: &Path, output: Option<&Path>) -> Result<Client, Error> {
        let mut client = Client::new(plan_hash, Device::new(Some(input)), output.map(|path| Device::new(Some(path))));
        for of_output in client.devices() {
            client.open(of_output)?;
        }
        Ok(client)
    }

    /// The same over connections that are there, such as those that `ssh MACHINE PROGRAM --talk` carries. `budget` is how
    /// long inputs may take. Connections that end are not made again.
    ///
    /// Errors: who is there is no device (`Closed`, `Stream`, `Deadline`), or one of another plan (`WrongPlan`).
    pub fn over(
        plan_hash: u64,
        input: UnixStream,
        output: Option<UnixStream>,
        budget: Duration,
    ) -> Result<Client, Error> {
        let mut client = Client::new(plan_hash, Device::new(None), output.is_some().then(|| Device::new(None)));
        client.budget = budget;
        let patience = client.patience();
        client.greet(false, input, patience)?;
        output.map_or(Ok(()), |stream| client.greet(true, stream, patience))?;
        Ok(client)
    }

    fn new(plan_hash: u64, input: Device, output: Option<Device>) -> Client {
        Client {
            plan_hash,
            budget: BUDGET,
            input,
            output,
            submitted: 0,
            waiting: VecDeque::new(),
            answers: VecDeque::new(),
            status: None,
        }
    }

    /// Says how long inputs from now on may take.
    pub fn set_budget(&mut self, budget: Duration) -> Result<(), Error> {
        self.budget = budget;
        for of_output in self.devices() {
            self.be_patient(of_output)?;
        }
        match self.tell_budget() {
            // It hears it when it is there again.
            Err(_) if !self.input.is_over() => Ok(()),
            told => told,
        }
    }

    /// Hands an input in, as its bytes: of each tensor little-endian, from a multiple of 8. Does not wait for the answer,
    /// which [`Client::next`] takes; waits for a device that has gone, as long as an input may take.
    ///
    /// Errors: a device is not there (`NoLink`; `Closed` over a connection that was given), or another one is
    /// (`WrongPlan`).
    pub fn submit(&mut self, input: &[u8]) -> Result<(), Error> {
        let until = Instant::now() + self.budget.min(LONGEST);
        loop {
            self.reach(until)?;
            let number = self.submitted;
            // Half an input is none: it is handed in again when the device is there.
            if self.send(false, Kind::Input, number, 0, input).is_ok() {
                self.submitted = number.wrapping_add(1);
                self.waiting.push_back(Waiting { number, record_lost: false, answer_lost: false, recorded: None });
                return Ok(());
            }
        }
    }

    /// Waits for what became of the oldest input whose answer was not taken, and puts the answer into `output`, unless the
    /// record says that there is none (late, failed).
    ///
    /// Errors: nothing is under way (`WrongMessage`), `output` is not as long as an answer (`WrongLength`; the answer is
    /// gone then), a device has ended before it told (`Lost`; the next input finds it when it is there again), is silent
    /// (`Deadline`) or of another plan now (`WrongPlan`). The input is not under way any more in any case.
    pub fn next(&mut self, output: &mut [u8]) -> Result<Record, Error> {
        let found = self.oldest();
        self.waiting.pop_front();
        let (record, answer) = found?;
        if let Some(answer) = answer {
            if answer.len() != output.len() {
                return Err(Error::WrongLength);
            }
            output.copy_from_slice(&answer);
        }
        Ok(record)
    }

    /// One input and its answer; nothing else may be under way.
    pub fn infer(&mut self, input: &[u8], output: &mut [u8]) -> Result<Record, Error> {
        if !self.waiting.is_empty() {
            return Err(Error::WrongMessage);
        }
        self.submit(input)?;
        self.next(output)
    }

    /// The next input finds states of zero, where the model keeps any (`compile --state`).
    pub fn reset_states(&mut self) -> Result<(), Error> {
        self.reach(Instant::now() + self.patience())?;
        self.send(false, Kind::Reset, 0, 0, &[])
    }

    /// Counters of the device that holds the input, as Prometheus reads them.
    pub fn status(&mut self) -> Result<String, Error> {
        self.reach(Instant::now() + self.patience())?;
        self.ask_status(false)
    }

    /// Orders the devices to end.
    pub fn stop(mut self) -> Result<(), Error> {
        for of_output in self.devices() {
            self.send(of_output, Kind::Stop, 0, 0, &[])?;
        }
        Ok(())
    }

    /// Which devices there are: that with the output, if it is another, and that with the input.
    fn devices(&self) -> impl Iterator<Item = bool> + use<> {
        [true, false].into_iter().skip(usize::from(self.output.is_none()))
    }

    fn device(&mut self, of_output: bool) -> &mut Device {
        match &mut self.output {
            Some(output) if of_output => output,
            _ => &mut self.input,
        }
    }

    /// How long a device may be silent.
    fn patience(&self) -> Duration {
        self.budget.saturating_add(PATIENCE).min(LONGEST)
    }

    fn be_patient(&mut self, of_output: bool) -> Result<(), Error> {
        let patience = self.patience();
        let line = self.device(of_output).line.as_ref();
        line.map_or(Ok(()), |line| line.stream().0.set_read_timeout(Some(patience)).map_err(|_| Error::Stream))
    }

    /// The record of the oldest input, and its answer if there is one.
    fn oldest(&mut self) -> Result<(Record, Option<Vec<u8>>), Error> {
        let until = Instant::now() + self.patience();
        loop {
            let oldest = self.waiting.front().ok_or(Error::WrongMessage)?;
            let &Waiting { record_lost, answer_lost, recorded, .. } = oldest;
            let mut wakes = until;
            if let Some((at, record)) = recorded {
                if matches!(record.outcome, Outcome::Late | Outcome::Failed(_)) {
                    return Ok((record, None));
                }
                let answer = self.answers.iter().position(|(other, _)| *other == record.input);
                if let Some((_, answer)) = answer.and_then(|answer| self.answers.remove(answer)) {
                    return Ok((record, Some(answer)));
                }
                let output = self.device(true);
                if answer_lost && output.line.is_some() {
                    wakes = wakes.min(at.max(output.at) + LATE_ANSWER);
                }
                if answer_lost && (output.is_over() || Instant::now() >= wakes) {
                    return Err(Error::Lost);
                }
            } else if record_lost {
                return Err(Error::Lost);
            }
            if Instant::now() >= until {
                return Err(if answer_lost { Error::Lost } else { Error::Deadline });
            }
            self.wait(wakes)?;
        }
    }

    /// Takes what has come, and waits until all devices are there.
    fn reach(&mut self, until: Instant) -> Result<(), Error> {
        loop {
            // A connection that has ended is found so by reading.
            while self.wait(Instant::now())? {}
            let mut devices = self.devices();
            let Some(away) = devices.find(|of_output| self.device(*of_output).line.is_none()) else { return Ok(()) };
            if self.device(away).is_over() {
                return Err(Error::Closed);
            }
            if Instant::now() >= until {
                return Err(Error::NoLink);
            }
            self.wait(until)?;
        }
    }

    /// Waits for something to read, and reads a frame of each device that has one; calls those that are away. Whether
    /// there was anything to read.
    ///
    /// Errors: a device that was away is of another plan.
    fn wait(&mut self, until: Instant) -> Result<bool, Error> {
        let mut wakes = until;
        for of_output in self.devices() {
            let device = self.device(of_output);
            if device.line.is_some() || device.path.is_none() {
                continue;
            }
            if Instant::now() >= device.at {
                match self.open(of_output) {
                    Ok(()) => continue,
                    Err(Error::WrongPlan) => return Err(Error::WrongPlan),
                    Err(_) => {
                        let device = self.device(of_output);
                        device.at = Instant::now() + device.wait;
                        device.wait = (device.wait * 2).min(CALLS.1);
                    }
                }
            }
            wakes = wakes.min(self.device(of_output).at);
        }
        let lines =
            [Some(&self.input), self.output.as_ref()].map(|device| device.and_then(|device| device.line.as_ref()));
        let mut fds: Vec<PollFd<'_>> =
            lines.iter().flatten().map(|line| PollFd::new(&line.stream().0, PollFlags::IN)).collect();
        let left = wakes.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs() as _, tv_nsec: i64::from(left.subsec_nanos()) as _ };
        let _ = poll(&mut fds, Some(&timeout));
        let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
        let [input, output] = lines.map(|line| line.is_some() && ready.next() == Some(true));
        for of_output in [false, true].into_iter().zip([input, output]).filter_map(|(at, reads)| reads.then_some(at)) {
            // What is lost by an error is noted with the inputs that are under way.
            let _ = self.hear(of_output);
        }
        Ok(input || output)
    }

    /// Connects to a device, and says what it is to know.
    fn open(&mut self, of_output: bool) -> Result<(), Error> {
        let path = self.device(of_output).path.as_ref().ok_or(Error::Closed)?;
        let stream = UnixStream::connect(path).map_err(|_| Error::NoLink)?;
        self.greet(of_output, stream, self.patience().min(PATIENCE))
    }

    /// The same over a connection.
    fn greet(&mut self, of_output: bool, stream: UnixStream, patience: Duration) -> Result<(), Error> {
        stream.set_read_timeout(Some(patience)).map_err(|_| Error::Stream)?;
        let mut line = FramedStream::new(StdStream(stream), Identity { plan_hash: self.plan_hash, device: CLIENT });
        line.shake_hands_with_any()?;
        let has_output = of_output || self.output.is_none();
        let device = self.device(of_output);
        (device.line, device.wait) = (Some(line), CALLS.0);
        if has_output {
            self.send(of_output, Kind::Subscribe, 0, WANTS_ANSWERS, &[])?;
        }
        if !of_output {
            self.tell_budget()?;
        }
        // A device that has answered this has heard of the rest.
        self.ask_status(of_output)?;
        self.device(of_output).at = Instant::now();
        self.be_patient(of_output)
    }

    fn tell_budget(&mut self) -> Result<(), Error> {
        let microseconds = u64::try_from(self.budget.as_micros()).unwrap_or(u64::MAX);
        self.send(false, Kind::Budget, 0, 0, &microseconds.to_le_bytes())
    }

    fn ask_status(&mut self, of_output: bool) -> Result<String, Error> {
        self.status = None;
        self.send(of_output, Kind::Status, 0, 0, &[])?;
        loop {
            if let Some(status) = self.status.take() {
                return Ok(status);
            }
            self.hear(of_output)?;
        }
    }

    /// Says something to a device; if that fails, it has gone.
    fn send(&mut self, of_output: bool, kind: Kind, number: u32, message: u16, payload: &[u8]) -> Result<(), Error> {
        let line = self.device(of_output).line.as_mut().ok_or(Error::Closed)?;
        line.send(kind, number, message, payload).inspect_err(|_| self.lose(of_output))
    }

    /// A device has gone, or is as good as gone.
    fn lose(&mut self, of_output: bool) {
        let is_both = self.output.is_none();
        let device = self.device(of_output);
        (device.line, device.at) = (None, Instant::now());
        for waiting in &mut self.waiting {
            waiting.record_lost |= is_both || !of_output;
            waiting.answer_lost |= is_both || of_output;
        }
    }

    /// Reads one frame; if that fails, the device has gone.
    fn hear(&mut self, of_output: bool) -> Result<(), Error> {
        self.read(of_output).inspect_err(|_| self.lose(of_output))
    }

    fn read(&mut self, of_output: bool) -> Result<(), Error> {
        let line = self.device(of_output).line.as_mut().ok_or(Error::Closed)?;
        let header: Header = line.receive_header()?;
        match header.kind {
            Kind::Record => {
                let mut bytes = [0; Record::BYTES];
                line.receive_payload(&header, &mut bytes)?;
                let record = Record::parse(header.inference.into(), &bytes).ok_or(Error::WrongMessage)?;
                // Nobody asks for that of an input that was given up.
                let waiting = self.waiting.iter_mut().find(|waiting| waiting.number == header.inference);
                waiting.into_iter().for_each(|waiting| waiting.recorded = Some((Instant::now(), record)));
            }
            Kind::Output => {
                let mut bytes = std::vec![0; header.length as usize];
                line.receive_payload(&header, &mut bytes)?;
                self.answers.push_back((header.inference, bytes));
                if self.answers.len() > KEPT + self.waiting.len() {
                    self.answers.pop_front();
                }
            }
            Kind::Status if header.length as usize <= MOST_STATUS_BYTES => {
                let mut bytes = std::vec![0; header.length as usize];
                line.receive_payload(&header, &mut bytes)?;
                self.status = Some(String::from_utf8_lossy(&bytes).into_owned());
            }
            _ => line.skip_payload(&header)?,
        }
        Ok(())
    }
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::net::UnixListener;
    use std::thread::JoinHandle;

    const PLAN_HASH: u64 = 7;

    /// What a device does with its next input.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Does {
        /// It says what became of it, and the answer.
        Answers,
        /// It says what became of it; the answer is another's.
        Records,
        /// It ends, and others have to find that out.
        Ends,
    }

    struct Serves(FramedStream<StdStream<UnixStream>>);

    impl Serves {
        /// Takes one client.
        fn at(listener: &UnixListener, plan_hash: u64) -> Serves {
            let (stream, _) = listener.accept().expect("somebody connects");
            let mut line = FramedStream::new(StdStream(stream), Identity { plan_hash, device: 0 });
            let _ = line.shake_hands_with_any();
            Serves(line)
        }

        /// Does what clients ask for until one has handed an input in; its number, or none if the client has gone.
        fn input(&mut self) -> Option<u32> {
            loop {
                let header = self.0.receive_header().ok()?;
                let mut payload = std::vec![0; header.length as usize];
                self.0.receive_payload(&header, &mut payload).ok()?;
                match header.kind {
                    Kind::Status => self.0.send(Kind::Status, 0, 0, b"well").ok()?,
                    Kind::Input => return Some(header.inference),
                    _ => {}
                }
            }
        }

        fn record(&mut self, number: u32) {
            let record = Record { input: 100 + number, tag: 0, outcome: Outcome::Full, tries: 1, took_us: 1 };
            self.0.send(Kind::Record, number, 0, &record.emit()).expect("the client is there");
        }

        fn answer(&mut self, number: u32) {
            self.0.send(Kind::Output, 100 + number, 0, &[number as u8; 4]).expect("the client is there");
        }
    }

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(std::format!("partita-client-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("a folder");
        folder
    }

    /// A device that lives once for each list, and is away for a while after each.
    fn lives(path: PathBuf, away: Duration, lives: &'static [&'static [Does]]) -> (PathBuf, JoinHandle<()>) {
        let mut listener = Some(UnixListener::bind(&path).expect("the folder is ours"));
        let place = path.clone();
        let thread = std::thread::spawn(move || {
            for life in lives {
                let here = listener.take().unwrap_or_else(|| UnixListener::bind(&path).expect("the folder is ours"));
                let mut serves = Serves::at(&here, PLAN_HASH);
                for does in *life {
                    let number = serves.input();
                    match (does, number) {
                        (Does::Answers, Some(number)) => {
                            serves.record(number);
                            serves.answer(number);
                        }
                        (Does::Records, Some(number)) => serves.record(number),
                        (Does::Ends, _) => break,
                        (_, None) => return,
                    }
                }
                drop((serves, here));
                fs::remove_file(&path).expect("it is ours");
                std::thread::sleep(away);
            }
        });
        (place, thread)
    }

    fn answers(client: &mut Client, number: u8) {
        let mut output = [0; 4];
        assert_eq!(client.infer(&[1, 2], &mut output).map(|record| record.outcome), Ok(Outcome::Full));
        assert_eq!(output, [number; 4]);
    }

    #[test]
    fn what_was_under_way_is_lost_and_the_next_waits_for_the_device() {
        use Does::{Answers, Ends};
        let away = Duration::from_millis(150);
        let lives = lives(folder("lost").join("socket"), away, &[&[Answers, Answers, Ends], &[Answers], &[Answers; 3]]);
        let (path, device) = lives;
        let mut client = Client::connect(PLAN_HASH, &path, None).expect("it listens");
        answers(&mut client, 0);
        // Two are under way when it ends, of which it has answered one.
        let mut output = [0; 4];
        (0..2).for_each(|_| client.submit(&[1, 2]).expect("it is there"));
        assert!(client.next(&mut output).is_ok() && output == [1; 4]);
        assert_eq!(client.next(&mut output), Err(Error::Lost));
        assert_eq!(client.next(&mut output), Err(Error::WrongMessage), "nothing is under way");
        let begun = Instant::now();
        answers(&mut client, 3);
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        // It has gone with nothing under way: nothing is lost.
        (4..7).for_each(|number| answers(&mut client, number));
        device.join().expect("no panic");
        // A device that stays away has its time.
        client.set_budget(Duration::from_millis(300)).expect("it hears it when it is there");
        let begun = Instant::now();
        assert_eq!(client.submit(&[1, 2]), Err(Error::NoLink));
        assert!((300..2000).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
    }

    #[test]
    fn a_device_of_another_plan_is_not_waited_for() {
        let path = folder("plan").join("socket");
        let (place, device) = lives(path.clone(), Duration::ZERO, &[&[Does::Answers]]);
        let mut client = Client::connect(PLAN_HASH, &place, None).expect("it listens");
        answers(&mut client, 0);
        device.join().expect("no panic");
        let listener = UnixListener::bind(&path).expect("it has ended");
        let other = std::thread::spawn(move || drop(Serves::at(&listener, PLAN_HASH + 1)));
        assert_eq!(client.submit(&[1, 2]), Err(Error::WrongPlan));
        other.join().expect("no panic");
    }

    #[test]
    fn an_answer_that_was_under_way_may_come_of_the_next_life() {
        let folder = folder("late");
        let (input, device) = lives(folder.join("a"), Duration::ZERO, &[&[Does::Records; 3]]);
        let output = folder.join("c");
        let listener = UnixListener::bind(&output).expect("the folder is ours");
        let (place, (ends, life)) = (output.clone(), std::sync::mpsc::channel());
        let answering = std::thread::spawn(move || {
            let mut listener = Some(listener);
            for tells in [vec![0], vec![1], vec![]] {
                let here = listener.take().unwrap_or_else(|| UnixListener::bind(&place).expect("it is ours"));
                let mut serves = Serves::at(&here, PLAN_HASH);
                // So that the client has been told of everything before it is told this.
                let asked = serves.0.receive_header().and_then(|_| serves.0.receive_header());
                assert_eq!(asked.map(|header| header.kind), Ok(Kind::Status));
                serves.0.send(Kind::Status, 0, 0, b"well").expect("the client is there");
                std::thread::sleep(Duration::from_millis(50));
                tells.into_iter().for_each(|number| serves.answer(number));
                if life.recv().is_err() {
                    return;
                }
                drop((serves, here));
                fs::remove_file(&place).expect("it is ours");
            }
        });
        let mut client = Client::connect(PLAN_HASH, &input, Some(&output)).expect("they listen");
        answers(&mut client, 0);
        // The first life of the device with the output ends while an input is under way; the second has the answer.
        let mut bytes = [0; 4];
        client.submit(&[1, 2]).expect("they are there");
        ends.send(()).expect("it listens");
        assert!(client.next(&mut bytes).is_ok() && bytes == [1; 4]);
        // The second has it and does not tell.
        client.submit(&[1, 2]).expect("they are there");
        ends.send(()).expect("it listens");
        let begun = Instant::now();
        assert_eq!(client.next(&mut bytes), Err(Error::Lost));
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
        drop(ends);
        drop(client);
        device.join().and(answering.join()).expect("no panic");
        fs::remove_dir_all(&folder).expect("it is ours");
    }

    #[test]
    fn a_connection_that_was_given_is_not_made_again() {
        let (ours, theirs) = UnixStream::pair().expect("the system makes a pair of sockets");
        let device = std::thread::spawn(move || {
            let mut line = FramedStream::new(StdStream(theirs), Identity { plan_hash: PLAN_HASH, device: 0 });
            line.shake_hands_with_any().expect("it is a client");
            Serves(line).input()
        });
        let mut client = Client::over(PLAN_HASH, ours, None, Duration::from_secs(5)).expect("it is there");
        client.submit(&[1, 2]).expect("it is there");
        assert_eq!(device.join().expect("no panic"), Some(0));
        assert_eq!(client.next(&mut [0; 4]), Err(Error::Lost));
        assert_eq!(client.submit(&[1, 2]), Err(Error::Closed));
        assert_eq!(client.status(), Err(Error::Closed));
    }
}
