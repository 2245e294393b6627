//! Elements read at places that are computed: GridSample, AffineGrid; gathers with weights.

use crate::expressions::part;
use crate::importer::{Converter, NodeContext};
use partita_ir::diagnostic::Diagnostic;
use partita_ir::graph::op::{Activation, BinaryOp, Op, UnaryOp};
use partita_ir::graph::{ElementType, TensorId, Value};

/// ONNX GridSample's coefficient of cubic convolution.
const CUBIC: f64 = -0.75;

pub(super) fn converter(op_type: &str) -> Option<Converter> {
    Some(match op_type {
        "GridSample" => grid_sample,
        "AffineGrid" => affine_grid,
        _ => return None,
    })
}

/// What lies outside of the input.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Outside {
    Zeros,
    Border,
    Reflection,
}

/// How many neighbours are weighted.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Mode {
    Nearest,
    Linear,
    Cubic,
}

/// `a * x + b`
pub(super) fn affine(context: &mut NodeContext<'_>, x: TensorId, a: f64, b: f64) -> Result<TensorId, Diagnostic> {
    let a = context.number(a, x)?;
    let product = context.binary(BinaryOp::Mul, x, a)?;
    let b = context.number(b, x)?;
    context.binary(BinaryOp::Add, product, b)
}

fn clipped(context: &mut NodeContext<'_>, x: TensorId, extent: usize) -> Result<TensorId, Diagnostic> {
    context.unary(UnaryOp::Activation(Activation::Clip(0.0, extent as f32 - 1.0)), x)
}

/// One axis of the input, as a grid sees it.
pub(super) struct Axis {
    pub(super) extent: usize,
    pub(super) mode: Mode,
    pub(super) outside: Outside,
    /// Where elements are reflected.
    pub(super) borders: [f64; 2],
}

impl Axis {
    /// Reflected at the borders as often as it takes: `low + |x - low|` in waves of twice the range.
    fn reflected(&self, context: &mut NodeContext<'_>, x: TensorId) -> Result<TensorId, Diagnostic> {
        let [low, high] = self.borders;
        let range = high - low;
        if range == 0.0 {
            return affine(context, x, 0.0, low);
        }
        let from_low = affine(context, x, 1.0, -low)?;
        let distance = context.unary(UnaryOp::Abs, from_low)?;
        let wave = context.number(2.0 * range, x)?;
        let rest = context.binary(BinaryOp::Mod, distance, wave)?;
        let back = context.binary(BinaryOp::Sub, wave, rest)?;
        let nearer = context.binary(BinaryOp::Min, rest, back)?;
        affine(context, nearer, 1.0, low)
    }

    /// Coordinates outside of the borders, brought back as far as the mode says.
    fn inside(&self, context: &mut NodeContext<'_>, x: TensorId) -> Result<TensorId, Diagnostic> {
        let back = match self.outside {
            Outside::Zeros => return Ok(x),
            // Each neighbour is brought back by itself, as in onnxruntime.
            Outside::Border if self.mode == Mode::Cubic => return Ok(x),
            Outside::Border => clipped(context, x, self.extent)?,
            Outside::Reflection => self.reflected(context, x)?,
        };
        let [low, high] = self.borders;
        let (low, high) = (context.number(low, x)?, context.number(high, x)?);
        let before = context.binary(BinaryOp::Less, x, low)?;
        let behind = context.binary(BinaryOp::Greater, x, high)?;
        let is_outside = context.binary(BinaryOp::Or, before, behind)?;
        context.value(Op::Where, &[is_outside, back, x])
    }

    /// Indices (i64) and weights of the neighbours of coordinates.
    pub(super) fn taps(
        &self,
        context: &mut NodeContext<'_>,
        x: TensorId,
    ) -> Result<Vec<(TensorId, Option<TensorId>)>, Diagnostic> {
        let x = if self.mode == Mode::Nearest { context.unary(UnaryOp::Round, x)? } else { x };
        let x = self.inside(context, x)?;
        let base = context.unary(UnaryOp::Floor, x)?;
        let offset = context.binary(BinaryOp::Sub, x, base)?;
        let places: &[f64] = match self.mode {
            Mode::Nearest => &[0.0],
            Mode::Linear => &[0.0, 1.0],
            Mode::Cubic => &[-1.0, 0.0, 1.0, 2.0],
        };
        let mut taps = Vec::with_capacity(places.len());
        for place in places {
            let distance = affine(context, offset, 1.0, -place)?;
            let distance = context.unary(UnaryOp::Abs, distance)?;
            let mut weight = match self.mode {
                Mode::Nearest => None,
                Mode::Linear => Some(affine(context, distance, -1.0, 1.0)?),
                Mode::Cubic => Some(cubic(context, distance, (0.0..=1.0).contains(place))?),
            };
            let index = affine(context, base, 1.0, *place)?;
            let index = match self.outside {
                Outside::Zeros => {
                    let (low, high) = (context.number(0.0, x)?, context.number(self.extent as f64 - 1.0, x)?);
                    let behind = context.binary(BinaryOp::GreaterOrEqual, index, low)?;
                    let before = context.binary(BinaryOp::LessOrEqual, index, high)?;
                    let is_inside = context.binary(BinaryOp::And, behind, before)?;
                    let one = context.number(1.0, x)?;
                    weight = Some(context.value(Op::Where, &[is_inside, weight.unwrap_or(one), low])?);
                    index
                }
                Outside::Border => index,
                Outside::Reflection => self.reflected(context, index)?,
            };
            let index = clipped(context, index, self.extent)?;
            taps.push((context.value(Op::Cast { to: ElementType::I64 }, &[index])?, weight));
        }
        Ok(taps)
    }
}

/// Keys' cubic convolution: the inner piece up to a distance of 1, the outer one up to 2.
fn cubic(context: &mut NodeContext<'_>, x: TensorId, inner: bool) -> Result<TensorId, Diagnostic> {
    let terms: &[f64] = match inner {
        true => &[CUBIC + 2.0, -(CUBIC + 3.0), 0.0, 1.0],
        false => &[CUBIC, -5.0 * CUBIC, 8.0 * CUBIC, -4.0 * CUBIC],
    };
    let mut sum = affine(context, x, terms[0], terms[1])?;
    for term in &terms[2..] {
        sum = context.binary(BinaryOp::Mul, sum, x)?;
        sum = affine(context, sum, 1.0, *term)?;
    }
    Ok(sum)
}

/// `[N, C, spatial]` as rows of channels `[N * elements, C]`.
pub(super) fn rows(context: &mut NodeContext<'_>, x: TensorId) -> Result<TensorId, Diagnostic> {
    let shape = context.shape(x);
    let inner: usize = shape[2..].iter().product();
    let flat = context.value(Op::Reshape { shape: vec![shape[0], shape[1], inner] }, &[x])?;
    let turned = context.value(Op::Transpose { permutation: vec![0, 2, 1] }, &[flat])?;
    context.value(Op::Reshape { shape: vec![shape[0] * inner, shape[1]] }, &[turned])
}

/// ONNX GridSample-16, -20, -22.
fn grid_sample(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let (x, grid) = (context.input(0)?, context.input(1)?);
    let (shape, of_grid) = (context.shape(x), context.shape(grid));
    let rank = shape.len().saturating_sub(2);
    if rank == 0 || of_grid.len() != rank + 2 || of_grid[rank + 1] != rank || of_grid[0] != shape[0] {
        return Err(context.refuse(format!("a grid {of_grid:?} for {shape:?}")));
    }
    let mode = match context.attributes.string("mode", "linear")?.as_str() {
        "linear" | "bilinear" => Mode::Linear,
        "nearest" => Mode::Nearest,
        "cubic" | "bicubic" => Mode::Cubic,
        other => return Err(context.attributes.unknown_word("mode", other, &["linear", "nearest", "cubic"])),
    };
    let outside = match context.attributes.string("padding_mode", "zeros")?.as_str() {
        "zeros" => Outside::Zeros,
        "border" => Outside::Border,
        "reflection" => Outside::Reflection,
        other => {
            return Err(context.attributes.unknown_word("padding_mode", other, &["zeros", "border", "reflection"]));
        }
    };
    let corners = context.attributes.flag("align_corners", false)?;
    let (batch, points) = (shape[0], of_grid[1..=rank].iter().product::<usize>());
    let grid = context.value(Op::Reshape { shape: vec![batch, points, rank] }, &[grid])?;
    let mut axes = Vec::with_capacity(rank);
    for (axis, extent) in shape[2..].iter().copied().enumerate() {
        // The grid names the last axis first.
        let along = context.value(part(&[batch, points, rank], 2, rank - 1 - axis, 1), &[grid])?;
        let along = context.value(Op::Reshape { shape: vec![batch, points] }, &[along])?;
        let size = extent as f64;
        let (place, borders) = if corners {
            (affine(context, along, (size - 1.0) / 2.0, (size - 1.0) / 2.0)?, [0.0, size - 1.0])
        } else {
            (affine(context, along, size / 2.0, (size - 1.0) / 2.0)?, [-0.5, size - 0.5])
        };
        axes.push(Axis { extent, mode, outside, borders }.taps(context, place)?);
    }
    let rows = rows(context, x)?;
    let inner: usize = shape[2..].iter().product();
    let firsts = (0..batch).map(|sample| (sample * inner) as i64);
    let firsts = context.make_constant("firsts", [batch, 1], firsts)?;
    let sum = weighted(context, rows, firsts, &axes, &shape[2..])?;
    let turned = context.value(Op::Transpose { permutation: vec![0, 2, 1] }, &[sum])?;
    let result = [&shape[..2], &of_grid[1..=rank]].concat();
    context.emit(Op::Reshape { shape: result }, vec![turned])
}

/// The sum over all combinations of neighbours: `[N, points, C]`.
pub(super) fn weighted(
    context: &mut NodeContext<'_>,
    rows: TensorId,
    firsts: TensorId,
    axes: &[Vec<(TensorId, Option<TensorId>)>],
    extents: &[usize],
) -> Result<TensorId, Diagnostic> {
    let combinations: usize = axes.iter().map(Vec::len).product();
    let mut sum: Option<TensorId> = None;
    for combination in 0..combinations {
        let (mut rest, mut position, mut weight) = (combination, firsts, None);
        let mut stride = 1;
        for (taps, extent) in axes.iter().zip(extents).rev() {
            let (index, own) = taps[rest % taps.len()];
            rest /= taps.len();
            let step = context.number(stride as f64, index)?;
            let along = context.binary(BinaryOp::Mul, index, step)?;
            position = context.binary(BinaryOp::Add, position, along)?;
            weight = match (weight, own) {
                (Some(weight), Some(own)) => Some(context.binary(BinaryOp::Mul, weight, own)?),
                (weight, own) => weight.or(own),
            };
            stride *= extent;
        }
        let mut taken = context.value(Op::Gather { axis: 0 }, &[rows, position])?;
        if let Some(weight) = weight {
            let mut shape = context.shape(weight);
            shape.push(1);
            let weight = context.value(Op::Reshape { shape }, &[weight])?;
            taken = context.binary(BinaryOp::Mul, taken, weight)?;
        }
        sum = Some(match sum {
            Some(sum) => context.binary(BinaryOp::Add, sum, taken)?,
            None => taken,
        });
    }
    sum.ok_or_else(|| context.refuse("it samples nothing"))
}

/// ONNX AffineGrid-20: a constant grid of homogeneous coordinates, turned by the matrices.
fn affine_grid(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let theta = context.input(0)?;
    let size = context.constant_ints(1)?;
    let extents: Option<Vec<usize>> = size
        .iter()
        .map(|extent| usize::try_from(*extent).ok().filter(|extent| (1..=1 << 24).contains(extent)))
        .collect();
    let Some(extents) = extents.filter(|extents| (4..=5).contains(&extents.len())) else {
        return Err(context.refuse(format!("its size is {size:?}, expected [N, C, H, W] or [N, C, D, H, W]")));
    };
    let spatial = &extents[2..];
    let rank = spatial.len();
    if context.shape(theta) != [extents[0], rank, rank + 1] {
        return Err(context.refuse(format!("its matrices are {}", context.tensor_type(theta))));
    }
    let corners = context.attributes.flag("align_corners", false)?;
    let points =
        partita_ir::graph::infer::element_count(spatial).map_err(|error| context.attributes.refused(&error))?;
    context.reserve("grid", points.saturating_mul(rank + 1))?;
    let at = |index: usize, extent: usize| match corners {
        true if extent > 1 => 2.0 * index as f64 / (extent as f64 - 1.0) - 1.0,
        true => 0.0,
        false => (2.0 * index as f64 + 1.0) / extent as f64 - 1.0,
    };
    let mut grid = Vec::with_capacity(points * (rank + 1));
    // The last axis comes first.
    for axis in (0..rank).rev() {
        let inner: usize = spatial[axis + 1..].iter().product();
        grid.extend((0..points).map(|point| at(point / inner % spatial[axis], spatial[axis]) as f32));
    }
    grid.extend(std::iter::repeat_n(1.0, points));
    let grid = context.name_constant("grid", Value::f32([rank + 1, points], grid));
    let turned = context.value(Op::MatMul, &[theta, grid])?;
    let turned = context.value(Op::Transpose { permutation: vec![0, 2, 1] }, &[turned])?;
    context.emit(Op::Reshape { shape: [&extents[..1], spatial, &[rank]].concat() }, vec![turned])
}
