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

use std::collections::VecDeque;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::string::String;
use std::time::Duration;
use std::vec::Vec;

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

/// Answers to inputs of other programs come, too; so many that nobody has asked for are kept.
const KEPT: usize = 256;

/// Longest status that is read.
const MOST_STATUS_BYTES: usize = 1 << 20;

/// Connections to the devices that hold a cluster's input and output.
pub struct Client {
    input: Line,
    /// None if that is the same device.
    output: Option<Line>,
    submitted: u32,
    /// Numbers of inputs whose answers have not been taken, oldest first.
    waiting: VecDeque<u32>,
    /// By this client's number for the input.
    records: VecDeque<(u32, Record)>,
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
        let open = |path: &Path| UnixStream::connect(path).map_err(|_| Error::NoLink);
        Client::over(plan_hash, open(input)?, output.map(open).transpose()?, BUDGET)
    }

    /// The same over connections that are there, such as those that `ssh MACHINE PROGRAM --talk` carries. `budget` is how
    /// long inputs may take.
    ///
    /// Errors: who is there is no device (`Closed`, `Stream`, `Deadline`), or one of another plan (`WrongPlan`).
    pub fn over(
        plan_hash: u64,
        input: UnixStream,
        output: Option<UnixStream>,
        budget: Duration,
    ) -> Result<Client, Error> {
        let line = |stream: UnixStream| -> Result<Line, Error> {
            stream.set_read_timeout(Some(budget + PATIENCE)).map_err(|_| Error::Stream)?;
            let mut line = FramedStream::new(StdStream(stream), Identity { plan_hash, device: CLIENT });
            line.shake_hands_with_any().map(|_| line)
        };
        let mut client = Client {
            input: line(input)?,
            output: output.map(line).transpose()?,
            submitted: 0,
            waiting: VecDeque::new(),
            records: VecDeque::new(),
            answers: VecDeque::new(),
            status: None,
        };
        client.output.as_mut().unwrap_or(&mut client.input).send(Kind::Subscribe, 0, WANTS_ANSWERS, &[])?;
        // A device that has answered this has heard of the subscription.
        for of_output in [true, false] {
            client.ask_status(of_output)?;
        }
        client.set_budget(budget)?;
        Ok(client)
    }

    /// Says how long inputs from now on may take.
    pub fn set_budget(&mut self, budget: Duration) -> Result<(), Error> {
        let microseconds = u64::try_from(budget.as_micros()).unwrap_or(u64::MAX);
        for line in std::iter::once(&mut self.input).chain(&mut self.output) {
            line.stream().0.set_read_timeout(Some(budget + PATIENCE)).map_err(|_| Error::Stream)?;
        }
        self.input.send(Kind::Budget, 0, 0, &microseconds.to_le_bytes())
    }

    /// Hands an input in, as its bytes: of each tensor little-endian, from a multiple of 8. Does not wait for the answer,
    /// which [`Client::next`] takes.
    pub fn submit(&mut self, input: &[u8]) -> Result<(), Error> {
        let number = self.submitted;
        self.submitted = number.wrapping_add(1);
        self.input.send(Kind::Input, number, 0, input)?;
        self.waiting.push_back(number);
        Ok(())
    }

    /// Waits for what became of the oldest input whose answer was not taken, and puts the answer into `output`, unless the
    /// record says that there is none (late, failed).
    ///
    /// Errors: nothing is under way (`WrongMessage`), `output` is not as long as an answer (`WrongLength`; the answer is
    /// gone then), or the device is (`Closed`, `Stream`, `Deadline`).
    pub fn next(&mut self, output: &mut [u8]) -> Result<Record, Error> {
        let number = self.waiting.pop_front().ok_or(Error::WrongMessage)?;
        let record = loop {
            match self.records.iter().position(|(other, _)| *other == number).and_then(|at| self.records.remove(at)) {
                Some((_, record)) => break record,
                None => self.hear(false)?,
            }
        };
        if matches!(record.outcome, Outcome::Late | Outcome::Failed(_)) {
            return Ok(record);
        }
        let answer = loop {
            let at = self.answers.iter().position(|(other, _)| *other == record.input);
            match at.and_then(|at| self.answers.remove(at)) {
                Some((_, answer)) => break answer,
                None => self.hear(true)?,
            }
        };
        if answer.len() != output.len() {
            return Err(Error::WrongLength);
        }
        output.copy_from_slice(&answer);
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
        self.input.send(Kind::Reset, 0, 0, &[])
    }

    /// Counters of the device that holds the input, as Prometheus reads them.
    pub fn status(&mut self) -> Result<String, Error> {
        self.ask_status(false)
    }

    /// Orders the devices to end.
    pub fn stop(mut self) -> Result<(), Error> {
        if let Some(output) = &mut self.output {
            output.send(Kind::Stop, 0, 0, &[])?;
        }
        self.input.send(Kind::Stop, 0, 0, &[])
    }

    fn ask_status(&mut self, of_output: bool) -> Result<String, Error> {
        self.status = None;
        self.line(of_output).send(Kind::Status, 0, 0, &[])?;
        loop {
            if let Some(status) = self.status.take() {
                return Ok(status);
            }
            self.hear(of_output)?;
        }
    }

    fn line(&mut self, of_output: bool) -> &mut Line {
        match &mut self.output {
            Some(output) if of_output => output,
            _ => &mut self.input,
        }
    }

    /// Reads one frame.
    fn hear(&mut self, of_output: bool) -> Result<(), Error> {
        let line = self.line(of_output);
        let header: Header = line.receive_header()?;
        match header.kind {
            Kind::Record => {
                let mut bytes = [0; Record::BYTES];
                line.receive_payload(&header, &mut bytes)?;
                let record = Record::parse(header.inference.into(), &bytes).ok_or(Error::WrongMessage)?;
                self.records.push_back((header.inference, record));
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
