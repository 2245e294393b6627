//! DeformConv: every tap of a convolution is read where the offsets say, then all are multiplied as by a convolution of one tap.

use super::grids::{Axis, Mode, Outside, rows, weighted};
use super::spatial::convolution;
use crate::expressions::part;
use crate::importer::{Converter, NodeContext};
use partita_ir::diagnostic::Diagnostic;
use partita_ir::graph::op::{BinaryOp, Conv, Op, Window};
use partita_ir::graph::{TensorId, Value};

pub(super) fn converter(op_type: &str) -> Option<Converter> {
    Some(match op_type {
        "DeformConv" => deform_conv,
        _ => return None,
    })
}

/// What all groups of offsets have in common.
struct Taps<'a> {
    window: &'a Window,
    /// `[N, C, spatial]` of the input.
    shape: &'a [usize],
    /// Spatial extents of the result.
    places: &'a [usize],
    /// Taps of the window.
    taps: usize,
}

impl Taps<'_> {
    /// Where the undisplaced taps lie along an axis: `[1, taps * places]`, negative in the pads.
    fn origins(&self, axis: usize) -> Vec<f32> {
        let along = |extents: &[usize], index: usize| {
            let inner: usize = extents[axis + 1..].iter().product();
            index / inner % extents[axis]
        };
        let (window, points) = (self.window, self.places.iter().product::<usize>());
        let origin = |index: usize| {
            let (tap, place) = (along(&window.kernel, index / points), along(self.places, index % points));
            (place * window.stride[axis] + tap * window.dilation[axis]) as f32 - window.pad_begin[axis] as f32
        };
        (0..self.taps * points).map(origin).collect()
    }

    /// The elements that one group of offsets reads: `[N, channels, taps, places]`. `offsets` is `[N, taps, axes, places]`,
    /// `mask` `[N, taps, places]`.
    fn read(
        &self,
        context: &mut NodeContext<'_>,
        x: TensorId,
        offsets: TensorId,
        mask: Option<TensorId>,
    ) -> Result<TensorId, Diagnostic> {
        let (batch, channels, spatial) = (self.shape[0], context.shape(x)[1], &self.shape[2..]);
        let points = self.places.iter().product::<usize>();
        let mut axes = Vec::with_capacity(spatial.len());
        for (axis, extent) in spatial.iter().copied().enumerate() {
            let along = context.value(part(&context.shape(offsets), 2, axis, 1), &[offsets])?;
            let along = context.value(Op::Reshape { shape: vec![batch, self.taps * points] }, &[along])?;
            context.reserve("origins", self.taps * points)?;
            let origins = Value::f32([1, self.taps * points], self.origins(axis));
            let origins = context.name_constant("origins", origins);
            let place = context.binary(BinaryOp::Add, along, origins)?;
            let borders = [0.0, extent as f64 - 1.0];
            axes.push(Axis { extent, mode: Mode::Linear, outside: Outside::Zeros, borders }.taps(context, place)?);
        }
        let inner: usize = spatial.iter().product();
        let firsts = (0..batch).map(|sample| (sample * inner) as i64);
        let firsts = context.make_constant("firsts", [batch, 1], firsts)?;
        let rows = rows(context, x)?;
        let mut read = weighted(context, rows, firsts, &axes, spatial)?;
        if let Some(mask) = mask {
            let mask = context.value(Op::Reshape { shape: vec![batch, self.taps * points, 1] }, &[mask])?;
            read = context.binary(BinaryOp::Mul, read, mask)?;
        }
        let turned = context.value(Op::Transpose { permutation: vec![0, 2, 1] }, &[read])?;
        context.value(Op::Reshape { shape: vec![batch, channels, self.taps, points] }, &[turned])
    }
}

/// ONNX DeformConv-19, -22.
fn deform_conv(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let (x, weights, offsets) = (context.input(0)?, context.input(1)?, context.input(2)?);
    let Op::Conv(Conv { window, groups, activation, .. }) = convolution(context, x, weights)? else {
        return Err(context.refuse("it is no convolution"));
    };
    let (shape, of_weights) = (context.shape(x), context.shape(weights));
    let places: Option<Vec<usize>> =
        shape[2..].iter().enumerate().map(|(axis, extent)| window.output_extent(axis, *extent)).collect();
    let Some(places) = places.filter(|places| !places.contains(&0)) else {
        return Err(context.refuse(format!("its window does not fit into {shape:?}")));
    };
    let taps: usize = window.kernel.iter().product();
    let rank = places.len();
    let offset_groups = context.attributes.int("offset_group", 1)?;
    let parts = usize::try_from(offset_groups).ok().filter(|parts| *parts > 0 && shape[1].is_multiple_of(*parts));
    let Some(parts) = parts else {
        let message =
            format!("attribute `offset_group` is {offset_groups}, which does not divide {} channels", shape[1]);
        return Err(context.refuse(message));
    };
    let expected = |each: usize| [&[shape[0], parts * each], &places[..]].concat();
    let mask = context.optional_input(4);
    for (what, tensor, each) in [("offsets", Some(offsets), taps * rank), ("mask", mask, taps)] {
        if let Some(tensor) = tensor
            && context.shape(tensor) != expected(each)
        {
            let found = context.shape(tensor);
            return Err(context.refuse(format!("its {what} are {found:?}, expected {:?}", expected(each))));
        }
    }
    let points: usize = places.iter().product();
    let whole = vec![shape[0], parts * taps, rank, points];
    let offsets = context.value(Op::Reshape { shape: whole.clone() }, &[offsets])?;
    let common = Taps { window: &window, shape: &shape, places: &places, taps };
    let channels = shape[1] / parts;
    let mut all = Vec::with_capacity(parts);
    for group in 0..parts {
        let own = context.value(part(&shape, 1, group * channels, channels), &[x])?;
        let offsets = context.value(part(&whole, 1, group * taps, taps), &[offsets])?;
        let mask = match mask {
            Some(mask) => Some(context.value(part(&context.shape(mask), 1, group * taps, taps), &[mask])?),
            None => None,
        };
        all.push(common.read(context, own, offsets, mask)?);
    }
    let read = if all.len() == 1 { all[0] } else { context.value(Op::Concat { axis: 1 }, &all)? };
    let columns = [&[shape[0], shape[1] * taps], &places[..]].concat();
    let columns = context.value(Op::Reshape { shape: columns }, &[read])?;
    let flat = [&[of_weights[0], of_weights[1] * taps], &vec![1; rank][..]].concat();
    let weights = context.value(Op::Reshape { shape: flat }, &[weights])?;
    let bias = match context.optional_input(3) {
        Some(bias) => bias,
        None => context.make_zeros("bias", vec![of_weights[0]])?,
    };
    let point = Window::uniform(&vec![1; rank], 1, 1, 0);
    context.emit(Op::Conv(Conv { window: point, groups, residual: false, activation }), vec![columns, weights, bias])
}
