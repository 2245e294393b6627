//! What devices say of one input: its record, its answer, what every device says it has cost. They come in any order.

use std::time::Duration;

use partita_rt::DeviceCosts;
use partita_rt::frame::{Header, Kind};
use partita_rt::node::{Outcome, Record};

use super::LocalDevice;

/// An answer, and when it came.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    input: u32,
    pub bytes: Vec<u8>,
    pub time: Duration,
}

/// What one device has said last.
#[derive(Clone, Debug, Default)]
struct Said {
    costs: Option<(u32, DeviceCosts)>,
    profile: Option<(u32, Vec<u64>)>,
}

/// All that has been heard since an input was handed in.
pub struct Heard {
    /// What this input is called here.
    number: u32,
    pub record: Option<Record>,
    /// Answers under the numbers that devices have for inputs, which the record tells.
    answers: Vec<Answer>,
    devices: Vec<Said>,
}

/// Route that an answer took.
pub fn route(record: &Record) -> u8 {
    if let Outcome::Variant(route, _) = record.outcome { route } else { 0 }
}

/// Exit at which an answer was given, and the confidence there.
pub fn exit(record: &Record) -> Option<(u32, f32)> {
    match record.outcome {
        Outcome::Exit(exit, confidence) => Some((exit, confidence)),
        Outcome::Variant(_, exit) => exit,
        Outcome::Full | Outcome::Late | Outcome::Failed(_) => None,
    }
}

impl Heard {
    pub fn new(number: u32, devices: usize) -> Heard {
        Heard { number, record: None, answers: Vec::new(), devices: vec![Said::default(); devices] }
    }

    /// Takes a frame of the device at a position; or says what is wrong with it.
    pub fn take(&mut self, position: usize, header: &Header, payload: Vec<u8>, time: Duration) -> Result<(), String> {
        let input = header.inference;
        match header.kind {
            Kind::Hello | Kind::Status => {}
            // Of an input that is over.
            Kind::Record if input != self.number => {}
            Kind::Record => {
                let record = Record::parse(input.into(), &payload).ok_or("its record cannot be read")?;
                self.record = Some(record);
            }
            Kind::Output => self.answers.push(Answer { input, bytes: payload, time }),
            Kind::Report => {
                let bytes = payload.try_into().map_err(|_| "its report has another length")?;
                self.devices[position].costs = Some((input, DeviceCosts::parse(&bytes)));
            }
            Kind::Profile => {
                let (times, _) = payload.as_chunks::<8>();
                let times = times.iter().map(|time| u64::from_le_bytes(*time)).collect();
                self.devices[position].profile = Some((input, times));
            }
            _ => return Err(format!("it sends a {:?} frame", header.kind)),
        }
        Ok(())
    }

    /// When the answer came, or the record if there is none.
    pub fn took(&self) -> Duration {
        let record = self.record.map_or(Duration::ZERO, |record| Duration::from_micros(record.took_us));
        let input = self.record.map(|record| record.input);
        self.answers.iter().find(|answer| Some(answer.input) == input).map_or(record, |answer| answer.time)
    }

    /// Devices of which something is missing, not counting those that have ended.
    pub fn missing(&self, devices: &[LocalDevice], ended: &[bool]) -> Vec<usize> {
        let Some(record) = &self.record else {
            return (0..devices.len()).filter(|position| devices[*position].holds_input).collect();
        };
        if matches!(record.outcome, Outcome::Late | Outcome::Failed(_)) {
            return Vec::new();
        }
        let answered = self.answers.iter().any(|answer| answer.input == record.input);
        let lacks = |position: &usize| {
            let device = &devices[*position];
            let reports = device.busy.get(usize::from(route(record))).copied().unwrap_or(false);
            let reported = self.devices[*position].costs.is_some_and(|(input, _)| input == record.input);
            (device.holds_output && !answered) || (reports && !reported && !ended[*position])
        };
        (0..devices.len()).filter(lacks).collect()
    }

    /// The answer to an input.
    pub fn answer(&mut self, input: u32) -> Option<Answer> {
        let at = self.answers.iter().position(|answer| answer.input == input)?;
        Some(self.answers.swap_remove(at))
    }

    /// What an input has cost each device that has said so.
    pub fn costs(&self, input: u32) -> Vec<Option<DeviceCosts>> {
        let of = |said: &Said| said.costs.filter(|(of, _)| *of == input).map(|(_, costs)| costs);
        self.devices.iter().map(of).collect()
    }

    /// Nanoseconds of each step of each device; none of devices that have not said.
    pub fn profiles(&self, input: u32) -> Vec<Vec<u64>> {
        let of = |said: &Said| match &said.profile {
            Some((of, times)) if *of == input => times.clone(),
            _ => Vec::new(),
        };
        self.devices.iter().map(of).collect()
    }
}
