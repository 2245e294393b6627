//! The life of a device: wait for work, run the program, say what came out and what it cost.

use embedded_io::{Read, Write};

use crate::frame::{Header, Kind};
use crate::{
    Chooser, DeviceCosts, Error, Family, FamilyLinks, FramedStream, Incoming, InferenceLinks, Links, Observer,
    Outgoing, Turn,
};

/// A device's compiled model, as its `main` hands it over.
pub trait Program {
    /// Where the input goes; empty on a device without input.
    fn input_mut(&mut self) -> &mut [u8];
    /// Where the output is; empty on a device without output.
    fn output(&self) -> &[u8];
    /// Exit at which the last inference ended, and the confidence there; none if it went to the end.
    fn exit(&self) -> Option<(u32, f32)> {
        None
    }
    /// Says which route the next inference takes; before the input is put in its place. Numbers that are none are
    /// refused.
    fn set_route(&mut self, route: u8) -> bool {
        route == 0
    }
    /// One inference.
    fn run<L: Links, O: Observer>(&mut self, links: &mut L, observer: &mut O) -> Result<(), Error>;
}

/// An observer that reports what it saw after every inference.
pub trait Profiler: Observer {
    /// An inference begins.
    fn begin(&mut self, turn: Turn);
    /// What to report of the inference; nothing if empty.
    fn payload(&self) -> &[u8];
}

impl Profiler for () {
    fn begin(&mut self, _turn: Turn) {}

    fn payload(&self) -> &[u8] {
        &[]
    }
}

/// What ended a device's work: whose stream, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The stream of inputs and outputs.
    Control(Error),
    /// A link, or the program.
    Program(Error),
}

/// Links that measure the time spent in them.
struct TimedLinks<'a, L> {
    links: &'a mut L,
    now_us: fn() -> u64,
    wait_us: u64,
}

impl<L: Links> Links for TimedLinks<'_, L> {
    fn send(&mut self, peer: usize, message: u16, payload: &[u8]) -> Result<(), Error> {
        let begin = (self.now_us)();
        let result = self.links.send(peer, message, payload);
        self.wait_us += (self.now_us)().saturating_sub(begin);
        result
    }

    fn receive(&mut self, peer: usize, message: u16, payload: &mut [u8]) -> Result<(), Error> {
        let begin = (self.now_us)();
        let result = self.links.receive(peer, message, payload);
        self.wait_us += (self.now_us)().saturating_sub(begin);
        result
    }

    fn exchange(&mut self, sends: &[Outgoing<'_>], receives: &mut [Incoming<'_>]) -> Result<(), Error> {
        let begin = (self.now_us)();
        let result = self.links.exchange(sends, receives);
        self.wait_us += (self.now_us)().saturating_sub(begin);
        result
    }
}

/// Serves inferences until the control stream says stop, or a peer has ended its work.
///
/// A device with input waits for it on `control`; any other waits for its first tensor. After each inference the
/// output, if it is here, and a report go to `control`.
pub fn serve<P: Program, L: InferenceLinks, C: Read + Write, O: Profiler>(
    program: &mut P,
    links: &mut L,
    control: &mut FramedStream<C>,
    now_us: fn() -> u64,
    profiler: &mut O,
) -> Result<(), Failure> {
    let mut inference = 0u32;
    loop {
        if !program.input_mut().is_empty() {
            let Some(header) = next_input(control)? else { return Ok(()) };
            control.receive_payload(&header, program.input_mut()).map_err(Failure::Control)?;
        }
        let turn = Turn { inference, route: 0 };
        match infer(program, turn, links, control, now_us, profiler)? {
            Ok(()) => {}
            // The peer before this device in the pipeline has ended its work.
            Err(Error::Closed) if program.input_mut().is_empty() && links.received_bytes() == 0 => return Ok(()),
            Err(error) => return Err(Failure::Program(error)),
        }
        inference = inference.wrapping_add(1);
    }
}

/// Tells the device that decides what has been learned of the links.
fn tell_all<L: FamilyLinks>(links: &mut L, leader: usize) {
    while let Some(event) = links.link_event() {
        // If that device is gone, the next announcement says so.
        let _ = links.tell(leader, &event);
    }
}

/// Waits for the header of the next input; none if there is nothing more to do.
fn next_input<C: Read + Write>(control: &mut FramedStream<C>) -> Result<Option<Header>, Failure> {
    let header = match control.receive_header() {
        Ok(header) => header,
        Err(Error::Closed) => return Ok(None),
        Err(error) => return Err(Failure::Control(error)),
    };
    match header.kind {
        Kind::Input => Ok(Some(header)),
        Kind::Stop => Ok(None),
        _ => Err(Failure::Control(Error::WrongMessage)),
    }
}

/// One inference, and what it has cost; inside, what the program says.
fn infer<P: Program, L: InferenceLinks, C: Read + Write, O: Profiler>(
    program: &mut P,
    turn: Turn,
    links: &mut L,
    control: &mut FramedStream<C>,
    now_us: fn() -> u64,
    profiler: &mut O,
) -> Result<Result<(), Error>, Failure> {
    links.begin(turn);
    let begin = now_us();
    profiler.begin(turn);
    let mut timed = TimedLinks { links, now_us, wait_us: 0 };
    let outcome = program.run(&mut timed, profiler);
    let wait_us = timed.wait_us;
    if let Err(error) = outcome {
        return Ok(Err(error));
    }
    let costs = DeviceCosts {
        compute_us: now_us().saturating_sub(begin).saturating_sub(wait_us),
        wait_us,
        sent_bytes: links.sent_bytes(),
        received_bytes: links.received_bytes(),
        exit: program.exit(),
    };
    if !program.output().is_empty() {
        control.send_on(Kind::Output, turn, 0, program.output()).map_err(Failure::Control)?;
    }
    if !profiler.payload().is_empty() {
        control.send_on(Kind::Profile, turn, 0, profiler.payload()).map_err(Failure::Control)?;
    }
    control.send_on(Kind::Report, turn, 0, &costs.emit()).map_err(Failure::Control)?;
    Ok(Ok(()))
}

/// Serves inferences with a family of routes until the control stream says stop, or the device that this one follows has
/// ended its work.
///
/// The device with input chooses a route for each inference and announces it; an input frame whose message number is
/// not 0 asks for the route before that number. When an inference fails, every device is told to give it up, the caller
/// gets an abandon frame, and the next inference takes a route without what was lost.
pub fn serve_family<P: Program, L: FamilyLinks, C: Read + Write, O: Profiler>(
    program: &mut P,
    (own, family): (usize, &'static Family),
    links: &mut L,
    control: &mut FramedStream<C>,
    now_us: fn() -> u64,
    profiler: &mut O,
) -> Result<(), Failure> {
    let mut chooser = Chooser::new(family);
    loop {
        let turn = match family.follows {
            Some(leader) => match links.announced(leader) {
                Ok(turn) => turn,
                Err(Error::Closed) => return Ok(()),
                Err(error) => return Err(Failure::Program(error)),
            },
            None => {
                let Some(header) = next_input(control)? else { return Ok(()) };
                while let Some(event) = links.link_event() {
                    chooser.hear(&event);
                }
                let asked = header.message.checked_sub(1).map(|route| u8::try_from(route).unwrap_or(u8::MAX));
                let wanted = asked.or_else(|| chooser.choose());
                let turn = Turn { inference: header.inference, route: wanted.unwrap_or(u8::MAX) };
                if !program.set_route(turn.route) {
                    control.skip_payload(&header).map_err(Failure::Control)?;
                    control.send_on(Kind::Abandon, turn, 0, &[]).map_err(Failure::Control)?;
                    continue;
                }
                control.receive_payload(&header, program.input_mut()).map_err(Failure::Control)?;
                turn
            }
        };
        for follower in family.leads {
            // One that cannot be reached is remembered as lost.
            let _ = links.announce(*follower, turn);
        }
        let begin_us = now_us();
        let outcome = match program.set_route(turn.route) {
            true => infer(program, turn, links, control, now_us, profiler)?,
            false => Err(Error::WrongMessage),
        };
        // Who decides hears why before it hears that, and does not try the same again.
        family.follows.into_iter().for_each(|leader| tell_all(links, leader));
        if outcome.is_err() {
            links.abandon();
        }
        match family.follows {
            // Who could not be told to give up is an event, too.
            Some(leader) => tell_all(links, leader),
            None => {
                if outcome.is_err() {
                    control.send_on(Kind::Abandon, turn, 0, &[]).map_err(Failure::Control)?;
                } else {
                    chooser.took(turn.route, now_us().saturating_sub(begin_us));
                }
                while let Some(event) = links.link_event() {
                    chooser.hear(&event);
                }
                if let Some(peer) = chooser.probe(own, now_us()) {
                    let _ = links.probe(peer);
                }
            }
        }
    }
}
