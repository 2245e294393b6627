//! Kernels on bytes against the portable reference kernels: equal to the last bit, on every machine that multiplies bytes.

use super::tests_memory::{laid_out, memory, row_major};
use super::tests_reference::{check_form, machines, operands, random};
use super::{LayoutChoice, Machine, Packing, layout_choices, lower_node};
use crate::eval::{evaluate, evaluate_parts};
use crate::layout::Layout;
use crate::visit::each_expression;
use crate::{Bytes, Expression, Factors, Joining};
use partita_ir::graph::infer::infer;
use partita_ir::graph::op::{Activation, Conv, Gemm, Window};
use partita_ir::graph::{ElementType, Op, Stored, TensorType, Value, eval};

/// Machines that multiply bytes.
fn byte_machines() -> Vec<Machine> {
    let all = machines()
        .into_iter()
        .flat_map(|machine| [true, false].map(|dot_product| Machine { dot_product, ..machine.clone() }));
    all.filter(|machine| machine.byte_products().is_some()).collect()
}

/// Whole numbers between two bounds.
fn whole(shape: &[usize], seed: u64, low: f32, high: f32) -> Value {
    let noise = random(shape, seed).as_f32().expect("noise is f32").to_vec();
    let largest = noise.iter().fold(1e-3f32, |largest, x| largest.max(x.abs()));
    let middle = (low + high) / 2.0;
    let scaled = noise.iter().map(|x| (middle + x / largest * (high - low) / 2.0).round().clamp(low, high));
    Value::f32(shape, scaled.collect())
}

/// Weights of several sizes: as many products as these allow are added in 16 bits where there is no instruction for four.
fn weights(shape: &[usize], number: usize) -> Value {
    let [low, high] = [[-128.0, 127.0], [-127.0, 127.0], [-85.0, 84.0], [-63.0, 63.0]][number % 4];
    whole(shape, 2, low, high)
}

/// Runs a kernel whose first operand is stored with an offset, as one thread and as several.
fn check_bytes(op: &Op, values: &[Value], offset: i32, machine: &Machine) {
    check_layout(op, values, (offset, None), machine);
}

/// The same for an operand in a layout; if none is given, blocked for convolutions and plain for others.
fn check_layout(op: &Op, values: &[Value], (offset, layout): (i32, Option<Layout>), machine: &Machine) {
    let types: Vec<TensorType> = values.iter().map(Value::tensor_type).collect();
    let output = infer(op, &types.iter().collect::<Vec<_>>()).expect("the test's operator fits").remove(0);
    let constants: Vec<bool> = (0..values.len()).map(|index| index > 0).collect();
    let element = if machine.byte_products() == Some(Bytes::Signed) { ElementType::I8 } else { ElementType::U8 };
    let blocked = Layout::Blocked(machine.instruction_set.lanes());
    let is_convolution = matches!(op, Op::Conv(_));
    let choice = match is_convolution {
        true => LayoutChoice { inputs: vec![layout.unwrap_or(blocked), Layout::Plain, Layout::Plain], output: blocked },
        false => LayoutChoice { inputs: vec![Layout::Plain; values.len()], output: Layout::Plain },
    };
    let mut operands = operands(values, &types, &choice.inputs, &constants, Packing::Free);
    operands[0].stored = Stored::shifted(element, offset);
    let offered = layout_choices(op, &operands, &output, machine);
    assert!(offered.contains(&choice), "{op:?} is not offered {choice:?}");
    let label = format!("{op:?} on {types:?}, offset {offset}, {:?}", machine.instruction_set);
    for threads in [1, 2, 3] {
        let machine = Machine { threads, ..machine.clone() };
        let lowered = lower_node(op, &operands, &output, choice.output, &machine).expect("a kernel");
        assert!(lowered.kernel.multiplies_bytes(), "{label}\n{}", lowered.kernel);
        check_form(&lowered.kernel);
        let input = |index: usize, elements: usize| {
            let x = values[index].as_f32().expect("tests use f32");
            let stored = Value::f32(&values[index].shape[..], x.iter().map(|x| x - offset as f32).collect());
            // What lies beside it is some byte or other.
            let lies = laid_out(&stored, choice.inputs[index], elements);
            lies.into_iter().map(|x| if x.abs() < 1e3 { x } else { 77.0 }).collect()
        };
        let mut buffers = memory(&lowered.bindings, &lowered.kernel, input);
        if threads == 1 {
            evaluate(&lowered.kernel, &mut buffers)
        } else {
            evaluate_parts(&lowered.kernel, &mut buffers)
        }
        let found = row_major(&buffers.pop().expect("kernels have a result"), choice.output, &output);
        let expected = eval::evaluate_node(op, &values.iter().collect::<Vec<_>>(), std::slice::from_ref(&output));
        let expected = expected.expect("the reference kernel runs").remove(0);
        assert_eq!(found, expected.as_f32().expect("tests use f32"), "{label}\n{}", lowered.kernel);
    }
}

/// Offsets, and the bounds of what is stored with them, as a machine stores it.
fn offsets(machine: &Machine) -> [(i32, f32, f32); 3] {
    match machine.byte_products() {
        Some(Bytes::Signed) => [(0, -128.0, 127.0), (100, -28.0, 227.0), (-83, -211.0, 44.0)],
        _ => [(0, 0.0, 255.0), (-128, -128.0, 127.0), (-211, -211.0, 44.0)],
    }
}

#[test]
fn convolutions_of_bytes_are_exact() {
    // Shape of the input, filters, kernel, stride, padding.
    let cases = [
        ([1, 16, 1, 5, 7], 16, [1, 1, 1], 1, 0),
        ([2, 37, 1, 3, 5], 40, [1, 1, 1], 1, 0),
        ([1, 16, 1, 6, 9], 21, [1, 3, 3], 1, 1),
        ([1, 20, 1, 7, 6], 33, [1, 3, 3], 2, 1),
        ([1, 5, 1, 8, 8], 16, [1, 5, 5], 2, 2),
        ([1, 32, 1, 1, 9], 8, [1, 1, 3], 1, 1),
        ([1, 17, 4, 5, 6], 16, [3, 3, 3], 1, 0),
        ([1, 8, 1, 3, 3], 16, [1, 3, 3], 1, 2),
        ([1, 64, 1, 2, 20], 16, [1, 3, 7], 1, 3),
    ];
    for machine in byte_machines() {
        for (number, (x, filters, kernel, stride, pad)) in cases.into_iter().enumerate() {
            for (offset, low, high) in offsets(&machine) {
                // As many dimensions as it takes.
                let spatial =
                    if kernel[0] > 1 { 0 } else { 1 } + usize::from(kernel[0] == 1 && kernel[1] == 1 && pad > 0);
                let conv = Conv {
                    window: Window::uniform(&kernel[spatial..], stride, 1, pad),
                    groups: 1,
                    residual: false,
                    activation: if number % 2 == 0 { Activation::Relu } else { Activation::None },
                };
                let shape: Vec<usize> = x[..2].iter().chain(&x[2 + spatial..]).copied().collect();
                let weights: Vec<usize> =
                    [filters, x[1]].into_iter().chain(kernel[spatial..].iter().copied()).collect();
                let values = [
                    whole(&shape, 1, low, high),
                    self::weights(&weights, number),
                    whole(&[filters], 3, -5000.0, 5000.0),
                ];
                check_bytes(&Op::Conv(conv), &values, offset, &machine);
            }
        }
    }
}

/// Shape of the input, filters, kernel, stride, padding.
type PlainCase<'a> = (&'a [usize], usize, &'a [usize], usize, usize);

#[test]
fn convolutions_of_plain_bytes_are_exact() {
    let cases: [PlainCase<'_>; 7] = [
        (&[1, 1, 12, 10], 16, &[10, 4], 2, 1),
        (&[2, 3, 9, 33], 12, &[3, 3], 2, 1),
        (&[1, 3, 8, 8], 18, &[3, 3], 1, 1),
        (&[1, 2, 11, 13], 8, &[7, 7], 2, 3),
        (&[1, 3, 16, 16], 8, &[4, 4], 4, 0),
        (&[1, 1, 50], 8, &[9], 3, 4),
        (&[1, 3, 5, 6], 8, &[1, 1], 1, 0),
    ];
    for machine in byte_machines().into_iter().filter(|machine| machine.byte_products() == Some(Bytes::Signed)) {
        for (number, (x, filters, kernel, stride, pad)) in cases.into_iter().enumerate() {
            for (offset, low, high) in offsets(&machine) {
                let activation = if number % 2 == 0 { Activation::Relu } else { Activation::None };
                let conv =
                    Conv { window: Window::uniform(kernel, stride, 1, pad), groups: 1, residual: false, activation };
                let weights: Vec<usize> = [filters, x[1]].into_iter().chain(kernel.iter().copied()).collect();
                let values =
                    [whole(x, 1, low, high), self::weights(&weights, number), whole(&[filters], 3, -5000.0, 5000.0)];
                check_layout(&Op::Conv(conv), &values, (offset, Some(Layout::Plain)), &machine);
            }
        }
    }
}

#[test]
fn depthwise_convolutions_of_bytes_are_exact() {
    // Shape of the input, kernel, stride, padding.
    let cases: [(&[usize], &[usize], usize, usize); 10] = [
        (&[1, 8, 5, 5], &[3, 3], 1, 1),
        (&[2, 7, 6, 4], &[3, 3], 1, 1),
        (&[1, 12, 9, 31], &[3, 3], 2, 1),
        (&[1, 4, 6, 20], &[5, 5], 1, 2),
        (&[1, 8, 6, 17], &[5, 5], 2, 2),
        (&[1, 4, 9, 9], &[3, 3], 1, 0),
        (&[1, 6, 8, 8], &[2, 2], 2, 0),
        (&[1, 4, 16, 9], &[7, 7], 3, 3),
        (&[1, 9, 40], &[9], 1, 4),
        (&[1, 8, 7, 4], &[3, 3], 1, 3),
    ];
    for machine in byte_machines().into_iter().filter(|machine| machine.byte_products() == Some(Bytes::Signed)) {
        for (number, (x, kernel, stride, pad)) in cases.into_iter().enumerate() {
            for (offset, low, high) in offsets(&machine) {
                let activation = if number % 2 == 0 { Activation::Relu } else { Activation::None };
                let conv =
                    Conv { window: Window::uniform(kernel, stride, 1, pad), groups: x[1], residual: false, activation };
                let weights: Vec<usize> = [x[1], 1].into_iter().chain(kernel.iter().copied()).collect();
                let values =
                    [whole(x, 1, low, high), self::weights(&weights, number), whole(&[x[1]], 3, -5000.0, 5000.0)];
                check_bytes(&Op::Conv(conv), &values, offset, &machine);
            }
        }
    }
}

#[test]
fn products_of_bytes_are_exact() {
    let gemm =
        |activation| Op::Gemm(Gemm { transpose_a: false, transpose_b: false, alpha: 1.0, beta: 1.0, activation });
    for machine in byte_machines() {
        for (number, (rows, depth, columns)) in
            [(1, 64, 10), (1, 37, 130), (5, 12, 33), (7, 128, 64), (1, 5000, 20)].into_iter().enumerate()
        {
            for (offset, low, high) in offsets(&machine) {
                let values = [
                    whole(&[rows, depth], 1, low, high),
                    weights(&[depth, columns], number),
                    whole(&[columns], 3, -5000.0, 5000.0),
                ];
                check_bytes(&gemm(Activation::Relu), &values, offset, &machine);
                check_bytes(&Op::MatMul, &values[..2], offset, &machine);
            }
        }
    }
}

#[test]
fn what_bytes_do_not_hold_is_done_in_numbers() {
    let machine = &byte_machines()[0];
    let conv = |pad| Conv {
        window: Window::uniform(&[3, 3], 1, 1, pad),
        groups: 1,
        residual: false,
        activation: Activation::None,
    };
    let sums_bytes = |conv: Conv, weight: f32, bias: f32, stored: Stored| {
        let mut weights = whole(&[16, 16, 3, 3], 2, -100.0, 100.0).as_f32().expect("it is f32").to_vec();
        weights[77] = weight;
        let mut biases = vec![1.0; 16];
        biases[3] = bias;
        let values =
            [whole(&[1, 16, 5, 5], 1, 0.0, 255.0), Value::f32([16, 16, 3, 3], weights), Value::f32([16], biases)];
        let types: Vec<TensorType> = values.iter().map(Value::tensor_type).collect();
        let inputs = [Layout::Blocked(16), Layout::Plain, Layout::Plain];
        let mut operands = operands(&values, &types, &inputs, &[false, true, true], Packing::Free);
        operands[0].stored = stored;
        let op = Op::Conv(conv);
        let output = infer(&op, &types.iter().collect::<Vec<_>>()).expect("it fits").remove(0);
        super::sums_bytes(&op, &operands, &output, machine)
    };
    let bytes = |offset| Stored::shifted(ElementType::U8, offset);
    assert!(sums_bytes(conv(1), 127.0, 1.0, bytes(0)));
    for (weight, bias) in [(0.5, 1.0), (128.0, 1.0), (1.0, 0.5), (1.0, 1e8), (f32::NAN, 1.0)] {
        assert!(!sums_bytes(conv(1), weight, bias, bytes(0)), "weight {weight}, bias {bias}");
    }
    for element in [ElementType::F32, ElementType::I8, ElementType::I16] {
        assert!(!sums_bytes(conv(1), 1.0, 1.0, Stored::plain(element)), "{element:?}");
    }
    // Padding needs a byte that stands for 0.
    assert!(!sums_bytes(conv(1), 1.0, 1.0, bytes(5)) && sums_bytes(conv(0), 1.0, 1.0, bytes(5)));
}

#[test]
fn as_many_products_are_added_in_16_bits_as_weights_allow() {
    let halves = |machine: &Machine| machine.multiplies_halves();
    let machine = byte_machines().into_iter().find(halves).expect("cores without `sdot`");
    let conv =
        Conv { window: Window::uniform(&[1, 1], 1, 1, 0), groups: 1, residual: false, activation: Activation::None };
    for (largest, chain) in [(128.0, 1), (127.0, 2), (86.0, 2), (85.0, 3), (63.0, 4), (1.0, 4)] {
        let weights = Value::f32([8, 48, 1, 1], vec![-largest; 8 * 48]);
        let values = [whole(&[1, 48, 4, 4], 1, -128.0, 127.0), weights, Value::f32([8], vec![0.0; 8])];
        let types: Vec<TensorType> = values.iter().map(Value::tensor_type).collect();
        let layouts = [Layout::Blocked(4), Layout::Plain, Layout::Plain];
        let mut operands = operands(&values, &types, &layouts, &[false, true, true], Packing::Free);
        operands[0].stored = Stored::plain(ElementType::I8);
        let op = Op::Conv(conv.clone());
        let output = infer(&op, &types.iter().collect::<Vec<_>>()).expect("it fits").remove(0);
        let lowered = lower_node(&op, &operands, &output, Layout::Blocked(4), &machine).expect("a kernel");
        let (mut first, mut added) = (0, 0);
        each_expression(&lowered.kernel.body, &mut |part| match part {
            Expression::Join(Joining::Products(_), ..) => first += 1,
            Expression::AddProducts(Factors::Bytes(_), ..) => added += 1,
            _ => {}
        });
        assert!(first > 0 && added == first * (chain - 1), "{largest}: {added} added to {first}\n{}", lowered.kernel);
    }
}
