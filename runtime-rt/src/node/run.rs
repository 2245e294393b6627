//! The inference that is under way on a device.

use super::gossip::Answer;
use super::inputs::INPUTS;

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Nothing, until something has happened.
    Nothing,
    /// Copy the input at a place to where the program expects it on a route.
    Load {
        /// Place of the input, below [`super::INPUTS`].
        place: usize,
        /// Route.
        route: u8,
    },
    /// Compute a step.
    Compute {
        /// Route.
        route: u8,
        /// Number of the step.
        step: u16,
    },
    /// The answer is there: give it to whoever wants it.
    Deliver {
        /// Number of the input.
        input: u32,
        /// Route that it was computed on.
        route: u8,
        /// Exit at which it ended, if it did.
        exit: Option<u32>,
    },
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Flow {
    /// The next follows.
    Next,
    /// The inference ends here: number of the exit, and the confidence.
    Leave(u32, f32),
}

/// What an inference has cost this device, once nothing is left to do for it here.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Finished {
    /// Number of the input.
    pub input: u32,
    /// Route that it took.
    pub route: u8,
    /// Exit at which it ended here, and the confidence there.
    pub exit: Option<(u32, f32)>,
    /// Microseconds from the moment when the device knew of the inference.
    pub took_us: u64,
    /// Bytes of tensors that were handed over to peers; what was repeated counts once.
    pub sent_bytes: u64,
    /// Bytes of tensors that came.
    pub received_bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Load,
    Steps,
    Deliver,
    Over,
}

/// The inference under way here, or the next one.
#[derive(Debug)]
pub(crate) struct Run {
    pub(super) active: bool,
    pub(super) inference: u32,
    pub(super) route: u8,
    pub(super) stage: Stage,
    pub(super) step: u16,
    pub(super) exit: Option<(u32, f32)>,
    /// Number of the input.
    pub(super) input: u32,
    /// When it began here, and the bytes of tensors that have left and come.
    pub(super) begun_us: u64,
    pub(super) sent_bytes: u64,
    pub(super) received_bytes: u64,
    /// The last that was finished and that nobody has asked for.
    pub(super) finished: Option<Finished>,
    /// Since when a step is being done, and whether what it was for is still wanted.
    pub(super) busy: Option<(u64, bool)>,
    /// Inputs whose answers were given out last, and the answers.
    pub(super) delivered: [Option<(u32, Answer)>; 2 * INPUTS],
}

impl Run {
    pub(crate) const fn new() -> Run {
        Run {
            active: false,
            inference: 0,
            route: 0,
            stage: Stage::Over,
            step: 0,
            exit: None,
            input: 0,
            begun_us: 0,
            sent_bytes: 0,
            received_bytes: 0,
            finished: None,
            busy: None,
            delivered: [None; 2 * INPUTS],
        }
    }

    /// Whether an inference is under way here.
    pub(crate) fn is_at(&self, inference: u32) -> bool {
        self.active && self.inference == inference
    }

    /// Whether nothing is to be done here for an inference any more.
    pub(crate) fn is_past(&self, inference: u32) -> bool {
        inference < self.inference
    }

    /// The inference under way and its route.
    pub(crate) fn current(&self) -> (u32, u8) {
        (self.inference, self.route)
    }

    /// Whether a step computes for so long that it will never end.
    pub(crate) fn is_hung(&self, now_us: u64, hung_us: u64) -> bool {
        self.busy.is_some_and(|(since_us, _)| now_us > since_us + hung_us)
    }

    /// Another life of the device with the input begins at an inference.
    pub(crate) fn restart(&mut self, inference: u32) {
        (self.active, self.inference) = (false, inference);
        self.busy = self.busy.map(|(since_us, _)| (since_us, false));
    }

    pub(super) fn delivered(&self, input: u32) -> Option<Answer> {
        let slot = self.delivered.get(input as usize % self.delivered.len())?;
        slot.filter(|(of, _)| *of == input).map(|(_, answer)| answer)
    }
}
