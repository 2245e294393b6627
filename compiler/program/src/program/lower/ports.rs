//! Several inputs or outputs of a device become parts of one region, so that the caller sees one slice of bytes.

use super::Lowering;
use crate::program::{Argument, Buffer, BufferId, Layout, PORT_ALIGNMENT_BYTES, Runs, Step};
use partita_ir::graph::{ElementType, StepSize};

impl Lowering<'_> {
    /// Inputs may be parts at once: nothing has written them before the caller does.
    pub(super) fn join_inputs(&mut self) {
        if self.program.inputs.len() < 2 {
            return;
        }
        let ports = self.program.inputs.clone();
        let (region, offsets) = self.region("inputs", &ports);
        for ((_, buffer), first_byte) in ports.into_iter().zip(offsets) {
            let info = &mut self.program.buffers[buffer.0 as usize];
            // A concatenation may have claimed the input: then it is copied out of the region first.
            if info.part_of.is_none() {
                info.part_of = Some((region, first_byte / info.element.size_bytes()));
            } else {
                let view = self.port_view(buffer, region, first_byte);
                let runs = Runs::one(self.buffer(view).shape.iter().product());
                let copy = Step::Copy { from: (Argument::Buffer(view), 0), to: (buffer, 0), runs };
                self.program.steps.insert(0, copy);
                for (_, port) in &mut self.program.inputs {
                    if *port == buffer {
                        *port = view;
                    }
                }
            }
        }
    }

    /// Outputs are copied, because kernels may write past a tensor's last element up to a whole vector.
    pub(super) fn join_outputs(&mut self) {
        if self.program.outputs.len() < 2 {
            return;
        }
        let ports = self.program.outputs.clone();
        let (region, offsets) = self.region("outputs", &ports);
        let mut joined = Vec::with_capacity(ports.len());
        for ((position, buffer), first_byte) in ports.into_iter().zip(offsets) {
            let view = self.port_view(buffer, region, first_byte);
            let runs = Runs::one(self.buffer(buffer).shape.iter().product());
            self.program.steps.push(Step::Copy { from: (Argument::Buffer(buffer), 0), to: (view, 0), runs });
            joined.push((position, view));
        }
        self.program.outputs = joined;
    }

    /// A buffer of bytes for all ports, and the first byte of each.
    fn region(&mut self, name: &str, ports: &[(usize, BufferId)]) -> (BufferId, Vec<usize>) {
        let mut end_bytes = 0usize;
        let mut slack_bytes = 0usize;
        let mut offsets = Vec::with_capacity(ports.len());
        for (_, id) in ports {
            let buffer = self.buffer(*id);
            let first = end_bytes.next_multiple_of(PORT_ALIGNMENT_BYTES);
            offsets.push(first);
            end_bytes = first + buffer.shape.iter().product::<usize>() * buffer.element.size_bytes();
            slack_bytes = slack_bytes.max(first + buffer.elements * buffer.element.size_bytes());
        }
        let bytes = end_bytes.max(slack_bytes);
        let id = BufferId(self.program.buffers.len() as u32);
        self.program.buffers.push(Buffer {
            name: name.to_string(),
            tensor: None,
            element: ElementType::U8,
            offset: 0,
            step: StepSize::ONE,
            shape: vec![bytes],
            layout: Layout::Plain,
            elements: bytes,
            part_of: None,
            replaces: false,
            offset_bytes: 0,
        });
        (id, offsets)
    }

    fn port_view(&mut self, buffer: BufferId, region: BufferId, first_byte: usize) -> BufferId {
        let mut view = self.buffer(buffer).clone();
        view.elements = view.shape.iter().product();
        view.part_of = Some((region, first_byte / view.element.size_bytes()));
        view.replaces = false;
        let id = BufferId(self.program.buffers.len() as u32);
        self.program.buffers.push(view);
        id
    }
}
