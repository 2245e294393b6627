//! Resize and Upsample.

use super::taps::{AxisResize, Filter, Mapping};
use crate::importer::{Converter, NodeContext};
use partita_ir::diagnostic::Diagnostic;
use partita_ir::graph::TensorId;
use partita_ir::graph::op::{NearestRounding, Op, ResizeCoordinates, ResizeMode};

pub(super) fn converter(op_type: &str) -> Option<Converter> {
    Some(match op_type {
        "Resize" => resize,
        "Upsample" => upsample,
        _ => return None,
    })
}

/// Upsample-7 and -9: Resize-10 without choices.
fn upsample(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let x = context.input(0)?;
    let scales = match context.attributes.floats("scales")? {
        Some(scales) => scales.to_vec(),
        None if context.opset() < 7 => {
            let of = |name| context.attributes.float(name, 1.0);
            vec![1.0, 1.0, of("height_scale")?, of("width_scale")?]
        }
        None => context.constant_floats(1)?,
    };
    let mode = match context.attributes.string("mode", "nearest")?.as_str() {
        "nearest" => ResizeMode::Nearest(NearestRounding::Floor),
        "linear" | "bilinear" => ResizeMode::Linear,
        other => return Err(context.attributes.unknown_word("mode", other, &["nearest", "linear"])),
    };
    let sizes = scaled(context, x, &scales)?;
    if mode != ResizeMode::Linear {
        return nearest_before_11(context, x, &scales, sizes);
    }
    let coordinates = ResizeCoordinates::Asymmetric;
    context.emit(Op::Resize { mode, coordinates, scales, sizes }, vec![x])
}

/// `floor(extent * scale)` per axis, the product in `f32` as ONNX and onnxruntime take it: 10 * 0.7 is 7, not 6.99..
fn scaled(context: &NodeContext<'_>, x: TensorId, scales: &[f32]) -> Result<Vec<usize>, Diagnostic> {
    let shape = context.shape(x);
    if scales.len() != shape.len() {
        return Err(context.refuse(format!("{} scales for {}", scales.len(), context.tensor_type(x))));
    }
    shape
        .iter()
        .zip(scales)
        .map(|(extent, scale)| {
            let size = (*extent as f32 * scale).floor();
            if scale.is_finite() && *scale > 0.0 && (1.0..=(1u64 << 31) as f32).contains(&size) {
                Ok(size as usize)
            } else {
                Err(context.refuse(format!("scale {scale} of an axis of {extent}, expected a positive number")))
            }
        })
        .collect()
}

/// Extents and scales of a resize, per axis.
struct Extents {
    sizes: Vec<usize>,
    scales: Vec<f32>,
    /// Start and end per axis for `tf_crop_and_resize`.
    crops: Vec<(f32, f32)>,
}

fn extents(context: &NodeContext<'_>, x: TensorId, crops: bool) -> Result<Extents, Diagnostic> {
    let shape = context.shape(x);
    let (scales_at, sizes_at) = if context.opset() < 11 { (1, usize::MAX) } else { (2, 3) };
    let axes = match context.attributes.ints("axes")? {
        Some(axes) => axes.iter().map(|axis| context.axis(*axis, shape.len())).collect::<Result<Vec<_>, _>>()?,
        None => (0..shape.len()).collect(),
    };
    let mut whole = vec![(0.0, 1.0); shape.len()];
    if crops {
        let roi = context.constant_floats(1)?;
        if roi.len() != 2 * axes.len() {
            return Err(context.refuse(format!("its region has {} numbers for {} axes", roi.len(), axes.len())));
        }
        for (index, axis) in axes.iter().enumerate() {
            whole[*axis] = (roi[index], roi[index + axes.len()]);
        }
    }
    let given_scales = match context.optional_input(scales_at) {
        Some(_) => Some(context.constant_floats(scales_at)?).filter(|scales| !scales.is_empty()),
        None => None,
    };
    let mut scales = vec![1.0; shape.len()];
    if let Some(given) = given_scales {
        if given.len() != axes.len() {
            return Err(context.refuse(format!("{} scales for {} axes", given.len(), axes.len())));
        }
        for (axis, scale) in axes.iter().zip(given) {
            scales[*axis] = scale;
        }
        let sizes = if crops { cropped(context, &shape, &scales, &whole)? } else { scaled(context, x, &scales)? };
        return Ok(Extents { sizes, scales, crops: whole });
    }
    if sizes_at == usize::MAX {
        return Err(context.refuse("it has no scales"));
    }
    let given = context.constant_ints(sizes_at)?;
    if given.len() != axes.len() {
        return Err(context.refuse(format!("{} sizes for {} axes", given.len(), axes.len())));
    }
    let mut sizes = shape.clone();
    for (axis, size) in axes.iter().zip(given) {
        let size = usize::try_from(size).ok().filter(|size| (1..=1 << 31).contains(size));
        let Some(size) = size else { return Err(context.refuse("a size is not positive")) };
        sizes[*axis] = size;
        scales[*axis] = size as f32 / shape[*axis] as f32;
    }
    let policy = context.attributes.string("keep_aspect_ratio_policy", "stretch")?;
    let of_all = axes.iter().map(|axis| scales[*axis]);
    let one = match policy.as_str() {
        "stretch" => None,
        "not_larger" => of_all.reduce(f32::min),
        "not_smaller" => of_all.reduce(f32::max),
        other => {
            let known = ["stretch", "not_larger", "not_smaller"];
            return Err(context.attributes.unknown_word("keep_aspect_ratio_policy", other, &known));
        }
    };
    if let Some(one) = one {
        for axis in axes {
            scales[axis] = one;
            sizes[axis] = ((one * shape[axis] as f32 + 0.5).floor() as usize).max(1);
        }
    }
    Ok(Extents { sizes, scales, crops: whole })
}

/// `floor(extent * (end - start) * scale)` per axis.
fn cropped(
    context: &NodeContext<'_>,
    shape: &[usize],
    scales: &[f32],
    crops: &[(f32, f32)],
) -> Result<Vec<usize>, Diagnostic> {
    let all = shape.iter().zip(scales).zip(crops);
    all.map(|((extent, scale), (start, end))| {
        let size = (*extent as f32 * (end - start) * scale).floor();
        if (1.0..=(1u64 << 31) as f32).contains(&size) {
            Ok(size as usize)
        } else {
            Err(context.refuse(format!("scale {scale} of {start} to {end} of an axis of {extent} leaves nothing")))
        }
    })
    .collect()
}

/// Whether every size is exactly its extent times its scale.
fn is_exact(shape: &[usize], scales: &[f32], sizes: &[usize]) -> bool {
    let exact = |((extent, scale), size): ((&usize, &f32), &usize)| *extent as f32 * scale == *size as f32;
    shape.iter().zip(scales).zip(sizes).all(exact)
}

/// Resize-10, Upsample: no word of the standard says which element is nearest. As onnxruntime does it, the next one along
/// axes that get shorter, the one before along others.
fn nearest_before_11(
    context: &mut NodeContext<'_>,
    mut x: TensorId,
    scales: &[f32],
    sizes: Vec<usize>,
) -> Result<(), Diagnostic> {
    let coordinates = ResizeCoordinates::Asymmetric;
    let resize =
        |rounding, scales, sizes| Op::Resize { mode: ResizeMode::Nearest(rounding), coordinates, scales, sizes };
    if scales.iter().any(|scale| *scale < 1.0) {
        let shape = context.shape(x);
        let along = |shrunk: f32, size: usize, extent: usize| if shrunk < 1.0 { (shrunk, size) } else { (1.0, extent) };
        let all = scales.iter().zip(&sizes).zip(&shape);
        let (shrunk, smaller) = all.map(|((scale, size), extent)| along(*scale, *size, *extent)).unzip();
        x = context.value(resize(NearestRounding::Ceil, shrunk, smaller), &[x])?;
    }
    let grown = scales.iter().map(|scale| scale.max(1.0)).collect();
    context.emit(resize(NearestRounding::Floor, grown, sizes), vec![x])
}

fn resize(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let x = context.input(0)?;
    let shape = context.shape(x);
    let default = if context.opset() < 11 { "asymmetric" } else { "half_pixel" };
    let word = context.attributes.string("coordinate_transformation_mode", default)?;
    let crops = word == "tf_crop_and_resize";
    let Extents { sizes, scales, crops: regions } = extents(context, x, crops)?;
    let rounding = match context.attributes.string("nearest_mode", "round_prefer_floor")?.as_str() {
        // Before opset 11 it is up along axes that shrink, and down along others: see `nearest_before_11`.
        _ if context.opset() < 11 => NearestRounding::Floor,
        "round_prefer_floor" => NearestRounding::RoundPreferFloor,
        "round_prefer_ceil" => NearestRounding::RoundPreferCeil,
        "floor" => NearestRounding::Floor,
        "ceil" => NearestRounding::Ceil,
        other => {
            let known = ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"];
            return Err(context.attributes.unknown_word("nearest_mode", other, &known));
        }
    };
    let antialias = context.attributes.flag("antialias", false)?;
    let (mode, filter) = match context.attributes.string("mode", "nearest")?.as_str() {
        "nearest" => (Some(ResizeMode::Nearest(rounding)), Filter::Linear),
        "linear" => (Some(ResizeMode::Linear).filter(|_| !antialias), Filter::Linear),
        "cubic" => (None, Filter::Cubic(context.attributes.float("cubic_coeff_a", -0.75)?)),
        other => return Err(context.attributes.unknown_word("mode", other, &["nearest", "linear", "cubic"])),
    };
    let coordinates = match word.as_str() {
        "half_pixel" => Some(ResizeCoordinates::HalfPixel),
        "pytorch_half_pixel" => Some(ResizeCoordinates::PytorchHalfPixel),
        "align_corners" => Some(ResizeCoordinates::AlignCorners),
        "asymmetric" => Some(ResizeCoordinates::Asymmetric),
        // The two differ only where the scaled extent was rounded.
        "half_pixel_symmetric" if is_exact(&shape, &scales, &sizes) => Some(ResizeCoordinates::HalfPixel),
        "half_pixel_symmetric" | "tf_crop_and_resize" => None,
        other => {
            let known = ["half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric"];
            return Err(context.attributes.unknown_word("coordinate_transformation_mode", other, &known));
        }
    };
    if let (Some(mode), Some(coordinates)) = (mode, coordinates) {
        if context.opset() < 11 && mode == ResizeMode::Nearest(NearestRounding::Floor) {
            return nearest_before_11(context, x, &scales, sizes);
        }
        return context.emit(Op::Resize { mode, coordinates, scales, sizes }, vec![x]);
    }
    if matches!(mode, Some(ResizeMode::Nearest(_))) {
        let message = format!("`{word}` with mode `nearest` is not supported");
        return Err(context.attributes.unsupported(message));
    }
    let extrapolation = context.attributes.float("extrapolation_value", 0.0)?;
    let exclude_outside = context.attributes.flag("exclude_outside", false)?;
    let mut result = x;
    for axis in 0..shape.len() {
        let (start, end) = regions[axis];
        if sizes[axis] == shape[axis] && scales[axis] == 1.0 && (start, end) == (0.0, 1.0) {
            continue;
        }
        let mapping = match word.as_str() {
            "half_pixel" => Mapping::HalfPixel,
            "half_pixel_symmetric" => Mapping::HalfPixelSymmetric,
            "pytorch_half_pixel" => Mapping::PytorchHalfPixel,
            "align_corners" => Mapping::AlignCorners,
            "asymmetric" => Mapping::Asymmetric,
            _ => Mapping::TfCropAndResize { start, end, extrapolation },
        };
        let (size, scale) = (sizes[axis], scales[axis]);
        let along = AxisResize { axis, size, scale, mapping, filter, antialias, exclude_outside };
        result = along.emit(context, result)?;
    }
    context.emit(Op::Identity, vec![result])
}
