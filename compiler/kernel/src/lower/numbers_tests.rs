//! Kernels on numbers that are out of the ordinary: NaN and infinity, long sums, inputs that are too large for
//! Winograd's algorithm.

use super::tests_memory::{laid_out, memory, row_major};
use super::tests_reference::{check_form, machines, operands, random};
use super::winograd::{Form, Forms};
use super::{Binding, Machine, Packing, WeightOrder, layout_choices, lower_node};
use crate::Kernel;
use crate::eval::evaluate;
use crate::layout::Layout;
use partita_ir::graph::infer::infer;
use partita_ir::graph::op::{Activation, Conv, Pool, PoolKind, UnaryOp, Window};
use partita_ir::graph::{BinaryOp, Op, TensorType, Value, eval};
use partita_rt::kernels::{Residual, WINOGRAD_BELOW, reorder_from_blocked};

/// The result of a node on a machine, in every layout that it has a kernel for.
fn results(op: &Op, values: &[Value], constants: &[bool], machine: &Machine) -> Vec<Vec<f32>> {
    let types: Vec<TensorType> = values.iter().map(Value::tensor_type).collect();
    let output = infer(op, &types.iter().collect::<Vec<_>>()).expect("the test's operator fits").remove(0);
    let plain = vec![Layout::Plain; values.len()];
    let choices = layout_choices(op, &operands(values, &types, &plain, constants, Packing::Free), &output, machine);
    let one = |choice: &super::LayoutChoice| {
        let operands = operands(values, &types, &choice.inputs, constants, Packing::Free);
        let lowered =
            lower_node(op, &operands, &output, choice.output, machine).expect("an offered layout has a kernel");
        check_form(&lowered.kernel);
        let input = |index: usize, elements: usize| laid_out(&values[index], choice.inputs[index], elements);
        let mut buffers = memory(&lowered.bindings, &lowered.kernel, input);
        evaluate(&lowered.kernel, &mut buffers);
        row_major(&buffers.pop().expect("kernels have a result"), choice.output, &output)
    };
    choices.iter().map(one).collect()
}

fn reference(op: &Op, values: &[Value]) -> Vec<f32> {
    let types: Vec<TensorType> = values.iter().map(Value::tensor_type).collect();
    let output = infer(op, &types.iter().collect::<Vec<_>>()).expect("the test's operator fits").remove(0);
    let operands: Vec<&Value> = values.iter().collect();
    let result = eval::evaluate_node(op, &operands, &[output]).expect("a reference").remove(0);
    result.as_f32().expect("tests use f32").to_vec()
}

/// Noise with NaN, infinities and large numbers here and there, at other places for every seed.
fn wild(shape: &[usize], seed: u64) -> Value {
    let odd = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 3e9, -3e9, -f32::NAN];
    let mut elements = random(shape, seed).as_f32().expect("it is f32").to_vec();
    for (index, element) in elements.iter_mut().skip(seed as usize).step_by(7).enumerate() {
        *element = odd[index % odd.len()];
    }
    Value::f32(shape, elements)
}

/// NaN where the reference has NaN, infinite where it is, and close to it elsewhere.
fn assert_same(found: &[f32], expected: &[f32], label: &str) {
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let same = match expected {
            expected if expected.is_nan() => found.is_nan(),
            expected if expected.is_infinite() => found == expected,
            expected => (found - expected).abs() <= 1e-5 * expected.abs().max(1.0),
        };
        assert!(same, "element {index} is {found}, expected {expected}: {label}");
    }
}

#[test]
fn nan_and_infinity_as_in_the_reference_kernels() {
    let pool = |kernel: &[usize], stride: usize| {
        Op::Pool(Pool {
            kind: PoolKind::Max,
            window: Window::uniform(kernel, stride, 1, 1),
            declared_pad_end: vec![1; kernel.len()],
            count_include_pad: false,
        })
    };
    let one: Vec<Op> = [
        Activation::Relu,
        Activation::Clip(-1.0, 6.0),
        Activation::Clip(f32::NEG_INFINITY, 0.5),
        Activation::LeakyRelu(0.1),
        Activation::HardSigmoid(0.2, 0.5),
    ]
    .into_iter()
    .map(|activation| Op::Unary(UnaryOp::Activation(activation)))
    .chain([pool(&[3, 3], 2), pool(&[2, 2], 1), Op::GlobalPool(PoolKind::Max), Op::Unary(UnaryOp::Abs)])
    .collect();
    let rounded = Activation::Clip(-128.0, 127.0);
    let two = [
        Op::Binary(BinaryOp::Max, Activation::None),
        Op::Binary(BinaryOp::Min, Activation::Relu),
        Op::Binary(BinaryOp::RoundedQuotient, rounded),
        Op::Binary(BinaryOp::RoundedQuotient, Activation::None),
    ];
    let shape = [1, 19, 5, 7];
    let mut count = 0;
    for machine in machines() {
        for seed in 0..4 {
            let x = wild(&shape, seed);
            let with = one.iter().map(|op| (op, vec![x.clone()]));
            // In either order, and the same twice.
            let others = [wild(&shape, seed + 1), random(&shape, 9), x.clone()];
            let both = others.iter().flat_map(|other| [[x.clone(), other.clone()], [other.clone(), x.clone()]]);
            let both: Vec<_> = both.collect();
            let pairs = two.iter().flat_map(|op| both.iter().map(move |values| (op, values.to_vec())));
            for (op, values) in with.chain(pairs) {
                let expected = reference(op, &values);
                for found in results(op, &values, &vec![false; values.len()], &machine) {
                    assert_same(&found, &expected, &format!("{op:?} on {:?}", machine.instruction_set));
                    count += 1;
                }
            }
        }
    }
    assert!(count > 1000, "only {count} kernels");
}

#[test]
fn a_row_with_nan_is_nan_after_softmax() {
    for machine in machines() {
        for at in 0..21 {
            let mut elements = random(&[1, 21], 3).as_f32().expect("it is f32").to_vec();
            elements[at] = f32::NAN;
            for found in results(&Op::Softmax { axis: 1 }, &[Value::f32([1, 21], elements)], &[false], &machine) {
                assert!(found.iter().all(|x| x.is_nan()), "NaN at {at} of {:?}: {found:?}", machine.instruction_set);
            }
        }
    }
}

/// Elements around 1000, of a mean that is known.
fn around(shape: &[usize]) -> (Value, f64) {
    let count: usize = shape.iter().product();
    let number = |index: u32| 1000.0 + (index.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 24) as f32;
    let elements: Vec<f32> = (0..count as u32).map(number).collect();
    let mean = elements.iter().map(|x| f64::from(*x)).sum::<f64>() / count as f64;
    (Value::f32(shape, elements), mean)
}

#[test]
fn long_sums_are_those_of_f64() {
    let machine = &machines()[1];
    // One channel among eight lanes: the others are whatever was there.
    let (x, mean) = around(&[1, 1, 512, 1024]);
    let found = results(&Op::GlobalPool(PoolKind::Average), std::slice::from_ref(&x), &[false], machine);
    assert!(!found.is_empty());
    found.iter().for_each(|found| assert!((f64::from(found[0]) - mean).abs() < 1e-3, "{found:?}, expected {mean}"));
    let pool = Pool {
        kind: PoolKind::Average,
        window: Window::uniform(&[256, 250], 1, 1, 0),
        declared_pad_end: vec![0, 0],
        count_include_pad: false,
    };
    let (x, mean) = around(&[1, 1, 256, 250]);
    let found = results(&Op::Pool(pool), std::slice::from_ref(&x), &[false], machine);
    assert!(!found.is_empty());
    found.iter().for_each(|found| assert!((f64::from(found[0]) - mean).abs() < 0.01, "{found:?}, expected {mean}"));
    // A wider window is the portable kernel's.
    let wide = Pool {
        kind: PoolKind::Average,
        window: Window::uniform(&[1 << 16], 1, 1, 0),
        declared_pad_end: vec![0],
        count_include_pad: false,
    };
    let (x, mean) = around(&[1, 1, 1 << 16]);
    assert!(results(&Op::Pool(wide.clone()), std::slice::from_ref(&x), &[false], machine).is_empty());
    let found = reference(&Op::Pool(wide), &[x]);
    assert!((f64::from(found[0]) - mean).abs() < 1e-3, "{found:?}, expected {mean}");

    for width in [5, 1 << 16, (1 << 16) + 3] {
        let (x, mean) = around(&[1, width]);
        let elements = x.as_f32().expect("it is f32").to_vec();
        let exact: f64 = elements.iter().map(|x| (f64::from(*x) - 1001.0).exp()).sum();
        for found in results(&Op::Softmax { axis: 1 }, std::slice::from_ref(&x), &[false], machine) {
            for (found, x) in found.iter().zip(&elements).take(9) {
                let expected = (f64::from(*x) - 1001.0).exp() / exact;
                assert!((f64::from(*found) - expected).abs() < 1e-5 * expected, "{found}, expected {expected}");
            }
        }
        let variance = elements.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / width as f64;
        let op = Op::LayerNormalization { axis: 1, epsilon: 1e-9 };
        let (scale, bias) = (Value::f32([width], vec![1.0; width]), Value::f32([width], vec![0.0; width]));
        let found = results(&op, &[x, scale, bias], &[false, true, true], machine);
        assert_eq!(found.len(), 1);
        for (found, x) in found[0].iter().zip(&elements) {
            let expected = (f64::from(*x) - mean) / (variance + 1e-9).sqrt();
            assert!((f64::from(*found) - expected).abs() < 1e-4, "{found}, expected {expected}, of {width}");
        }
    }
}

/// The convolution as the run time does it where Winograd's algorithm may not: the same as the kernel. `before` and `after` are
/// the buffers of the kernel, and which is its result.
pub(super) fn check_direct(kernel: &Kernel, before: &[Vec<f32>], after: &[Vec<f32>]) {
    let Some(winograd) = &kernel.winograd else { return };
    let buffer = |name: &str| kernel.buffers.iter().position(|buffer| buffer.name == name);
    let given = |name: &str| buffer(name).map(|index| before[index].as_slice());
    let [x, weights, bias] = ["x", "weights", "bias"].map(|name| given(name).expect("a convolution reads it"));
    assert!(winograd.is_within(x), "lanes past the last channel were looked at");
    let result = buffer("y").expect("kernels have a result");
    // Lanes that are no channels are not written.
    let mut y = vec![f32::NAN; after[result].len()];
    let residual = given("residual").map_or(Residual::None, Residual::Apart);
    winograd.convolve(x, weights, bias, residual, &mut y);
    let side = if winograd.pooled { 2 } else { 1 };
    let [depths, rows, columns] = winograd.output;
    let written = winograd.batch * winograd.filters * depths * (rows / side) * (columns / side);
    assert_eq!(y.iter().filter(|x| !x.is_nan()).count(), written, "{kernel}");
    let scale = after[result].iter().filter(|x| x.is_finite()).fold(1e-3f32, |scale, x| scale.max(x.abs()));
    for (found, expected) in y.iter().zip(&after[result]).filter(|(found, _)| !found.is_nan()) {
        assert!((found - expected).abs() <= 1e-5 * scale, "{found}, expected {expected}\n{kernel}");
    }
    if let Some(residual) = given("residual") {
        let mut over = residual.to_vec();
        over.resize(y.len(), 0.0);
        winograd.convolve(x, weights, bias, Residual::InPlace, &mut over);
        let same = y.iter().zip(&over).all(|(apart, over)| apart.is_nan() || apart == over);
        assert!(same, "a residual in place is another one\n{kernel}");
    }
}

/// Large inputs and NaN: the run time's way is the reference's, where a kernel by Winograd's algorithm says NaN of whole tiles.
#[test]
fn what_is_too_large_for_winograd_is_convolved_directly() {
    for (taps, form) in [(3, Form::Two), (3, Form::Four), (5, Form::TwoOfFive)] {
        let conv = Conv {
            window: Window::uniform(&[taps, taps], 1, 1, 1),
            groups: 1,
            residual: false,
            activation: Activation::Relu,
        };
        let op = Op::Conv(conv);
        let mut x = random(&[1, 4, 12, 13], 1).as_f32().expect("it is f32").to_vec();
        x.iter_mut().for_each(|x| *x *= 1e36);
        x[17] = f32::NAN;
        x[200] = f32::INFINITY;
        let values = [Value::f32([1, 4, 12, 13], x), random(&[6, 4, taps, taps], 2), random(&[6], 3)];
        let types: Vec<TensorType> = values.iter().map(Value::tensor_type).collect();
        let output = infer(&op, &types.iter().collect::<Vec<_>>()).expect("it fits").remove(0);
        let machine = &machines()[2];
        let inputs = [Layout::Blocked(4), Layout::Plain, Layout::Plain];
        let order = WeightOrder { vectors: 1, forms: Some(Forms { down: Some(form), across: form }) };
        let operands = operands(&values, &types, &inputs, &[false, true, true], Packing::Like(order));
        let lowered = lower_node(&op, &operands, &output, Layout::Blocked(4), machine).expect("a kernel");
        let winograd = lowered.kernel.winograd.expect("it is done by Winograd's algorithm");
        let packed = |from: usize| {
            let found = lowered.bindings.iter().find_map(|binding| match binding {
                Binding::Weights { from: other, elements } if *other == from => Some(elements.clone()),
                _ => None,
            });
            found.expect("it is packed")
        };
        let x = laid_out(&values[0], inputs[0], lowered.kernel.buffers[0].elements);
        assert!(!winograd.is_within(&x));
        let plane = output.shape[2] * output.shape[3];
        let mut y = vec![0.0; 8 * plane];
        winograd.convolve(&x, &packed(1), &packed(2), Residual::None, &mut y);
        let mut found = vec![0.0; output.element_count()];
        reorder_from_blocked(&y, &mut found, 1, 6, plane, 4);
        let expected = reference(&op, &values);
        for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let close = if expected.is_finite() {
                (found - expected).abs() <= 1e31
            } else {
                found == expected || found.is_nan() && expected.is_nan()
            };
            assert!(close, "{form:?}: element {index} is {found}, expected {expected}");
        }
        assert!(expected.iter().filter(|x| x.is_nan()).count() < 6 * 2 * taps * taps);
    }
}

#[test]
fn weights_that_are_too_large_are_never_transformed() {
    let conv =
        Conv { window: Window::uniform(&[3, 3], 1, 1, 1), groups: 1, residual: false, activation: Activation::None };
    let x = TensorType::f32([1, 64, 28, 28]);
    let output = TensorType::f32([1, 64, 28, 28]);
    let machine = Machine { winograd: true, ..machines().swap_remove(0) };
    let is_winograd = |weight: f32| {
        let mut weights = random(&[64, 64, 3, 3], 2);
        if let partita_ir::graph::Data::F32(elements) = &mut weights.data {
            elements[77] = weight;
        }
        let values = [random(&[1, 64, 28, 28], 1), weights, random(&[64], 3)];
        let types: Vec<TensorType> = values.iter().map(Value::tensor_type).collect();
        let inputs = [Layout::Blocked(16), Layout::Plain, Layout::Plain];
        let operands = operands(&values, &types, &inputs, &[false, true, true], Packing::Free);
        let lowered = lower_node(&Op::Conv(conv.clone()), &operands, &output, Layout::Blocked(16), &machine);
        lowered.expect("a kernel").kernel.winograd.is_some()
    };
    assert!(is_winograd(0.5) && is_winograd(1e6), "{x}");
    assert!(![f32::NAN, f32::INFINITY, 1e30].map(is_winograd).contains(&true));
    // Sums of inputs below the limit stay below the largest number, whatever is on the way.
    assert!(f64::from(WINOGRAD_BELOW) * (1u64 << 60) as f64 * 8.0 < f64::from(f32::MAX));
}
