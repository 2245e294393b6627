//! Regions of images: NonMaxSuppression and RoiAlign.

use crate::importer::{Converter, NodeContext};
use partita_ir::diagnostic::Diagnostic;
use partita_ir::graph::op::{NonMaxSuppression, Op, PoolKind, RoiAlign};

/// Most samples of a bin along an axis that a model may ask for.
const MAX_RATIO: usize = 1024;

pub(super) fn converter(op_type: &str) -> Option<Converter> {
    Some(match op_type {
        "NonMaxSuppression" => non_max_suppression,
        "RoiAlign" => roi_align,
        _ => return None,
    })
}

/// ONNX NonMaxSuppression-10, -11. How many boxes are kept is known only when it runs: the result has as many rows as the
/// model declares, or else as there can be.
fn non_max_suppression(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let (boxes, scores) = (context.input(0)?, context.input(1)?);
    let [images, classes, count] = context.shape(scores)[..] else {
        let scores = context.tensor_type(scores);
        return Err(context.refuse(format!("its scores are {scores}, expected [images, classes, boxes]")));
    };
    let most = match context.optional_input(2) {
        None => 0,
        Some(_) => match context.constant_ints(2)?[..] {
            [most] => usize::try_from(most).unwrap_or(0),
            _ => return Err(context.refuse("`max_output_boxes_per_class` should be one number")),
        },
    };
    let overlap = number(context, 3)?.unwrap_or(0.0);
    if !(0.0..=1.0).contains(&overlap) {
        return Err(context.refuse(format!("`iou_threshold` is {overlap}, expected a number from 0 to 1")));
    }
    let least = number(context, 4)?;
    let centred = context.attributes.flag("center_point_box", false)?;
    let declared = context.declared_rows();
    // A result that is too large is refused as such.
    let all = images.saturating_mul(classes).saturating_mul(most.min(count));
    let rows = declared.unwrap_or(all);
    if rows > 0 {
        let why = match declared {
            Some(_) => "as the model declares",
            None => "as many as it can keep",
        };
        let message = format!("how many boxes it keeps depends on its scores; its result has {rows} rows, {why}");
        let warning = Diagnostic { code: "W0135", ..context.refuse(message) };
        let help = "rows behind the last box hold -1: what reads them stops at a row whose first number is negative";
        context.importer.graph.remarks.push(warning.help(help));
    }
    let op = NonMaxSuppression { rows, most, overlap, least, centred };
    context.emit(Op::NonMaxSuppression(op), vec![boxes, scores])
}

/// An operand of one number, if it is there.
fn number(context: &NodeContext<'_>, position: usize) -> Result<Option<f32>, Diagnostic> {
    if context.optional_input(position).is_none() {
        return Ok(None);
    }
    match context.constant_floats(position)?[..] {
        [number] => Ok(Some(number)),
        _ => Err(context.refuse(format!("input {position} should be one number"))),
    }
}

/// ONNX RoiAlign-10, -16, -22.
fn roi_align(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let (x, regions, images) = (context.input(0)?, context.input(1)?, context.input(2)?);
    let [batch, _, height, width] = context.shape(x)[..] else {
        return Err(context.refuse(format!("its input is {}, expected images", context.tensor_type(x))));
    };
    if height * width == 0 {
        return Err(context.refuse(format!("regions of images {}", context.tensor_type(x))));
    }
    let default = if context.opset() < 16 { "output_half_pixel" } else { "half_pixel" };
    let half_pixel = match context.attributes.string("coordinate_transformation_mode", default)?.as_str() {
        "half_pixel" => true,
        "output_half_pixel" => false,
        other => {
            let known = ["half_pixel", "output_half_pixel"];
            return Err(context.attributes.unknown_word("coordinate_transformation_mode", other, &known));
        }
    };
    let kind = match context.attributes.string("mode", "avg")?.as_str() {
        "avg" => PoolKind::Average,
        "max" => PoolKind::Max,
        other => return Err(context.attributes.unknown_word("mode", other, &["avg", "max"])),
    };
    let scale = context.attributes.float("spatial_scale", 1.0)?;
    let ratio = context.attributes.int("sampling_ratio", 0)?.max(0);
    let Some(ratio) = usize::try_from(ratio).ok().filter(|ratio| *ratio <= MAX_RATIO) else {
        return Err(context.attributes.unsupported(format!("{ratio} samples of a bin, {MAX_RATIO} at most")));
    };
    let sizes = [context.attributes.int("output_height", 1)?, context.attributes.int("output_width", 1)?];
    let [Ok(rows), Ok(columns)] = sizes.map(usize::try_from) else {
        return Err(context.refuse("its output is negative"));
    };
    if context.importer.graph.value(images).is_some() {
        let images = context.constant_ints(2)?;
        if images.iter().any(|at| !(0..batch as i64).contains(at)) {
            return Err(context.refuse(format!("regions of images {images:?} among {batch}")));
        }
    }
    let op = RoiAlign { kind, bins: [rows, columns], scale, half_pixel, ratio };
    context.emit(Op::RoiAlign(op), vec![x, regions, images])
}
