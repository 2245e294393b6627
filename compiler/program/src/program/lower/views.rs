//! Operators that cost nothing when the memory is laid out for them: reshape, identity, and concatenation and split
//! along the outermost axis that matters.

use super::places::{lies_the_same, physical_elements};
use super::{LowerError, Lowering};
use crate::program::{Argument, BufferId, Layout, Runs, Step};
use partita_ir::graph::{NodeId, Op, TensorId};
use partita_ir::restrict::space;
use partita_ir::space::Arithmetic;

impl Lowering<'_> {
    /// Lowers a node without computation if it can be; says whether it did.
    pub(super) fn try_view(&mut self, node: NodeId) -> Result<bool, LowerError> {
        let graph = self.graph;
        let info = graph.node(node);
        let space = space(graph, node);
        match space.arithmetic {
            Arithmetic::Elements if matches!(info.op, Op::Cast { .. }) => self.cast(info.inputs[0], info.outputs[0]),
            Arithmetic::MultiplyAdd | Arithmetic::Elements => Ok(false),
            Arithmetic::View => {
                // Where no index changes, no layout does.
                let is_same = space.operands.first() == space.results.first();
                let made_in = self.home_layout(info.inputs[0]).filter(|_| is_same);
                let layout = made_in.unwrap_or(Layout::Plain);
                let source = self.place(info.inputs[0], layout, self.home_stored(info.inputs[0]))?;
                self.new_view(info.outputs[0], layout, source, 0);
                Ok(true)
            }
            Arithmetic::Copies => {
                if let Op::Concat { axis } = &info.op {
                    return Ok(self.concat(&info.inputs, info.outputs[0], *axis)?
                        || self.concat_runs(&info.inputs, info.outputs[0], *axis)?);
                }
                if let Op::Slice { starts, steps, .. } = &info.op {
                    return self.slice(info.inputs[0], info.outputs[0], starts, steps);
                }
                if let Op::Split { axis, .. } = &info.op {
                    return self.split(info.inputs[0], &info.outputs, *axis);
                }
                Ok(false)
            }
        }
    }

    /// A cast between types of which the same bytes are stored.
    fn cast(&mut self, input: TensorId, output: TensorId) -> Result<bool, LowerError> {
        let Some(layout) = self.home_layout(input) else { return Ok(false) };
        let is_same = self.home_stored(input) == self.stored(output) && self.keeps_bytes();
        if is_same {
            let source = self.place(input, layout, self.stored(output))?;
            self.new_view(output, layout, source, 0);
        }
        Ok(is_same)
    }

    /// Each input becomes a part of the output where that is legal, and is copied there where it is not.
    fn concat(&mut self, inputs: &[TensorId], output: TensorId, axis: usize) -> Result<bool, LowerError> {
        let Some(layout) = self.contiguous_layout(inputs, output, axis) else {
            return Ok(false);
        };
        let stored = self.stored(output);
        let parts = inputs
            .iter()
            .map(|input| match self.graph.value(*input).cloned() {
                Some(value) if layout == Layout::Plain => {
                    Ok(Argument::Weight(self.plain_weight(*input, &value, stored)))
                }
                _ => Ok(Argument::Buffer(self.place(*input, layout, stored)?)),
            })
            .collect::<Result<Vec<_>, LowerError>>()?;
        let whole = self.new_buffer(output, layout, stored);
        let mut first_element = 0;
        for (input, part) in inputs.iter().zip(parts) {
            let elements = self.part_elements(*input, layout);
            match part {
                Argument::Buffer(buffer) if self.can_become_part(buffer, elements) => {
                    self.program.buffers[buffer.0 as usize].part_of = Some((whole, first_element));
                }
                _ => {
                    let runs = Runs::one(elements);
                    self.program.steps.push(Step::Copy { from: (part, 0), to: (whole, first_element), runs });
                }
            }
            first_element += elements;
        }
        Ok(true)
    }

    /// A buffer may move into another if it owns its memory and fills its part exactly: kernels may write up to the
    /// end of its last vector.
    fn can_become_part(&self, buffer: BufferId, elements: usize) -> bool {
        let info = self.buffer(buffer);
        info.part_of.is_none() && info.elements == elements
    }

    fn split(&mut self, input: TensorId, outputs: &[TensorId], axis: usize) -> Result<bool, LowerError> {
        let Some(layout) = self.contiguous_layout(outputs, input, axis) else {
            return Ok(false);
        };
        let lanes = self.machine.instruction_set.lanes() as usize;
        if outputs.iter().any(|output| !self.part_elements(*output, layout).is_multiple_of(lanes)) {
            return Ok(false);
        }
        let whole = self.place(input, layout, self.home_stored(input))?;
        let mut first_element = 0;
        for output in outputs {
            self.new_view(*output, layout, whole, first_element);
            first_element += self.part_elements(*output, layout);
        }
        Ok(true)
    }

    /// The layout in which `parts` lie one after the other inside `whole`, if there is one: nothing but 1 before the
    /// axis, and in blocked layout whole blocks per part.
    fn contiguous_layout(&self, parts: &[TensorId], whole: TensorId, axis: usize) -> Option<Layout> {
        let shape = self.graph.shape(whole);
        if shape[..axis].iter().any(|extent| *extent != 1) {
            return None;
        }
        let made_in = |tensor: &TensorId| self.home_layout(*tensor);
        let blocked = parts.iter().chain([&whole]).find_map(|tensor| match made_in(tensor) {
            Some(Layout::Blocked(block)) => Some(block),
            _ => None,
        });
        if let Some(block) = blocked
            && axis == 1
            && shape.len() > 2
            && !self.places.get(&whole).is_some_and(|places| lies_the_same(self.buffer(places[0])))
            && parts[..parts.len() - 1].iter().all(|part| self.graph.shape(*part)[1].is_multiple_of(block as usize))
        {
            return Some(Layout::Blocked(block));
        }
        Some(Layout::Plain)
    }

    /// Elements of one part; in blocked layout the last block counts whole.
    fn part_elements(&self, tensor: TensorId, layout: Layout) -> usize {
        match layout {
            Layout::Plain => self.graph.tensor_type(tensor).element_count(),
            Layout::Blocked(_) => physical_elements(self.graph.tensor_type(tensor), layout, 1),
        }
    }
}
