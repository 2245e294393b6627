//! A program that adds its device's number to each byte that comes, and the plan of three of them in a row.

use partita_rt::hosted::driver::Steps;
use partita_rt::node::{Flow, Medium, Part, Peer, Plan, Route, Step};

/// What comes, `BYTES` of it, and behind it what leaves.
pub struct Adds<const BYTES: usize> {
    memory: *mut u8,
    number: u8,
}

// SAFETY: the memory is leaked, and used by one program and its node.
unsafe impl<const BYTES: usize> Send for Adds<BYTES> {}

impl<const BYTES: usize> Adds<BYTES> {
    pub fn new(number: u8) -> Self {
        Adds { memory: Vec::leak(vec![0u8; 2 * BYTES]).as_mut_ptr(), number }
    }
}

// SAFETY: the memory is leaked and stays where it is; it is reached through its pointer alone, where the plan says.
unsafe impl<const BYTES: usize> Steps for Adds<BYTES> {
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

/// The plan of a device of a pipeline of three; the first has the input, the last the answer.
pub fn plan<const BYTES: usize>(device: u8, medium: Medium, chunk_bytes: u16) -> Plan<'static> {
    let part = |peer: u8, message: u16, offset_bytes: usize, bound: u16| Part {
        peer,
        message,
        offset_bytes: offset_bytes as u32,
        bytes: BYTES as u32,
        bound,
    };
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
