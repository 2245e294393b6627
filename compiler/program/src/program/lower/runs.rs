//! Slices and concatenations as copies of runs: along one axis, everything inside it is contiguous.

use super::places::physical_elements;
use super::{LowerError, Lowering};
use crate::program::{Argument, Layout, Runs, Step};
use partita_ir::graph::{TensorId, TensorType};

impl Lowering<'_> {
    /// Cuts a range out of one axis; `false` if more than one axis is cut, which the reference kernel does.
    pub(super) fn slice(
        &mut self,
        input: TensorId,
        output: TensorId,
        starts: &[usize],
        steps: &[isize],
    ) -> Result<bool, LowerError> {
        let (from, to) = (self.graph.shape(input), self.graph.shape(output));
        let cut: Vec<usize> = (0..from.len()).filter(|axis| from[*axis] != to[*axis]).collect();
        let (&[axis], true) = (cut.as_slice(), steps.iter().all(|step| *step == 1)) else { return Ok(false) };
        if self.graph.value(input).is_some() {
            return Ok(false);
        }
        let whole_blocks = |block: u32| {
            let end = starts[axis] + to[axis];
            starts[axis].is_multiple_of(block as usize) && (end.is_multiple_of(block as usize) || end == from[1])
        };
        let layout = match self.home_layout(input) {
            Some(Layout::Blocked(block)) if axis >= 2 || axis == 1 && whole_blocks(block) => Layout::Blocked(block),
            _ => Layout::Plain,
        };
        let source = self.place(input, layout, self.home_stored(input))?;
        let (whole, part) = (
            Extents::of(self.graph.tensor_type(input), layout, axis),
            Extents::of(self.graph.tensor_type(output), layout, axis),
        );
        let first = whole.first(starts[axis], layout, axis);
        let lanes = self.machine.instruction_set.lanes() as usize;
        let elements = physical_elements(self.graph.tensor_type(output), layout, lanes);
        let fits = first + elements <= self.buffer(source).elements;
        if whole.outer == 1 && fits && first.is_multiple_of(lanes) && elements == part.run {
            self.new_view(output, layout, source, first);
            return Ok(true);
        }
        let buffer = self.new_buffer(output, layout, self.buffer(source).stored());
        let runs = Runs { count: whole.outer, elements: part.run, from_stride: whole.run, to_stride: part.run };
        self.program.steps.push(Step::Copy { from: (Argument::Buffer(source), first), to: (buffer, 0), runs });
        Ok(true)
    }

    /// Joins tensors along an axis that has others outside it.
    pub(super) fn concat_runs(
        &mut self,
        inputs: &[TensorId],
        output: TensorId,
        axis: usize,
    ) -> Result<bool, LowerError> {
        let graph = self.graph;
        let largest = inputs.iter().max_by_key(|input| graph.tensor_type(**input).element_count());
        let layout = match largest.and_then(|input| self.home_layout(*input)) {
            Some(Layout::Blocked(block)) if axis >= 2 => Layout::Blocked(block),
            _ => Layout::Plain,
        };
        let stored = self.stored(output);
        let sources = inputs
            .iter()
            .map(|input| match graph.value(*input).cloned() {
                Some(value) if layout == Layout::Plain => {
                    Ok(Argument::Weight(self.plain_weight(*input, &value, stored)))
                }
                _ => Ok(Argument::Buffer(self.place(*input, layout, stored)?)),
            })
            .collect::<Result<Vec<_>, LowerError>>()?;
        let whole = Extents::of(graph.tensor_type(output), layout, axis);
        let buffer = self.new_buffer(output, layout, stored);
        let mut first = 0;
        for (input, source) in inputs.iter().zip(sources) {
            let part = Extents::of(graph.tensor_type(*input), layout, axis);
            let runs = Runs { count: whole.outer, elements: part.run, from_stride: part.run, to_stride: whole.run };
            self.program.steps.push(Step::Copy { from: (source, 0), to: (buffer, first), runs });
            first += part.run;
        }
        Ok(true)
    }
}

/// A tensor as `outer` runs of `run` contiguous elements, each of which goes through the axis once.
struct Extents {
    outer: usize,
    run: usize,
    /// Elements per index of the axis; in blocked layout along channels, per block.
    step: usize,
}

impl Extents {
    fn of(tensor_type: &TensorType, layout: Layout, axis: usize) -> Extents {
        let mut shape = tensor_type.shape.clone();
        if let Layout::Blocked(block) = layout {
            shape[1] = shape[1].div_ceil(block as usize);
            shape.push(block as usize);
        }
        let step: usize = shape[axis + 1..].iter().product();
        Extents { outer: shape[..axis].iter().product(), run: shape[axis] * step, step }
    }

    /// Element at which an index of the axis begins, within a run.
    fn first(&self, index: usize, layout: Layout, axis: usize) -> usize {
        match layout {
            Layout::Blocked(block) if axis == 1 => index / block as usize * self.step,
            _ => index * self.step,
        }
    }
}
