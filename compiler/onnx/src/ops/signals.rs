//! Fourier transforms of known length as products with constant matrices, windows, and filters of mel spectrograms.

use std::f64::consts::PI;

use crate::expressions::part;
use crate::importer::{Converter, NodeContext};
use partita_ir::diagnostic::Diagnostic;
use partita_ir::graph::op::{Activation, Conv, Op, Window};
use partita_ir::graph::{Data, ElementType, TensorId, Value};

pub(super) fn converter(op_type: &str) -> Option<Converter> {
    Some(match op_type {
        "DFT" => dft,
        "STFT" => stft,
        "HannWindow" => |context| window(context, [0.5, 0.5, 0.0]),
        // As the standard's definition has it: 25 / 46.
        "HammingWindow" => |context| window(context, [25.0 / 46.0, 21.0 / 46.0, 0.0]),
        "BlackmanWindow" => |context| window(context, [0.42, 0.5, 0.08]),
        "MelWeightMatrix" => mel_weights,
        _ => return None,
    })
}

/// One number of an operand that must be known.
fn number(context: &NodeContext<'_>, position: usize) -> Result<f64, Diagnostic> {
    let value = context.constant(position)?;
    match value.data.cast(ElementType::F64) {
        Data::F64(numbers) if numbers.len() == 1 => Ok(numbers[0]),
        _ => Err(context.refuse(format!("input {position} should be one number"))),
    }
}

/// A length of an operand that must be known.
fn length(context: &NodeContext<'_>, position: usize) -> Result<usize, Diagnostic> {
    let length = number(context, position)?;
    if length.fract() == 0.0 && (1.0..=f64::from(1 << 24)).contains(&length) {
        Ok(length as usize)
    } else {
        Err(context.refuse(format!("input {position} is {length}, expected a length")))
    }
}

/// Cosine and sine of `2 pi * step / length`, exact for whole turns.
fn turn(step: usize, length: usize) -> (f64, f64) {
    let angle = 2.0 * PI * (step % length) as f64 / length as f64;
    (angle.cos(), angle.sin())
}

/// What a transform takes and makes.
struct Transform {
    /// Elements of the signal that are read.
    taken: usize,
    /// Parts of each: 1 for real numbers, 2 for complex ones.
    parts: usize,
    length: usize,
    inverse: bool,
    onesided: bool,
}

impl Transform {
    /// Elements of the result and parts of each.
    fn made(&self) -> (usize, usize) {
        match (self.inverse, self.onesided) {
            (false, true) => (self.length / 2 + 1, 2),
            (true, true) => (self.length, 1),
            (_, false) => (self.length, 2),
        }
    }

    /// What element `from` of the signal, real or imaginary part, adds to element `to` of the result.
    fn weight(&self, from: usize, of_imaginary: bool, to: usize, to_imaginary: bool) -> f64 {
        let (cosine, sine) = turn((from * to) % self.length, self.length);
        let sine = if self.inverse { sine } else { -sine };
        // (re + i im) * (cos + i sin)
        let weight = match (of_imaginary, to_imaginary) {
            (false, false) | (true, true) => cosine,
            (false, true) => sine,
            (true, false) => -sine,
        };
        if !self.inverse {
            return weight;
        }
        // The half of a spectrum that is not given is the conjugate of the one that is.
        let has_twin = self.onesided && from != 0 && 2 * from != self.length;
        weight * if has_twin { 2.0 } else { 1.0 } / self.length as f64
    }

    /// `[taken * parts, made * parts]`
    fn matrix(&self, context: &mut NodeContext<'_>) -> Result<TensorId, Diagnostic> {
        let (made, made_parts) = self.made();
        let (rows, columns) = (self.taken * self.parts, made * made_parts);
        context.reserve("transform", rows.saturating_mul(columns))?;
        let mut matrix = Vec::with_capacity(rows * columns);
        for row in 0..rows {
            let (from, of_imaginary) = (row / self.parts, row % self.parts == 1);
            for column in 0..columns {
                let (to, to_imaginary) = (column / made_parts, column % made_parts == 1);
                matrix.push(self.weight(from, of_imaginary, to, to_imaginary) as f32);
            }
        }
        Ok(context.name_constant("transform", Value::f32([rows, columns], matrix)))
    }
}

/// ONNX DFT-17 (the axis is an attribute), -20 (an operand).
fn dft(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let x = context.input(0)?;
    let shape = context.shape(x);
    let rank = shape.len();
    if rank < 2 || !matches!(shape[rank - 1], 1 | 2) {
        return Err(context.refuse(format!("its input is {}, expected [.., 1 or 2]", context.tensor_type(x))));
    }
    let axis = match context.optional_input(2) {
        _ if context.opset() < 20 => context.attributes.int("axis", 1)?,
        Some(_) => number(context, 2)? as i64,
        None => -2,
    };
    let axis = context.axis(axis, rank)?;
    if axis + 1 == rank {
        return Err(context.refuse(format!("axis {axis} holds real and imaginary parts")));
    }
    let inverse = context.attributes.flag("inverse", false)?;
    let onesided = context.attributes.flag("onesided", false)?;
    let default = if inverse && onesided { 2 * shape[axis].saturating_sub(1) } else { shape[axis] };
    let length = if context.optional_input(1).is_some() { length(context, 1)? } else { default };
    if length == 0 {
        return Err(context.refuse("its length is 0"));
    }
    let useful = if inverse && onesided { length / 2 + 1 } else { length };
    let taken = shape[axis].min(useful);
    let transform = Transform { taken, parts: shape[rank - 1], length, inverse, onesided };
    let (made, made_parts) = transform.made();
    let matrix = transform.matrix(context)?;
    // The axis to the end, beside the parts.
    let mut order: Vec<usize> = (0..rank).filter(|other| *other != axis && *other != rank - 1).collect();
    order.extend([axis, rank - 1]);
    let cut = context.value(part(&shape, axis, 0, taken), &[x])?;
    let turned = context.value(Op::Transpose { permutation: order.clone() }, &[cut])?;
    let outer: Vec<usize> = order[..rank - 2].iter().map(|other| shape[*other]).collect();
    let rows = Op::Reshape { shape: vec![outer.iter().product(), taken * shape[rank - 1]] };
    let rows = context.value(rows, &[turned])?;
    let product = context.value(Op::MatMul, &[rows, matrix])?;
    let wide = Op::Reshape { shape: [&outer[..], &[made, made_parts]].concat() };
    let wide = context.value(wide, &[product])?;
    let back = (0..rank).map(|axis| order.iter().position(|other| *other == axis).unwrap_or(axis)).collect();
    context.emit(Op::Transpose { permutation: back }, vec![wide])
}

/// ONNX STFT-17: a convolution whose filters are the windowed rows of the transform, one step per frame.
fn stft(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let x = context.input(0)?;
    let shape = context.shape(x);
    let (batch, steps, parts) = match shape[..] {
        [batch, steps] => (batch, steps, 1),
        [batch, steps, parts @ (1 | 2)] => (batch, steps, parts),
        _ => {
            return Err(context.refuse(format!("its input is {}, expected [N, steps, 1 or 2]", context.tensor_type(x))));
        }
    };
    let stride = length(context, 1)?;
    let window = match context.optional_input(2) {
        Some(_) => Some(context.constant_floats(2)?),
        None => None,
    };
    let frame = match (context.optional_input(3), &window) {
        (Some(_), _) => length(context, 3)?,
        (None, Some(window)) => window.len(),
        (None, None) => steps,
    };
    let taps = window.as_ref().map_or(frame, Vec::len);
    if taps > frame || frame > steps || frame == 0 {
        return Err(context.refuse(format!("a window of {taps} in frames of {frame} of {steps} steps")));
    }
    let onesided = context.attributes.flag("onesided", true)?;
    let transform = Transform { taken: taps, parts, length: frame, inverse: false, onesided };
    let (made, made_parts) = transform.made();
    let filters = made * made_parts;
    context.reserve("filters", filters.saturating_mul(taps * parts))?;
    let window = window.unwrap_or_else(|| vec![1.0; frame]);
    let mut weights = Vec::with_capacity(filters * taps * parts);
    for filter in 0..filters {
        for part in 0..parts {
            let weight = |tap: usize| transform.weight(tap, part == 1, filter / made_parts, filter % made_parts == 1);
            weights.extend((0..taps).map(|tap| (weight(tap) * f64::from(window[tap])) as f32));
        }
    }
    let weights = context.name_constant("filters", Value::f32([filters, parts, taps], weights));
    let bias = context.make_zeros("bias", vec![filters])?;
    let signal = context.value(Op::Reshape { shape: vec![batch, steps, parts] }, &[x])?;
    let signal = context.value(Op::Transpose { permutation: vec![0, 2, 1] }, &[signal])?;
    let frames = (steps - frame) / stride + 1;
    let conv = Conv {
        window: Window::uniform(&[taps], stride, 1, 0),
        groups: 1,
        residual: false,
        activation: Activation::None,
    };
    let spectra = context.value(Op::Conv(conv), &[signal, weights, bias])?;
    // Frames that a window shorter than them would still fit into are not there.
    let spectra = context.value(part(&context.shape(spectra), 2, 0, frames), &[spectra])?;
    let turned = context.value(Op::Transpose { permutation: vec![0, 2, 1] }, &[spectra])?;
    context.emit(Op::Reshape { shape: vec![batch, frames, made, made_parts] }, vec![turned])
}

/// `a - b cos(2 pi n / N) + c cos(4 pi n / N)`; N is one less where the window is symmetric.
fn window(context: &mut NodeContext<'_>, [a, b, c]: [f64; 3]) -> Result<(), Diagnostic> {
    let size = length(context, 0)?;
    context.reserve("window", size)?;
    let periodic = context.attributes.flag("periodic", true)?;
    let turn = if periodic { size } else { size - 1 }.max(1) as f64;
    let at = |n: usize| a - b * (2.0 * PI * n as f64 / turn).cos() + c * (4.0 * PI * n as f64 / turn).cos();
    let data = Data::F64((0..size).map(at).collect());
    made(context, data, vec![size])
}

/// A constant of the type that the attribute says, as the node's result.
fn made(context: &mut NodeContext<'_>, data: Data, shape: Vec<usize>) -> Result<(), Diagnostic> {
    let kind = context.attributes.int("output_datatype", 1)?;
    let element = super::elementwise::element_type(context, "output_datatype", kind)?;
    let id = context.name_constant("made", Value { shape, data: data.cast(element) });
    context.bind(&[id])
}

/// ONNX MelWeightMatrix-17: triangles over the bins of a spectrum, evenly spaced on the mel scale.
fn mel_weights(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let (bins, dft, rate) = (length(context, 0)?, length(context, 1)?, length(context, 2)?);
    let (low, high) = (number(context, 3)?, number(context, 4)?);
    let spectrum = dft / 2 + 1;
    context.reserve("weights", spectrum.saturating_mul(bins))?;
    let mel = |hertz: f64| 2595.0 * (1.0 + hertz / 700.0).log10();
    let step = (mel(high) - mel(low)) / (bins + 2) as f64;
    let hertz = |index: usize| 700.0 * (10f64.powf((index as f64 * step + mel(low)) / 2595.0) - 1.0);
    let edges: Vec<usize> =
        (0..bins + 2).map(|index| ((dft + 1) as f64 * hertz(index) / rate as f64) as usize).collect();
    if edges.iter().any(|edge| *edge >= spectrum) || !edges.is_sorted() {
        return Err(context.refuse(format!("{low} to {high} Hz do not fit a spectrum of {spectrum} bins")));
    }
    let mut weights = vec![0.0; spectrum * bins];
    for bin in 0..bins {
        let (left, centre, right) = (edges[bin], edges[bin + 1], edges[bin + 2]);
        if left == centre {
            weights[centre * bins + bin] = 1.0;
        }
        for row in left..centre {
            weights[row * bins + bin] = (row - left) as f64 / (centre - left) as f64;
        }
        if left < centre {
            weights[centre * bins + bin] = 1.0;
        }
        for row in centre..right {
            weights[row * bins + bin] = (right - row) as f64 / (right - centre) as f64;
        }
    }
    made(context, Data::F64(weights), vec![spectrum, bins])
}
