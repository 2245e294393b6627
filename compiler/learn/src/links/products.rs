//! Convolutions and matrix products as large products of matrices: what they compute is that of the reference kernels but for
//! the order of additions, in a tenth of the time. Large networks would take minutes to run otherwise.

use partita_ir::graph::op::{Conv, Gemm};
use partita_ir::graph::{Op, TensorType, Value};
use partita_train::matrix::{Matrix, product};

/// Most elements of the matrix of windows at once.
const MOST_ELEMENTS: usize = 1 << 22;

/// The result of an operator; `None` where the reference kernel is as good, or this does not know it.
pub(super) fn evaluate(op: &Op, inputs: &[&Value], output: &TensorType) -> Option<Value> {
    let elements = match op {
        Op::Conv(conv) => convolve(conv, inputs, &output.shape)?,
        Op::Gemm(gemm) => multiply_and_add(gemm, inputs, &output.shape)?,
        Op::MatMul => multiply(inputs)?,
        _ => return None,
    };
    (elements.len() == output.element_count()).then(|| Value::f32(output.shape.clone(), elements))
}

/// Convolution `[N, C, H, W]` by a matrix of windows (Chellapilla et al. 2006), some rows at a time.
fn convolve(conv: &Conv, inputs: &[&Value], output: &[usize]) -> Option<Vec<f32>> {
    let (&[samples, channels, _, _], &[_, filters, rows, columns]) = (&inputs[0].shape[..], output) else {
        return None;
    };
    if conv.groups != 1 {
        return None;
    }
    let (x, weights, bias) = (inputs[0].as_f32()?, inputs[1].as_f32()?, inputs[2].as_f32()?);
    let residual = if conv.residual { Some(inputs.get(3)?.as_f32()?) } else { None };
    let taps: usize = channels * conv.window.kernel.iter().product::<usize>();
    let band = (MOST_ELEMENTS / (taps * columns).max(1)).clamp(1, rows.max(1));
    let weights = Matrix::new(weights, taps);
    let mut result = vec![0.0f32; samples * filters * rows * columns];
    let mut windows = Vec::new();
    for sample in 0..samples {
        for first in (0..rows).step_by(band) {
            let count = band.min(rows - first);
            windows.clear();
            gather(conv, &inputs[0].shape, &x[sample * x.len() / samples..], (first, count, columns), &mut windows);
            let products = product(&weights, &Matrix::new(&windows, count * columns));
            for (filter, sums) in products.chunks_exact((count * columns).max(1)).enumerate() {
                let begin = ((sample * filters + filter) * rows + first) * columns;
                for (at, sum) in sums.iter().enumerate() {
                    let added = residual.map_or(0.0, |residual| residual[begin + at]);
                    result[begin + at] = conv.activation.apply(sum + bias[filter] + added);
                }
            }
        }
    }
    Some(result)
}

/// The windows of `count` rows of a result from row `first` on: a row for each channel and tap, a column for each position.
fn gather(
    conv: &Conv,
    shape: &[usize],
    x: &[f32],
    (first, count, columns): (usize, usize, usize),
    windows: &mut Vec<f32>,
) {
    let (height, width, window) = (shape[2], shape[3], &conv.window);
    // Where a tap reads, or that it reads padding.
    let place = |axis: usize, position: usize, tap: usize, extent: usize| {
        let at = position * window.stride[axis] + tap * window.dilation[axis];
        at.checked_sub(window.pad_begin[axis]).filter(|at| *at < extent)
    };
    for plane in x.chunks_exact((height * width).max(1)).take(shape[1]) {
        for down in 0..window.kernel[0] {
            for across in 0..window.kernel[1] {
                for row in first..first + count {
                    let row = place(0, row, down, height).map(|row| &plane[row * width..(row + 1) * width]);
                    let element = |column| Some(row?[place(1, column, across, width)?]);
                    windows.extend((0..columns).map(|column| element(column).unwrap_or(0.0)));
                }
            }
        }
    }
}

/// `activation(alpha * a * b + beta * c)`, with one `c` per column or none.
fn multiply_and_add(gemm: &Gemm, inputs: &[&Value], output: &[usize]) -> Option<Vec<f32>> {
    let columns = *output.last()?;
    let matrix = |value: &'_ Value| Some(value.shape.len()).filter(|rank| *rank == 2);
    matrix(inputs[0]).and(matrix(inputs[1]))?;
    let of = |elements, value: &Value, transpose| {
        let plain = Matrix::new(elements, value.shape[1]);
        if transpose { plain.transposed() } else { plain }
    };
    let (a, b) = (inputs[0].as_f32()?, inputs[1].as_f32()?);
    let added = match inputs.get(2) {
        Some(c) if c.data.len() == columns => Some(c.as_f32()?),
        Some(_) => return None,
        None => None,
    };
    let mut result = product(&of(a, inputs[0], gemm.transpose_a), &of(b, inputs[1], gemm.transpose_b));
    for (at, element) in result.iter_mut().enumerate() {
        let added = added.map_or(0.0, |added| gemm.beta * added[at % columns]);
        *element = gemm.activation.apply(gemm.alpha * *element + added);
    }
    Some(result)
}

/// Matrices by one matrix, or by as many.
fn multiply(inputs: &[&Value]) -> Option<Vec<f32>> {
    let (a, b) = (inputs[0], inputs[1]);
    let (&[.., rows, depth], &[.., _, columns]) = (&a.shape[..], &b.shape[..]) else { return None };
    let (x, y) = (a.as_f32()?, b.as_f32()?);
    if b.shape.len() == 2 {
        return Some(product(&Matrix::new(x, depth), &Matrix::new(y, columns)));
    }
    if a.shape[..a.shape.len() - 2] != b.shape[..b.shape.len() - 2] || depth == 0 {
        return None;
    }
    let pairs = x.chunks_exact((rows * depth).max(1)).zip(y.chunks_exact((depth * columns).max(1)));
    Some(pairs.flat_map(|(x, y)| product(&Matrix::new(x, depth), &Matrix::new(y, columns))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use partita_ir::graph::eval::evaluate_node;
    use partita_ir::graph::infer::infer;
    use partita_ir::graph::op::{Activation, Window};
    use partita_ir::graph::values::noise;

    fn same_as_reference(op: &Op, shapes: &[&[usize]]) {
        let inputs: Vec<Value> =
            shapes.iter().enumerate().map(|(at, shape)| noise(&TensorType::f32(shape.to_vec()), at as u64)).collect();
        let types: Vec<TensorType> = inputs.iter().map(Value::tensor_type).collect();
        let outputs = infer(op, &types.iter().collect::<Vec<_>>()).expect("the operator fits");
        let inputs: Vec<&Value> = inputs.iter().collect();
        let expected = evaluate_node(op, &inputs, &outputs).expect("the reference kernel").remove(0);
        let found = evaluate(op, &inputs, &outputs[0]).expect("it is a product");
        assert_eq!(found.shape, expected.shape);
        let (found, expected) = (found.as_f32().expect("f32"), expected.as_f32().expect("f32"));
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-4, "{op:?} of {shapes:?}: {found}, expected {expected}");
        }
    }

    #[test]
    fn products_are_those_of_the_reference_kernels() {
        let window = |kernel: [usize; 2], stride: usize, dilation: usize, pads: [usize; 2]| Window {
            kernel: kernel.to_vec(),
            stride: vec![stride, 1],
            dilation: vec![dilation, 1],
            pad_begin: pads.to_vec(),
            pad_end: vec![pads[0], 0],
        };
        for (window, residual) in [
            (window([3, 3], 2, 1, [1, 2]), false),
            (window([1, 1], 1, 1, [0, 0]), true),
            (window([2, 5], 1, 2, [1, 0]), false),
        ] {
            let conv = Conv { window, groups: 1, residual, activation: Activation::Relu };
            let shapes = [vec![2, 3, 7, 9], [vec![4, 3], conv.window.kernel.clone()].concat(), vec![4]];
            let mut shapes: Vec<&[usize]> = shapes.iter().map(Vec::as_slice).collect();
            if residual {
                shapes.push(&[2, 4, 7, 9]);
            }
            same_as_reference(&Op::Conv(conv.clone()), &shapes);
        }
        for (transpose_a, transpose_b) in [(false, false), (false, true), (true, false)] {
            let gemm = Gemm { transpose_a, transpose_b, alpha: 0.5, beta: 2.0, activation: Activation::Relu };
            let turned = |shape: [usize; 2], turn: bool| if turn { [shape[1], shape[0]] } else { shape };
            same_as_reference(&Op::Gemm(gemm), &[&turned([3, 5], transpose_a), &turned([5, 4], transpose_b), &[4]]);
        }
        same_as_reference(&Op::MatMul, &[&[2, 3, 5], &[5, 4]]);
        same_as_reference(&Op::MatMul, &[&[2, 3, 5], &[2, 5, 4]]);
    }
}
