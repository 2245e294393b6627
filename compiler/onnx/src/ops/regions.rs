//! RoiAlign: regions of images as grids of bins, each the mean or the largest of what it samples.

use super::grids::{affine, rows};
use crate::expressions::part;
use crate::importer::{Converter, NodeContext};
use partita_ir::diagnostic::Diagnostic;
use partita_ir::graph::op::{Activation, BinaryOp, Op, ReduceKind, UnaryOp};
use partita_ir::graph::{ElementType, TensorId, Value};

pub(super) fn converter(op_type: &str) -> Option<Converter> {
    (op_type == "RoiAlign").then_some(roi_align as Converter)
}

/// Attributes, and the images.
struct Form {
    x: TensorId,
    batch: usize,
    channels: usize,
    /// Height and width of the images.
    extents: [usize; 2],
    /// Rows and columns of bins.
    bins: [usize; 2],
    scale: f64,
    offset: f64,
    is_average: bool,
    /// Samples of a bin along each axis; 0 for as many as its size says.
    ratio: usize,
}

/// ONNX RoiAlign-10, -16.
fn roi_align(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let form = form(context)?;
    let (regions, batches) = (context.input(1)?, context.input(2)?);
    let count = context.shape(batches).first().copied().unwrap_or(0);
    if context.shape(regions) != [count, 4] || context.shape(batches) != [count] || form.extents.contains(&0) {
        let (regions, batches) = (context.tensor_type(regions), context.tensor_type(batches));
        return Err(context.refuse(format!("regions {regions} of images {batches}")));
    }
    let is_known = |operand: TensorId| context.importer.graph.value(operand).is_some();
    if is_known(regions) && is_known(batches) { known(context, &form) } else { computed(context, &form) }
}

fn form(context: &NodeContext<'_>) -> Result<Form, Diagnostic> {
    let x = context.input(0)?;
    let [batch, channels, height, width] = context.shape(x)[..] else {
        return Err(context.refuse(format!("its input is {}, expected images", context.tensor_type(x))));
    };
    let default = if context.opset() < 16 { "output_half_pixel" } else { "half_pixel" };
    let offset = match context.attributes.string("coordinate_transformation_mode", default)?.as_str() {
        "half_pixel" => 0.5,
        "output_half_pixel" => 0.0,
        other => {
            let known = ["half_pixel", "output_half_pixel"];
            return Err(context.attributes.unknown_word("coordinate_transformation_mode", other, &known));
        }
    };
    let is_average = match context.attributes.string("mode", "avg")?.as_str() {
        "avg" => true,
        "max" => false,
        other => return Err(context.attributes.unknown_word("mode", other, &["avg", "max"])),
    };
    let scale = f64::from(context.attributes.float("spatial_scale", 1.0)?);
    let ratio = context.attributes.int("sampling_ratio", 0)?.max(0) as usize;
    let sizes = [context.attributes.int("output_height", 1)?, context.attributes.int("output_width", 1)?];
    let [Ok(rows), Ok(columns)] = sizes.map(usize::try_from) else {
        return Err(context.refuse("its output is negative"));
    };
    Ok(Form { x, batch, channels, extents: [height, width], bins: [rows, columns], scale, offset, is_average, ratio })
}

/// What one bin of a region reads along one axis: pairs of neighbours with their weights, for each sample.
fn samples(start: f64, bin: f64, count: usize, extent: usize) -> Vec<[(usize, f64); 2]> {
    let size = extent as f64;
    let of_sample = |sample: usize| {
        let place = start + (sample as f64 + 0.5) * bin / count as f64;
        if !(-1.0..=size).contains(&place) {
            return [(0, 0.0); 2];
        }
        let place = place.max(0.0);
        let low = (place as usize).min(extent - 1);
        if low + 1 >= extent {
            return [(extent - 1, 1.0), (extent - 1, 0.0)];
        }
        let offset = place - low as f64;
        [(low, 1.0 - offset), (low + 1, offset)]
    };
    (0..count).map(of_sample).collect()
}

/// Most elements that all regions together read.
const MAX_READS: usize = 1 << 22;

/// Regions that are known: what each bin reads is a list of constants.
fn known(context: &mut NodeContext<'_>, form: &Form) -> Result<(), Diagnostic> {
    let Form { x, batch, channels, extents: [height, width], bins: [rows, columns], scale, offset, is_average, ratio } =
        *form;
    let regions = context.constant_floats(1)?;
    let batches = context.constant_ints(2)?;
    if batches.iter().any(|at| !(0..batch as i64).contains(at)) {
        return Err(context.refuse(format!("regions of images {batches:?} among {batch}")));
    }
    let (mut reads, mut weights, mut most) = (Vec::new(), Vec::new(), 0);
    for (region, image) in regions.chunks(4).zip(&batches) {
        let [left, top, right, bottom] = [0, 1, 2, 3].map(|at| f64::from(region[at]) * scale - offset);
        let least = if offset == 0.0 { 1.0 } else { f64::NEG_INFINITY };
        let bins =
            [((bottom - top).max(least)) / rows.max(1) as f64, ((right - left).max(least)) / columns.max(1) as f64];
        let counts = bins.map(|bin| if ratio > 0 { ratio } else { (bin.ceil().max(0.0) as usize).min(MAX_READS) });
        let each = counts[0].saturating_mul(counts[1]);
        if each.saturating_mul(rows).saturating_mul(columns).saturating_mul(4).saturating_add(most) > MAX_READS {
            return Err(context.attributes.unsupported("its regions read too much"));
        }
        for bin in 0..rows * columns {
            let down = samples(top + (bin / columns) as f64 * bins[0], bins[0], counts[0], height);
            let across = samples(left + (bin % columns) as f64 * bins[1], bins[1], counts[1], width);
            let (mut places, mut factors) = (Vec::with_capacity(4 * each), Vec::with_capacity(4 * each));
            for (y, of_y) in down.iter().flatten() {
                for (x, of_x) in across.iter().flatten() {
                    places.push(*image * (height * width) as i64 + (y * width + x) as i64);
                    factors.push((of_y * of_x / if is_average { each.max(1) as f64 } else { 1.0 }) as f32);
                }
            }
            most = most.max(places.len());
            reads.push(places);
            weights.push(factors);
        }
    }
    let most = most.max(1);
    if reads.len().saturating_mul(most) > MAX_READS || reads.is_empty() {
        return Err(context.attributes.unsupported(format!("its {} bins read {most} elements each", reads.len())));
    }
    // Bins that read less repeat their first element, or nothing.
    for (places, factors) in reads.iter_mut().zip(&mut weights) {
        let (place, factor) = (places.first().copied().unwrap_or(0), factors.first().copied().unwrap_or(0.0));
        places.resize(most, place);
        factors.resize(most, if is_average { 0.0 } else { factor });
    }
    let bins = reads.len();
    let places = context.add_constant("places", Value::i64([bins, most], reads.concat()))?;
    let weights = context.add_constant("weights", Value::f32([bins, most, 1], weights.concat()))?;
    let elements = super::grids::rows(context, x)?;
    let taken = context.value(Op::Gather { axis: 0 }, &[elements, places])?;
    let scaled = context.binary(BinaryOp::Mul, taken, weights)?;
    let kind = if is_average { ReduceKind::Sum } else { ReduceKind::Max };
    let result = context.value(Op::Reduce { kind, axes: vec![1], keep_dims: false }, &[scaled])?;
    let result = context.value(Op::Reshape { shape: vec![batches.len(), rows * columns, channels] }, &[result])?;
    let turned = context.value(Op::Transpose { permutation: vec![0, 2, 1] }, &[result])?;
    context.emit(Op::Reshape { shape: vec![batches.len(), channels, rows, columns] }, vec![turned])
}

/// Regions that are computed: every bin has as many samples, and each sample four neighbours.
fn computed(context: &mut NodeContext<'_>, form: &Form) -> Result<(), Diagnostic> {
    let (regions, batches) = (context.input(1)?, context.input(2)?);
    let [rows_of_bins, columns] = form.bins;
    let (count, ratio) = (context.shape(batches)[0], form.ratio);
    if ratio == 0 || count * rows_of_bins * columns == 0 {
        let message = "regions that are computed need a `sampling_ratio`, since sizes of regions are not known";
        return Err(context.attributes.unsupported(message));
    }
    let regions = affine(context, regions, form.scale, -form.offset)?;
    let edge = |context: &mut NodeContext<'_>, at: usize| context.value(part(&[count, 4], 1, at, 1), &[regions]);
    let edges = [edge(context, 1)?, edge(context, 3)?, edge(context, 0)?, edge(context, 2)?];
    let down = neighbours(context, form, 0, [edges[0], edges[1]])?;
    let across = neighbours(context, form, 1, [edges[2], edges[3]])?;
    let [height, width] = form.extents;
    let first = match context.tensor_type(batches).element {
        ElementType::I64 => batches,
        _ => context.value(Op::Cast { to: ElementType::I64 }, &[batches])?,
    };
    let first = context.value(Op::Reshape { shape: vec![count, 1, 1] }, &[first])?;
    let area = context.number((height * width) as f64, first)?;
    let first = context.binary(BinaryOp::Mul, first, area)?;
    let (samples_down, samples_across) = (rows_of_bins * ratio, columns * ratio);
    let elements = rows(context, form.x)?;
    let mut found: Option<TensorId> = None;
    for (y, of_y) in down {
        let y = context.value(Op::Reshape { shape: vec![count, samples_down, 1] }, &[y])?;
        let stride = context.number(width as f64, y)?;
        let row = context.binary(BinaryOp::Mul, y, stride)?;
        let row = context.binary(BinaryOp::Add, first, row)?;
        let of_y = context.value(Op::Reshape { shape: vec![count, samples_down, 1, 1] }, &[of_y])?;
        for (x, of_x) in across {
            let x = context.value(Op::Reshape { shape: vec![count, 1, samples_across] }, &[x])?;
            let of_x = context.value(Op::Reshape { shape: vec![count, 1, samples_across, 1] }, &[of_x])?;
            let place = context.binary(BinaryOp::Add, row, x)?;
            let weight = context.binary(BinaryOp::Mul, of_y, of_x)?;
            let taken = context.value(Op::Gather { axis: 0 }, &[elements, place])?;
            let taken = context.binary(BinaryOp::Mul, taken, weight)?;
            found = Some(match found {
                Some(found) if form.is_average => context.binary(BinaryOp::Add, found, taken)?,
                Some(found) => context.binary(BinaryOp::Max, found, taken)?,
                None => taken,
            });
        }
    }
    let Some(found) = found else { return Err(context.refuse("it samples nothing")) };
    let shape = vec![count, rows_of_bins, ratio, columns, ratio, form.channels];
    let found = context.value(Op::Reshape { shape }, &[found])?;
    let kind = if form.is_average { ReduceKind::Mean } else { ReduceKind::Max };
    let result = context.value(Op::Reduce { kind, axes: vec![2, 4], keep_dims: false }, &[found])?;
    context.emit(Op::Transpose { permutation: vec![0, 3, 1, 2] }, vec![result])
}

/// Along one axis, of each region's samples the two neighbours and their weights, `[regions, samples]`; those of samples
/// that are outside of the image weigh nothing.
fn neighbours(
    context: &mut NodeContext<'_>,
    form: &Form,
    axis: usize,
    [begin, end]: [TensorId; 2],
) -> Result<[(TensorId, TensorId); 2], Diagnostic> {
    let (extent, bins, ratio) = (form.extents[axis], form.bins[axis], form.ratio);
    let mut size = context.binary(BinaryOp::Sub, end, begin)?;
    if form.offset == 0.0 {
        let least = context.number(1.0, size)?;
        size = context.binary(BinaryOp::Max, size, least)?;
    }
    let count = context.number(bins as f64, size)?;
    let bin = context.binary(BinaryOp::Div, size, count)?;
    let step = |sample: usize| ((sample / ratio) as f64 + ((sample % ratio) as f64 + 0.5) / ratio as f64) as f32;
    let steps = Value::f32([bins * ratio], (0..bins * ratio).map(step).collect());
    let steps = context.add_constant("samples", steps)?;
    let distance = context.binary(BinaryOp::Mul, bin, steps)?;
    let place = context.binary(BinaryOp::Add, begin, distance)?;
    let (first, last) = (context.number(-1.0, place)?, context.number(extent as f64, place)?);
    let behind = context.binary(BinaryOp::GreaterOrEqual, place, first)?;
    let before = context.binary(BinaryOp::LessOrEqual, place, last)?;
    let inside = context.binary(BinaryOp::And, behind, before)?;
    let inside = context.value(Op::Cast { to: ElementType::F32 }, &[inside])?;
    let within = |context: &mut NodeContext<'_>, x: TensorId| {
        context.unary(UnaryOp::Activation(Activation::Clip(0.0, extent as f32 - 1.0)), x)
    };
    let place = within(context, place)?;
    let low = context.unary(UnaryOp::Floor, place)?;
    let offset = context.binary(BinaryOp::Sub, place, low)?;
    let rest = affine(context, offset, -1.0, 1.0)?;
    let next = affine(context, low, 1.0, 1.0)?;
    let next = within(context, next)?;
    let mut pair = |index: TensorId, weight: TensorId| -> Result<(TensorId, TensorId), Diagnostic> {
        let index = context.value(Op::Cast { to: ElementType::I64 }, &[index])?;
        Ok((index, context.binary(BinaryOp::Mul, weight, inside)?))
    };
    Ok([pair(low, rest)?, pair(next, offset)?])
}
