//! Where tensors lie: in which layout, and stored in how many bytes.
//!
//! A tensor is made in one place. Others are added when somebody wants it in another layout, or stored otherwise, and
//! remembered.

use partita_ir::graph::{Data, ElementType, StepSize, Stored, TensorId, TensorType, Value};
use partita_kernel::Kernel;
use partita_kernel::lower::stored::{can_read, loads_vectors, store};
use partita_plan::schedule;
use partita_rt::kernels::reorder_to_blocked;

use super::{LowerError, Lowering};
use crate::program::{Argument, Buffer, BufferId, Layout, Message, Runs, Step, WeightId};

impl Lowering<'_> {
    /// What leaves, and what comes into places of its own, unless it was started before.
    pub(super) fn messages(
        &mut self,
        sends: &[schedule::Message],
        receives: &[schedule::Message],
    ) -> Result<(Vec<Message>, Vec<Message>), LowerError> {
        let graph = self.graph;
        let message = |message: &schedule::Message, buffer: BufferId| Message {
            peer: message.peer,
            number: message.number,
            buffer,
            bytes: graph.stored_bytes(message.tensor),
        };
        let mut found = (Vec::with_capacity(sends.len()), Vec::with_capacity(receives.len()));
        for send in sends {
            let buffer = self.place(send.tensor, Layout::Plain, graph.stored(send.tensor))?;
            found.0.push(message(send, buffer));
        }
        for receive in receives {
            let stored = graph.stored(receive.tensor);
            let buffer = match self.places.contains_key(&receive.tensor) {
                true => self.place(receive.tensor, Layout::Plain, stored)?,
                false => self.new_buffer(receive.tensor, Layout::Plain, stored),
            };
            found.1.push(message(receive, buffer));
        }
        Ok(found)
    }

    /// Adds a buffer for a tensor and remembers it as one of the tensor's places.
    pub(super) fn new_buffer(&mut self, tensor: TensorId, layout: Layout, stored: Stored) -> BufferId {
        let lanes = self.machine.instruction_set.lanes() as usize;
        let tensor_info = self.graph.tensor(tensor);
        let id = BufferId(self.program.buffers.len() as u32);
        self.program.buffers.push(Buffer {
            name: tensor_info.name.clone(),
            tensor: Some(tensor),
            element: stored.element,
            offset: stored.offset,
            step: stored.step,
            shape: tensor_info.tensor_type.shape.clone(),
            layout,
            elements: physical_elements(&tensor_info.tensor_type, layout, lanes),
            part_of: None,
            replaces: false,
            offset_bytes: 0,
        });
        self.places.entry(tensor).or_default().push(id);
        id
    }

    /// Adds a buffer that only the step to come needs.
    pub(super) fn scratch(&mut self, elements: usize) -> BufferId {
        let id = BufferId(self.program.buffers.len() as u32);
        self.program.buffers.push(Buffer {
            name: "scratch".to_string(),
            tensor: None,
            element: ElementType::F32,
            offset: 0,
            step: StepSize::ONE,
            shape: vec![elements],
            layout: Layout::Plain,
            elements,
            part_of: None,
            replaces: false,
            offset_bytes: 0,
        });
        id
    }

    /// Adds a buffer for a tensor that is a part of another buffer, and is stored as that is.
    pub(super) fn new_view(
        &mut self,
        tensor: TensorId,
        layout: Layout,
        parent: BufferId,
        first_element: usize,
    ) -> BufferId {
        let id = self.new_buffer(tensor, layout, self.buffer(parent).stored());
        self.program.buffers[id.0 as usize].part_of = Some((parent, first_element));
        id
    }

    pub(super) fn buffer(&self, id: BufferId) -> &Buffer {
        &self.program.buffers[id.0 as usize]
    }

    /// Elements of a tensor as they are computed with.
    pub(super) fn as_it_is(&self, tensor: TensorId) -> Stored {
        Stored::plain(self.graph.tensor_type(tensor).element)
    }

    /// How this device keeps a tensor: in as few bytes as hold it, where they are scarce or bytes are multiplied.
    pub(super) fn stored(&self, tensor: TensorId) -> Stored {
        match self.graph.tensor_type(tensor).element {
            ElementType::F32 => self.machine.kept(self.graph.stored(tensor)),
            _ => self.as_it_is(tensor),
        }
    }

    /// Where a tensor was made; `None` if it is not on the device.
    pub(super) fn home(&self, tensor: TensorId) -> Option<&Buffer> {
        self.places.get(&tensor).and_then(|places| places.first()).map(|id| self.buffer(*id))
    }

    /// The layout a tensor was made in; `None` if it is not on the device.
    pub(super) fn home_layout(&self, tensor: TensorId) -> Option<Layout> {
        self.home(tensor).map(|buffer| buffer.layout)
    }

    /// Whether it keeps whole numbers in bytes.
    pub(super) fn keeps_bytes(&self) -> bool {
        self.machine.kept(Stored::plain(ElementType::U8)).element != ElementType::F32
    }

    /// How a tensor is stored where it was made, or would be if it were copied out of the weights.
    pub(super) fn home_stored(&self, tensor: TensorId) -> Stored {
        self.home(tensor).map_or_else(|| self.stored(tensor), Buffer::stored)
    }

    /// The tensor as reference kernels and callers want it.
    pub(super) fn plain_place(&mut self, tensor: TensorId) -> Result<BufferId, LowerError> {
        self.place(tensor, Layout::Plain, self.as_it_is(tensor))
    }

    /// The tensor in a layout, stored in one way: where it already lies so, or copied now. A constant is copied out of the
    /// weights.
    pub(super) fn place(&mut self, tensor: TensorId, layout: Layout, stored: Stored) -> Result<BufferId, LowerError> {
        let wanted = |buffer: &Buffer| buffer.layout == layout && buffer.stored() == stored;
        if let Some(found) = self.find_place(tensor, wanted) {
            return Ok(found);
        }
        if let Some(value) = self.graph.value(tensor).cloned() {
            let weight = self.plain_weight(tensor, &value, stored);
            let plain = self.new_buffer(tensor, Layout::Plain, stored);
            let runs = Runs::one(value.data.len());
            self.program.steps.push(Step::Copy { from: (Argument::Weight(weight), 0), to: (plain, 0), runs });
            if layout == Layout::Plain {
                return Ok(plain);
            }
        }
        let Some(home) = self.home(tensor) else {
            return Err(LowerError::MissingTensor {
                tensor: self.graph.tensor(tensor).name.clone(),
                device: self.program.device,
            });
        };
        let home_stored = home.stored();
        let from = match self.find_place(tensor, |buffer| buffer.layout == layout) {
            Some(same_layout) => same_layout,
            // Elements are moved as they are stored, then stored otherwise.
            None if home_stored != stored => self.place(tensor, layout, home_stored)?,
            None => self.places[&tensor][0],
        };
        if self.buffer(from).stored() == stored {
            if lies_the_same(self.buffer(from)) {
                return Ok(self.new_view(tensor, layout, from, 0));
            }
            // Between two blocked layouts the way leads through plain.
            let from = match (self.buffer(from).layout, layout) {
                (Layout::Blocked(_), Layout::Blocked(_)) => self.place(tensor, Layout::Plain, stored)?,
                _ => from,
            };
            let to = self.new_buffer(tensor, layout, stored);
            self.program.steps.push(Step::Reorder { from, to });
            return Ok(to);
        }
        let to = self.new_buffer(tensor, layout, stored);
        self.program.steps.push(Step::Reorder { from, to });
        Ok(to)
    }

    pub(super) fn find_place(&self, tensor: TensorId, suits: impl Fn(&Buffer) -> bool) -> Option<BufferId> {
        self.places.get(&tensor)?.iter().copied().find(|id| suits(self.buffer(*id)))
    }

    pub(super) fn existing_place(&self, tensor: TensorId, layout: Layout) -> Option<BufferId> {
        self.find_place(tensor, |buffer| buffer.layout == layout)
    }

    /// What a kernel reads `elements` of in a layout: an activation, or a constant that is packed like one.
    pub(super) fn operand(
        &mut self,
        tensor: TensorId,
        layout: Layout,
        kernel: &mut Kernel,
        position: usize,
    ) -> Result<Argument, LowerError> {
        let elements = kernel.buffers[position].elements;
        let Some(constant) = self.graph.f32_value(tensor) else {
            return self.activation(tensor, layout, kernel, position).map(Argument::Buffer);
        };
        let shape = self.graph.shape(tensor);
        if layout == Layout::Plain && elements <= constant.len() {
            return self.argument(tensor);
        }
        let mut packed = vec![0.0f32; elements.max(constant.len())];
        match layout {
            Layout::Plain => packed[..constant.len()].copy_from_slice(constant),
            Layout::Blocked(block) => {
                let (block, spatial) = (block as usize, shape[2..].iter().product::<usize>());
                let occupied = shape[0] * shape[1].next_multiple_of(block) * spatial;
                packed.resize(packed.len().max(occupied), 0.0);
                reorder_to_blocked(constant, &mut packed[..occupied], shape[0], shape[1], spatial, block);
            }
        }
        let bytes = packed.iter().flat_map(|element| element.to_le_bytes()).collect();
        let name = self.graph.tensor(tensor).name.clone();
        Ok(Argument::Weight(self.weight(name, ElementType::F32, vec![packed.len()], bytes)))
    }

    /// An activation as a kernel's buffer reads it: as it is stored where it lies in the layout, if the kernel can read that.
    fn activation(
        &mut self,
        tensor: TensorId,
        layout: Layout,
        kernel: &mut Kernel,
        position: usize,
    ) -> Result<BufferId, LowerError> {
        if kernel.buffers[position].storage != ElementType::F32 {
            return self.place(tensor, layout, self.stored(tensor));
        }
        // Single elements are made numbers once rather than wherever they are read, if there is memory for that.
        let may_widen = self.machine.stores_narrow || loads_vectors(kernel, position);
        let suits = |stored: Stored| {
            let is_as_it_is = stored == self.as_it_is(tensor);
            can_read(kernel, position, stored) && (is_as_it_is || self.keeps_bytes() && may_widen)
        };
        let there = self.find_place(tensor, |buffer| buffer.layout == layout && suits(buffer.stored()));
        let home = self.home_stored(tensor);
        let stored = if suits(home) { home } else { self.as_it_is(tensor) };
        let found = there.map_or_else(|| self.place(tensor, layout, stored), Ok)?;
        store(kernel, position, self.buffer(found).stored());
        Ok(found)
    }

    /// An activation as a reference kernel reads it, or a constant as plain weights.
    pub(super) fn argument(&mut self, tensor: TensorId) -> Result<Argument, LowerError> {
        match self.graph.value(tensor).cloned() {
            Some(value) => Ok(Argument::Weight(self.plain_weight(tensor, &value, self.as_it_is(tensor)))),
            None => Ok(Argument::Buffer(self.plain_place(tensor)?)),
        }
    }

    /// A constant in row-major order.
    pub(super) fn plain_weight(&mut self, tensor: TensorId, value: &Value, stored: Stored) -> WeightId {
        let name = self.graph.tensor(tensor).name.clone();
        let bytes = match &value.data {
            Data::F32(elements) if stored.element != ElementType::F32 => {
                let less: Vec<f32> = elements.iter().map(|element| element - stored.offset as f32).collect();
                packed(less, stored.element)
            }
            data => data.to_bytes(),
        };
        self.weight(name, stored.element, value.shape.clone(), bytes)
    }
}

/// Numbers as a kernel reads them.
pub(super) fn packed(elements: Vec<f32>, storage: ElementType) -> Vec<u8> {
    let elements = Data::F32(elements);
    if storage == ElementType::F32 { elements.to_bytes() } else { elements.cast(storage).to_bytes() }
}

/// Elements that a tensor occupies in a layout, rounded up to whole vectors.
pub(super) fn physical_elements(tensor_type: &TensorType, layout: Layout, lanes: usize) -> usize {
    let shape = &tensor_type.shape;
    match layout {
        Layout::Plain => tensor_type.element_count().next_multiple_of(lanes),
        Layout::Blocked(block) => {
            let block = block as usize;
            shape[0] * shape[1].next_multiple_of(block) * shape[2..].iter().product::<usize>()
        }
    }
}

/// Whether a tensor lies the same way in plain and blocked layout: one sample, spatial size 1.
pub(super) fn lies_the_same(buffer: &Buffer) -> bool {
    buffer.shape.len() >= 2 && buffer.shape[0] == 1 && buffer.shape[2..].iter().all(|extent| *extent == 1)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::program::lower::{Like, lower};
    use partita_config::Settings;
    use partita_plan::schedule::{Action, Message, Schedule};

    /// What a device makes of an input and sends, and what it receives and returns.
    const TEXT: &str = r#"graph "case" opset 17
input %0 "x": f32[1,8,4,4]
const %1 "step": f32[] = [0.5]
%2 "steps": f32[1,8,4,4] = "round"(%0, %1) Binary(RoundedQuotient,Clip(-20.0,235.0))
%3 "real": f32[1,8,4,4] = "scale"(%2, %1) Binary(Mul,None)
output %3
"#;

    #[test]
    fn links_carry_bytes_whatever_the_devices_store() {
        let graph = partita_ir::graph::text::parse(TEXT).expect("the text is a graph");
        let nodes = graph.topological_order().expect("there is no cycle");
        let (steps, real) = (graph.node(nodes[0]).outputs[0], graph.outputs[0]);
        let message = || vec![Message { tensor: steps, peer: 1, number: 0 }];
        let sender = [
            Action::Input { tensor: graph.inputs[0], position: 0 },
            Action::Compute(nodes[0]),
            Action::Exchange { sends: message(), receives: Vec::new() },
        ];
        let receiver = [
            Action::Exchange { sends: Vec::new(), receives: message() },
            Action::Compute(nodes[1]),
            Action::Output { tensor: real, position: 0 },
        ];
        for (target, narrow) in [("armv7", false), ("raspberry-pi-4", true), ("cortex-m7", true)] {
            let target = partita_config::target::load(target, Path::new(".")).expect("a target of ours");
            for actions in [sender.to_vec(), receiver.to_vec()] {
                let schedule = Schedule { device: 0, actions };
                let program = lower(&graph, &schedule, (&target, &Settings::default()), Like::default());
                let program = program.expect("it lowers");
                let exchanged = program.steps.iter().find_map(|step| match step {
                    Step::Exchange { sends, receives } => sends.iter().chain(receives).next().copied(),
                    _ => None,
                });
                let exchanged = exchanged.expect("one message");
                assert_eq!(exchanged.bytes, 128, "a byte per element");
                let buffer = &program.buffers[exchanged.buffer.0 as usize];
                assert_eq!(buffer.stored(), Stored::shifted(ElementType::I8, 108));
                let wide = program.buffers.iter().filter(|buffer| buffer.tensor == Some(steps)).count();
                assert_eq!(wide, if narrow { 1 } else { 2 }, "{program}");
            }
        }
    }
}
