//! Convolutions, pooling, local normalisation.

use crate::importer::{Converter, NodeContext};
use partita_ir::diagnostic::Diagnostic;
use partita_ir::graph::op::{Activation, Conv, ConvTranspose, Op, Pool, PoolKind, UnaryOp, Window};
use partita_ir::graph::{ElementType, TensorId};

pub(super) fn converter(op_type: &str) -> Option<Converter> {
    Some(match op_type {
        "Conv" => conv,
        "ConvTranspose" => conv_transpose,
        "MaxPool" => max_pool,
        "AveragePool" => average_pool,
        "GlobalMaxPool" => |context| global_pool(context, PoolKind::Max),
        "GlobalAveragePool" => |context| global_pool(context, PoolKind::Average),
        "LRN" => lrn,
        _ => return None,
    })
}

/// Spatial extents of an operand `[N, C, spatial]`.
fn spatial_extents(context: &NodeContext<'_>, x: TensorId) -> Result<Vec<usize>, Diagnostic> {
    let shape = context.shape(x);
    if !(3..=5).contains(&shape.len()) {
        return Err(context.refuse(format!(
            "its input is {}, expected 1 to 3 spatial dimensions after batch and channels",
            context.tensor_type(x)
        )));
    }
    Ok(shape[2..].to_vec())
}

/// The window that the attributes describe; `auto_pad` and pads are resolved against the input.
fn window(context: &NodeContext<'_>, input: &[usize], kernel: Vec<usize>) -> Result<Window, Diagnostic> {
    let attributes = &context.attributes;
    let rank = input.len();
    let list = |name: &str, default: Vec<usize>, least: i64| -> Result<Vec<usize>, Diagnostic> {
        let entries = attributes.sizes(name, least)?;
        let length = default.len();
        match entries {
            Some(entries) if entries.len() == length => Ok(entries),
            Some(entries) => {
                Err(context.refuse(format!("attribute `{name}` has {} entries, expected {length}", entries.len())))
            }
            None => Ok(default),
        }
    };
    if kernel.len() != rank || kernel.contains(&0) {
        return Err(context.refuse(format!("the kernel is {kernel:?} over {rank} spatial dimensions")));
    }
    let stride = list("strides", vec![1; rank], 1)?;
    let dilation = list("dilations", vec![1; rank], 1)?;
    let auto_pad = attributes.string("auto_pad", "NOTSET")?;
    let (pad_begin, pad_end) = match auto_pad.as_str() {
        "NOTSET" | "" => {
            let pads = list("pads", vec![0; 2 * rank], 0)?;
            (pads[..rank].to_vec(), pads[rank..].to_vec())
        }
        "VALID" => (vec![0; rank], vec![0; rank]),
        "SAME_UPPER" | "SAME_LOWER" => {
            let total: Vec<usize> = (0..rank)
                .map(|axis| {
                    let output = input[axis].div_ceil(stride[axis]);
                    let reach = dilation[axis] * (kernel[axis] - 1) + 1;
                    (output.saturating_sub(1) * stride[axis] + reach).saturating_sub(input[axis])
                })
                .collect();
            let smaller: Vec<usize> = total.iter().map(|total| total / 2).collect();
            let larger: Vec<usize> = total.iter().zip(&smaller).map(|(total, half)| total - half).collect();
            if auto_pad == "SAME_UPPER" { (smaller, larger) } else { (larger, smaller) }
        }
        other => {
            return Err(attributes.unknown_word("auto_pad", other, &["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]));
        }
    };
    Ok(Window { kernel, stride, dilation, pad_begin, pad_end })
}

/// The kernel of a convolution: its weights', which `kernel_shape` must agree with.
fn weights_kernel(context: &NodeContext<'_>, weights: TensorId, spatial: usize) -> Result<Vec<usize>, Diagnostic> {
    let shape = context.shape(weights);
    if shape.len() != spatial + 2 {
        return Err(context.refuse(format!(
            "its weights are {}, expected {} dimensions",
            context.tensor_type(weights),
            spatial + 2
        )));
    }
    let kernel = shape[2..].to_vec();
    match context.attributes.sizes("kernel_shape", 1)? {
        Some(stated) if stated != kernel => Err(context.refuse(format!(
            "attribute `kernel_shape` is {stated:?}, but the weights are {}",
            context.tensor_type(weights)
        ))),
        _ => Ok(kernel),
    }
}

fn groups(context: &NodeContext<'_>) -> Result<usize, Diagnostic> {
    let group = context.attributes.int("group", 1)?;
    match usize::try_from(group) {
        Ok(groups) if groups > 0 => Ok(groups),
        _ => Err(context.refuse(format!("attribute `group` is {group}, expected at least 1"))),
    }
}

fn bias(context: &mut NodeContext<'_>, filters: usize) -> Result<TensorId, Diagnostic> {
    match context.optional_input(2) {
        Some(bias) => Ok(bias),
        None => context.make_zeros("bias", vec![filters]),
    }
}

fn conv(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let (x, weights) = (context.input(0)?, context.input(1)?);
    let op = convolution(context, x, weights)?;
    let filters = context.shape(weights)[0];
    let bias = bias(context, filters)?;
    if context.emit_products(&op, [x, weights], Some(bias), [0, 1])? {
        return Ok(());
    }
    context.emit(op, vec![x, weights, bias])
}

/// The convolution that the attributes describe.
pub(super) fn convolution(context: &NodeContext<'_>, x: TensorId, weights: TensorId) -> Result<Op, Diagnostic> {
    let input = spatial_extents(context, x)?;
    let kernel = weights_kernel(context, weights, input.len())?;
    let window = window(context, &input, kernel)?;
    let groups = groups(context)?;
    Ok(Op::Conv(Conv { window, groups, residual: false, activation: Activation::None }))
}

fn conv_transpose(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let (x, weights) = (context.input(0)?, context.input(1)?);
    let input = spatial_extents(context, x)?;
    let kernel = weights_kernel(context, weights, input.len())?;
    let rank = input.len();
    let groups = groups(context)?;
    let mut window = window(context, &input, kernel)?;
    let mut output_padding = context.attributes.sizes("output_padding", 0)?.unwrap_or(vec![0; rank]);
    if output_padding.len() != rank {
        return Err(
            context.refuse(format!("attribute `output_padding` is {output_padding:?}, expected {rank} entries"))
        );
    }
    let auto_pad = context.attributes.string("auto_pad", "NOTSET")?;
    let wanted = context.attributes.sizes("output_shape", 1)?;
    if wanted.is_some() || auto_pad.starts_with("SAME") {
        for axis in 0..rank {
            let full = input[axis].saturating_sub(1) * window.stride[axis]
                + output_padding[axis]
                + (window.kernel[axis] - 1) * window.dilation[axis]
                + 1;
            let output = match &wanted {
                // The batch and channels may be listed too.
                Some(wanted) if wanted.len() >= rank => wanted[wanted.len() - rank + axis],
                Some(wanted) => {
                    return Err(
                        context.refuse(format!("attribute `output_shape` is {wanted:?}, expected {rank} entries"))
                    );
                }
                None => input[axis] * window.stride[axis],
            };
            // An output larger than the full result is filled up at the end, as onnxruntime does.
            output_padding[axis] += output.saturating_sub(full);
            let total = full.saturating_sub(output);
            let (small, large) = (total / 2, total - total / 2);
            let upper = auto_pad == "SAME_UPPER";
            (window.pad_begin[axis], window.pad_end[axis]) = if upper { (small, large) } else { (large, small) };
        }
    }
    let Some(filters) = context.shape(weights)[1].checked_mul(groups) else {
        return Err(context.refuse("it has too many output channels"));
    };
    let bias = bias(context, filters)?;
    let op = Op::ConvTranspose(ConvTranspose { window, output_padding, groups, activation: Activation::None });
    context.emit(op, vec![x, weights, bias])
}

fn max_pool(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    if context.uses_more_than_first() {
        return super::pools::max_pool_with_indices(context);
    }
    pool(context, PoolKind::Max)
}

fn average_pool(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    pool(context, PoolKind::Average)
}

fn pool(context: &mut NodeContext<'_>, kind: PoolKind) -> Result<(), Diagnostic> {
    let x = context.input(0)?;
    let (window, declared_pad_end) = pool_window(context, x)?;
    let count_include_pad = context.attributes.flag("count_include_pad", false)?;
    let input = spatial_extents(context, x)?;
    let only_pads = (0..input.len()).any(|axis| has_window_of_pads(&window, axis, input[axis]));
    let op = Op::Pool(Pool { kind, window, declared_pad_end, count_include_pad });
    if kind == PoolKind::Max && only_pads && context.tensor_type(x).element == ElementType::F32 {
        // The largest of no elements is the lowest finite number in onnxruntime, not minus infinity.
        let pooled = context.value(op, &[x])?;
        let lowest = Op::Unary(UnaryOp::Activation(Activation::Clip(f32::MIN, f32::INFINITY)));
        return context.emit(lowest, vec![pooled]);
    }
    emit_pool(context, op, x)
}

/// Whether some window along this spatial axis has all its taps in the pads, which dilation allows.
fn has_window_of_pads(window: &Window, axis: usize, extent: usize) -> bool {
    let (dilation, pad) = (window.dilation[axis], window.pad_begin[axis]);
    let reach = dilation * (window.kernel[axis] - 1);
    if dilation <= extent {
        // Taps are too close to step over the input, and pads are narrower than a window.
        return false;
    }
    let last = (pad + extent + window.pad_end[axis]).saturating_sub(reach + 1);
    (0..=last).step_by(window.stride[axis]).any(|start| {
        // The first tap that is not before the input.
        let tap = pad.saturating_sub(start).div_ceil(dilation);
        tap >= window.kernel[axis] || start + tap * dilation >= pad + extent
    })
}

/// The window of a pool, whose pads at the end include what `ceil_mode` needs, and the declared pads at the end.
pub(super) fn pool_window(context: &NodeContext<'_>, x: TensorId) -> Result<(Window, Vec<usize>), Diagnostic> {
    let input = spatial_extents(context, x)?;
    let Some(kernel) = context.attributes.sizes("kernel_shape", 1)? else {
        return Err(context.refuse("attribute `kernel_shape` is missing"));
    };
    let mut window = window(context, &input, kernel)?;
    let mut declared_pad_end = window.pad_end.clone();
    for axis in 0..input.len() {
        let reach = window.dilation[axis] * (window.kernel[axis] - 1) + 1;
        if window.pad_begin[axis] >= reach || window.pad_end[axis] >= reach {
            return Err(context.refuse(format!("pads on axis {axis} are as large as the window, {reach}")));
        }
    }
    let ceil = context.attributes.flag("ceil_mode", false)?;
    for (axis, extent) in input.iter().enumerate() {
        let reach = window.dilation[axis] * (window.kernel[axis] - 1) + 1;
        let padded = extent + window.pad_begin[axis] + window.pad_end[axis];
        // Windows after the first; a first window that is larger than the input counts too, unless a whole step is
        // missing (onnxruntime: `(padded - reach) / stride + 1`, rounded up or towards zero).
        let mut steps = match padded.checked_sub(reach) {
            Some(room) if ceil => room.div_ceil(window.stride[axis]),
            None if reach - padded < window.stride[axis] => 0,
            _ => continue,
        };
        // A window that would begin past the input and its first pads is left out.
        if steps > 0 && steps * window.stride[axis] >= extent + window.pad_begin[axis] {
            steps -= 1;
        }
        let needed = steps * window.stride[axis] + reach;
        window.pad_end[axis] += needed.saturating_sub(padded);
    }
    // Before operator set 19 onnxruntime divides by the whole window where no extent is rounded up.
    if !ceil && context.opset() < 19 {
        declared_pad_end.clone_from(&window.pad_end);
    }
    Ok((window, declared_pad_end))
}

fn global_pool(context: &mut NodeContext<'_>, kind: PoolKind) -> Result<(), Diagnostic> {
    let x = context.input(0)?;
    spatial_extents(context, x)?;
    emit_pool(context, Op::GlobalPool(kind), x)
}

/// Poolings scale with their operand; sums of whole numbers are exact.
fn emit_pool(context: &mut NodeContext<'_>, op: Op, x: TensorId) -> Result<(), Diagnostic> {
    if context.emit_linear(&op, x)? { Ok(()) } else { context.emit(op, vec![x]) }
}

fn lrn(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let x = context.input(0)?;
    let size = context.attributes.int("size", 0)?;
    let Some(size) = usize::try_from(size).ok().filter(|size| (1..=1 << 20).contains(size)) else {
        return Err(context.refuse(format!("attribute `size` is {size}, expected at least 1")));
    };
    let alpha = context.attributes.float("alpha", 0.0001)?;
    let beta = context.attributes.float("beta", 0.75)?;
    let bias = context.attributes.float("bias", 1.0)?;
    context.emit(Op::Lrn { alpha, beta, bias, size }, vec![x])
}
