//! Operators that move elements, and reductions over axes.

use crate::expressions::part;
use crate::importer::{Converter, NodeContext};
use partita_ir::diagnostic::Diagnostic;
use partita_ir::graph::infer::MAX_ELEMENTS;
use partita_ir::graph::op::{Op, PadMode, ReduceKind};
use partita_ir::graph::{Data, ElementType, TensorId};

pub(super) fn converter(op_type: &str) -> Option<Converter> {
    Some(match op_type {
        "Concat" => concat,
        "Split" => split,
        "Slice" => slice,
        "Transpose" => transpose,
        "Pad" => pad,
        "Gather" => gather,
        "Expand" => expand,
        "Tile" => tile,
        "SpaceToDepth" => space_to_depth,
        "DepthToSpace" => depth_to_space,
        "ReduceMean" => |context| reduce(context, ReduceKind::Mean, 18),
        "ReduceSum" => |context| reduce(context, ReduceKind::Sum, 13),
        "ReduceMax" => |context| reduce(context, ReduceKind::Max, 18),
        "ReduceMin" => |context| reduce(context, ReduceKind::Min, 18),
        "ArgMax" => arg_max,
        _ => return None,
    })
}

fn concat(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let inputs = context.all_inputs()?;
    let Some(first) = inputs.first() else { return Err(context.refuse("it has no inputs")) };
    let default = if context.opset() < 4 { Some(1) } else { None };
    let Some(axis) = context.attributes.optional_int("axis")?.or(default) else {
        return Err(context.refuse("attribute `axis` is missing"));
    };
    let axis = context.axis(axis, context.shape(*first).len())?;
    // Empty parts add nothing; exporters leave them behind.
    let parts: Vec<TensorId> = inputs
        .iter()
        .copied()
        .filter(|input| context.shape(*input).get(axis).is_some_and(|extent| *extent > 0))
        .collect();
    let parts = if parts.is_empty() { inputs } else { parts };
    context.emit(Op::Concat { axis }, parts)
}

fn split(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let x = context.input(0)?;
    let shape = context.shape(x);
    let axis = context.attributes.int("axis", 0)?;
    let axis = context.axis(axis, shape.len())?;
    let outputs = context.attributes.node.output.len();
    // The first version took either.
    let by_attribute = context.opset() < 13 && (context.opset() > 1 || context.optional_input(1).is_none());
    let given = if by_attribute {
        context.attributes.sizes("split", 0)?
    } else if context.optional_input(1).is_some() {
        let sizes = context.constant_ints(1)?;
        let sizes = sizes.iter().map(|size| usize::try_from(*size).ok());
        Some(sizes.collect::<Option<Vec<_>>>().ok_or_else(|| context.refuse("a part is negative"))?)
    } else {
        None
    };
    let sizes = match given {
        Some(sizes) => sizes,
        None => {
            if outputs == 0 || outputs > shape[axis] {
                return Err(context.refuse(format!("{outputs} parts of an axis of {}", shape[axis])));
            }
            let part = shape[axis].div_ceil(outputs);
            let mut sizes = vec![part; outputs];
            // Split-18: the last part takes what is left.
            match shape[axis].checked_sub(part * (outputs - 1)) {
                Some(rest) if rest > 0 => sizes[outputs - 1] = rest,
                _ => return Err(context.refuse(format!("{outputs} parts of an axis of {}", shape[axis]))),
            }
            sizes
        }
    };
    if sizes.len() != outputs {
        return Err(context.refuse(format!("has {outputs} outputs, but {} sizes", sizes.len())));
    }
    if sizes.contains(&0) && sizes.iter().sum::<usize>() == shape[axis] {
        // Parts without elements are known; nothing computes them.
        let mut parts = Vec::with_capacity(sizes.len());
        let mut start = 0;
        for size in sizes {
            parts.push(context.value(part(&shape, axis, start, size), &[x])?);
            start += size;
        }
        return context.bind(&parts);
    }
    context.emit(Op::Split { axis, sizes }, vec![x])
}

/// Slice-1 has attributes, Slice-10 inputs.
fn slice(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let x = context.input(0)?;
    let shape = context.shape(x);
    let rank = shape.len();
    let all = |length: usize| (0..length as i64).collect::<Vec<i64>>();
    let (starts, ends, axes, steps) = if context.opset() < 10 {
        let list = |name: &str| context.attributes.ints(name).map(|list| list.map(<[i64]>::to_vec));
        let starts = list("starts")?.ok_or_else(|| context.refuse("attribute `starts` is missing"))?;
        let ends = list("ends")?.ok_or_else(|| context.refuse("attribute `ends` is missing"))?;
        let axes = list("axes")?.unwrap_or_else(|| all(starts.len()));
        let steps = vec![1; starts.len()];
        (starts, ends, axes, steps)
    } else {
        let starts = context.constant_ints(1)?;
        let ends = context.constant_ints(2)?;
        let axes = if context.optional_input(3).is_some() { context.constant_ints(3)? } else { all(starts.len()) };
        let steps = if context.optional_input(4).is_some() { context.constant_ints(4)? } else { vec![1; starts.len()] };
        (starts, ends, axes, steps)
    };
    if [ends.len(), axes.len(), steps.len()] != [starts.len(); 3] {
        return Err(context.refuse("starts, ends, axes and steps have different lengths"));
    }
    let mut first = vec![0usize; rank];
    let mut step_of = vec![1isize; rank];
    let mut sizes = shape.clone();
    for index in 0..starts.len() {
        let axis = context.axis(axes[index], rank)?;
        let extent = shape[axis] as i64;
        let step = steps[index];
        if step == 0 || step == i64::MIN {
            return Err(context.refuse(format!("the step of axis {axis} is {step}")));
        }
        let wrap = |at: i64| if at < 0 { at.saturating_add(extent) } else { at };
        // ONNX clamps: forward to 0..=extent, backward to -1..=extent - 1.
        let (begin, end) = if step > 0 {
            (wrap(starts[index]).clamp(0, extent), wrap(ends[index]).clamp(0, extent))
        } else {
            (wrap(starts[index]).clamp(0, (extent - 1).max(0)), wrap(ends[index]).clamp(-1, extent - 1))
        };
        let span = if step > 0 { end - begin } else { begin - end };
        sizes[axis] = if span > 0 { (span as u64).div_ceil(step.unsigned_abs()) as usize } else { 0 };
        first[axis] = if sizes[axis] == 0 { 0 } else { begin as usize };
        // A step past the end never takes effect; keep it in range for address arithmetic.
        step_of[axis] = if sizes[axis] > 1 { step as isize } else { 1 };
    }
    context.emit(Op::Slice { starts: first, steps: step_of, sizes }, vec![x])
}

fn transpose(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let x = context.input(0)?;
    let rank = context.shape(x).len();
    let permutation = match context.attributes.ints("perm")? {
        Some(axes) => {
            let axes = axes.iter().map(|axis| usize::try_from(*axis).ok()).collect::<Option<Vec<usize>>>();
            axes.ok_or_else(|| context.refuse("attribute `perm` has a negative axis"))?
        }
        None => (0..rank).rev().collect(),
    };
    context.emit(Op::Transpose { permutation }, vec![x])
}

fn pad(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let x = context.input(0)?;
    let rank = context.shape(x).len();
    let (pads, value) = if context.opset() < 11 {
        let name = if context.opset() < 2 { "paddings" } else { "pads" };
        let pads = context.attributes.ints(name)?.map(<[i64]>::to_vec);
        let pads = pads.ok_or_else(|| context.refuse("attribute `pads` is missing"))?;
        (pads, context.attributes.float("value", 0.0)?)
    } else {
        let value = match context.optional_input(2) {
            Some(_) => {
                let given = context.constant(2)?;
                let [value] = partita_ir::graph::values::to_f32(&given.data)[..] else {
                    return Err(context.refuse("its fill value should be one number"));
                };
                let exact = Data::F32(vec![value]).cast(given.data.element()) == given.data;
                if given.data.element().is_integer() && !exact {
                    return Err(context.attributes.unsupported("its fill value has more digits than f32 holds"));
                }
                value
            }
            None => 0.0,
        };
        (context.constant_ints(1)?, value)
    };
    let axes: Vec<usize> = if context.optional_input(3).is_some() {
        let axes = context.constant_ints(3)?;
        axes.iter().map(|axis| context.axis(*axis, rank)).collect::<Result<_, _>>()?
    } else {
        (0..rank).collect()
    };
    if pads.len() != 2 * axes.len() {
        return Err(context.refuse(format!("has {} pads for {} axes", pads.len(), axes.len())));
    }
    let (mut begin, mut end) = (vec![0usize; rank], vec![0usize; rank]);
    let (mut cut_begin, mut cut_end) = (vec![0usize; rank], vec![0usize; rank]);
    for (index, axis) in axes.iter().enumerate() {
        for (added, cut, pad) in
            [(&mut begin, &mut cut_begin, pads[index]), (&mut end, &mut cut_end, pads[index + axes.len()])]
        {
            if pad.unsigned_abs() >= 1 << 20 {
                return Err(context.refuse(format!("pad {pad} on axis {axis}, expected -1048575 to 1048575")));
            }
            // A negative pad removes elements.
            let list = if pad < 0 { cut } else { added };
            list[*axis] = pad.unsigned_abs() as usize;
        }
    }
    let x =
        if cut_begin.iter().chain(&cut_end).all(|cut| *cut == 0) { x } else { cut(context, x, cut_begin, &cut_end)? };
    let mode = match context.attributes.string("mode", "constant")?.as_str() {
        "constant" => PadMode::Constant(value),
        "reflect" => {
            let shape = context.shape(x);
            if (0..rank).any(|axis| begin[axis].max(end[axis]) >= shape[axis].max(1)) {
                return Err(context.refuse("reflection needs pads smaller than the input"));
            }
            PadMode::Reflect
        }
        "edge" => PadMode::Edge,
        "wrap" => return wrapped(context, x, &begin, &end),
        other => return Err(context.attributes.unknown_word("mode", other, &["constant", "reflect", "edge", "wrap"])),
    };
    context.emit(Op::Pad { mode, begin, end }, vec![x])
}

/// Elements of the other end before the first and after the last, as often as it takes.
fn wrapped(context: &mut NodeContext<'_>, mut x: TensorId, begin: &[usize], end: &[usize]) -> Result<(), Diagnostic> {
    let shape = context.shape(x);
    for (axis, extent) in shape.iter().enumerate() {
        let count = begin[axis] + extent + end[axis];
        if count == *extent || *extent == 0 {
            continue;
        }
        let first = (extent - begin[axis] % extent) % extent;
        let places = (0..count).map(|place| ((first + place) % extent) as i64);
        let places = context.make_constant("places", [count], places)?;
        x = context.value(Op::Gather { axis }, &[x, places])?;
    }
    context.emit(Op::Identity, vec![x])
}

/// Removes elements before and after on each axis.
fn cut(context: &mut NodeContext<'_>, x: TensorId, begin: Vec<usize>, end: &[usize]) -> Result<TensorId, Diagnostic> {
    let shape = context.shape(x);
    let left = shape.iter().zip(begin.iter().zip(end));
    let sizes: Option<Vec<usize>> =
        left.map(|(extent, (begin, end))| extent.checked_sub(begin + end).filter(|left| *left > 0)).collect();
    let Some(sizes) = sizes else {
        return Err(
            context.refuse(format!("pads {begin:?} and {end:?} are cut off, which leaves nothing of {shape:?}"))
        );
    };
    let steps = vec![1; shape.len()];
    Ok(context.emit_unnamed(Op::Slice { starts: begin, steps, sizes }, vec![x])?[0])
}

fn gather(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let (x, indices) = (context.input(0)?, context.input(1)?);
    let shape = context.shape(x);
    let axis = context.attributes.int("axis", 0)?;
    let axis = context.axis(axis, shape.len())?;
    if let Some(value) = context.importer.graph.value(indices) {
        let extent = shape[axis] as i64;
        let outside = match &value.data {
            Data::I64(indices) => indices.iter().copied().find(|index| !(-extent..extent).contains(index)),
            Data::I32(indices) => {
                indices.iter().map(|index| i64::from(*index)).find(|i| !(-extent..extent).contains(i))
            }
            _ => None,
        };
        if let Some(index) = outside {
            return Err(context.refuse(format!("index {index} is outside axis {axis} of {}", context.tensor_type(x))));
        }
    }
    context.emit(Op::Gather { axis }, vec![x, indices])
}

/// Dimensions from a constant operand, each at least 1, within the limits.
fn dimensions(context: &NodeContext<'_>, position: usize) -> Result<Vec<usize>, Diagnostic> {
    let entries = context.constant_ints(position)?;
    entries
        .iter()
        .map(|entry| match usize::try_from(*entry) {
            Ok(extent) if (1..=MAX_ELEMENTS).contains(&extent) => Ok(extent),
            _ => Err(context.refuse(format!("{entries:?} should be positive dimensions"))),
        })
        .collect()
}

fn expand(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let x = context.input(0)?;
    let wanted = dimensions(context, 1)?;
    let shape = partita_ir::graph::infer::broadcast(&context.shape(x), &wanted)
        .map_err(|error| context.refuse(error.to_string()))?;
    context.emit(Op::Expand { shape }, vec![x])
}

/// Tile as Reshape, Expand, Reshape: `[a, b]` repeated `[r, s]` times is `[1, a, 1, b]` broadcast to `[r, a, s, b]`.
fn tile(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let x = context.input(0)?;
    let shape = context.shape(x);
    let repeats = if context.opset() < 6 {
        // So many times along one axis.
        let tiles = dimensions(context, 1)?;
        let [axis] = context.constant_ints(2)?[..] else {
            return Err(context.refuse("its axis should be one number"));
        };
        let mut repeats = vec![1; shape.len()];
        repeats[context.axis(axis, shape.len())?] = tiles.first().copied().unwrap_or(1);
        repeats
    } else {
        dimensions(context, 1)?
    };
    if repeats.len() != shape.len() {
        return Err(context.refuse(format!("{} repeats for {}", repeats.len(), context.tensor_type(x))));
    }
    let mut result = x;
    for axis in 0..shape.len() {
        if repeats[axis] == 1 {
            continue;
        }
        let current = context.shape(result);
        let outer: usize = current[..axis].iter().product();
        let inner: usize = current[axis..].iter().product();
        let flat = context.emit_unnamed(Op::Reshape { shape: vec![outer, 1, inner] }, vec![result])?[0];
        let wide = context.emit_unnamed(Op::Expand { shape: vec![outer, repeats[axis], inner] }, vec![flat])?[0];
        let mut tiled = current;
        tiled[axis] = tiled[axis]
            .checked_mul(repeats[axis])
            .ok_or_else(|| context.refuse(format!("{} repeats are too many", repeats[axis])))?;
        result = context.emit_unnamed(Op::Reshape { shape: tiled }, vec![wide])?[0];
    }
    context.emit(Op::Identity, vec![result])
}

fn block_size(context: &NodeContext<'_>) -> Result<usize, Diagnostic> {
    let block = context.attributes.int("blocksize", 0)?;
    match usize::try_from(block) {
        Ok(size) if (1..=1 << 12).contains(&size) => Ok(size),
        _ => Err(context.refuse(format!("attribute `blocksize` is {block}, expected at least 1"))),
    }
}

/// Blocks of depth-column-row order, or, since opset 28, column-row-depth: then channels lead.
fn space_to_depth(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let block = block_size(context)?;
    let x = context.input(0)?;
    let channels_lead = match context.attributes.string("mode", "DCR")?.as_str() {
        "DCR" => false,
        "CRD" => true,
        other => return Err(context.attributes.unknown_word("mode", other, &["DCR", "CRD"])),
    };
    if !channels_lead {
        return context.emit(Op::SpaceToDepth { block }, vec![x]);
    }
    let result = context.value(Op::SpaceToDepth { block }, &[x])?;
    // [N, block^2, C, H, W] to [N, C, block^2, H, W].
    let shape = context.shape(result);
    let [batch, all, height, width] = shape[..] else { return Err(context.refuse("it makes no image")) };
    let squares = block * block;
    let parted = Op::Reshape { shape: vec![batch, squares, all / squares, height, width] };
    let parted = context.value(parted, &[result])?;
    let turned = context.value(Op::Transpose { permutation: vec![0, 2, 1, 3, 4] }, &[parted])?;
    context.emit(Op::Reshape { shape }, vec![turned])
}

fn depth_to_space(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let block = block_size(context)?;
    let column_row_depth = match context.attributes.string("mode", "DCR")?.as_str() {
        "DCR" => false,
        "CRD" => true,
        other => return Err(context.attributes.unknown_word("mode", other, &["DCR", "CRD"])),
    };
    let x = context.input(0)?;
    context.emit(Op::DepthToSpace { block, column_row_depth }, vec![x])
}

fn reduce(context: &mut NodeContext<'_>, kind: ReduceKind, inputs_since: i64) -> Result<(), Diagnostic> {
    let x = context.input(0)?;
    let result = reduce_of(context, x, kind, inputs_since)?;
    context.bind(&[result])
}

/// The reduction that the node describes, of a tensor that may stand for its operand.
pub(super) fn reduce_of(
    context: &mut NodeContext<'_>,
    x: TensorId,
    kind: ReduceKind,
    inputs_since: i64,
) -> Result<TensorId, Diagnostic> {
    match reduced_axes(context, x, inputs_since)? {
        // Truth values as 0 and 1.
        (Some(axes), keep_dims) if context.promised(x) == ElementType::Bool => {
            let bits = context.value(Op::Cast { to: ElementType::U8 }, &[x])?;
            let result = context.value(Op::Reduce { kind, axes, keep_dims }, &[bits])?;
            context.value(Op::Cast { to: ElementType::Bool }, &[result])
        }
        (Some(axes), keep_dims) => context.value(Op::Reduce { kind, axes, keep_dims }, &[x]),
        (None, _) => context.value(Op::Identity, &[x]),
    }
}

/// The axes of a reduction, and whether they stay as 1; no axes if nothing is to be reduced. Axes were an attribute before
/// `inputs_since`, and are an input from then on.
pub(super) fn reduced_axes(
    context: &NodeContext<'_>,
    x: TensorId,
    inputs_since: i64,
) -> Result<(Option<Vec<usize>>, bool), Diagnostic> {
    let rank = context.shape(x).len();
    let given = if context.opset() < inputs_since {
        context.attributes.ints("axes")?.map(<[i64]>::to_vec)
    } else if context.optional_input(1).is_some() {
        Some(context.constant_ints(1)?)
    } else {
        None
    };
    let mut axes = match given {
        Some(axes) => axes.iter().map(|axis| context.axis(*axis, rank)).collect::<Result<Vec<_>, _>>()?,
        None => Vec::new(),
    };
    axes.sort_unstable();
    axes.dedup();
    let keep_dims = context.attributes.flag("keepdims", true)?;
    if axes.is_empty() {
        if context.attributes.flag("noop_with_empty_axes", false)? {
            return Ok((None, keep_dims));
        }
        axes = (0..rank).collect();
    }
    Ok((Some(axes), keep_dims))
}

fn arg_max(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let x = context.input(0)?;
    arg_max_of(context, x)
}

/// The index of the largest element of a tensor that may stand for the node's operand.
pub(super) fn arg_max_of(context: &mut NodeContext<'_>, x: TensorId) -> Result<(), Diagnostic> {
    let axis = context.attributes.int("axis", 0)?;
    let axis = context.axis(axis, context.shape(x).len())?;
    let keep_dims = context.attributes.flag("keepdims", true)?;
    let select_last = context.attributes.flag("select_last_index", false)?;
    context.emit(Op::ArgMax { axis, keep_dims, select_last }, vec![x])
}
