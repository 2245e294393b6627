//! Quantized models in QDQ form: QuantizeLinear and DequantizeLinear around operators that are written for real numbers.
//!
//! A quantized tensor stands for `scale * steps` where the steps are whole numbers, its elements less the zero point.
//! Device programs compute in `f32`, and so do quantized models here: steps are `f32` tensors that hold whole numbers.
//! Products of steps are summed before they are scaled, as integer kernels do it, and such sums are exact in `f32` as
//! long as they stay below 2^24: no order of addition, hence no kernel and no way to share a layer among devices, changes
//! a result. What follows a sum is the same few operations on single elements everywhere. That holds where a sum is
//! quantized again, at once or behind ReLU or Clip; a sum that goes on as real numbers is a product like any other, and
//! its scales may be folded into its weights.

use crate::expressions::part;
use crate::importer::{Converter, NodeContext};
use crate::quantized::Grid;
use partita_ir::diagnostic::Diagnostic;
use partita_ir::graph::op::{Activation, Op};
use partita_ir::graph::{BinaryOp, ElementType, TensorId, UnaryOp, Value};

/// Scales of sums and of what is added to them may differ by this, relatively: exporters compute them in `f32`.
const SAME_SCALE: f32 = 1e-4;

/// Numbers that files have for element types of four bits.
const UINT4: i64 = 21;
const INT4: i64 = 22;

pub(super) fn converter(op_type: &str) -> Option<Converter> {
    Some(match op_type {
        "QuantizeLinear" => quantize,
        "DequantizeLinear" => dequantize,
        _ => return None,
    })
}

/// A scale that is one for all or one for each of `count`.
fn entry(scales: &[f32], index: usize) -> f32 {
    scales[if scales.len() == 1 { 0 } else { index }]
}

/// Scales of the products of two grids, of which the second lies along an axis with `count` entries.
fn products(first: f32, second: &[f32], count: usize) -> Vec<f32> {
    (0..count).map(|index| (f64::from(first) * f64::from(entry(second, index))) as f32).collect()
}

/// A constant of one element per index of an axis, of a shape that broadcasts over tensors of `rank` dimensions.
fn along_axis(
    context: &mut NodeContext<'_>,
    role: &str,
    elements: Vec<f32>,
    axis: usize,
    rank: usize,
) -> Result<TensorId, Diagnostic> {
    let shape = match elements.len() {
        1 => Vec::new(),
        count => std::iter::once(count).chain(std::iter::repeat_n(1, rank - 1 - axis)).collect(),
    };
    context.add_constant(role, Value::f32(shape, elements))
}

/// Scales and zero points of a tensor, one for all or one per index of the axis.
pub(super) struct Parameters {
    /// Scales.
    pub scales: Vec<f32>,
    /// Zero points.
    pub zeros: Vec<f32>,
    /// Meaningful if there are several.
    pub axis: usize,
}

impl Parameters {
    fn of(context: &NodeContext<'_>, x: TensorId) -> Result<Parameters, Diagnostic> {
        let axis = context.attributes.int("axis", 1)?;
        Parameters::at(context, x, [1, 2], axis)
    }

    /// Those of a tensor whose scale and zero point are these operands.
    pub(super) fn at(
        context: &NodeContext<'_>,
        x: TensorId,
        [scale, zero]: [usize; 2],
        axis: i64,
    ) -> Result<Parameters, Diagnostic> {
        let shape = context.shape(x);
        let scales = context.constant_floats(scale)?;
        if let Some(scale) = scales.iter().find(|scale| !scale.is_normal() || **scale < 0.0) {
            return Err(context.refuse(format!("its scale is {scale}, expected a positive number")));
        }
        let zeros = match context.optional_input(zero) {
            None => vec![0.0],
            Some(_) => partita_ir::graph::values::to_f32(&context.constant(zero)?.data),
        };
        let axis = match scales.len() {
            1 => 0,
            _ => context.axis(axis, shape.len())?,
        };
        let counts = [scales.len(), zeros.len()];
        if counts.iter().any(|count| *count != 1 && *count != scales.len()) || scales.is_empty() {
            return Err(context.refuse(format!("it has {} scales and {} zero points", counts[0], counts[1])));
        }
        if scales.len() > 1 && shape[axis] != scales.len() {
            let message = format!("it has {} scales for axis {axis} of {}", scales.len(), context.tensor_type(x));
            return Err(context.refuse(message));
        }
        Ok(Parameters { scales, zeros, axis })
    }
}

/// DequantizeLinear-10, -13, -19, -21: `(x - zero) * scale`.
fn dequantize(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let x = context.input(0)?;
    if !is_plain(context, [1, 2])? {
        let real = dequantized(context, x, [1, 2])?;
        return context.bind(&[real]);
    }
    let parameters = Parameters::of(context, x)?;
    let grid = grid_of(context, x, parameters)?;
    let scale = context.input(1)?;
    let promised = context.promised(scale);
    context.emit_grid(grid, promised)
}

/// A scale or zero point as `f32` of a shape that broadcasts over a tensor: one for all, one for each index of an axis, or
/// one for each block along the axis.
fn spread(
    context: &mut NodeContext<'_>,
    operand: TensorId,
    shape: &[usize],
    axis: usize,
    block: usize,
) -> Result<TensorId, Diagnostic> {
    let mut operand = context.as_f32(operand)?;
    let own = context.shape(operand);
    let reshape = |context: &mut NodeContext<'_>, shape: Vec<usize>, x: TensorId| {
        Ok::<_, Diagnostic>(context.emit_own(Op::Reshape { shape }, vec![x])?[0])
    };
    if block == 0 {
        if own.iter().product::<usize>() == 1 {
            return reshape(context, Vec::new(), operand);
        }
        if own.len() != 1 || shape.get(axis) != Some(&own[0]) {
            return Err(context.refuse(format!("parameters {own:?} for axis {axis} of {shape:?}")));
        }
        let along = std::iter::once(own[0]).chain(std::iter::repeat_n(1, shape.len() - 1 - axis)).collect();
        return reshape(context, along, operand);
    }
    let block_size = block.min(shape[axis].max(1));
    let mut blocks = shape.to_vec();
    blocks[axis] = shape[axis].div_ceil(block_size);
    if own != blocks {
        return Err(context.refuse(format!("parameters {own:?} for blocks of {block} along axis {axis} of {shape:?}")));
    }
    let mut parted = blocks.clone();
    parted.insert(axis + 1, 1);
    operand = reshape(context, parted.clone(), operand)?;
    parted[axis + 1] = block_size;
    operand = context.emit_own(Op::Expand { shape: parted }, vec![operand])?[0];
    blocks[axis] *= block_size;
    operand = reshape(context, blocks.clone(), operand)?;
    Ok(context.emit_own(part(&blocks, axis, 0, shape[axis]), vec![operand])?[0])
}

/// Scale and zero point of a node, spread over a tensor.
fn spread_both(
    context: &mut NodeContext<'_>,
    x: TensorId,
    [scale, zero]: [usize; 2],
) -> Result<(TensorId, Option<TensorId>), Diagnostic> {
    let shape = context.shape(x);
    let block = context.attributes.int("block_size", 0)?;
    let block = usize::try_from(block).map_err(|_| context.refuse(format!("attribute `block_size` is {block}")))?;
    let scale = context.input(scale)?;
    let axis = match context.tensor_type(scale).element_count() {
        1 if block == 0 => 0,
        _ => context.axis(context.attributes.int("axis", 1)?, shape.len())?,
    };
    let zero = match context.optional_input(zero) {
        Some(zero) => Some(spread(context, zero, &shape, axis, block)?),
        None => None,
    };
    Ok((spread(context, scale, &shape, axis, block)?, zero))
}

/// Whether scales and zero points are such that sums of what they quantize can be taken of whole numbers: known, one per
/// tensor or axis, with one zero point.
fn is_plain(context: &NodeContext<'_>, [scale, zero]: [usize; 2]) -> Result<bool, Diagnostic> {
    let value = |position: usize| context.optional_input(position).map(|operand| context.importer.graph.value(operand));
    let scales = matches!(value(scale), Some(Some(_)));
    let zeros = match value(zero) {
        None => true,
        Some(None) => false,
        Some(Some(zeros)) => {
            let zeros = partita_ir::graph::values::to_f32(&zeros.data);
            zeros.iter().all(|zero| *zero == zeros[0])
        }
    };
    Ok(scales && zeros && context.attributes.int("block_size", 0)? == 0)
}

/// `(x - zero) * scale` of any parameters.
pub(super) fn dequantized(
    context: &mut NodeContext<'_>,
    x: TensorId,
    places: [usize; 2],
) -> Result<TensorId, Diagnostic> {
    let (scale, zero) = spread_both(context, x, places)?;
    let mut steps = context.as_f32(x)?;
    let binary = |function| Op::Binary(function, Activation::None);
    if let Some(zero) = zero {
        steps = context.emit_own(binary(BinaryOp::Sub), vec![steps, zero])?[0];
    }
    let real = context.emit_own(binary(BinaryOp::Mul), vec![steps, scale])?[0];
    let promised = context.promised(context.input(places[0])?);
    context.importer.promise(real, promised);
    Ok(real)
}

/// `saturate(round(x / scale) + zero)` of any parameters.
pub(super) fn quantized(
    context: &mut NodeContext<'_>,
    x: TensorId,
    places: [usize; 2],
    element: ElementType,
) -> Result<TensorId, Diagnostic> {
    let (scale, zero) = spread_both(context, x, places)?;
    let (low, high) = bounds(context, places[1], element)?;
    let x = context.as_f32(x)?;
    let clip = Activation::Clip(low, high);
    let first = if zero.is_some() { Activation::None } else { clip };
    let mut steps = context.emit_own(Op::Binary(BinaryOp::RoundedQuotient, first), vec![x, scale])?[0];
    if let Some(zero) = zero {
        steps = context.emit_own(Op::Binary(BinaryOp::Add, clip), vec![steps, zero])?[0];
    }
    context.importer.promise(steps, element);
    Ok(steps)
}

/// What a quantized tensor stands for.
pub(super) fn grid_of(context: &mut NodeContext<'_>, x: TensorId, parameters: Parameters) -> Result<Grid, Diagnostic> {
    let Parameters { scales, zeros, axis } = parameters;
    let promised = context.promised(x);
    if !matches!(promised, ElementType::I8 | ElementType::U8 | ElementType::I16 | ElementType::U16 | ElementType::I32) {
        return Err(context.refuse(format!("its input is {}, expected int8, uint8 or int32", promised.name())));
    }
    let rank = context.shape(x).len();
    let known = context.importer.grids.quantized.get(&x).filter(|(_, zero)| zeros.iter().all(|other| other == zero));
    let steps = match known {
        Some((steps, _)) => *steps,
        None => {
            let mut steps = x;
            if context.tensor_type(x).element != ElementType::F32 {
                steps = context.emit_own(Op::Cast { to: ElementType::F32 }, vec![steps])?[0];
            }
            if zeros.iter().any(|zero| *zero != 0.0) {
                let zeros = along_axis(context, "zero", zeros, axis, rank)?;
                steps = context.emit_own(Op::Binary(BinaryOp::Sub, Activation::None), vec![steps, zeros])?[0];
            }
            steps
        }
    };
    Ok(Grid { steps, scales, axis })
}

/// QuantizeLinear-10, -13, -19, -21: `saturate(round(x / scale) + zero)`, halves to the even number.
fn quantize(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let x = context.input(0)?;
    let x = context.as_f32(x)?;
    let element = match context.optional_input(2) {
        Some(zero) => context.promised(zero),
        None => match context.attributes.int("output_dtype", 0)? {
            0 | UINT4 => ElementType::U8,
            INT4 => ElementType::I8,
            other => super::elementwise::element_type(context, "output_dtype", other)?,
        },
    };
    if !is_plain(context, [1, 2])? {
        let steps = quantized(context, x, [1, 2], element)?;
        return context.bind(&[steps]);
    }
    let Parameters { scales, zeros, axis } = Parameters::of(context, x)?;
    let zero = zeros[0];
    let (low, high) = bounds(context, 2, element)?;
    let (mut low, mut high) = (low - zero, high - zero);
    let (source, divisors, axis) = match context.before_clip(x) {
        Some((grid, from, to)) if scales.len() == 1 => {
            // Rounding is monotonic: bounds may as well be rounded and met afterwards.
            let bound = |bound: f32| (bound / scales[0]).round_ties_even();
            (low, high) = (low.max(bound(from)), high.min(bound(to)));
            let divisors = grid.scales.iter().map(|own| (f64::from(scales[0]) / f64::from(*own)) as f32).collect();
            (grid.steps, divisors, grid.axis)
        }
        _ => (x, scales, axis),
    };
    saturate(context, source, (divisors, axis), [low, high], zero, element)
}

/// Least and largest element of what a tensor is quantized to, whose zero point is the operand at `zero`: of four bits
/// if that has so many, or the node says so.
pub(super) fn bounds(context: &NodeContext<'_>, zero: usize, element: ElementType) -> Result<(f32, f32), Diagnostic> {
    let has_four_bits = match context.optional_input(zero) {
        Some(zero) => context.importer.four_bits.contains(&zero),
        None => matches!(context.attributes.int("output_dtype", 0)?, INT4 | UINT4),
    };
    match element {
        ElementType::I8 if has_four_bits => Ok((-8.0, 7.0)),
        ElementType::U8 if has_four_bits => Ok((0.0, 15.0)),
        ElementType::I8 => Ok((-128.0, 127.0)),
        ElementType::U8 => Ok((0.0, 255.0)),
        ElementType::I16 => Ok((-32768.0, 32767.0)),
        ElementType::U16 => Ok((0.0, 65535.0)),
        other => {
            Err(context.refuse(format!("it quantizes to {}, expected int8, uint8, int16 or uint16", other.name())))
        }
    }
}

/// A grid on the scale and zero point that these operands give, as the node's result.
pub(super) fn requantize(
    context: &mut NodeContext<'_>,
    grid: Grid,
    [scale, zero]: [usize; 2],
) -> Result<(), Diagnostic> {
    let Parameters { scales, zeros, .. } = Parameters::at(context, grid.steps, [scale, zero], 0)?;
    let ([scale], [zero]) = (&scales[..], &zeros[..]) else {
        return Err(context.attributes.unsupported("results with several scales are not supported"));
    };
    let element = match context.optional_input(7) {
        Some(zero) => context.promised(zero),
        None => ElementType::U8,
    };
    let (low, high) = bounds(context, 7, element)?;
    let divisors = grid.scales.iter().map(|own| (f64::from(*scale) / f64::from(*own)) as f32).collect();
    saturate(context, grid.steps, (divisors, grid.axis), [low - zero, high - zero], *zero, element)
}

/// `saturate(round(source / divisor)) + zero`, as the node's result; bounds are those before the zero point is added.
fn saturate(
    context: &mut NodeContext<'_>,
    source: TensorId,
    (divisors, axis): (Vec<f32>, usize),
    [low, high]: [f32; 2],
    zero: f32,
    element: ElementType,
) -> Result<(), Diagnostic> {
    let rank = context.shape(source).len();
    let divisors = along_axis(context, "step", divisors, axis, rank)?;
    let saturated = Op::Binary(BinaryOp::RoundedQuotient, Activation::Clip(low, high));
    let steps = context.emit_own(saturated, vec![source, divisors])?[0];
    let mut quantized = steps;
    if zero != 0.0 {
        let zero = along_axis(context, "zero", vec![zero], 0, rank)?;
        quantized = context.emit_own(Op::Binary(BinaryOp::Add, Activation::None), vec![steps, zero])?[0];
    }
    context.importer.promise(quantized, element);
    context.importer.grids.quantized.insert(quantized, (steps, zero));
    context.bind(&[quantized])
}

impl NodeContext<'_> {
    /// The grid of a real tensor, if it has one.
    fn grid(&self, x: TensorId) -> Option<&Grid> {
        self.importer.grids.real.get(&x)
    }

    /// Names `steps * scales` as the node's result, real numbers of a type that the model says.
    fn emit_grid(&mut self, grid: Grid, promised: ElementType) -> Result<(), Diagnostic> {
        let rank = self.shape(grid.steps).len();
        let scales = along_axis(self, "scale", grid.scales.clone(), grid.axis, rank)?;
        let real = self.emit_own(Op::Binary(BinaryOp::Mul, Activation::None), vec![grid.steps, scales])?;
        self.bind(&real)?;
        self.importer.promise(real[0], promised);
        self.importer.grids.real.insert(real[0], grid);
        Ok(())
    }

    /// The grid of what is to be quantized, and the bounds that it was clipped to.
    fn before_clip(&self, x: TensorId) -> Option<(Grid, f32, f32)> {
        if let Some(grid) = self.grid(x) {
            return Some((grid.clone(), f32::NEG_INFINITY, f32::INFINITY));
        }
        let node = self.importer.graph.node(self.importer.graph.tensor(x).producer?);
        let (low, high) = match node.op {
            Op::Unary(UnaryOp::Activation(Activation::Relu)) => (0.0, f32::INFINITY),
            Op::Unary(UnaryOp::Activation(Activation::Clip(low, high))) if low <= high => (low, high),
            _ => return None,
        };
        Some((self.grid(node.inputs[0])?.clone(), low, high))
    }

    /// A sum of products of grids, exact in whole numbers; false if the operands are not such. The operator takes the
    /// two factors and a bias; the second factor's scales lie along `weights_axis`, the result's along `result_axis`.
    pub(super) fn emit_products(
        &mut self,
        op: &Op,
        factors: [TensorId; 2],
        bias: Option<TensorId>,
        [weights_axis, result_axis]: [usize; 2],
    ) -> Result<bool, Diagnostic> {
        let [first, second] = factors.map(|factor| self.grid(factor).cloned());
        let (Some(first), Some(second)) = (first, second) else { return Ok(false) };
        match self.products(op, [first, second], bias, [weights_axis, result_axis])? {
            Some(grid) => self.emit_grid(grid, self.promised(factors[0])).map(|()| true),
            None => Ok(false),
        }
    }

    /// The same for grids; nothing if they do not fit.
    pub(super) fn products(
        &mut self,
        op: &Op,
        [first, second]: [Grid; 2],
        bias: Option<TensorId>,
        [weights_axis, result_axis]: [usize; 2],
    ) -> Result<Option<Grid>, Diagnostic> {
        let Some(scale) = first.scale().filter(|_| second.scales.len() == 1 || second.axis == weights_axis) else {
            return Ok(None);
        };
        let count = self.shape(second.steps)[weights_axis];
        let scales = products(scale, &second.scales, count);
        let mut operands = vec![first.steps, second.steps];
        if let Some(bias) = bias {
            // No bias, or one in the same steps.
            let is_nothing = self.importer.graph.f32_value(bias).is_some_and(|bias| bias.iter().all(|b| *b == 0.0));
            let own =
                self.grid(bias).filter(|own| self.shape(own.steps) == [count] && same_scales(&own.scales, &scales));
            match own {
                Some(own) => operands.push(own.steps),
                None if is_nothing => operands.push(bias),
                None => return Ok(None),
            }
        }
        let steps = self.emit_own(op.clone(), operands)?[0];
        Ok(Some(Grid { steps, scales, axis: result_axis }))
    }

    /// A bias of the same steps that is added to a sum along the last axis; false if the operands are not such.
    pub(super) fn emit_bias(&mut self, operands: [TensorId; 2]) -> Result<bool, Diagnostic> {
        for [sum, bias] in [operands, [operands[1], operands[0]]] {
            let (Some(grid), Some(own)) = (self.grid(sum), self.grid(bias)) else { return Ok(false) };
            let shape = self.shape(sum);
            let fits = shape.last().is_some_and(|last| self.shape(bias) == [*last])
                && self.importer.graph.value(own.steps).is_some()
                && (grid.scales.len() == 1 || grid.axis + 1 == shape.len())
                && same_scales(&own.scales, &grid.scales);
            if fits {
                let (grid, bias) = (grid.clone(), own.steps);
                let add = Op::Binary(BinaryOp::Add, Activation::None);
                let steps = self.emit_own(add, vec![grid.steps, bias])?[0];
                self.emit_grid(Grid { steps, ..grid }, self.promised(sum))?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// An operator that scales with its operand, done on its steps; false if the operand has no grid of one scale.
    pub(super) fn emit_linear(&mut self, op: &Op, x: TensorId) -> Result<bool, Diagnostic> {
        let Some(grid) = self.grid(x).filter(|grid| grid.scale().is_some()).cloned() else { return Ok(false) };
        let steps = self.emit_own(op.clone(), vec![grid.steps])?[0];
        self.emit_grid(Grid { steps, ..grid }, self.promised(x))?;
        Ok(true)
    }
}

fn same_scales(one: &[f32], other: &[f32]) -> bool {
    let count = one.len().max(other.len());
    let fits = |scales: &[f32]| scales.len() == 1 || scales.len() == count;
    fits(one)
        && fits(other)
        && (0..count).all(|index| {
            let (a, b) = (entry(one, index), entry(other, index));
            (a - b).abs() <= SAME_SCALE * a.abs().max(b.abs())
        })
}
